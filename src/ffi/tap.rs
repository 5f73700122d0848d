//! The taps: what the host's forward pass calls, from any thread.

use std::sync::Arc;

use super::guard::enter_or_poison;
use super::model::mq_model;
use super::status::mq_status;
use super::tensor::{mq_tensor, view, view_or_null};
use crate::error::{Error, Result};
use crate::model::{Layer, Scales, Slot};

/// Tells a layer from a quantizer when a handle of the wrong type is passed through a cast.
const LAYER_TAG: u32 = 0x6d71_4c61;
const QUANTIZER_TAG: u32 = 0x6d71_5175;

/// A registered layer.
///
/// Ownership: belongs to its model, dies with it.
/// Threads: mq_layer_input(), mq_layer_output() and mq_layer_weight() may be called from any
/// thread, also inside a callback of a verb; they lock nothing but the layer.
pub struct mq_layer {
    _opaque: (),
}

/// A quantizer: one of a layer's, one of the host's own, or a member of a sequential quantizer.
///
/// Ownership: belongs to its model, dies with it.
/// Threads: mq_quantizer_forward() may be called from any thread, as the taps of mq_layer; the
/// other functions hold the model and answer MQ_ERR_BUSY during a verb.
pub struct mq_quantizer {
    _opaque: (),
}

/// What an mq_layer points to. The tag comes first in both kinds of handle, so that it can be read
/// whichever was passed.
#[repr(C)]
pub(super) struct LayerHandle {
    tag: u32,
    layer: Arc<Layer>,
}

/// What an mq_quantizer points to.
#[repr(C)]
pub(super) struct QuantizerHandle {
    tag: u32,
    pub(super) slot: Arc<Slot>,
    pub(super) member: Option<usize>,
    pub(super) model: *const mq_model,
}

// SAFETY: the model's address is only used for calls that the contract of mq_quantizer allows.
unsafe impl Send for QuantizerHandle {}

impl LayerHandle {
    pub(super) fn new(layer: Arc<Layer>) -> Self {
        Self {
            tag: LAYER_TAG,
            layer,
        }
    }
}

impl QuantizerHandle {
    pub(super) fn new(slot: Arc<Slot>, member: Option<usize>, model: *const mq_model) -> Self {
        Self {
            tag: QUANTIZER_TAG,
            slot,
            member,
            model,
        }
    }
}

/// Borrows a quantizer handle.
///
/// # Safety
/// `raw` is NULL or a live handle of this library.
pub(super) unsafe fn quantizer<'a>(raw: *const mq_quantizer) -> Result<&'a QuantizerHandle> {
    // SAFETY: contract above.
    match unsafe { raw.cast::<QuantizerHandle>().as_ref() } {
        Some(handle) if handle.tag == QUANTIZER_TAG => Ok(handle),
        Some(_) => Err(Error::InvalidArgument(
            "quantizer is not an mq_quantizer of this library".into(),
        )),
        None => Err(Error::InvalidArgument("quantizer is NULL".into())),
    }
}

/// Runs a tap of a layer: no lock of the model, and a panic poisons the model.
///
/// # Safety
/// `raw` is NULL or a live handle of this library.
pub(super) unsafe fn with_layer(
    raw: *const mq_layer,
    body: impl FnOnce(&Layer) -> Result<()>,
) -> mq_status {
    // SAFETY: contract above.
    let handle = unsafe { raw.cast::<LayerHandle>().as_ref() };
    enter_or_poison(
        || {
            if let Some(handle) = handle {
                handle.layer.poison();
            }
        },
        || match handle {
            // A tensor that is refused here never reaches the layer, but must fail a running verb too.
            Some(handle) if handle.tag == LAYER_TAG => {
                body(&handle.layer).inspect_err(|error| handle.layer.note_failure(error))
            }
            Some(_) => Err(Error::InvalidArgument(
                "layer is not an mq_layer of this library".into(),
            )),
            None => Err(Error::InvalidArgument("layer is NULL".into())),
        },
    )
}

