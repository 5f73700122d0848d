//! The model: registration of layers and quantizers, and look-up.

use std::collections::HashMap;
use std::ffi::c_char;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use super::context::{self, mq_context};
use super::guard::{self, enter, enter_or_poison, out};
use super::layer_desc::{self, mq_layer_desc};
use super::status::mq_status;
use super::tap::{LayerHandle, QuantizerHandle, mq_layer, mq_quantizer};
use crate::auto_quantize::search::Search;
use crate::error::{Error, Result};
use crate::model::{Layer, Model, Shared, Slot};

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
/// mq_fold_pre_quant_scale(), mq_compress(), mq_plan(), mq_check(), mq_print_quant_summary(), mq_auto_quantize(),
/// mq_auto_quantize_solve(), mq_auto_quantize_state(), mq_auto_quantize_config(). From any thread: mq_cancel().
pub struct mq_model {
    inner: Mutex<Model>,
    pub(super) shared: Arc<Shared>,
    handles: Mutex<Handles>,
    /// What mq_auto_quantize() found; locked by verbs alone, which hold `inner`.
    pub(super) search: Mutex<Option<Search>>,
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
            search: Mutex::default(),
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
    // SAFETY: contract above; ownership of a callback's user data is taken before anything can fail.
    unsafe {
        // Boxed: what is moved into the closure is a pointer, whichever way it went.
        let spec = layer_desc::take(desc).map(Box::new);
        with(model, |handle, inner| {
            let spec = *spec?;
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
                inner.fetch_refreshed_scales()?;
                body(handle, &mut inner)
            }
            Err(TryLockError::WouldBlock) => Err(Error::Busy),
            Err(TryLockError::Poisoned(_)) => Err(Error::Poisoned),
        },
    )
}

impl mq_model {
    /// What was searched is no longer what the model is.
    pub(super) fn forget_search(&self) {
        *self.search.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

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
