//! The description of a layer to register.

use std::ffi::c_char;
use std::mem::{offset_of, size_of};
use std::sync::Arc;

use super::guard;
use super::layer_forward::{mq_layer_forward_fn, take_layer_forward};
use super::options::{self, Versioned};
use super::status::mq_status;
use super::tensor::{mq_tensor, view_or_null};
use super::verb::check_flags;
use crate::error::{Error, Result};
use crate::model::{Convolution, LayerForward, LayerKind, LayerSpec, Norm};

/// What a layer computes; decides its quantizers and the axis of its weight.
///
/// Every kind with a weight has `input_quantizer` (8 bit per tensor, enabled), `output_quantizer`
/// (8 bit per tensor, disabled) and `weight_quantizer` (8 bit, one amax per index of axis 0).
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum mq_layer_kind {
    /// Weight `[out, in]`; class "nn.Linear".
    MQ_LAYER_LINEAR = 1,
    /// Weight `[out, in / groups, k]`; class "nn.Conv1d".
    MQ_LAYER_CONV1D = 2,
    /// Weight `[out, in / groups, kh, kw]`; class "nn.Conv2d".
    MQ_LAYER_CONV2D = 3,
    /// Weight `[out, in / groups, kd, kh, kw]`; class "nn.Conv3d".
    MQ_LAYER_CONV3D = 4,
    /// Weight `[in, out / groups, k]` (axis 0 is the input); class "nn.ConvTranspose1d".
    MQ_LAYER_CONV_TRANSPOSE1D = 5,
    /// Weight `[in, out / groups, kh, kw]`; class "nn.ConvTranspose2d".
    MQ_LAYER_CONV_TRANSPOSE2D = 6,
    /// Weight `[in, out / groups, kd, kh, kw]`; class "nn.ConvTranspose3d".
    MQ_LAYER_CONV_TRANSPOSE3D = 7,
    /// Weight `[rows, dim]`, quantized per tensor by default; its input (indices) is never
    /// quantized; class "nn.Embedding".
    MQ_LAYER_EMBEDDING = 8,
    /// Anything else: norms, pooling, activations. A weight is optional; without one there is no
    /// `weight_quantizer`. The class name is yours.
    MQ_LAYER_GENERIC = 9,
}

/// One layer to register. Call mq_layer_desc_init() before setting fields. Strings and tensor
/// structs are copied; the elements the tensors point to are borrowed for the life of the model.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mq_layer_desc {
    /// sizeof(mq_layer_desc) in the caller's header. Set by mq_layer_desc_init().
    pub struct_size: u32,
    /// An mq_layer_kind. Default MQ_LAYER_LINEAR.
    pub kind: i32,
    /// Dotted name, such as "model.layers.0.self_attn.q_proj"; unique in the model, required.
    pub name: *const c_char,
    /// Class that a configuration may select by ("nn.Linear"); NULL means that of the kind.
    pub class_name: *const c_char,
    /// The weight, of the rank its kind asks for. mq_fold_weight() writes to it. Required but for
    /// MQ_LAYER_GENERIC.
    pub weight: *const mq_tensor,
    /// The bias, or NULL. Any float dtype, rank 1.
    pub bias: *const mq_tensor,
    /// Layers of one name are fused by the runtime (q/k/v, gate/up) and must share their global
    /// scale; NULL: not fused.
    pub fused_group: *const c_char,
    /// Layers of one name read the same activation; NULL: nobody shares this layer's input. In a calibration
    /// the tap of whichever comes first stands for all of them, also for one that is not tapped.
    pub shared_input_group: *const c_char,
    /// Layers of one name are the same projection of the experts of one block: peers, each of which sees part
    /// of the tokens; NULL: no expert. They get one scale for their input, and stand in for one that no
    /// token reached.
    pub expert_group: *const c_char,
    /// The gain, `[in]`, of the norm whose output the layer reads, for mq_fold_pre_quant_scale(), which
    /// writes to it; any float dtype. NULL: none. Layers that name the same memory read the same output,
    /// and everybody who reads it must be registered.
    pub norm_gain: *const mq_tensor,
    /// The norm's bias, `[in]`, which is written to likewise; NULL: none.
    pub norm_bias: *const mq_tensor,
    /// Name of the linear layer whose rows can take over what this layer's input is multiplied with: the
    /// input is that layer's output, or a product of it with something, channel by channel. NULL: none.
    pub producer: *const c_char,
    /// 0 or MQ_NORM_ADDS_ONE.
    pub norm_flags: u32,
    /// Must be zero.
    pub reserved: u32,
    /// Computes the layer, for mq_auto_quantize(), where mq cannot: MQ_LAYER_CONV_TRANSPOSE*, MQ_LAYER_GENERIC, and
    /// convolutions that do not pad with zeros. NULL: mq computes it, or does not search a format for it.
    pub forward: *const mq_layer_forward_fn,
    /// Of a convolution, for mq_auto_quantize(): elements from one place of the kernel to the next, by spatial axis;
    /// 0 means 1.
    pub conv_stride: [u32; 3],
    /// Zeros before the first and after the last element of each spatial axis.
    pub conv_padding: [u32; 3],
    /// Elements from one of the kernel's to the next, by spatial axis; 0 means 1.
    pub conv_dilation: [u32; 3],
    /// Must be zero.
    pub reserved2: u32,
}
const _: () = assert!(size_of::<mq_layer_desc>() == 144);
const _: () = assert!(offset_of!(mq_layer_desc, name) == 8);
const _: () = assert!(offset_of!(mq_layer_desc, shared_input_group) == 48);
const _: () = assert!(offset_of!(mq_layer_desc, expert_group) == 56);
const _: () = assert!(offset_of!(mq_layer_desc, norm_flags) == 88);
const _: () = assert!(offset_of!(mq_layer_desc, forward) == 96);
const _: () = assert!(offset_of!(mq_layer_desc, reserved2) == 140);

