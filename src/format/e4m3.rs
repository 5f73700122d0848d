//! FP8 E4M3 (OCP 8-bit floating point, 1.0): 1 sign, 4 exponent (bias 7), 3 mantissa bits, no infinity.

use super::int::AMAX_EPSILON;
use super::minifloat::round_mantissa;

/// Largest value: 0x7E = 2^(15 - 7) * 1.75; the code above it is NaN.
pub const MAX: f32 = 448.0;

/// Smallest normal value, `2^MIN_EXPONENT`.
const MIN_NORMAL: f32 = 1.0 / 64.0;

/// Mantissa bits a float32 has beyond the 3 of E4M3.
const DROPPED_BITS: u32 = 23 - 3;

/// Exponent of the smallest normal value, 1 - 7; below it codes are spaced like the ones just above.
const MIN_EXPONENT: i32 = -6;

/// `x` with |x| <= 448, rounded to the nearest E4M3 value, ties to even. NaN stays NaN.
#[inline(always)]
pub fn round(x: f32) -> f32 {
    let y = round_mantissa::<3>(x.to_bits() & 0x7fff_ffff, MIN_EXPONENT);
    // Also where the sum has lost the sign of a zero.
    let y = y.copysign(x);
    if x.is_nan() { x } else { y }
}

/// Multiplier and its inverse for an amax: `y = round(clamp(x * s)) * r`.
///
/// An amax of zero acts as 1, so that small values survive instead of becoming zero. The order of
/// operations is the reference's, whose golden vectors tell it from its neighbours in the last bit:
/// `s` is 448 times the inverse of amax (not their quotient), `r` the inverse of `s` (not `amax / 448`).
#[inline(always)]
pub fn scale(amax: f32) -> (f32, f32) {
    let amax = if amax <= AMAX_EPSILON { 1.0 } else { amax };
    let s = (1.0 / amax) * MAX;
    (s, 1.0 / s)
}

/// `x` times `multiplier`, rounded to E4M3; what is too large becomes the largest value.
#[inline(always)]
pub fn scaled(x: f32, multiplier: f32) -> f32 {
    // Comparisons, not min/max: a NaN must come through.
    let v = x * multiplier;
    let v = if v < -MAX { -MAX } else { v };
    let v = if v > MAX { MAX } else { v };
    round(v)
}

/// `x` rounded to E4M3 under a scale, and back.
#[inline(always)]
pub fn fake_quant(x: f32, (multiplier, inverse): (f32, f32)) -> f32 {
    scaled(x, multiplier) * inverse
}

/// The code of a value that is one of the format's; a zero keeps its sign.
#[inline(always)]
pub fn encode(value: f32) -> u8 {
    let bits = value.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    // Normal: exponent and mantissa at their places, rebiased by 127 - 7.
    let normal = (magnitude >> DROPPED_BITS).wrapping_sub(120 << 3);
    let subnormal = (f32::from_bits(magnitude) * 512.0) as u32;
    let small = f32::from_bits(magnitude) < MIN_NORMAL;
    let code = if small { subnormal } else { normal };
    ((bits >> 24) & 0x80 | code & 0x7f) as u8
}

/// The value of a code; 0x7F and 0xFF are NaN.
#[inline(always)]
pub fn decode(code: u8) -> f32 {
    let magnitude = u32::from(code & 0x7f);
    let normal = f32::from_bits((magnitude + (120 << 3)) << DROPPED_BITS);
    let subnormal = magnitude as f32 / 512.0;
    let value = if magnitude < 8 { subnormal } else { normal };
    let value = if magnitude == 0x7f { f32::NAN } else { value };
    f32::from_bits(value.to_bits() | u32::from(code & 0x80) << 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every non-negative value of the format, from the definition of its fields.
    fn values() -> Vec<f64> {
        let decode = |code: u32| {
            let (exponent, mantissa) = (code >> 3, f64::from(code & 7) / 8.0);
            match exponent {
                0 => mantissa * 2f64.powi(-6),
                e => (1.0 + mantissa) * 2f64.powi(e as i32 - 7),
            }
        };
        (0..0x7f).map(decode).collect()
    }

    #[test]
    fn every_value_is_kept() {
        for v in values() {
            assert_eq!(f64::from(round(v as f32)), v);
            assert_eq!(f64::from(round(-v as f32)), -v);
        }
        assert_eq!(values().last(), Some(&448.0));
    }

    #[test]
    fn halfway_goes_to_the_even_code_and_the_rest_to_the_nearest() {
        for (code, pair) in values().windows(2).enumerate() {
            let (low, high) = (pair[0] as f32, pair[1] as f32);
            let middle = (low + high) / 2.0;
            let even = if code % 2 == 0 { low } else { high };
            assert_eq!(round(middle), even, "between {low} and {high}");
            assert_eq!(round(middle.next_down()), low);
            assert_eq!(round(middle.next_up()), high);
        }
    }

    #[test]
    fn zero_keeps_its_sign_and_nan_stays() {
        assert_eq!(round(-0.0).to_bits(), (-0.0f32).to_bits());
        assert_eq!(round(-1e-20).to_bits(), (-0.0f32).to_bits());
        assert!(round(f32::NAN).is_nan());
        assert!(round(f32::from_bits(0xffff_ffff)).is_nan());
    }

    #[test]
    fn codes_count_the_values() {
        for (code, value) in values().into_iter().enumerate() {
            let (code, value) = (code as u8, value as f32);
            assert_eq!((encode(value), decode(code)), (code, value));
            assert_eq!(encode(-value), code | 0x80);
            assert_eq!(decode(code | 0x80).to_bits(), (-value).to_bits());
        }
        assert!(decode(0x7f).is_nan() && decode(0xff).is_nan());
    }

    #[test]
    fn infinities_saturate() {
        assert_eq!(fake_quant(f32::INFINITY, scale(2.0)), MAX * (1.0 / 224.0));
        assert!(fake_quant(f32::NAN, scale(2.0)).is_nan());
    }
}
