//! Calls that need no model: fake quantization of one tensor, and the presets.

use std::ffi::c_char;

use super::context::{self, mq_context};
use super::guard::{self, copy_out, enter};
use super::status::mq_status;
use super::tensor::{mq_tensor, view, view_or_null};
use crate::config::presets;
use crate::error::Error;
use crate::model;

/// Fake-quantizes one tensor: quantizes and dequantizes in one pass.
///
/// @param[in]  context     Context to run on.
/// @param[in]  x           Tensor to quantize.
/// @param[in]  attributes  JSON: a quantizer attribute object ({"num_bits": 8, "axis": 0}), or a list
///                         of them, applied in order.
/// @param[in]  amax        float32, float16 or bfloat16 values, in the units of `x`, as many as the
///                         granularity has (1 per tensor, one per index of the axis, one per block,
///                         row-major). NULL: taken from `x`. Must be NULL for a list.
/// @param[out] out         Result, of the shape and dtype of `x`; may share its memory exactly (in
///                         place), not partly.
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT, also when an axis does not fit `x` or `amax` has not as many
///         values as the granularity asks for; MQ_ERR_CONFIG; MQ_ERR_UNSUPPORTED; MQ_ERR_NUMERIC for a negative, NaN or
///         infinite amax, for NaN or Inf in `x` when `amax` is NULL, or negative values under
///         `unsigned`. On failure `out` is unspecified.
///
/// Arithmetic is float32, rounding to nearest even, the result rounded once to the dtype of `x`. Integers
/// and FP8 under a given amax keep NaN and saturate an infinity (which becomes NaN under an integer
/// format's amax of zero); MX and NVFP4 turn NaN into the largest element. MX takes no amax and ignores
/// one; docs/formats.md has every format.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_fake_quant(
    context: *const mq_context,
    x: *const mq_tensor,
    attributes: *const c_char,
    amax: *const mq_tensor,
    out: *const mq_tensor,
) -> mq_status {
    // SAFETY: contract above.
    enter(|| unsafe {
        let context = context::borrow(context)?;
        let x = view(x, "x")?;
        let attributes = guard::text(attributes, "attributes")?;
        let amax = view_or_null(amax, "amax")?;
        let result = view(out, "out")?;
        model::fake_quant_once(&context.context, x, attributes, amax, result)
    })
}

/// Number of presets, those of both versions of the reference.
#[unsafe(no_mangle)]
pub extern "C" fn mq_preset_count() -> usize {
    presets::names().count()
}

/// Name of a preset.
///
/// @param[in]  index     0 to mq_preset_count() - 1.
/// @param[out] buffer, capacity, length  as in mq_quantizer_name().
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for an index out of range.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_preset_name(
    index: usize,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> mq_status {
    enter(|| {
        let name = presets::names().nth(index).ok_or_else(|| {
            Error::InvalidArgument(format!(
                "index {index}, but there are {} presets",
                presets::names().count()
            ))
        })?;
        // SAFETY: contract above.
        unsafe { copy_out(name, buffer, capacity, length) }
    })
}

/// The configuration of a preset as JSON, to be changed and given to mq_quantize().
///
/// @param[in]  name  Name of the preset, such as "INT8_DEFAULT_CFG".
/// @param[out] buffer, capacity, length  as in mq_quantizer_name().
/// @return MQ_OK; MQ_ERR_CONFIG for an unknown name; MQ_ERR_INVALID_ARGUMENT for a NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_preset_json(
    name: *const c_char,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> mq_status {
    // SAFETY: contract above.
    enter(|| unsafe {
        let name = guard::text(name, "name")?;
        let json = presets::find(name)?.to_string();
        copy_out(&json, buffer, capacity, length)
    })
}
