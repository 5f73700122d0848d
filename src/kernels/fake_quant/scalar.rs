//! The definition of fake quantization: one element after the other, nothing clever.

use super::{Format, MxFormat};
use crate::format::minifloat::{E1M2, E2M1, E2M3, E3M2, E4M3, E5M2};
use crate::format::mx::{self, MxElement};
use crate::format::{e4m3, nvfp4};

/// Fake-quantizes `x` in place. The amax of element `i` is `amax(i)`.
pub fn run(x: &mut [f32], amax: impl Fn(usize) -> f32, format: Format) {
    for (i, x) in x.iter_mut().enumerate() {
        *x = one(*x, amax(i), format);
    }
}

fn one(x: f32, amax: f32, format: Format) -> f32 {
    match format {
        Format::Int(grid) => grid.fake_quant(x, grid.scale(amax)),
        Format::E4m3 => e4m3::fake_quant(x, e4m3::scale(amax)),
        Format::Nvfp4 { global_scale } => {
            nvfp4::fake_quant(x, nvfp4::block_scale(amax, global_scale) * global_scale)
        }
        Format::Nvfp4Static { scale_amax } => {
            nvfp4::fake_quant(x, nvfp4::static_scale(amax, scale_amax))
        }
        Format::Mx(MxFormat::E4m3) => micro(E4M3, x, amax),
        Format::Mx(MxFormat::E5m2) => micro(E5M2, x, amax),
        Format::Mx(MxFormat::E3m2) => micro(E3M2, x, amax),
        Format::Mx(MxFormat::E2m3) => micro(E2M3, x, amax),
        Format::Mx(MxFormat::E2m1) => micro(E2M1, x, amax),
        Format::Mx(MxFormat::E1m2) => micro(E1M2, x, amax),
        Format::Mx(MxFormat::Int8) => micro(mx::Int8, x, amax),
    }
}

fn micro<T: MxElement>(element: T, x: f32, amax: f32) -> f32 {
    mx::fake_quant(element, x, mx::scale(amax, element.max()))
}

/// The amax of the elements: the largest magnitude, NaN when there is a NaN.
pub fn absmax(x: impl Iterator<Item = f32>) -> f32 {
    x.fold(0.0, |amax: f32, x| {
        if amax.is_nan() || x.is_nan() {
            f32::NAN
        } else {
            amax.max(x.abs())
        }
    })
}

/// The largest magnitude of the elements that are not NaN.
pub fn absmax_without_nan(x: impl Iterator<Item = f32>) -> f32 {
    absmax(x.filter(|x| !x.is_nan()))
}
