//! NVFP4: blocks of E2M1 values with an E4M3 scale each, under one float32 scale for the tensor.

use super::e4m3;
use super::minifloat::E2M1;

/// Largest element, that of E2M1.
pub const ELEMENT_MAX: f32 = E2M1.max();

/// Largest block scale under four-over-six: a block may then end at 4 instead of 6 (256 * 6 / 4 < 448).
pub const FOUR_OVER_SIX_MAX_SCALE: f32 = 256.0;

/// Largest element times largest block scale: what the tensor's amax is divided by.
pub const GLOBAL_DIVISOR: f32 = ELEMENT_MAX * e4m3::MAX;

/// The tensor's scale for its amax; never 0.
#[inline(always)]
pub fn global_scale(amax: f32) -> f32 {
    let scale = amax / GLOBAL_DIVISOR;
    // An amax of zero, or so small that the quotient vanishes.
    if scale > 0.0 { scale } else { 1e-12 }
}

/// The block's scale as a multiple of the tensor's: an E4M3 value.
#[inline(always)]
pub fn block_scale(amax: f32, global_scale: f32) -> f32 {
    let ratio = amax / (ELEMENT_MAX * global_scale);
    // Not `ratio > 448`: a NaN must not become a scale.
    let ratio = if ratio < e4m3::MAX { ratio } else { e4m3::MAX };
    e4m3::round(ratio)
}

/// The amax of the block scales of a tensor with this amax, whose largest block gets `largest_scale`.
#[inline(always)]
pub fn scale_amax(amax: f32, largest_scale: f32) -> f32 {
    amax * (e4m3::MAX / largest_scale) / ELEMENT_MAX
}

/// The scale of a block whose amax was calibrated: `amax / 6`, rounded to E4M3 under `scale_amax`.
#[inline(always)]
pub fn static_scale(amax: f32, scale_amax: f32) -> f32 {
    let scale = e4m3::fake_quant(amax / ELEMENT_MAX, e4m3::scale(scale_amax));
    if scale.is_finite() { scale } else { 1.0 }
}

/// The E4M3 value of [`static_scale`], and what one of them is worth.
#[inline(always)]
pub fn static_scale_parts(amax: f32, scale_amax: f32) -> (f32, f32) {
    let (multiplier, inverse) = e4m3::scale(scale_amax);
    (e4m3::scaled(amax / ELEMENT_MAX, multiplier), inverse)
}

/// The E4M3 code of a block's scale for a packed tensor, which never holds a scale of zero: a block of
/// zeros has 1, one whose scale vanishes the smallest there is. Their elements are all zero.
#[inline(always)]
pub fn scale_code(amax: f32, scale: f32) -> u8 {
    const SMALLEST: f32 = 1.0 / 512.0;
    let stored = if amax > 0.0 { SMALLEST } else { 1.0 };
    e4m3::encode(if scale > 0.0 { scale } else { stored })
}

/// `x` as E2M1 under a scale; a scale of zero makes everything zero.
#[inline(always)]
pub fn element(x: f32, scale: f32) -> f32 {
    let y = E2M1.round(x / scale);
    if scale > 0.0 { y } else { 0.0f32.copysign(x) }
}

/// `x` rounded to E2M1 under a scale, and back; a scale of zero makes everything zero.
#[inline(always)]
pub fn fake_quant(x: f32, scale: f32) -> f32 {
    let y = E2M1.round(x / scale) * scale;
    if scale > 0.0 { y } else { 0.0f32.copysign(x) }
}
