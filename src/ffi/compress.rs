//! Real quantization: packed weights in place of the host's, and their parts.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use super::callback::{mq_buffer_fn, take_buffers};
use super::guard::{self, out};
use super::model::{mq_model, with};
use super::status::mq_status;
use super::tap::{mq_layer, with_layer};
use super::tensor::{
    MQ_DEVICE_CPU, MQ_DEVICE_CUDA, MQ_DTYPE_FLOAT, mq_device, mq_dtype, mq_tensor,
};
use super::verb::{MQ_ALLOW_NO_MATCH, check_flags, report};
use crate::apply;
use crate::config::CompressConfig;
use crate::error::Error;
use crate::kernels::cuda::Gpu;
use crate::model::{PartType, allocate_own};
use crate::tensor::Device;

/// Signed integers (DLPack's kDLInt): `bits` 8. Only parts of packed weights have it.
pub const MQ_DTYPE_INT: u8 = 0;
/// Unsigned integers (DLPack's kDLUInt): `bits` 8; pairs of 4-bit codes, or exponents plus 127. Only
/// parts of packed weights have it.
pub const MQ_DTYPE_UINT: u8 = 1;
/// FP8 E4M3 (DLPack's kDLFloat8_e4m3fn): `bits` 8. Only parts of packed weights have it.
pub const MQ_DTYPE_FLOAT8_E4M3FN: u8 = 10;

/// Packs weights for real: low-bit codes and scales take the place of the host's weights.
///
/// @param[in]  model    Model that went through mq_quantize().
/// @param[in]  config   JSON object from wildcard (over names of weight quantizers) to true or false:
///                      {"default": true, "*lm_head*": false}. Later ones win, "default" comes first;
///                      what nothing is said about is packed when its attribute fake_quant is false.
///                      NULL: every weight.
/// @param[in]  buffers  Gives the memory of the parts, see mq_buffer_fn; NULL: mq allocates it, and
///                      frees it with the model. Parts lie where the weight does: in host memory, or in memory of
///                      its device, from `device_memory` of the context.
/// @param[in]  flags    0 or MQ_ALLOW_NO_MATCH.
/// @param[out] matched  Number of weights packed. May be NULL. Untouched on failure.
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL, an unknown flag or misaligned memory;
///         MQ_ERR_CONFIG; MQ_ERR_NOT_FOUND when no enabled weight quantizer is selected; MQ_ERR_STATE
///         before mq_quantize(), for a selected weight that is compressed already, or for a quantizer
///         without the amax its format needs; MQ_ERR_UNSUPPORTED naming the quantizer and its format;
///         MQ_ERR_NUMERIC for NaN or Inf in a weight; MQ_ERR_CALLBACK; MQ_ERR_OUT_OF_MEMORY;
///         MQ_ERR_BUSY. On failure the model is exactly as before the call: everything is packed
///         before the first layer is switched over.
///
/// Weights are packed with the calibrated amax; only blocks of dynamic formats (MX, NVFP4) find
/// theirs. Afterwards mq never touches the packed layers' weight memory again: the host may free it, once
/// no mq_layer_weight() that began before is running any more.
/// mq_layer_weight() unpacks, to the shape and dtype of the weight, and gives what it gave before, bit
/// for bit; but negative values that round to zero in int8, int4 and w4a8 come back as +0.
///
/// A packed weight stays packed, and its quantizer as it is: every verb that would change it, such as
/// mq_disable_quantizer(), answers MQ_ERR_STATE; mq_calibrate() and mq_fold_weight() pass over it.
///
/// Formats (blocks lie along the last axis unless stated, one scale for the tensor has shape []):
/// - int4, from num_bits 4 in static blocks: "weight" uint8 `[..., in / 2]`, the even element in the
///   high nibble, code + 8; "scale" float32 `[blocks, 1]`, what codes are divided by (7 / amax).
/// - int8: "weight" int8; "scale" float32, one for each amax, amax / 127. The values of
///   mq_layer_weight() are code / (127 / amax): code * scale differs by a few units of the last place
///   of float32 (2^-22 relative).
/// - fp8: "weight" float8_e4m3fn; "scale" float32, amax / 448. Blocks in any axes. code * scale
///   differs as for int8.
/// - nvfp4: "weight" uint8 `[..., in / 2]` of E2M1 codes, the even element in the low nibble; "scale"
///   float8_e4m3fn `[..., in / block]`; "double_scale" float32 [], amax / 2688. The value of a code is
///   code * (scale * double_scale); exact in dynamic blocks, within 2^-21 relative in static ones.
/// - mxfp4: "weight" as for nvfp4; "scale" uint8 `[blocks, 1]`, exponents plus 127.
/// - mxfp8: "weight" float8_e4m3fn; "scale" uint8 `[..., in / block]`, exponents plus 127.
/// - nf4, from num_bits 4 with scale_bits 8 and scale_block_sizes: "weight" uint8 `[elements / 2]`, the
///   even element in the high nibble; "scale" int8 `[groups, group]`; "double_scale" float32
///   `[groups]`; "scale_zeros" float32 []. A block's scale is scale / double_scale + scale_zeros.
/// - w4a8, from INT4 followed by FP8 with one amax: the parts of int4, and "double_scale" float32 [],
///   the FP8's amax / 448. mq_layer_weight() unpacks INT4 and fake-quantizes that to FP8.
///
/// Weights in device memory are packed and unpacked there, to the same bits. Beside the parts of int8 and fp8 mq keeps a
/// float32 for each block, so that mq_layer_weight() only puts kernels on the CUDA stream, and can be captured. A graph
/// that holds an mq_layer_weight() from before must not be launched any more. The call waits for the stream; while that
/// is being captured it is MQ_ERR_STATE.
///
/// 4-bit formats need an even last axis; a short last block of a row has a scale of its own. A weight
/// without elements is left as it is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_compress(
    model: *mut mq_model,
    config: *const c_char,
    buffers: *const mq_buffer_fn,
    flags: u32,
    matched: *mut usize,
) -> mq_status {
    // SAFETY: contract above; ownership of the user data is taken before anything can fail.
    unsafe {
        let buffers = take_buffers(buffers);
        with(model, |_, model| {
            check_flags(flags, MQ_ALLOW_NO_MATCH)?;
            let config = match guard::text_or_null(config, "config")? {
                Some(text) => CompressConfig::parse(text)?,
                None => CompressConfig::all(),
            };
            let allow_none = flags & MQ_ALLOW_NO_MATCH != 0;
            let device = model.context().machine().gpu().cloned();
            let mut of_host =
                |layer: &str, part: &str, size: usize, gpu: Option<&Arc<Gpu>>| match &buffers {
                    Some(buffers) => buffers.allocate(layer, part, size, (gpu, device.as_ref())),
                    None => allocate_own(layer, part, size, gpu),
                };
            let count = apply::compress(model, &config, allow_none, &mut of_host)?;
            report(matched, count);
            Ok(())
        })
    }
}

