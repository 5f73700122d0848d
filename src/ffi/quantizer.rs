//! What a quantizer is and holds, read and set one by one.

use std::ffi::c_char;

use super::guard::{copy_out, out};
use super::model::with;
use super::status::mq_status;
use super::tap::{self, QuantizerHandle, mq_quantizer};
use super::tensor::{MQ_MAX_RANK, mq_tensor, view};
use crate::error::{Error, Result};
use crate::model::{Model, Quantizer};
use crate::tensor::TensorView;

/// The dotted name of a quantizer, such as "model.layers.0.self_attn.q_proj.weight_quantizer".
///
/// @param[in]  quantizer  The quantizer.
/// @param[out] buffer     Receives at most `capacity - 1` bytes and a NUL; NULL when `capacity` is 0.
/// @param[in]  capacity   Bytes of `buffer`.
/// @param[out] length     Length of the whole name without the NUL, also when it did not fit. May be
///                        NULL when `buffer` is not.
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL; MQ_ERR_BUSY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_quantizer_name(
    quantizer: *const mq_quantizer,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        with_quantizer(quantizer, |handle, _| {
            copy_out(
                &handle.slot.member_name(handle.member),
                buffer,
                capacity,
                length,
            )
        })
    }
}

/// Whether a quantizer is enabled; a sequential quantizer is when one of its members is.
///
/// @param[in]  quantizer  The quantizer.
/// @param[out] enabled    1 or 0. Untouched on failure.
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL; MQ_ERR_STATE for a member that is gone;
///         MQ_ERR_BUSY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_quantizer_is_enabled(
    quantizer: *const mq_quantizer,
    enabled: *mut i32,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        with_quantizer(quantizer, |handle, _| {
            let members = handle.slot.members(handle.member)?;
            *out(enabled, "enabled")? = i32::from(members.iter().any(|q| q.enabled));
            Ok(())
        })
    }
}

/// The attributes of a quantizer as JSON: an object with every key of the configuration's attribute
/// set, or an array of them for a sequential quantizer.
///
/// @param[in]  quantizer  The quantizer.
/// @param[out] buffer, capacity, length  as in mq_quantizer_name().
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL; MQ_ERR_STATE for a member that is gone;
///         MQ_ERR_BUSY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_quantizer_attributes(
    quantizer: *const mq_quantizer,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        with_quantizer(quantizer, |handle, _| {
            let json = handle.slot.attributes_json(handle.member)?;
            copy_out(&json.to_string(), buffer, capacity, length)
        })
    }
}

/// The amax of a quantizer: what calibration found, or what was set.
///
/// @param[in]  quantizer  The quantizer; for a sequential one ask its members.
/// @param[out] values     Receives at most `capacity` values, row-major, in the tensor's units; NULL
///                        when `capacity` is 0.
/// @param[in]  capacity   Number of values that fit.
/// @param[out] count      Number of values; 0 when there is no amax (never calibrated, or dynamic).
/// @param[out] shape      Receives the extents; room for `MQ_MAX_RANK`. May be NULL.
/// @param[out] rank       Number of extents; 0 for a per-tensor amax. May be NULL.
/// @return MQ_OK, also when not everything fitted; MQ_ERR_INVALID_ARGUMENT for a NULL; MQ_ERR_STATE
///         for a sequential quantizer or a member that is gone; MQ_ERR_BUSY.
///
/// Shapes are the reference's: `[]` per tensor, `[n, 1]` for axis 0 of a matrix, `[blocks, 1]` for
/// blocks along the last axis, `[rows/b, 1, columns/b, 1]` for blocks in two axes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_quantizer_amax(
    quantizer: *const mq_quantizer,
    values: *mut f32,
    capacity: usize,
    count: *mut usize,
    shape: *mut i64,
    rank: *mut u32,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        with_quantizer(quantizer, |handle, _| {
            let one = handle.slot.one(handle.member)?;
            let (data, extents) = match &one.amax {
                Some(amax) => (amax.values(), amax.shape()),
                None => (&[][..], &[][..]),
            };
            if extents.len() > MQ_MAX_RANK as usize && !shape.is_null() {
                return Err(Error::Unsupported(format!(
                    "amax of rank {}, more than MQ_MAX_RANK; pass NULL as shape",
                    extents.len()
                )));
            }
            let count = out(count, "count")?;
            copy_values(data, values, capacity)?;
            *count = data.len();
            if !shape.is_null() {
                for (i, extent) in extents.iter().enumerate() {
                    shape.add(i).write(*extent as i64);
                }
            }
            if let Some(rank) = rank.as_mut() {
                *rank = extents.len() as u32;
            }
            Ok(())
        })
    }
}

