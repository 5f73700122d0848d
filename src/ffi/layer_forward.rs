//! A layer that the host computes when mq asks for it.

use std::ffi::c_void;
use std::ptr::null;

use super::callback::{UserData, outcome};
use super::tensor::{mq_device, mq_dtype, mq_tensor};
use crate::error::{Error, Result};
use crate::model::LayerForward;
use crate::tensor::{MAX_RANK, TensorView};

/// Computes the output of a layer for an input and a weight that mq gives. Ownership of `user_data` and unwinding as in
/// mq_forward_fn, but `release` runs when the model is destroyed (or mq_model_add_layer() fails).
/// Threads: called on the thread that calls mq_layer_grad(), one call at a time; it must not call mq_layer_grad() itself
/// (MQ_ERR_STATE).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct mq_layer_forward_fn {
    /// Handed back unchanged as the first argument.
    pub user_data: *mut c_void,
    /// Writes the layer's output to `y`, which has the shape and dtype of the gradient that mq_layer_grad() was
    /// called with; `x` is of the shape and dtype the layer's input had, `weight` of those of its weight. A bias may be
    /// added or left out. All three are valid during the call; x and weight are only read. Of a layer in device memory
    /// they are device memory: computed on the context's stream, in order, without waiting for it. They stay valid for
    /// what is put on that stream during the call; a host that computes on another one makes it wait for the context's
    /// stream first, and the context's stream for it before it returns. Returns 0 to go on; any other value stops the
    /// verb, which answers MQ_ERR_CALLBACK.
    pub forward: Option<
        unsafe extern "C" fn(
            user_data: *mut c_void,
            x: *const mq_tensor,
            weight: *const mq_tensor,
            y: *const mq_tensor,
        ) -> i32,
    >,
    /// Frees `user_data`; NULL when there is nothing to free.
    pub release: Option<unsafe extern "C" fn(user_data: *mut c_void)>,
}

type Compute =
    unsafe extern "C" fn(*mut c_void, *const mq_tensor, *const mq_tensor, *const mq_tensor) -> i32;

/// Owned by the layers of a model and of its shadows.
pub(super) struct HostLayer {
    data: UserData,
    forward: Compute,
}

/// Takes ownership; NULL is "mq computes it".
///
/// # Safety
/// `raw` is NULL or valid per the contract of its type.
pub(super) unsafe fn take_layer_forward(
    raw: *const mq_layer_forward_fn,
) -> Result<Option<HostLayer>> {
    // SAFETY: contract above.
    let Some(raw) = (unsafe { raw.as_ref() }) else {
        return Ok(None);
    };
    let data = UserData::new(raw.user_data, raw.release);
    match raw.forward {
        Some(forward) => Ok(Some(HostLayer { data, forward })),
        None => Err(Error::InvalidArgument(
            "desc.forward->forward is NULL".into(),
        )),
    }
}

impl LayerForward for HostLayer {
    fn forward(&self, x: &TensorView, weight: Option<&TensorView>, y: &TensorView) -> Result<()> {
        let mut extents = [[0i64; MAX_RANK]; 3];
        let [x_extents, weight_extents, y_extents] = &mut extents;
        let (x, y) = (described(x, x_extents), described(y, y_extents));
        let weight = weight.map(|weight| described(weight, weight_extents));
        let weight = weight.as_ref().map_or(null(), std::ptr::from_ref);
        // SAFETY: contract of mq_layer_forward_fn; tensors and extents outlive the call.
        let code = unsafe { (self.forward)(self.data.pointer(), &x, weight, &y) };
        outcome("layer forward", code)
    }
}

/// A tensor of ours as the host sees it; its extents live in `extents`.
fn described(tensor: &TensorView, extents: &mut [i64; MAX_RANK]) -> mq_tensor {
    let dims = tensor.shape().dims();
    for (extent, dim) in extents.iter_mut().zip(dims) {
        // The size of memory that exists fits.
        *extent = i64::try_from(*dim).unwrap_or(i64::MAX);
    }
    mq_tensor {
        data: tensor.address() as *mut c_void,
        device: mq_device::of(tensor.device()),
        ndim: dims.len() as i32,
        dtype: mq_dtype::of(tensor.dtype()),
        shape: extents.as_ptr(),
        strides: null(),
        byte_offset: 0,
    }
}
