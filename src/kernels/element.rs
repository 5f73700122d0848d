//! Storage types as the loops see them: load as float32, round back on store.

use crate::format::half::{Bf16, F16};

/// An element of a tensor.
pub(crate) trait Element: Copy + Send + Sync + 'static {
    /// The value, exactly.
    fn load(self) -> f32;
    /// `value` rounded to nearest even.
    fn store(value: f32) -> Self;
    /// The magnitude's bits: ordered as the magnitudes are, with NaN above infinity.
    fn magnitude(self) -> u32;
    /// The magnitude of infinity; those above are NaN.
    const INFINITY: u32;
    /// The float32 whose magnitude this is.
    fn from_magnitude(bits: u32) -> f32;
}

impl Element for f32 {
    const INFINITY: u32 = 0x7f80_0000;
    #[inline(always)]
    fn load(self) -> f32 {
        self
    }
    #[inline(always)]
    fn store(value: f32) -> Self {
        value
    }
    #[inline(always)]
    fn magnitude(self) -> u32 {
        self.to_bits() & 0x7fff_ffff
    }
    #[inline(always)]
    fn from_magnitude(bits: u32) -> f32 {
        f32::from_bits(bits)
    }
}

impl Element for F16 {
    const INFINITY: u32 = 0x7c00;
    #[inline(always)]
    fn load(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn store(value: f32) -> Self {
        Self::from_f32(value)
    }
    #[inline(always)]
    fn magnitude(self) -> u32 {
        u32::from(self.0 & 0x7fff)
    }
    #[inline(always)]
    fn from_magnitude(bits: u32) -> f32 {
        Self(bits as u16).to_f32()
    }
}

impl Element for Bf16 {
    const INFINITY: u32 = 0x7f80;
    #[inline(always)]
    fn load(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn store(value: f32) -> Self {
        Self::from_f32(value)
    }
    #[inline(always)]
    fn magnitude(self) -> u32 {
        u32::from(self.0 & 0x7fff)
    }
    #[inline(always)]
    fn from_magnitude(bits: u32) -> f32 {
        Self(bits as u16).to_f32()
    }
}

/// Calls `$body` with `$T` standing for the element type of `$dtype`.
macro_rules! with_element {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            crate::tensor::DType::F32 => {
                type $T = f32;
                $body
            }
            crate::tensor::DType::F16 => {
                type $T = crate::format::half::F16;
                $body
            }
            crate::tensor::DType::BF16 => {
                type $T = crate::format::half::Bf16;
                $body
            }
        }
    };
}
pub(crate) use with_element;
