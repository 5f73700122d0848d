//! The model: registration of layers and quantizers, and look-up.

use std::collections::HashMap;
use std::ffi::c_char;
use std::mem::{offset_of, size_of};
use std::sync::{Arc, Mutex, TryLockError};

use super::context::{self, mq_context};
use super::guard::{self, enter, enter_or_poison, out};
use super::options::{self, Versioned};
use super::status::mq_status;
use super::tap::{LayerHandle, QuantizerHandle, mq_layer, mq_quantizer};
use super::tensor::{mq_tensor, view_or_null};
use super::verb::check_flags;
use crate::error::{Error, Result};
use crate::model::{Convolution, Layer, LayerKind, LayerSpec, Model, Norm, Shared, Slot};

/// The host's model as mq knows it: names, borrowed tensors and quantizers.
///
/// Ownership: created by mq_model_create(), freed by mq_model_destroy(). Owns its mq_layer and
/// mq_quantizer handles, which die with it. Tensors are borrowed: the host keeps them alive, and
/// does not move them, until mq_model_destroy() returns; but for weights that mq_compress() packed.
/// Threads: one registration or verb at a time, a second one answers MQ_ERR_BUSY; taps of its
/// layers may run on any thread at any time, but not while or after the model is destroyed.
///
/// Registration: mq_model_add_layer(), mq_model_add_quantizer(). Look-up: mq_model_find_layer(),
/// mq_model_find_quantizer(), mq_model_quantizer_count(), mq_model_quantizer_at().
/// Verbs: mq_quantize(), mq_calibrate(), mq_fold_weight(), mq_enable_quantizer(),
/// mq_disable_quantizer(), mq_set_quantizer_attributes(), mq_postprocess_amax(), mq_reset_amax(),
/// mq_fold_pre_quant_scale(), mq_compress(), mq_plan(), mq_check(), mq_print_quant_summary(). From any thread:
/// mq_cancel().
pub struct mq_model {
    inner: Mutex<Model>,
    pub(super) shared: Arc<Shared>,
    handles: Mutex<Handles>,
}

/// Boxed, because the host holds their addresses; keyed by what they stand for, so that asking twice
/// gives the same handle.
#[derive(Default)]
struct Handles {
    layers: HashMap<*const Layer, Box<LayerHandle>>,
    quantizers: HashMap<(*const Slot, Option<usize>), Box<QuantizerHandle>>,
}