/// Sets the amax of a quantizer, as a calibration would.
///
/// @param[in]  quantizer  The quantizer; for a sequential one set its members.
/// @param[in]  amax       Values in the tensor's units, of the shape mq_quantizer_amax() documents;
///                        finite and not negative.
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL or a shape that does not fit the weight or the
///         amax that is there; MQ_ERR_NUMERIC for NaN, Inf or negative values; MQ_ERR_STATE for a
///         dynamic or sequential quantizer, a member that is gone, or before mq_quantize(); MQ_ERR_BUSY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_quantizer_set_amax(
    quantizer: *mut mq_quantizer,
    amax: *const mq_tensor,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        with_quantizer(quantizer, |handle, model| {
            let amax = view(amax, "amax")?;
            model.set_amax(&handle.slot, handle.member, amax)
        })
    }
}

/// The pre_quant_scale of a quantizer: the factors its input is multiplied with, one per channel.
///
/// @param[in]  quantizer  The quantizer; a sequential one scales before its first member.
/// @param[out] values     Receives at most `capacity` values; NULL when `capacity` is 0.
/// @param[in]  capacity   Number of values that fit.
/// @param[out] count      Number of values; 0 when there is none.
/// @return MQ_OK, also when not everything fitted; MQ_ERR_INVALID_ARGUMENT for a NULL; MQ_ERR_STATE for
///         a member that is gone; MQ_ERR_BUSY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_quantizer_pre_quant_scale(
    quantizer: *const mq_quantizer,
    values: *mut f32,
    capacity: usize,
    count: *mut usize,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        with_quantizer(quantizer, |handle, _| {
            let members: Vec<std::sync::Arc<Quantizer>> = handle.slot.members(handle.member)?;
            // A sequential quantizer scales once, before its first member.
            let data = members
                .first()
                .and_then(|q| q.pre_quant_scale.as_deref())
                .unwrap_or(&[]);
            let count = out(count, "count")?;
            copy_values(data, values, capacity)?;
            *count = data.len();
            Ok(())
        })
    }
}

/// Sets or removes the pre_quant_scale of a quantizer. The caller divides the weight accordingly.
///
/// @param[in]  quantizer  The quantizer, or the first member of a sequential one (the whole stands for
///                        it).
/// @param[in]  scale      `[channels]`, the extent of the last axis of what the quantizer sees;
///                        finite and positive. NULL removes it.
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL or a shape that does not fit; MQ_ERR_NUMERIC for
///         values that are not finite and positive; MQ_ERR_STATE for a later member, a member that is
///         gone, or before mq_quantize(); MQ_ERR_BUSY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_quantizer_set_pre_quant_scale(
    quantizer: *mut mq_quantizer,
    scale: *const mq_tensor,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        with_quantizer(quantizer, |handle, model| {
            let scale: Option<TensorView> = super::tensor::view_or_null(scale, "scale")?;
            model.set_pre_quant_scale(&handle.slot, handle.member, scale)
        })
    }
}

/// Runs `body` with the quantizer's model held.
///
/// # Safety
/// `raw` is NULL or a live handle of this library.
unsafe fn with_quantizer(
    raw: *const mq_quantizer,
    body: impl FnOnce(&QuantizerHandle, &mut Model) -> Result<()>,
) -> mq_status {
    // SAFETY: contract above.
    match unsafe { tap::quantizer(raw) } {
        // SAFETY: a live handle belongs to a live model (contract of mq_quantizer).
        Ok(handle) => unsafe { with(handle.model, |_, model| body(handle, model)) },
        Err(error) => super::guard::enter(|| Err(error)),
    }
}

/// Copies at most `capacity` values out.
///
/// # Safety
/// `values` is NULL or holds `capacity` floats.
unsafe fn copy_values(data: &[f32], values: *mut f32, capacity: usize) -> Result<()> {
    if values.is_null() {
        return match capacity {
            0 => Ok(()),
            _ => Err(Error::InvalidArgument(format!(
                "values is NULL but capacity is {capacity}"
            ))),
        };
    }
    // SAFETY: at most `capacity` floats are written (contract).
    unsafe { values.copy_from_nonoverlapping(data.as_ptr(), data.len().min(capacity)) };
    Ok(())
}
