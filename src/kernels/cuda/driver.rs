//! The CUDA driver: whether it is there, and what its errors mean.

use std::ffi::CStr;
use std::sync::OnceLock;

use cudarc::driver::sys::{self, CUresult};

use super::error::{GpuError, GpuErrorKind};

/// Oldest driver whose functions and machine code are counted on: that of CUDA 12.0.
const OLDEST_DRIVER: i32 = 12000;

/// Turns a driver's status into an error that names what was being done.
pub(super) fn check(result: CUresult, doing: &str) -> Result<(), GpuError> {
    let kind = match result {
        CUresult::CUDA_SUCCESS => return Ok(()),
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => GpuErrorKind::OutOfMemory,
        CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
        | CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
        | CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT => GpuErrorKind::Capturing,
        CUresult::CUDA_ERROR_INVALID_CONTEXT | CUresult::CUDA_ERROR_INVALID_HANDLE => {
            GpuErrorKind::Invalid
        }
        _ => GpuErrorKind::Driver,
    };
    Err(GpuError::new(
        kind,
        format!("CUDA: {doing}: {}", name_of(result)),
    ))
}

fn name_of(result: CUresult) -> String {
    let mut text = std::ptr::null();
    // SAFETY: a status that the driver gave, and a place for its name.
    let known = unsafe { sys::cuGetErrorName(result, &mut text) };
    if known != CUresult::CUDA_SUCCESS || text.is_null() {
        return format!("error {}", result as u32);
    }
    // SAFETY: a string of the driver's own, which lives as long as it.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

/// Starts the driver once. Errors when there is none, or it is too old for what mq ships.
pub(super) fn start() -> Result<(), GpuError> {
    static STARTED: OnceLock<Result<(), GpuError>> = OnceLock::new();
    STARTED.get_or_init(start_now).clone()
}

fn start_now() -> Result<(), GpuError> {
    let unavailable = |text: String| Err(GpuError::new(GpuErrorKind::Unavailable, text));
    // cudarc panics when the library is missing, so it is asked for first.
    // SAFETY: looks for a shared library, whose initializers are the driver's.
    if !unsafe { sys::is_culib_present() } {
        return unavailable(
            "CUDA: there is no driver on this machine (libcuda.so.1); install NVIDIA's driver, or use tensors in host \
             memory"
                .into(),
        );
    }
    // SAFETY: no arguments that point anywhere.
    match unsafe { sys::cuInit(0) } {
        CUresult::CUDA_SUCCESS => {}
        CUresult::CUDA_ERROR_NO_DEVICE => {
            return unavailable("CUDA: there is a driver, but no device".into());
        }
        other => return unavailable(format!("CUDA: cuInit: {}", name_of(other))),
    }
    let version = version()?;
    if version < OLDEST_DRIVER {
        return unavailable(format!(
            "CUDA: the driver is for CUDA {}.{}, but mq's kernels need 12.0 or later; update the driver",
            version / 1000,
            version % 1000 / 10
        ));
    }
    Ok(())
}

/// The version of CUDA that the driver is for: 12080 for 12.8. There is a driver.
pub(super) fn version() -> Result<i32, GpuError> {
    let mut version = 0;
    check(
        // SAFETY: a place for the number.
        unsafe { sys::cuDriverGetVersion(&mut version) },
        "cuDriverGetVersion",
    )?;
    Ok(version)
}

/// How many devices there are. Errors when there is no driver.
pub fn count_devices() -> Result<i32, GpuError> {
    start()?;
    let mut count = 0;
    check(
        // SAFETY: a place for the number.
        unsafe { sys::cuDeviceGetCount(&mut count) },
        "cuDeviceGetCount",
    )?;
    Ok(count)
}