// SAFETY: the keys are addresses that are only compared; the handles are Send themselves.
unsafe impl Send for Handles {}

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
}
const _: () = assert!(size_of::<mq_layer_desc>() == 96);
const _: () = assert!(offset_of!(mq_layer_desc, name) == 8);
const _: () = assert!(offset_of!(mq_layer_desc, shared_input_group) == 48);
const _: () = assert!(offset_of!(mq_layer_desc, expert_group) == 56);
const _: () = assert!(offset_of!(mq_layer_desc, norm_flags) == 88);

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
    if desc.reserved != 0 {
        return Err(Error::InvalidArgument(format!(
            "mq_layer_desc: reserved is {}, expected 0",
            desc.reserved
        )));
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

/// Creates an empty model.
///
/// @param[in]  context  Context whose threads and log the model uses.
/// @param[out] model    The model, to be freed by mq_model_destroy(). Untouched on failure.
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT when an argument is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_model_create(
    context: *const mq_context,
    model: *mut *mut mq_model,
) -> mq_status {
    enter(|| {
        // SAFETY: contract above.
        let (context, model) = unsafe { (context::borrow(context)?, out(model, "model")?) };
        let inner = Model::new(Arc::clone(&context.context));
        *model = Box::into_raw(Box::new(mq_model {
            shared: inner.shared(),
            inner: Mutex::new(inner),
            handles: Mutex::default(),
        }));
        Ok(())
    })
}

/// Frees a model and its layer and quantizer handles. The host's tensors are left as they are.
///
/// @return MQ_OK, also for NULL; MQ_ERR_BUSY, and nothing happens, when a verb is running (a
///         callback of the model tries to destroy it).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_model_destroy(model: *mut mq_model) -> mq_status {
    enter(|| {
        // SAFETY: NULL or a live handle (contract).
        let Some(borrowed) = (unsafe { model.as_ref() }) else {
            return Ok(());
        };
        if matches!(borrowed.inner.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(Error::Busy);
        }
        // SAFETY: from mq_model_create(), freed once (contract); nobody holds the lock.
        drop(unsafe { Box::from_raw(model) });
        Ok(())
    })
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

/// Registers a layer and creates its quantizers, named `<layer>.input_quantizer`,
/// `<layer>.output_quantizer` and `<layer>.weight_quantizer`.
///
/// @param[in]  model  Model that has not been quantized yet.
/// @param[in]  desc   The layer.
/// @param[out] layer  Its handle, for the taps; owned by the model. May be NULL. Untouched on failure.
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL, a bad name, kind, or weight of the wrong rank
///         or dtype; MQ_ERR_ALREADY_EXISTS when the name is taken; MQ_ERR_STATE after mq_quantize();
///         MQ_ERR_BUSY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_model_add_layer(
    model: *mut mq_model,
    desc: *const mq_layer_desc,
    layer: *mut *mut mq_layer,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        with(model, |handle, inner| {
            if desc.is_null() {
                return Err(Error::InvalidArgument("desc is NULL".into()));
            }
            let desc = options::read(desc)?;
            let spec = LayerSpec {
                name: guard::text(desc.name, "desc.name")?.to_owned(),
                kind: layer_kind(desc.kind)?,
                class_name: guard::text_or_null(desc.class_name, "desc.class_name")?
                    .map(str::to_owned),
                weight: view_or_null(desc.weight, "desc.weight")?,
                bias: view_or_null(desc.bias, "desc.bias")?,
                fused_group: guard::text_or_null(desc.fused_group, "desc.fused_group")?
                    .map(str::to_owned),
                shared_input_group: guard::text_or_null(
                    desc.shared_input_group,
                    "desc.shared_input_group",
                )?
                .map(str::to_owned),
                expert_group: guard::text_or_null(desc.expert_group, "desc.expert_group")?
                    .map(str::to_owned),
                norm: norm(&desc)?,
                producer: guard::text_or_null(desc.producer, "desc.producer")?.map(str::to_owned),
                convolution: Convolution::default(),
                forward: None,
            };
            let added = inner.add_layer(spec)?;
            let address = handle.keep_layer(added)?;
            if let Some(layer) = layer.as_mut() {
                *layer = address;
            }
            Ok(())
        })
    }
}

/// Registers a quantizer of the host's own, such as "model.layers.0.self_attn.k_bmm_quantizer".
///
/// It begins with 8 bits per tensor, enabled.
///
/// @param[in]  model       Model that has not been quantized yet.
/// @param[in]  name        Its whole dotted name.
/// @param[in]  class_name  Class of the module it sits in, for class scopes; NULL: none.
/// @param[out] quantizer   Its handle, owned by the model. May be NULL. Untouched on failure.
/// @return as mq_model_add_layer().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_model_add_quantizer(
    model: *mut mq_model,
    name: *const c_char,
    class_name: *const c_char,
    quantizer: *mut *mut mq_quantizer,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        with(model, |handle, inner| {
            let name = guard::text(name, "name")?;
            let class_name = guard::text_or_null(class_name, "class_name")?;
            let slot = inner.add_quantizer(name, class_name)?;
            let address = handle.keep_quantizer(&slot, None)?;
            if let Some(quantizer) = quantizer.as_mut() {
                *quantizer = address;
            }
            Ok(())
        })
    }
}

/// Finds a layer by its dotted name.
///
/// @param[in]  model  Model to search.
/// @param[in]  name   The layer's name.
/// @param[out] layer  Its handle, owned by the model. Untouched on failure.
/// @return MQ_OK; MQ_ERR_NOT_FOUND; MQ_ERR_INVALID_ARGUMENT for a NULL; MQ_ERR_BUSY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_model_find_layer(
    model: *mut mq_model,
    name: *const c_char,
    layer: *mut *mut mq_layer,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        with(model, |handle, inner| {
            let layer = out(layer, "layer")?;
            let found = inner.find_layer(guard::text(name, "name")?)?;
            *layer = handle.keep_layer(found)?;
            Ok(())
        })
    }
}

