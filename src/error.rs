//! The one error type of the library.

use crate::kernels::cuda::{GpuError, GpuErrorKind};

/// Why an operation failed. `ffi::status` maps every variant to one C status.
///
/// Texts are one line; they name the layer or the place in the configuration, what was expected,
/// what was found and what to do about it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// An argument of a call is wrong: NULL, out of range, wrong dtype, shape or strides.
    #[error("invalid argument: {0}")]
    InvalidArgument(String),
    /// A configuration, preset, attribute set or algorithm is not valid.
    #[error("invalid configuration: {0}")]
    Config(String),
    /// The request is valid, but this version of the library cannot carry it out.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// A name or a pattern matches nothing.
    #[error("not found: {0}")]
    NotFound(String),
    /// A name is taken.
    #[error("already exists: {0}")]
    AlreadyExists(String),
    /// The call does not fit the state of the model (for example: calibrate before quantize).
    #[error("wrong state: {0}")]
    State(String),
    /// A tensor holds values that cannot be quantized (NaN, Inf, a negative amax).
    #[error("invalid values: {0}")]
    Numeric(String),
    /// Another verb holds the model.
    #[error(
        "the model is busy: another call is working on it; wait for it to return (taps are the only calls allowed meanwhile)"
    )]
    Busy,
    /// A callback of the host asked to stop.
    #[error("the {what} callback returned {code}; the model is as it was before the call")]
    Callback {
        /// Which callback.
        what: &'static str,
        /// The value it returned.
        code: i32,
    },
    /// The host called mq_cancel().
    #[error("cancelled by the host; the model is as it was before the call")]
    Cancelled,
    /// Memory could not be allocated, or the limit of the context is too low.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// The CUDA driver failed, is missing, or has no device.
    #[error("{0}")]
    Cuda(String),
    /// An earlier internal error left the model unusable.
    #[error(
        "the model refuses further work after an internal error; destroy it and register it again"
    )]
    Poisoned,
    /// A bug in mq.
    #[error("internal error, please report it: {0}")]
    Internal(String),
}

impl From<GpuError> for Error {
    fn from(error: GpuError) -> Self {
        let text = error.text;
        match error.kind {
            GpuErrorKind::Unavailable | GpuErrorKind::Driver => Self::Cuda(text),
            GpuErrorKind::Invalid => Self::InvalidArgument(text),
            GpuErrorKind::Capturing => Self::State(text),
            GpuErrorKind::OutOfMemory => Self::OutOfMemory(text),
            GpuErrorKind::Unsupported => Self::Unsupported(text),
        }
    }
}

/// Shorthand used throughout the library.
pub type Result<T> = std::result::Result<T, Error>;