/// mq_layer_desc.norm_flags: the norm multiplies with `1 + gain`, as Gemma's do.
pub const MQ_NORM_ADDS_ONE: u32 = 1;

// SAFETY: repr(C); integers and pointers, of which all-zero is valid and anything else is the
// caller's promise (contract of mq_layer_desc).
unsafe impl Versioned for mq_layer_desc {
    const MIN_SIZE: usize = 56;
    const NAME: &'static str = "mq_layer_desc";
    fn defaults() -> Self {
        Self {
            struct_size: size_of::<Self>() as u32,
            kind: mq_layer_kind::MQ_LAYER_LINEAR as i32,
            name: std::ptr::null(),
            class_name: std::ptr::null(),
            weight: std::ptr::null(),
            bias: std::ptr::null(),
            fused_group: std::ptr::null(),
            shared_input_group: std::ptr::null(),
            expert_group: std::ptr::null(),
            norm_gain: std::ptr::null(),
            norm_bias: std::ptr::null(),
            producer: std::ptr::null(),
            norm_flags: 0,
            reserved: 0,
            forward: std::ptr::null(),
            conv_stride: [0; 3],
            conv_padding: [0; 3],
            conv_dilation: [0; 3],
            reserved2: 0,
        }
    }
}

fn layer_kind(code: i32) -> Result<LayerKind> {
    Ok(match code {
        1 => LayerKind::Linear,
        2 => LayerKind::Conv { spatial: 1 },
        3 => LayerKind::Conv { spatial: 2 },
        4 => LayerKind::Conv { spatial: 3 },
        5 => LayerKind::ConvTranspose { spatial: 1 },
        6 => LayerKind::ConvTranspose { spatial: 2 },
        7 => LayerKind::ConvTranspose { spatial: 3 },
        8 => LayerKind::Embedding,
        9 => LayerKind::Generic,
        other => {
            return Err(Error::InvalidArgument(format!(
                "kind is {other}, expected an mq_layer_kind (1 to 9)"
            )));
        }
    })
}

/// The norm a layer reads.
///
/// # Safety
/// The contract of mq_layer_desc.
unsafe fn norm(desc: &mq_layer_desc) -> Result<Option<Norm>> {
    check_flags(desc.norm_flags, MQ_NORM_ADDS_ONE)?;
    for (reserved, name) in [(desc.reserved, "reserved"), (desc.reserved2, "reserved2")] {
        if reserved != 0 {
            return Err(Error::InvalidArgument(format!(
                "mq_layer_desc: {name} is {reserved}, expected 0"
            )));
        }
    }
    // SAFETY: contract above.
    let (gain, bias) = unsafe {
        (
            view_or_null(desc.norm_gain, "desc.norm_gain")?,
            view_or_null(desc.norm_bias, "desc.norm_bias")?,
        )
    };
    match (gain, bias) {
        (None, Some(_)) => Err(Error::InvalidArgument(
            "desc.norm_bias is set, but desc.norm_gain is NULL".into(),
        )),
        (gain, bias) => Ok(gain.map(|gain| Norm {
            gain,
            bias,
            adds_one: desc.norm_flags & MQ_NORM_ADDS_ONE != 0,
        })),
    }
}

fn convolution(desc: &mq_layer_desc) -> Convolution {
    let count = |given: u32| usize::try_from(given).unwrap_or(usize::MAX);
    let step = |given: u32| count(given).max(1);
    Convolution {
        stride: desc.conv_stride.map(step),
        padding: desc.conv_padding.map(count),
        dilation: desc.conv_dilation.map(step),
    }
}

/// Reads a description. Ownership of its callback's user data is taken also when that fails.
///
/// # Safety
/// `desc` is NULL or valid per the contract of mq_layer_desc.
pub(super) unsafe fn take(desc: *const mq_layer_desc) -> Result<LayerSpec> {
    if desc.is_null() {
        return Err(Error::InvalidArgument("desc is NULL".into()));
    }
    // SAFETY: contract above.
    unsafe {
        let desc = options::read(desc)?;
        let forward = take_layer_forward(desc.forward)?;
        let forward = forward.map(|forward| Arc::new(forward) as Arc<dyn LayerForward>);
        let text = |raw, what| guard::text_or_null(raw, what).map(|text| text.map(str::to_owned));
        Ok(LayerSpec {
            name: guard::text(desc.name, "desc.name")?.to_owned(),
            kind: layer_kind(desc.kind)?,
            class_name: text(desc.class_name, "desc.class_name")?,
            weight: view_or_null(desc.weight, "desc.weight")?,
            bias: view_or_null(desc.bias, "desc.bias")?,
            fused_group: text(desc.fused_group, "desc.fused_group")?,
            shared_input_group: text(desc.shared_input_group, "desc.shared_input_group")?,
            expert_group: text(desc.expert_group, "desc.expert_group")?,
            norm: norm(&desc)?,
            producer: text(desc.producer, "desc.producer")?,
            convolution: convolution(&desc),
            forward,
        })
    }
}

/// Fills `desc` with the defaults, never writing past `struct_size` bytes.
///
/// @param[out] desc         Struct to fill.
/// @param[in]  struct_size  sizeof(mq_layer_desc) in the caller's header.
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT when `desc` is NULL or `struct_size` too small.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_layer_desc_init(
    desc: *mut mq_layer_desc,
    struct_size: u32,
) -> mq_status {
    // SAFETY: contract above.
    unsafe { options::init(desc, struct_size) }
}