/// One part of a packed weight, as mq_compress() lists them.
///
/// @param[in]  layer   A layer whose weight is packed.
/// @param[in]  part    "weight", "scale", "double_scale" or "scale_zeros".
/// @param[out] tensor  The part: row-major memory, to read, on the device of the weight; in device memory in the order
///                     of the context's CUDA stream. Data and shape are borrowed from the
///                     model until mq_model_destroy(). The dtype is one of MQ_DTYPE_FLOAT (32 bits),
///                     MQ_DTYPE_INT, MQ_DTYPE_UINT and MQ_DTYPE_FLOAT8_E4M3FN. Untouched on failure.
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL; MQ_ERR_STATE for a layer whose weight is not
///         packed; MQ_ERR_NOT_FOUND for a part that its format does not have, naming those it has.
///
/// Threads: as the taps of mq_layer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_layer_packed(
    layer: *const mq_layer,
    part: *const c_char,
    tensor: *mut mq_tensor,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        with_layer(layer, |layer| {
            let name = guard::text(part, "part")?;
            let tensor = out(tensor, "tensor")?;
            let packed = layer.weight_slot().and_then(|slot| slot.packed());
            let packed = packed.ok_or_else(|| {
                Error::State(format!(
                    "the weight of layer `{}` is not packed; call mq_compress() first",
                    layer.name()
                ))
            })?;
            let Some(part) = packed.part(name) else {
                let parts: Vec<&str> = packed.parts().iter().map(|part| part.name).collect();
                return Err(Error::NotFound(format!(
                    "part `{name}` of {}; it has {}",
                    packed.format(),
                    parts.join(", ")
                )));
            };
            let (code, bits) = match part.dtype {
                PartType::Int8 => (MQ_DTYPE_INT, 8),
                PartType::UInt8 => (MQ_DTYPE_UINT, 8),
                PartType::E4m3 => (MQ_DTYPE_FLOAT8_E4M3FN, 8),
                PartType::F32 => (MQ_DTYPE_FLOAT, 32),
            };
            *tensor = mq_tensor {
                data: part.memory.address() as *mut c_void,
                device: match part.memory.device() {
                    Device::Cpu => mq_device {
                        device_type: MQ_DEVICE_CPU,
                        device_id: 0,
                    },
                    Device::Cuda(device_id) => mq_device {
                        device_type: MQ_DEVICE_CUDA,
                        device_id,
                    },
                },
                ndim: part.shape.len() as i32,
                dtype: mq_dtype {
                    code,
                    bits,
                    lanes: 1,
                },
                shape: match part.shape.is_empty() {
                    true => std::ptr::null(),
                    false => part.shape.as_ptr(),
                },
                strides: std::ptr::null(),
                byte_offset: 0,
            };
            Ok(())
        })
    }
}
