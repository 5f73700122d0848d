//! The status codes of the C ABI.

use crate::error::Error;

/// Outcome of a call. Everything but `MQ_OK` comes with a text: mq_last_error_message().
///
/// Numbers are never reused or changed.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum mq_status {
    /// The call did what its documentation says.
    MQ_OK = 0,
    /// An argument is NULL, out of range, or a tensor of the wrong dtype, rank, shape, strides or device.
    MQ_ERR_INVALID_ARGUMENT = 1,
    /// A configuration, preset, attribute set or algorithm is not valid. The text quotes the
    /// offending key or value, its JSON path and the nearest valid one.
    MQ_ERR_CONFIG = 2,
    /// Valid, but not built into this version. The text names it.
    MQ_ERR_UNSUPPORTED = 3,
    /// A name or wildcard matches nothing.
    MQ_ERR_NOT_FOUND = 4,
    /// The name is taken.
    MQ_ERR_ALREADY_EXISTS = 5,
    /// The call does not fit the state of the model, such as mq_calibrate() before mq_quantize().
    MQ_ERR_STATE = 6,
    /// NaN, Inf or negative values where they cannot be quantized. The text names the layer.
    MQ_ERR_NUMERIC = 7,
    /// Another call holds the model.
    MQ_ERR_BUSY = 8,
    /// A callback returned non-zero; the model is as it was before the call.
    MQ_ERR_CALLBACK = 9,
    /// Threads, or memory for a whole tensor, could not be had, or the memory limit of the context is too
    /// low for a calibration (the text says how much it needs). (When a smaller allocation of mq's own fails,
    /// the process ends, as it does in Rust programs.)
    MQ_ERR_OUT_OF_MEMORY = 10,
    /// A bug in mq. The model refuses further work with `MQ_ERR_POISONED`.
    MQ_ERR_INTERNAL = 11,
    /// The model met MQ_ERR_INTERNAL before; only destroying it is possible.
    MQ_ERR_POISONED = 12,
    /// The host called mq_cancel(); the model is as it was before the call.
    MQ_ERR_CANCELLED = 13,
    /// CUDA: no driver, no device, a driver that is too old, or an error of the driver. Tensors in host memory still
    /// work on a context without a CUDA device.
    MQ_ERR_CUDA = 14,
}

impl From<&Error> for mq_status {
    fn from(error: &Error) -> Self {
        match error {
            Error::InvalidArgument(_) => Self::MQ_ERR_INVALID_ARGUMENT,
            Error::Config(_) => Self::MQ_ERR_CONFIG,
            Error::Unsupported(_) => Self::MQ_ERR_UNSUPPORTED,
            Error::NotFound(_) => Self::MQ_ERR_NOT_FOUND,
            Error::AlreadyExists(_) => Self::MQ_ERR_ALREADY_EXISTS,
            Error::State(_) => Self::MQ_ERR_STATE,
            Error::Numeric(_) => Self::MQ_ERR_NUMERIC,
            Error::Busy => Self::MQ_ERR_BUSY,
            Error::Callback { .. } => Self::MQ_ERR_CALLBACK,
            Error::Cancelled => Self::MQ_ERR_CANCELLED,
            Error::Cuda(_) => Self::MQ_ERR_CUDA,
            Error::OutOfMemory(_) => Self::MQ_ERR_OUT_OF_MEMORY,
            Error::Internal(_) => Self::MQ_ERR_INTERNAL,
            Error::Poisoned => Self::MQ_ERR_POISONED,
        }
    }
}
