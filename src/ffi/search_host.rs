//! The callbacks of a search.

use std::ffi::{c_char, c_void};
use std::ptr::null;

use super::callback::{UserData, c_name, outcome};
use super::tensor::{MQ_DEVICE_CPU, mq_device, mq_dtype, mq_tensor, view};
use crate::auto_quantize::host::Host;
use crate::error::{Error, Result};
use crate::tensor::{DType, TensorView};

/// The host's side of mq_auto_quantize(). Ownership, threads and unwinding as in mq_forward_fn. Every callback returns
/// 0 to go on; any other value stops the verb, which answers MQ_ERR_CALLBACK. `step` counts batches from 0, and
/// begins with 0 again for every pass; the steps of a pass may be run more than once.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct mq_auto_quantize_fn {
    /// Handed back unchanged as the first argument.
    pub user_data: *mut c_void,
    /// Makes batch `step` the current one; sets `*available` (1 on entry) to 0 when there is no such batch, which is
    /// an error (ask for fewer steps). Called before every forward_step and forward_backward_step. NULL: every batch
    /// is there.
    pub data:
        Option<unsafe extern "C" fn(user_data: *mut c_void, step: u64, available: *mut i32) -> i32>,
    /// Runs the model over the current batch, calling mq_layer_input().
    pub forward_step: Option<unsafe extern "C" fn(user_data: *mut c_void, step: u64) -> i32>,
    /// Sets `*loss` to the loss of the forward_step before; with `backward`.
    pub loss:
        Option<unsafe extern "C" fn(user_data: *mut c_void, step: u64, loss: *mut f64) -> i32>,
    /// Runs back from that loss, calling mq_layer_grad() with its gradient at the output of every layer.
    pub backward: Option<unsafe extern "C" fn(user_data: *mut c_void, step: u64) -> i32>,
    /// All three at once, in place of `loss` and `backward`.
    pub forward_backward_step:
        Option<unsafe extern "C" fn(user_data: *mut c_void, step: u64, loss: *mut f64) -> i32>,
    /// Fills `*logits` (zeros on entry) with the logits `[.., classes]` of the forward_step before, for the method
    /// "kl_div"; the memory and `shape` stay valid until the next callback. In host memory or on the context's device,
    /// always in the same place; there they are read in the order of its stream.
    pub logits: Option<
        unsafe extern "C" fn(user_data: *mut c_void, step: u64, logits: *mut mq_tensor) -> i32,
    >,
    /// Frees `user_data`; NULL when there is nothing to free.
    pub release: Option<unsafe extern "C" fn(user_data: *mut c_void)>,
}

/// What a layer costs under a format, in any unit: latency, bytes, energy. Ownership, threads and unwinding as in
/// mq_forward_fn.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct mq_layer_cost_fn {
    /// Handed back unchanged as the first argument.
    pub user_data: *mut c_void,
    /// Sets `*cost` (0 on entry), finite and not negative, for the layer of that name with so many elements of weight
    /// under the format of that name (a preset's, `CUSTOM_<position>`, or `NONE`). Returns 0 to go on; any other
    /// value stops the verb, which answers MQ_ERR_CALLBACK.
    pub cost: Option<
        unsafe extern "C" fn(
            user_data: *mut c_void,
            layer: *const c_char,
            format: *const c_char,
            elements: u64,
            cost: *mut f64,
        ) -> i32,
    >,
    /// Frees `user_data`; NULL when there is nothing to free.
    pub release: Option<unsafe extern "C" fn(user_data: *mut c_void)>,
}

/// The callbacks, taken over.
pub(super) struct SearchHost {
    data: UserData,
    functions: mq_auto_quantize_fn,
}

/// Takes ownership; NULL is a host without callbacks. Call before anything can fail.
///
/// # Safety
/// `raw` is NULL or valid per the contract of its type.
pub(super) unsafe fn take_host(raw: *const mq_auto_quantize_fn) -> Option<SearchHost> {
    // SAFETY: contract above.
    let raw = unsafe { raw.as_ref() }?;
    Some(SearchHost {
        data: UserData::new(raw.user_data, raw.release),
        functions: *raw,
    })
}

fn needed<T>(function: Option<T>, name: &str) -> Result<T> {
    function.ok_or_else(|| {
        Error::InvalidArgument(format!("{name} must be provided: host.{name} is NULL"))
    })
}

impl SearchHost {
    fn loss_of(
        &self,
        function: unsafe extern "C" fn(*mut c_void, u64, *mut f64) -> i32,
        what: &'static str,
        step: u64,
    ) -> Result<f64> {
        let mut loss = f64::NAN;
        // SAFETY: contract of mq_auto_quantize_fn; the loss outlives the call.
        outcome(what, unsafe {
            function(self.data.pointer(), step, &mut loss)
        })?;
        Ok(loss)
    }
}