/// Finds a quantizer by its dotted name; members of a sequential quantizer are
/// `<name>.0`, `<name>.1`.
///
/// @param[in]  model      Model to search.
/// @param[in]  name       The quantizer's name.
/// @param[out] quantizer  Its handle, owned by the model. Untouched on failure.
/// @return MQ_OK; MQ_ERR_NOT_FOUND; MQ_ERR_INVALID_ARGUMENT for a NULL; MQ_ERR_BUSY.
///
/// The handle of a member answers MQ_ERR_STATE once its sequential quantizer is gone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_model_find_quantizer(
    model: *mut mq_model,
    name: *const c_char,
    quantizer: *mut *mut mq_quantizer,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        with(model, |handle, inner| {
            let quantizer = out(quantizer, "quantizer")?;
            let (slot, member) = inner.find_quantizer(guard::text(name, "name")?)?;
            *quantizer = handle.keep_quantizer(&slot, member)?;
            Ok(())
        })
    }
}

/// Number of quantizers, in registration order; members of sequential quantizers count one each.
///
/// @param[in]  model  Model to count in.
/// @param[out] count  The number. Untouched on failure.
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL; MQ_ERR_BUSY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_model_quantizer_count(
    model: *mut mq_model,
    count: *mut usize,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        with(model, |_, inner| {
            *out(count, "count")? = inner.listed_quantizers().len();
            Ok(())
        })
    }
}

/// The quantizer at a position, in registration order.
///
/// @param[in]  model      Model to look in.
/// @param[in]  index      0 to mq_model_quantizer_count() - 1.
/// @param[out] quantizer  Its handle, owned by the model. Untouched on failure.
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL or an index out of range; MQ_ERR_BUSY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_model_quantizer_at(
    model: *mut mq_model,
    index: usize,
    quantizer: *mut *mut mq_quantizer,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        with(model, |handle, inner| {
            let quantizer = out(quantizer, "quantizer")?;
            let listed = inner.listed_quantizers();
            let Some((slot, member)) = listed.get(index) else {
                return Err(Error::InvalidArgument(format!(
                    "index {index}, but the model has {} quantizers",
                    listed.len()
                )));
            };
            *quantizer = handle.keep_quantizer(slot, *member)?;
            Ok(())
        })
    }
}

/// Runs `body` with the model held, as every registration and verb does.
///
/// # Safety
/// `model` is NULL or a live handle.
pub(crate) unsafe fn with(
    model: *const mq_model,
    body: impl FnOnce(&mq_model, &mut Model) -> Result<()>,
) -> mq_status {
    // SAFETY: contract above.
    let Some(handle) = (unsafe { model.as_ref() }) else {
        return enter(|| Err(Error::InvalidArgument("model is NULL".into())));
    };
    // The lock is taken inside the unwind boundary: a panic poisons it, and no later call sees a
    // half-updated model.
    enter_or_poison(
        || handle.shared.poison(),
        || match handle.inner.try_lock() {
            Ok(mut inner) => {
                inner.check_usable()?;
                body(handle, &mut inner)
            }
            Err(TryLockError::WouldBlock) => Err(Error::Busy),
            Err(TryLockError::Poisoned(_)) => Err(Error::Poisoned),
        },
    )
}

impl mq_model {
    fn keep_layer(&self, layer: Arc<Layer>) -> Result<*mut mq_layer> {
        let mut handles = self.handles.lock().map_err(|_| Error::Poisoned)?;
        let handle = handles
            .layers
            .entry(Arc::as_ptr(&layer))
            .or_insert_with(|| Box::new(LayerHandle::new(layer)));
        Ok((&raw mut **handle).cast())
    }

    fn keep_quantizer(&self, slot: &Arc<Slot>, member: Option<usize>) -> Result<*mut mq_quantizer> {
        let mut handles = self.handles.lock().map_err(|_| Error::Poisoned)?;
        let owner: *const mq_model = self;
        let handle = handles
            .quantizers
            .entry((Arc::as_ptr(slot), member))
            .or_insert_with(|| Box::new(QuantizerHandle::new(Arc::clone(slot), member, owner)));
        Ok((&raw mut **handle).cast())
    }
}
