//! The CUDA context: the host's own, or the device's primary one; current while mq works, and not a moment longer.

use cudarc::driver::sys::{self, CUcontext, CUdevice, CUstream};

use super::driver::check;
use super::error::{GpuError, GpuErrorKind};

/// A context that kernels run in.
pub(super) struct Context {
    raw: CUcontext,
    /// The device whose primary context it is, when mq has retained that.
    retained: Option<CUdevice>,
}

impl Context {
    /// The context to use for a device: the one that is given, that of the stream, the current one if it is of that
    /// device, else the device's primary one.
    ///
    /// # Safety
    /// `given` and `stream` are NULL or live handles.
    pub unsafe fn choose(
        device: CUdevice,
        given: CUcontext,
        stream: CUstream,
    ) -> Result<Self, GpuError> {
        if !given.is_null() {
            let context = Self::borrowed(given, device, "cuda_context")?;
            // SAFETY: a live stream (contract).
            unsafe { context.check_stream(stream) }?;
            return Ok(context);
        }
        if !is_default(stream) {
            let mut raw = std::ptr::null_mut();
            check(
                // SAFETY: a live stream (contract).
                unsafe { sys::cuStreamGetCtx(stream, &mut raw) },
                "cuda_stream",
            )?;
            return Self::borrowed(raw, device, "cuda_stream");
        }
        let mut current = std::ptr::null_mut();
        check(
            // SAFETY: a place for the handle.
            unsafe { sys::cuCtxGetCurrent(&mut current) },
            "cuCtxGetCurrent",
        )?;
        if !current.is_null() && device_of(current)? == device {
            return Ok(Self {
                raw: current,
                retained: None,
            });
        }
        let mut raw = std::ptr::null_mut();
        check(
            // SAFETY: a device that the driver gave.
            unsafe { sys::cuDevicePrimaryCtxRetain(&mut raw, device) },
            "cuDevicePrimaryCtxRetain",
        )?;
        Ok(Self {
            raw,
            retained: Some(device),
        })
    }

    fn borrowed(raw: CUcontext, device: CUdevice, what: &str) -> Result<Self, GpuError> {
        let own = device_of(raw)?;
        match own == device {
            true => Ok(Self {
                raw,
                retained: None,
            }),
            false => Err(GpuError::new(
                GpuErrorKind::Invalid,
                format!("{what} is of CUDA device {own}, but device_id is {device}"),
            )),
        }
    }

    /// Errors when a stream is of another context.
    ///
    /// # Safety
    /// It is NULL or a live handle.
    pub unsafe fn check_stream(&self, stream: CUstream) -> Result<(), GpuError> {
        if is_default(stream) {
            return Ok(());
        }
        let mut own = std::ptr::null_mut();
        check(
            // SAFETY: a live stream (contract).
            unsafe { sys::cuStreamGetCtx(stream, &mut own) },
            "cuda_stream",
        )?;
        match own == self.raw {
            true => Ok(()),
            false => Err(GpuError::new(
                GpuErrorKind::Invalid,
                "cuda_stream is of another CUDA context than the one that mq works in",
            )),
        }
    }

    /// Makes it current on this thread until the guard is dropped.
    pub fn enter(&self) -> Result<Current, GpuError> {
        let mut current = std::ptr::null_mut();
        check(
            // SAFETY: a place for the handle.
            unsafe { sys::cuCtxGetCurrent(&mut current) },
            "cuCtxGetCurrent",
        )?;
        let is_pushed = current != self.raw;
        if is_pushed {
            check(
                // SAFETY: the context lives: retained, or the host's promise.
                unsafe { sys::cuCtxPushCurrent_v2(self.raw) },
                "cuCtxPushCurrent",
            )?;
        }
        Ok(Current {
            is_pushed,
            mode: Some(exchange_mode(RELAXED)),
        })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if let Some(device) = self.retained {
            // SAFETY: retained once, released once.
            let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(device) };
        }
    }
}

/// The streams without a context of their own: NULL, and those of the legacy and per-thread constants.
pub(super) fn is_default(stream: CUstream) -> bool {
    (stream as usize) <= 2
}

const RELAXED: sys::CUstreamCaptureMode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;

/// Sets how this thread's calls are judged while streams are captured; returns what was set before.
fn exchange_mode(mut mode: sys::CUstreamCaptureMode) -> sys::CUstreamCaptureMode {
    // SAFETY: a place for the mode. It cannot fail but for a driver that is going down, which the next call tells.
    let _ = unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode) };
    mode
}

/// The context was made current; the one before comes back when this is dropped.
///
/// Meanwhile this thread's calls neither fail nor break a capture because *another* thread captures a stream of its own, as
/// an allocation or a wait would by default. What is captured on mq's own stream is asked for before (`refuse_capture`).
pub(super) struct Current {
    is_pushed: bool,
    /// The thread's own mode.
    mode: Option<sys::CUstreamCaptureMode>,
}

impl Drop for Current {
    fn drop(&mut self) {
        if let Some(mode) = self.mode {
            exchange_mode(mode);
        }
        if self.is_pushed {
            let mut ours = std::ptr::null_mut();
            // SAFETY: pushed on this thread by `enter`.
            let _ = unsafe { sys::cuCtxPopCurrent_v2(&mut ours) };
        }
    }
}

fn device_of(context: CUcontext) -> Result<CUdevice, GpuError> {
    check(
        // SAFETY: a live context (contract of whoever passed it).
        unsafe { sys::cuCtxPushCurrent_v2(context) },
        "cuda_context is no context of this process",
    )?;
    let _back = Current {
        is_pushed: true,
        mode: None,
    };
    let mut device = 0;
    check(
        // SAFETY: a place for the number.
        unsafe { sys::cuCtxGetDevice(&mut device) },
        "cuCtxGetDevice",
    )?;
    Ok(device)
}
