//! The definition of fake quantization: one element after the other, nothing clever.

use super::ElementFormat;
use crate::format::e4m3;

/// Fake-quantizes `x` in place. The amax of element `i` is `amax(i)`.
pub fn run(x: &mut [f32], amax: impl Fn(usize) -> f32, format: ElementFormat) {
    for (i, x) in x.iter_mut().enumerate() {
        *x = match format {
            ElementFormat::Int(grid) => grid.fake_quant(*x, grid.scale(amax(i))),
            ElementFormat::E4m3 => e4m3::fake_quant(*x, e4m3::scale(amax(i))),
        };
    }
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
