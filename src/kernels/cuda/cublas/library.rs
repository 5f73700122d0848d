//! The library: found at run time, with the few functions that are used of it.
//!
//! One that the process has loaded already is taken before any other: it is the host's own, and a second one would take
//! its memory once more. It is never unloaded, for it has threads and statics of its own.

use std::error::Error;
use std::ffi::{CStr, c_int, c_void};
use std::sync::OnceLock;

use cudarc::driver::sys::CUstream;
use libloading::os::unix::{self, Library as Loaded};

use crate::kernels::cuda::driver;

/// `cublasHandle_t`.
pub(super) type RawHandle = *mut c_void;
/// `cublasStatus_t`; 0 is success.
pub(super) type Status = c_int;

pub(super) type Ssyrk = unsafe extern "C" fn(
    RawHandle,
    c_int,
    c_int,
    c_int,
    c_int,
    *const f32,
    *const f32,
    c_int,
    *const f32,
    *mut f32,
    c_int,
) -> Status;
pub(super) type Sgemm = unsafe extern "C" fn(
    RawHandle,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    *const f32,
    *const f32,
    c_int,
    *const f32,
    c_int,
    *const f32,
    *mut f32,
    c_int,
) -> Status;

/// The functions, by the names of `cublas_v2.h`.
pub(super) struct Library {
    /// As it was asked for.
    pub name: &'static str,
    pub create: unsafe extern "C" fn(*mut RawHandle) -> Status,
    pub destroy: unsafe extern "C" fn(RawHandle) -> Status,
    pub get_version: unsafe extern "C" fn(RawHandle, *mut c_int) -> Status,
    pub set_stream: unsafe extern "C" fn(RawHandle, CUstream) -> Status,
    pub set_workspace: unsafe extern "C" fn(RawHandle, *mut c_void, usize) -> Status,
    pub set_math_mode: unsafe extern "C" fn(RawHandle, c_int) -> Status,
    pub set_atomics_mode: unsafe extern "C" fn(RawHandle, c_int) -> Status,
    pub set_pointer_mode: unsafe extern "C" fn(RawHandle, c_int) -> Status,
    pub ssyrk: Ssyrk,
    pub sgemm: Sgemm,
}

/// The library of this process, or why there is none: one line.
pub(super) fn library() -> Result<&'static Library, &'static str> {
    static FOUND: OnceLock<Result<Library, String>> = OnceLock::new();
    let found = FOUND.get_or_init(find);
    found.as_ref().map_err(String::as_str)
}

/// Names to try, for a driver: a library of a later major version than the driver's cannot work with it, one of an
/// earlier can.
fn names(driver: i32) -> &'static [&'static str] {
    match driver {
        13000.. => &["libcublas.so.13", "libcublas.so.12"],
        _ => &["libcublas.so.12"],
    }
}

fn find() -> Result<Library, String> {
    let driver = driver::version().map_err(|error| error.text)?;
    let mut reasons = Vec::new();
    for only_loaded in [true, false] {
        for name in names(driver) {
            match open(name, only_loaded).and_then(|loaded| functions(name, loaded)) {
                Ok(library) => return Ok(library),
                // That it is not loaded yet is no reason that anybody wants to know.
                Err(_) if only_loaded => {}
                Err(reason) => reasons.push(reason),
            }
        }
    }
    Err(reasons.join("; "))
}

fn open(name: &str, only_loaded: bool) -> Result<Loaded, String> {
    /// `RTLD_NOLOAD` of Linux.
    const NO_LOAD: c_int = 4;
    let flags = unix::RTLD_LAZY | unix::RTLD_LOCAL | if only_loaded { NO_LOAD } else { 0 };
    // SAFETY: a shared library by its SONAME, whose initializers are NVIDIA's.
    unsafe { Loaded::open(Some(name), flags) }.map_err(|error| {
        // What the loader says is the error's cause, and names the library.
        error
            .source()
            .map_or_else(|| error.to_string(), ToString::to_string)
    })
}

fn functions(name: &'static str, loaded: Loaded) -> Result<Library, String> {
    /// A function as the type that its declaration in `cublas_v2.h` has.
    ///
    /// # Safety
    /// `F` is that type.
    unsafe fn function<F: Copy>(loaded: &Loaded, symbol: &CStr) -> Result<F, String> {
        // SAFETY: contract.
        let found = unsafe { loaded.get::<F>(symbol.to_bytes_with_nul()) };
        found
            .map(|found| *found)
            .map_err(|_| symbol.to_string_lossy().into_owned())
    }
    let lacks = |symbol: String| format!("{name} has no {symbol}");
    // SAFETY: the types are those of the declarations.
    let library = unsafe {
        Library {
            name,
            create: function(&loaded, c"cublasCreate_v2").map_err(lacks)?,
            destroy: function(&loaded, c"cublasDestroy_v2").map_err(lacks)?,
            get_version: function(&loaded, c"cublasGetVersion_v2").map_err(lacks)?,
            set_stream: function(&loaded, c"cublasSetStream_v2").map_err(lacks)?,
            set_workspace: function(&loaded, c"cublasSetWorkspace_v2").map_err(lacks)?,
            set_math_mode: function(&loaded, c"cublasSetMathMode").map_err(lacks)?,
            set_atomics_mode: function(&loaded, c"cublasSetAtomicsMode").map_err(lacks)?,
            set_pointer_mode: function(&loaded, c"cublasSetPointerMode_v2").map_err(lacks)?,
            ssyrk: function(&loaded, c"cublasSsyrk_v2").map_err(lacks)?,
            sgemm: function(&loaded, c"cublasSgemm_v2").map_err(lacks)?,
        }
    };
    // Never unloaded.
    let _ = loaded.into_raw();
    Ok(library)
}

/// The name of a status in the documentation.
pub(super) fn name_of(status: Status) -> String {
    let name = match status {
        1 => "NOT_INITIALIZED",
        3 => "ALLOC_FAILED",
        7 => "INVALID_VALUE",
        8 => "ARCH_MISMATCH",
        11 => "MAPPING_ERROR",
        13 => "EXECUTION_FAILED",
        14 => "INTERNAL_ERROR",
        15 => "NOT_SUPPORTED",
        16 => "LICENSE_ERROR",
        other => return format!("status {other}"),
    };
    format!("CUBLAS_STATUS_{name}")
}

/// Whether a product that failed so has put nothing on the stream: it was refused before it began.
pub(super) fn is_refusal(status: Status) -> bool {
    matches!(status, 1 | 7 | 8 | 15)
}
