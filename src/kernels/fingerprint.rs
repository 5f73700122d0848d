//! A number that tells the bytes of one tensor from those of another. Not for security.

use super::fetch;
use super::machine::Machine;
use crate::tensor::TensorView;

/// An odd number without structure: 2^64 divided by the golden ratio.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// Continues a fingerprint with some bytes.
pub fn of_bytes(start: u64, bytes: &[u8]) -> u64 {
    continued(begun(start, bytes.len()), bytes)
}

/// What comes before so many bytes.
fn begun(start: u64, bytes: usize) -> u64 {
    start ^ (bytes as u64).wrapping_mul(MIX)
}

/// What comes after some of them, a multiple of 8 unless they are the last.
fn continued(mut state: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
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

/// The fingerprint of a tensor's elements. Of a tensor on a GPU they are copied, piece after piece: waits for the stream.
/// 0 when that fails, which the GPU keeps.
pub fn of_tensor(machine: &Machine, x: &TensorView) -> u64 {
    if x.count() == 0 {
        return 0;
    }
    let mut state = begun(0, x.size_bytes());
    let read = fetch::for_each_piece(machine, x, |bytes| state = continued(state, bytes));
    match (read, machine.gpu_of(x)) {
        (Err(error), Some(gpu)) => {
            gpu.note(Err(error));
            0
        }
        _ => state,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cuda::testing::{self, OnGpu};

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

    #[test]
    fn a_tensor_is_that_of_its_bytes_wherever_it_lives() {
        let cpu = Machine::new(1, crate::kernels::Isa::best(None)).expect("a thread");
        let mut values: Vec<f32> = (0..1001).map(|i| i as f32).collect();
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let x = TensorView::over(&mut values, &[1001]).expect("room");
        assert_eq!(of_tensor(&cpu, &x), of_bytes(0, &bytes));
        if let Some(gpu) = testing::machine() {
            let there = OnGpu::copy_of(&gpu, &x, 4);
            assert_eq!(of_tensor(&gpu, &there.view()), of_bytes(0, &bytes));
        }
    }
}