/// The layer's input on its way into the layer; called by the host in every forward pass.
///
/// During calibration it is observed and passes unchanged (but for a pre_quant_scale); once
/// quantized, it is fake-quantized; before mq_quantize() it is copied. When the quantizer is disabled it
/// passes unrounded, but a pre_quant_scale (AWQ leaves one also on disabled quantizers) and a rotation still
/// apply: the weight counts on it, so do not skip the tap. Layers that share an input have factors of
/// their own: give each the activation as it was, apart from `out`, until the factors are folded.
///
/// @param[in]  layer  The layer.
/// @param[in]  x      Its input, `[..., in]`. A tensor without elements is allowed.
/// @param[out] out    Result, of the shape and dtype of `x`; may share its memory exactly (in
///                    place), not partly. NULL: observe only.
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL, a wrong dtype or overlap, or a shape that is not that
///         of `x`, or not `[..., in]` for a linear layer; MQ_ERR_NUMERIC for NaN or Inf while calibrating
///         or where the amax is dynamic, or negative values under `unsigned`; MQ_ERR_STATE when the
///         quantizer's amax, bias or scale does not fit `x`, or a member is gone. On failure `out` is
///         unspecified, and a verb that is running fails with the same error, whatever the callback
///         returns.
///
/// Synchronous. A quantizer that is calibrated allocates nothing; rotation in groups above 4096 and
/// dynamic amax values in two axes do.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_layer_input(
    layer: *mut mq_layer,
    x: *const mq_tensor,
    out: *const mq_tensor,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        with_layer(layer, |layer| {
            layer.input(view(x, "x")?, view_or_null(out, "out")?)
        })
    }
}

/// The layer's output on its way out; as mq_layer_input(), with the layer's `output_quantizer`.
///
/// @param[in]  layer  The layer.
/// @param[in]  y      Its output.
/// @param[out] out    Result, as in mq_layer_input().
/// @return as mq_layer_input().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_layer_output(
    layer: *mut mq_layer,
    y: *const mq_tensor,
    out: *const mq_tensor,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        with_layer(layer, |layer| {
            layer.output(view(y, "y")?, view_or_null(out, "out")?)
        })
    }
}

/// The gradient of a loss at the layer's output, for mq_auto_quantize(); does nothing outside its scoring steps, so
/// that a backward pass may always call it.
///
/// @param[in] layer  The layer, whose input passed mq_layer_input() in the same step. Where a layer is used several
///                   times in a step, gradients come in the reverse order of the inputs.
/// @param[in] grad   dL/dy, of the shape of the layer's output: `[..., out]` for a linear layer. Where the layer's input
///                   and weight are in device memory, so is it; its dtype may be another one than theirs.
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL, a wrong dtype or shape; MQ_ERR_STATE for more gradients than
///         inputs; MQ_ERR_NUMERIC for NaN or Inf; MQ_ERR_OUT_OF_MEMORY. On failure a search that is running fails
///         with the same error, whatever the callback returns.
///
/// The layer's formats are scored before it returns, on all threads of the context, one layer at a time. In device memory
/// that is put on the context's stream, and nothing is waited for: a gradient with NaN or Inf is told by the verb. The
/// first step finds device memory to work in, which the others use again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_layer_grad(layer: *mut mq_layer, grad: *const mq_tensor) -> mq_status {
    // SAFETY: contract above.
    unsafe { with_layer(layer, |layer| layer.gradient(view(grad, "grad")?)) }
}

/// The weight as the quantized layer uses it: fake-quantized once quantized, unpacked once compressed, else
/// as registered.
///
/// @param[in]  layer  The layer.
/// @param[out] out    Receives the weight; its shape and dtype. May be the weight's own memory.
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL, a layer without a weight, a wrong dtype,
///         shape or overlap; MQ_ERR_NUMERIC and MQ_ERR_STATE as mq_layer_input(). On failure `out` is
///         unspecified.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_layer_weight(layer: *mut mq_layer, out: *const mq_tensor) -> mq_status {
    // SAFETY: contract above.
    unsafe { with_layer(layer, |layer| layer.weight_into(view(out, "out")?)) }
}

