//! Microscaling (MX): blocks that share a power of two, found from the block alone.
//!
//! The exponent is rounded up, `k = ceil(log2(amax / max))`, as the reference does it, not the floor of
//! the OCP recipe: no element saturates.

use super::minifloat::{AnyMinifloat, Minifloat, power_of_two};

/// What the elements of a block are.
pub trait MxElement: Copy + Send + Sync + 'static {
    /// Largest value.
    fn max(self) -> f32;
    /// `x` rounded to the nearest value, saturating; NaN becomes the largest.
    fn round(self, x: f32) -> f32;
}

impl<const E: u32, const M: u32> MxElement for Minifloat<E, M> {
    #[inline(always)]
    fn max(self) -> f32 {
        Minifloat::max(self)
    }
    #[inline(always)]
    fn round(self, x: f32) -> f32 {
        Minifloat::round(self, x)
    }
}

impl MxElement for AnyMinifloat {
    #[inline(always)]
    fn max(self) -> f32 {
        AnyMinifloat::max(self)
    }
    #[inline(always)]
    fn round(self, x: f32) -> f32 {
        AnyMinifloat::round(self, x)
    }
}

/// MXINT8: integers from -127 to 127.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Int8;

impl MxElement for Int8 {
    #[inline(always)]
    fn max(self) -> f32 {
        127.0
    }
    #[inline(always)]
    fn round(self, x: f32) -> f32 {
        let q = x.abs().round_ties_even();
        // Not `q > 127`: a NaN must end as the largest value too.
        let q = if q < 127.0 { q } else { 127.0 };
        q.copysign(x)
    }
}

/// Exponent of a block's scale, -127 to 127, from its largest magnitude (NaN elements left out).
///
/// A block of zeros has exponent 0. An infinity counts as the largest float32.
#[inline(always)]
pub fn scale_exponent(amax: f32, max: f32) -> i32 {
    let amax = if amax < f32::MAX { amax } else { f32::MAX };
    let ratio = (amax / max).to_bits();
    let (exponent, mantissa) = ((ratio >> 23) as i32, ratio & 0x7f_ffff);
    // Up, unless it is a power of two already, or at the end of the range. The smallest subnormal
    // exponents all end at -127.
    let up = mantissa > 0 && exponent != 0xfe && !(exponent == 0 && mantissa <= 0x40_0000);
    if amax > 0.0 {
        exponent - 127 + i32::from(up)
    } else {
        0
    }
}

/// Multiplier and what brings a value back: `2^-k` and `2^k`.
#[inline(always)]
pub fn scale(amax: f32, max: f32) -> (f32, f32) {
    let k = scale_exponent(amax, max);
    (power_of_two(-k), power_of_two(k))
}

/// The E8M0 code of a block's scale: its exponent plus 127. A block of zeros has code 0, as in the
/// packed tensors of the reference.
#[inline(always)]
pub fn scale_code(amax: f32, max: f32) -> u8 {
    match amax > 0.0 {
        true => (scale_exponent(amax, max) + 127) as u8,
        false => 0,
    }
}

/// The power of two of an E8M0 code up to 254; the last one would be NaN and is never written.
#[inline(always)]
pub fn power(code: u8) -> f32 {
    power_of_two(i32::from(code) - 127)
}

/// `x` rounded to an element under a block's scale, and back.
#[inline(always)]
pub fn fake_quant<T: MxElement>(element: T, x: f32, (multiplier, back): (f32, f32)) -> f32 {
    element.round(x * multiplier) * back
}

#[cfg(test)]
mod tests {
    use super::super::minifloat::{E2M1, E2M3, E3M2, E4M3, E5M2};
    use super::*;

    /// The worked example of the specification: one block with a largest magnitude of 6.1.
    #[test]
    fn one_block_in_every_format() {
        let x = [0.1, -0.7, 1.0, 3.3, -5.2, 0.0, 6.1, 0.01];
        fn block<T: MxElement>(element: T, x: [f32; 8]) -> (i32, [f32; 8]) {
            let scale = scale(6.1, element.max());
            (
                scale_exponent(6.1, element.max()),
                x.map(|x| fake_quant(element, x, scale)),
            )
        }
        assert_eq!(
            block(E2M1, x),
            (1, [0.0, -1.0, 1.0, 3.0, -6.0, 0.0, 6.0, 0.0])
        );
        assert_eq!(
            block(E4M3, x),
            (
                -6,
                [0.1015625, -0.6875, 1.0, 3.25, -5.0, 0.0, 6.0, 0.009765625]
            )
        );
        assert_eq!(
            block(E5M2, x),
            (-13, [0.09375, -0.75, 1.0, 3.5, -5.0, 0.0, 6.0, 0.009765625])
        );
        assert_eq!(
            block(Int8, x),
            (-4, [0.125, -0.6875, 1.0, 3.3125, -5.1875, 0.0, 6.125, 0.0])
        );
        assert_eq!(
            block(E3M2, x),
            (-2, [0.09375, -0.75, 1.0, 3.5, -5.0, 0.0, 6.0, 0.015625])
        );
        assert_eq!(
            block(E2M3, x),
            (0, [0.125, -0.75, 1.0, 3.25, -5.0, 0.0, 6.0, 0.0])
        );
    }

    #[test]
    fn codes_are_exponents_from_minus_127_on() {
        assert_eq!(scale_code(6.0, 6.0), 127);
        assert_eq!(scale_code(6.1, 448.0), 121);
        assert_eq!(scale_code(0.0, 6.0), 0);
        assert_eq!(
            (power(0), power(127), power(128)),
            (2f32.powi(-127), 1.0, 2.0)
        );
    }

    #[test]
    fn exponents_stay_in_range() {
        assert_eq!(scale_exponent(0.0, 6.0), 0);
        assert_eq!(scale_exponent(f32::from_bits(1), 6.0), -127);
        assert_eq!(scale_exponent(f32::MAX, 6.0), 126);
        assert_eq!(scale_exponent(f32::INFINITY, 6.0), 126);
        assert_eq!(scale_exponent(6.0, 6.0), 0);
        assert_eq!(scale_exponent(6.0f32.next_up(), 6.0), 1);
    }
}
