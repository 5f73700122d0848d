//! A failure on the GPU, and that of a library that was built without one.

use std::fmt;

/// What kind of failure it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuErrorKind {
    /// No driver, no device, or a driver that is too old.
    Unavailable,
    /// The host gave something that does not belong together.
    Invalid,
    /// Not now: a stream is being captured.
    Capturing,
    /// No device memory.
    OutOfMemory,
    /// What this version does not do on a GPU.
    Unsupported,
    /// An error of the driver.
    Driver,
}

/// A failure on the GPU, as a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuError {
    /// What kind.
    pub kind: GpuErrorKind,
    /// What was expected, what was found and what to do.
    pub text: String,
}

impl GpuError {
    pub(crate) fn new(kind: GpuErrorKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
        }
    }
}

impl GpuError {
    /// The same, with the name of whoever met it.
    pub(crate) fn of(self, name: &str) -> Self {
        Self {
            text: format!("`{name}`: {}", self.text),
            ..self
        }
    }
}

impl fmt::Display for GpuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What a context without a GPU answers where it needs one. A library without CUDA says so instead: there is nothing
/// that the host could give it.
pub(crate) fn without_gpu(text: impl Into<String>) -> GpuError {
    match cfg!(feature = "cuda") {
        true => GpuError::new(GpuErrorKind::Invalid, text),
        false => built_without(),
    }
}

/// That of a library without CUDA.
pub(super) fn built_without() -> GpuError {
    GpuError::new(
        GpuErrorKind::Unsupported,
        "this libmq was built without CUDA (cargo feature `cuda`); use one that has it, or tensors in host memory",
    )
}
