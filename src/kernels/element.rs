//! Storage types as the loops see them: load as float32, round back on store.

use crate::format::half::{Bf16, F16};
use crate::tensor::TensorView;

/// The elements of a tensor of that type in host memory, which has some, and which nobody writes to meanwhile.
pub(crate) fn elements<T: Element>(x: &TensorView) -> &[T] {
    // SAFETY: the elements of a live tensor of that type (contract of the view).
    unsafe { std::slice::from_raw_parts(x.data().cast::<T>(), x.count()) }
}

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

    /// [`Element::load`] of several elements.
    #[inline(always)]
    fn load_block<const N: usize>(x: &[Self; N], values: &mut [f32; N]) {
        for (value, x) in values.iter_mut().zip(x) {
            *value = x.load();
        }
    }

    /// [`Element::store`] of several values.
    #[inline(always)]
    fn store_block<const N: usize>(values: &[f32; N], out: &mut [Self; N]) {
        for (out, value) in out.iter_mut().zip(values) {
            *out = Self::store(*value);
        }
    }
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

    #[inline(always)]
    fn load_block<const N: usize>(x: &[Self; N], values: &mut [f32; N]) {
        #[cfg(target_arch = "x86_64")]
        if N.is_multiple_of(8) && std::arch::is_x86_feature_detected!("f16c") {
            // SAFETY: the CPU has the instructions.
            unsafe { f16c::load(x, values) };
            return;
        }
        for (value, x) in values.iter_mut().zip(x) {
            *value = x.load();
        }
    }

    #[inline(always)]
    fn store_block<const N: usize>(values: &[f32; N], out: &mut [Self; N]) {
        #[cfg(target_arch = "x86_64")]
        if N.is_multiple_of(8) && std::arch::is_x86_feature_detected!("f16c") {
            // SAFETY: the CPU has the instructions.
            unsafe { f16c::store(values, out) };
            return;
        }
        for (out, value) in out.iter_mut().zip(values) {
            *out = Self::store(*value);
        }
    }
}

/// Hardware conversions of binary16: a dozen operations a value become one for eight. They give the bits
/// of `F16::to_f32` and `F16::from_f32`, but for what is left of a NaN.
#[cfg(target_arch = "x86_64")]
mod f16c {
    use std::arch::x86_64::{
        __m128i, _MM_FROUND_TO_NEAREST_INT, _mm_loadu_si128, _mm_storeu_si128, _mm256_cvtph_ps,
        _mm256_cvtps_ph, _mm256_loadu_ps, _mm256_storeu_ps,
    };

    use crate::format::half::F16;

    #[inline]
    #[target_feature(enable = "avx,f16c")]
    pub fn load<const N: usize>(x: &[F16; N], values: &mut [f32; N]) {
        for i in (0..N / 8 * 8).step_by(8) {
            // SAFETY: i + 8 <= N on both sides; unaligned access is allowed.
            unsafe {
                let halves = _mm_loadu_si128(x.as_ptr().add(i).cast::<__m128i>());
                _mm256_storeu_ps(values.as_mut_ptr().add(i), _mm256_cvtph_ps(halves));
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx,f16c")]
    pub fn store<const N: usize>(values: &[f32; N], out: &mut [F16; N]) {
        for i in (0..N / 8 * 8).step_by(8) {
            // SAFETY: i + 8 <= N on both sides; unaligned access is allowed.
            unsafe {
                let floats = _mm256_loadu_ps(values.as_ptr().add(i));
                let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(floats);
                _mm_storeu_si128(out.as_mut_ptr().add(i).cast::<__m128i>(), halves);
            }
        }
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
