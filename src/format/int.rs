//! Integers of 2 to 8 bits, signed or unsigned.

/// An amax at or below this is taken for zero: its scale would overflow or mean nothing (2^-24, the
/// smallest positive binary16).
pub const AMAX_EPSILON: f32 = 1.0 / 16_777_216.0;

/// The integers a format holds: `min..=max`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IntGrid {
    /// Largest integer, the one amax maps to: `2^(bits - 1 + unsigned) - 1`.
    pub max: f32,
    /// Smallest integer: 0, `-max` with a narrow range, else `-max - 1`.
    pub min: f32,
}

impl IntGrid {
    /// The grid of `num_bits` (2 to 8).
    pub fn new(num_bits: u32, unsigned: bool, narrow_range: bool) -> Self {
        let max = ((1u32 << (num_bits - 1 + u32::from(unsigned))) - 1) as f32;
        let min = match (unsigned, narrow_range) {
            (true, _) => 0.0,
            (false, true) => -max,
            (false, false) => -max - 1.0,
        };
        Self { max, min }
    }

    /// Multiplier and divisor for an amax: `q = round(x * s)`, `y = q / d`.
    ///
    /// The divisor is the multiplier itself but for an amax of zero, where every finite value
    /// becomes `0 / 1`.
    #[inline(always)]
    pub fn scale(self, amax: f32) -> (f32, f32) {
        if amax <= AMAX_EPSILON {
            (0.0, 1.0)
        } else {
            let s = self.max / amax;
            (s, s)
        }
    }

    /// The integer that `x` is rounded to.
    #[inline(always)]
    pub fn round(self, x: f32, multiplier: f32) -> f32 {
        // Comparisons, not min/max: a NaN must come through.
        let q = (x * multiplier).round_ties_even();
        let q = if q < self.min { self.min } else { q };
        if q > self.max { self.max } else { q }
    }

    /// `x` rounded to the grid and back.
    #[inline(always)]
    pub fn fake_quant(self, x: f32, (multiplier, divisor): (f32, f32)) -> f32 {
        self.round(x, multiplier) / divisor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_follow_sign_and_range() {
        let limits = |bits, unsigned, narrow| {
            let grid = IntGrid::new(bits, unsigned, narrow);
            (grid.min, grid.max)
        };
        assert_eq!(limits(8, false, false), (-128.0, 127.0));
        assert_eq!(limits(8, false, true), (-127.0, 127.0));
        assert_eq!(limits(8, true, false), (0.0, 255.0));
        assert_eq!(limits(4, false, false), (-8.0, 7.0));
        assert_eq!(limits(2, false, false), (-2.0, 1.0));
    }

    #[test]
    fn infinities_saturate_and_nan_stays() {
        let grid = IntGrid::new(8, false, false);
        let scale = grid.scale(2.0);
        assert_eq!(grid.fake_quant(f32::INFINITY, scale), 127.0 / 63.5);
        assert_eq!(grid.fake_quant(f32::NEG_INFINITY, scale), -128.0 / 63.5);
        assert!(grid.fake_quant(f32::NAN, scale).is_nan());
        let zero = grid.scale(0.0);
        assert_eq!(grid.fake_quant(3.0, zero), 0.0);
        assert!(grid.fake_quant(f32::INFINITY, zero).is_nan());
    }

    #[test]
    fn an_infinite_amax_gives_nan() {
        let grid = IntGrid::new(8, false, false);
        assert!(grid.fake_quant(1.0, grid.scale(f32::INFINITY)).is_nan());
    }
}