/// The scales stay as calibrated, see mq_requantize_into().
pub const MQ_SCALES_KEEP: i32 = 0;
/// The scales follow from the largest magnitudes of the new weight, see mq_requantize_into().
pub const MQ_SCALES_REFRESH: i32 = 1;

/// What the quantized layer uses of a new weight: for a training loop that sends its weights to the engine again and
/// again.
///
/// @param[in]  layer   A quantized layer.
/// @param[in]  weight  The new weight, of the shape, dtype and device of the registered one, which is neither read nor
///                     written.
/// @param[out] out     Receives what mq_layer_weight() would give if `weight` were the registered one. May be `weight`
///                     (in place), must not overlap it partly.
/// @param[in]  scales  MQ_SCALES_KEEP: those of the calibration. MQ_SCALES_REFRESH: found anew, at the same granularity,
///                     from the largest magnitudes of this weight alone, and stored as the layer's.
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL, unknown `scales`, a layer without a weight, or a wrong dtype,
///         shape, device or overlap; MQ_ERR_STATE before mq_quantize() or during a calibration, for a weight that is
///         compressed or folded, or an amax that does not fit; MQ_ERR_UNSUPPORTED for refreshing an affine quantizer
///         (bias); MQ_ERR_NUMERIC for NaN or Inf where scales are found, or negative values under `unsigned`; and as
///         mq_layer_weight(). On failure `out` is unspecified, and the scales are those from before.
///
/// The memory is the host's on both sides: nothing of a quantized engine has to be built anew. A pre_quant_scale and a
/// rotation of the weight apply, and stay. Refreshing replaces what another algorithm than max found (mse, a clip of
/// AWQ); quantizers without an amax of their own find their scales in every weight, and have nothing to refresh. A scale
/// that members of a fused group share in static NVFP4 blocks stays; one amax that they share becomes each layer's own:
/// keep the scales of such groups, or calibrate them.
///
/// With tensors on a GPU this puts work on the context's stream and does nothing else, once the first call has found
/// memory for the layer's numbers: it may be captured into a graph. Refreshed scales are written to the device memory that
/// taps and captured graphs read; NaN and Inf are then reported by mq_model_synchronize() and the verbs, which take over
/// the numbers. By then the scales are those of the bad weight, unlike in host memory: a refresh with a good one replaces
/// them, and what taps have met in between is reported once more.
///
/// Threads: as the taps of mq_layer; not with MQ_SCALES_REFRESH during a verb.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_requantize_into(
    layer: *mut mq_layer,
    weight: *const mq_tensor,
    out: *const mq_tensor,
    scales: i32,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        with_layer(layer, |layer| {
            let scales = match scales {
                MQ_SCALES_KEEP => Scales::Keep,
                MQ_SCALES_REFRESH => Scales::Refresh,
                other => {
                    return Err(Error::InvalidArgument(format!(
                        "scales is {other}, expected MQ_SCALES_KEEP (0) or MQ_SCALES_REFRESH (1)"
                    )));
                }
            };
            layer.requantize_into(view(weight, "weight")?, scales, view(out, "out")?)
        })
    }
}

/// A tensor on its way through one quantizer; as mq_layer_input().
///
/// @param[in]  quantizer  The quantizer.
/// @param[in]  x          Tensor to observe or quantize.
/// @param[out] out        Result, as in mq_layer_input().
/// @return as mq_layer_input().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_quantizer_forward(
    quantizer: *mut mq_quantizer,
    x: *const mq_tensor,
    out: *const mq_tensor,
) -> mq_status {
    // SAFETY: contract above.
    let handle = unsafe { self::quantizer(quantizer) };
    enter_or_poison(
        || {
            if let Ok(handle) = &handle {
                handle.slot.poison();
            }
        },
        || {
            let handle = handle.clone()?;
            // SAFETY: contract above.
            let tensors = unsafe { view(x, "x").and_then(|x| Ok((x, view_or_null(out, "out")?))) };
            let (x, out) = tensors.inspect_err(|error| handle.slot.note_failure(error))?;
            handle.slot.forward(handle.member, x, out)
        },
    )
}