impl Host for SearchHost {
    fn data(&mut self, step: u64) -> Result<bool> {
        let Some(data) = self.functions.data else {
            return Ok(true);
        };
        let mut available = 1;
        // SAFETY: contract of mq_auto_quantize_fn; the flag outlives the call.
        outcome("data", unsafe {
            data(self.data.pointer(), step, &mut available)
        })?;
        Ok(available != 0)
    }

    fn forward(&mut self, step: u64) -> Result<()> {
        let forward = needed(self.functions.forward_step, "forward_step")?;
        // SAFETY: contract of mq_auto_quantize_fn.
        outcome("forward_step", unsafe {
            forward(self.data.pointer(), step)
        })
    }

    fn forward_backward(&mut self, step: u64) -> Result<f64> {
        if let Some(both) = self.functions.forward_backward_step {
            return self.loss_of(both, "forward_backward_step", step);
        }
        let backward = needed(self.functions.backward, "backward")?;
        let loss = needed(self.functions.loss, "loss")?;
        self.forward(step)?;
        let loss = self.loss_of(loss, "loss", step)?;
        // SAFETY: contract of mq_auto_quantize_fn.
        outcome("backward", unsafe { backward(self.data.pointer(), step) })?;
        Ok(loss)
    }

    fn check_backward(&self) -> Result<()> {
        let functions = &self.functions;
        let apart = functions.loss.is_some() && functions.backward.is_some();
        match apart || functions.forward_backward_step.is_some() {
            true => Ok(()),
            false => Err(Error::InvalidArgument(
                "loss_func or forward_backward_step must be provided: host.forward_backward_step is NULL, and so is \
                 host.loss or host.backward"
                    .into(),
            )),
        }
    }

    fn logits(&mut self, step: u64) -> Result<TensorView> {
        let logits = needed(self.functions.logits, "logits")?;
        let mut tensor = mq_tensor {
            data: std::ptr::null_mut(),
            device: mq_device {
                device_type: MQ_DEVICE_CPU,
                device_id: 0,
            },
            ndim: 0,
            dtype: mq_dtype::of(DType::F32),
            shape: null(),
            strides: null(),
            byte_offset: 0,
        };
        // SAFETY: contract of mq_auto_quantize_fn; the struct outlives the call.
        outcome("logits", unsafe {
            logits(self.data.pointer(), step, &mut tensor)
        })?;
        // SAFETY: contract of mq_auto_quantize_fn: it is valid until the next callback.
        unsafe { view(&tensor, "logits") }
    }

    fn check_logits(&self) -> Result<()> {
        needed(self.functions.logits, "logits").map(|_| ())
    }
}

/// A host that gives nothing: enough for a search whose checkpoint is complete.
pub(super) struct NoHost;

impl NoHost {
    fn is_null<T>() -> Result<T> {
        Err(Error::InvalidArgument(
            "host is NULL, but the search needs its callbacks: no checkpoint holds all of it"
                .into(),
        ))
    }
}

impl Host for NoHost {
    fn data(&mut self, _: u64) -> Result<bool> {
        Self::is_null()
    }
    fn forward(&mut self, _: u64) -> Result<()> {
        Self::is_null()
    }
    fn forward_backward(&mut self, _: u64) -> Result<f64> {
        Self::is_null()
    }
    fn check_backward(&self) -> Result<()> {
        Self::is_null()
    }
    fn logits(&mut self, _: u64) -> Result<TensorView> {
        Self::is_null()
    }
    fn check_logits(&self) -> Result<()> {
        Self::is_null()
    }
}

/// The cost callback, taken over.
pub(super) struct LayerCosts {
    data: UserData,
    cost: Option<
        unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char, u64, *mut f64) -> i32,
    >,
}

/// Takes ownership; NULL is "mq counts". Call before anything can fail.
///
/// # Safety
/// `raw` is NULL or valid per the contract of its type.
pub(super) unsafe fn take_costs(raw: *const mq_layer_cost_fn) -> Option<LayerCosts> {
    // SAFETY: contract above.
    let raw = unsafe { raw.as_ref() }?;
    Some(LayerCosts {
        data: UserData::new(raw.user_data, raw.release),
        cost: raw.cost,
    })
}

impl LayerCosts {
    /// What the host says.
    pub fn of(&self, layer: &str, format: &str, elements: u64) -> Result<f64> {
        let cost = self
            .cost
            .ok_or_else(|| Error::InvalidArgument("cost.cost is NULL".into()))?;
        let (layer, format) = (c_name(layer)?, c_name(format)?);
        let mut found = 0.0;
        // SAFETY: contract of mq_layer_cost_fn; all pointers outlive the call.
        let code = unsafe {
            cost(
                self.data.pointer(),
                layer.as_ptr(),
                format.as_ptr(),
                elements,
                &mut found,
            )
        };
        outcome("cost", code).map(|()| found)
    }
}
