//! A number that tells the bytes of one tensor from those of another. Not for security.

use crate::tensor::TensorView;

/// An odd number without structure: 2^64 divided by the golden ratio.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// Continues a fingerprint with some bytes.
pub fn of_bytes(start: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut state = start ^ (bytes.len() as u64).wrapping_mul(MIX);
    for word in words {
        state = (state ^ u64::from_le_bytes(*word)).wrapping_mul(MIX);
        state ^= state >> 29;
    }
    for byte in rest {
        state = (state ^ u64::from(*byte)).wrapping_mul(MIX);
        state ^= state >> 29;
    }
    state
}

/// The fingerprint of a tensor's elements.
pub fn of_tensor(x: &TensorView) -> u64 {
    if x.count() == 0 {
        return 0;
    }
    // SAFETY: contract of the view; there are elements, so the address is not NULL. Any byte is valid.
    let bytes = unsafe { std::slice::from_raw_parts(x.data(), x.size_bytes()) };
    of_bytes(0, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_and_the_length_count() {
        let mut bytes: Vec<u8> = (0..29).collect();
        let before = of_bytes(0, &bytes);
        for i in 0..bytes.len() {
            bytes[i] ^= 1;
            assert_ne!(of_bytes(0, &bytes), before, "byte {i}");
            bytes[i] ^= 1;
        }
        assert_eq!(of_bytes(0, &bytes), before);
        assert_ne!(of_bytes(0, &[0; 8]), of_bytes(0, &[0; 16]));
        assert_ne!(of_bytes(1, &bytes), before);
    }
}
