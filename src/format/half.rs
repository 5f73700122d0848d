//! The 16-bit storage types: binary16 and bfloat16, to and from float32.
//!
//! Integer and float operations only, no tables and no branches, so that a loop over a slice becomes
//! vector code on every instruction set.

/// An IEEE binary16, as its bits.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct F16(pub u16);

/// A bfloat16, as its bits.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bf16(pub u16);

impl Bf16 {
    /// The value, exactly.
    #[inline(always)]
    pub fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }

    /// `x` rounded to nearest, ties to even. NaN stays NaN.
    #[inline(always)]
    pub fn from_f32(x: f32) -> Self {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        // Rounding could carry a NaN into an infinity or wrap it: keep its sign and make it quiet.
        let nan = (bits >> 16) | 0x0040;
        Self(if x.is_nan() { nan } else { rounded } as u16)
    }
}

impl F16 {
    /// The value, exactly.
    #[inline(always)]
    pub fn to_f32(self) -> f32 {
        let bits = u32::from(self.0);
        let sign = (bits & 0x8000) << 16;
        let magnitude = bits & 0x7fff;
        // Exponent and mantissa at their float32 places read as x * 2^-112; the product below is
        // exact and also normalizes subnormals.
        let finite = f32::from_bits(magnitude << 13) * f32::from_bits((127 + 112) << 23);
        let special = 0x7f80_0000 | (magnitude << 13);
        let value = if magnitude >= 0x7c00 {
            special
        } else {
            finite.to_bits()
        };
        f32::from_bits(value | sign)
    }

    /// `x` rounded to nearest, ties to even; too large becomes infinite. NaN stays NaN.
    #[inline(always)]
    pub fn from_f32(x: f32) -> Self {
        let bits = x.to_bits();
        let sign = (bits >> 16) & 0x8000;
        let magnitude = bits & 0x7fff_ffff;
        // Normal: rebias the exponent (127 - 15 = 112) and round away 13 mantissa bits. A carry out
        // of the largest exponent gives infinity by itself.
        let odd = (magnitude >> 13) & 1;
        let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xfff + odd) >> 13;
        // Subnormal: at 0.5 a float32 is spaced 2^-24, the subnormal spacing of binary16, so the
        // addition rounds and leaves the code in the low bits.
        let subnormal = (f32::from_bits(magnitude) + 0.5)
            .to_bits()
            .wrapping_sub(0.5f32.to_bits());
        let finite = if magnitude < (113 << 23) {
            subnormal
        } else {
            normal
        };
        // From 65520 on (halfway to 2^16) the result is infinite.
        let finite = if magnitude >= 0x477f_f000 {
            0x7c00
        } else {
            finite
        };
        let nan = 0x7e00 | ((magnitude >> 13) & 0x3ff);
        Self((sign | if magnitude > 0x7f80_0000 { nan } else { finite }) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_binary16_converts_as_the_half_crate_does() {
        for code in 0..=u16::MAX {
            let (ours, theirs) = (F16(code).to_f32(), half::f16::from_bits(code).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan());
            let (ours, theirs) = (Bf16(code).to_f32(), half::bf16::from_bits(code).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan());
        }
    }

    /// Both sides of every rounding boundary, for both signs.
    #[test]
    fn rounding_agrees_with_the_half_crate_around_every_boundary() {
        let check = |x: f32| {
            let (ours, theirs) = (F16::from_f32(x), half::f16::from_f32(x));
            assert!(
                ours.0 == theirs.to_bits() || ours.to_f32().is_nan() && theirs.is_nan(),
                "{x:e} as binary16: {:#x}, expected {:#x}",
                ours.0,
                theirs.to_bits()
            );
            let (ours, theirs) = (Bf16::from_f32(x), half::bf16::from_f32(x));
            assert!(
                ours.0 == theirs.to_bits() || ours.to_f32().is_nan() && theirs.is_nan(),
                "{x:e} as bfloat16: {:#x}, expected {:#x}",
                ours.0,
                theirs.to_bits()
            );
        };
        for high in 0..=u16::MAX {
            for low in [
                0x0000, 0x0001, 0x0fff, 0x1000, 0x1001, 0x2fff, 0x3000, 0x3001, 0x7fff, 0x8000,
                0x8001, 0xffff,
            ] {
                check(f32::from_bits(u32::from(high) << 16 | low));
            }
            let value = F16(high).to_f32();
            check(value);
            check(value.next_up());
            check(value.next_down());
            if high < 0x7bff {
                let middle = (value + F16(high + 1).to_f32()) / 2.0;
                for x in [middle, middle.next_up(), middle.next_down()] {
                    check(x);
                    check(-x);
                }
            }
        }
    }
}
