//! Small floating-point elements: a sign, `E` exponent and `M` mantissa bits, no infinity.
//!
//! Bias `2^(E-1) - 1`; the codes with exponent 0 are spaced like those with exponent 1 (OCP
//! Microscaling Formats 1.0, section 5.3). They saturate: what is too large becomes the largest value.

/// An element of `E` exponent and `M` mantissa bits with the largest value it holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Minifloat<const E: u32, const M: u32> {
    max: f32,
}

/// FP8 with the smaller range.
pub const E4M3: Minifloat<4, 3> = Minifloat::with_max(448.0);
/// FP8 with the larger range: its largest exponent also holds NaN and infinity, so it ends at 57344.
pub const E5M2: Minifloat<5, 2> = Minifloat::with_max(57344.0);
/// FP6 with the larger range.
pub const E3M2: Minifloat<3, 2> = Minifloat::with_max(28.0);
/// FP6 with the smaller range.
pub const E2M3: Minifloat<2, 3> = Minifloat::with_max(7.5);
/// FP4.
pub const E2M1: Minifloat<2, 1> = Minifloat::with_max(6.0);
/// The evenly spaced 4-bit element: 0 to 3.5 in steps of 0.5.
pub const E1M2: Minifloat<1, 2> = Minifloat::with_max(3.5);

impl<const E: u32, const M: u32> Minifloat<E, M> {
    /// Exponent of the smallest normal value, `1 - bias`.
    const MIN_EXPONENT: i32 = 1 - ((1 << (E - 1)) - 1);

    const fn with_max(max: f32) -> Self {
        Self { max }
    }

    /// The largest value.
    pub const fn max(self) -> f32 {
        self.max
    }

    /// `x` rounded to the nearest value, ties to the even code, saturating; NaN becomes the largest.
    #[inline(always)]
    pub fn round(self, x: f32) -> f32 {
        self.at_run_time().round(x)
    }

    /// The same format, not known to the compiler.
    #[inline(always)]
    pub const fn at_run_time(self) -> AnyMinifloat {
        AnyMinifloat {
            max: self.max,
            below_mantissa: (23 - M) << 23,
            smallest: power_of_two(Self::MIN_EXPONENT).to_bits(),
        }
    }
}

/// A [`Minifloat`] that is known at run time: a loop over tensors is then compiled once for all of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnyMinifloat {
    max: f32,
    /// What the exponent of a value is raised by to have the mantissa's last bit at one.
    below_mantissa: u32,
    /// The smallest normal value, as bits.
    smallest: u32,
}

impl AnyMinifloat {
    /// The largest value.
    pub const fn max(self) -> f32 {
        self.max
    }

    /// [`Minifloat::round`].
    #[inline(always)]
    pub fn round(self, x: f32) -> f32 {
        let magnitude = x.to_bits() & 0x7fff_ffff;
        let rounded = round_magnitude(magnitude, self.below_mantissa, self.smallest);
        // Not `y > max`: a NaN must end as the largest value too.
        let y = if rounded < self.max {
            rounded
        } else {
            self.max
        };
        f32::from_bits(y.to_bits() | (x.to_bits() & 0x8000_0000))
    }
}

/// A magnitude rounded to `M` mantissa bits, ties to even; below `2^min_exponent` to the spacing there.
#[inline(always)]
pub(super) fn round_mantissa<const M: u32>(magnitude: u32, min_exponent: i32) -> f32 {
    let smallest = power_of_two(min_exponent).to_bits();
    round_magnitude(magnitude, (23 - M) << 23, smallest)
}

/// Adding and taking away `2^(23 - M)` times the power of two below the magnitude does it: the sum is spaced
/// as the result should be, and additions round to even. Beyond the range of any small format the power is
/// nonsense, but the result stays as large as the magnitude, or NaN.
#[inline(always)]
fn round_magnitude(magnitude: u32, below_mantissa: u32, smallest: u32) -> f32 {
    let below = (magnitude & 0x7f80_0000).max(smallest);
    let rounder = f32::from_bits(below.wrapping_add(below_mantissa));
    (f32::from_bits(magnitude) + rounder) - rounder
}

/// `2^exponent` for -127 (a subnormal float32) to 127.
#[inline(always)]
pub const fn power_of_two(exponent: i32) -> f32 {
    if exponent < -126 {
        f32::from_bits(1 << 22)
    } else {
        f32::from_bits(((exponent + 127) as u32) << 23)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds by looking at every value: nearest, the even position on a tie.
    fn nearest(values: &[f32], x: f32) -> f32 {
        let mut best = 0;
        for i in 1..values.len() {
            let (old, new) = ((x - values[best]).abs(), (x - values[i]).abs());
            if new < old || new == old && i % 2 == 0 {
                best = i;
            }
        }
        values[best]
    }

    fn check<const E: u32, const M: u32>(format: Minifloat<E, M>, first: &[f32], count: usize) {
        let bias = (1 << (E - 1)) - 1;
        let value = |code: usize| {
            let (exponent, mantissa) = ((code >> M) as i32, (code & ((1 << M) - 1)) as f32);
            let fraction = mantissa / (1 << M) as f32;
            match exponent {
                0 => fraction * 2f32.powi(1 - bias),
                e => (1.0 + fraction) * 2f32.powi(e - bias),
            }
        };
        let values: Vec<f32> = (0..count).map(value).collect();
        assert_eq!(&values[..first.len()], first);
        assert_eq!(values.last(), Some(&format.max()));
        for pair in values.windows(2) {
            let middle = (pair[0] + pair[1]) / 2.0;
            for x in [
                pair[0],
                middle.next_down(),
                middle,
                middle.next_up(),
                pair[1],
            ] {
                assert_eq!(format.round(x), nearest(&values, x), "{x}");
                assert_eq!(format.round(-x), -nearest(&values, x), "-{x}");
            }
        }
        let max = format.max();
        assert_eq!(format.round(1e30), max);
        assert_eq!(format.round(f32::NEG_INFINITY), -max);
        assert_eq!(format.round(f32::NAN).abs(), max);
        assert_eq!(format.round(-0.0).to_bits(), (-0.0f32).to_bits());
    }

    #[test]
    fn every_format_rounds_to_the_nearest_value() {
        check(E2M1, &[0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], 8);
        check(E1M2, &[0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5], 8);
        check(E2M3, &[0.0, 0.125, 0.25], 32);
        check(E3M2, &[0.0, 0.0625, 0.125], 32);
        check(E4M3, &[0.0, 1.0 / 512.0], 127);
        check(E5M2, &[0.0, 1.0 / 65536.0], 124);
    }
}
