//! FP4 E2M1 as 4-bit codes: bit 3 is the sign, the rest counts the magnitudes.

/// The magnitudes, by code.
pub const MAGNITUDES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// The code of a value that is one of the format's; a zero keeps its sign.
#[inline(always)]
pub fn encode(value: f32) -> u8 {
    let bits = value.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    // From 1 on: exponent and the first mantissa bit, counted from those of 1.0, which is code 2.
    let normal = (magnitude >> 22).wrapping_sub(252);
    let half = f32::from_bits(magnitude) * 2.0;
    let code = if half < 2.0 { half as u32 } else { normal };
    ((bits >> 28) & 8 | code & 7) as u8
}

/// The value of a code; the bits above the fourth are ignored.
#[inline(always)]
pub fn decode(code: u8) -> f32 {
    let magnitude = MAGNITUDES[usize::from(code & 7)];
    f32::from_bits(magnitude.to_bits() | u32::from(code & 8) << 28)
}

#[cfg(test)]
mod tests {
    use super::super::minifloat::E2M1;
    use super::*;

    #[test]
    fn every_code_is_its_values() {
        for code in 0..16 {
            assert_eq!(encode(decode(code)), code);
            assert_eq!(E2M1.round(decode(code)).to_bits(), decode(code).to_bits());
        }
        assert_eq!(decode(0x8).to_bits(), (-0.0f32).to_bits());
        assert_eq!(decode(0xf), -6.0);
    }
}
