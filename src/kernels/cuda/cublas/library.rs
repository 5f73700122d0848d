//! The library: found at run time, with the few functions that are used of it.
//!
//! One that the process has loaded already is taken before any other: it is the host's own, and a second one would take
//! its memory once more. It is never unloaded, for it has threads and statics of its own.

use std::ffi::{CStr, c_int, c_void};
use std::sync::OnceLock;

use cudarc::driver::sys::CUstream;
use libloading::Library as Loaded;

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
    /// Never dropped: this is in a static.
    _loaded: Loaded,
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

#[cfg(target_os = "linux")]
fn open(name: &str, only_loaded: bool) -> Result<Loaded, String> {
    use std::error::Error;

    use libloading::os::unix;

    /// `RTLD_NOLOAD`.
    const NO_LOAD: c_int = 4;
    let flags = unix::RTLD_LAZY | unix::RTLD_LOCAL | if only_loaded { NO_LOAD } else { 0 };
    // SAFETY: a shared library by its SONAME, whose initializers are NVIDIA's.
    let loaded = unsafe { unix::Library::open(Some(name), flags) };
    loaded.map(Loaded::from).map_err(|error| {
        // What the loader says is the error's cause, and names the library.
        let cause = error.source().map(ToString::to_string);
        cause.unwrap_or_else(|| error.to_string())
    })
}

#[cfg(not(target_os = "linux"))]
fn open(name: &str, _only_loaded: bool) -> Result<Loaded, String> {
    Err(format!("{name} is looked for on Linux alone"))
}

fn functions(name: &'static str, loaded: Loaded) -> Result<Library, String> {
    /// A function as the type that its declaration in `cublas_v2.h` has.
    ///
    /// # Safety
    /// `F` is that type.
    unsafe fn function<F: Copy>(name: &str, loaded: &Loaded, symbol: &CStr) -> Result<F, String> {
        // SAFETY: contract.
        match unsafe { loaded.get::<F>(symbol.to_bytes_with_nul()) } {
            Ok(found) => Ok(*found),
            Err(_) => Err(format!("{name} has no {}", symbol.to_string_lossy())),
        }
    }
    // SAFETY: the types are those of the declarations.
    unsafe {
        Ok(Library {
            name,
            create: function(name, &loaded, c"cublasCreate_v2")?,
            destroy: function(name, &loaded, c"cublasDestroy_v2")?,
            get_version: function(name, &loaded, c"cublasGetVersion_v2")?,
            set_stream: function(name, &loaded, c"cublasSetStream_v2")?,
            set_workspace: function(name, &loaded, c"cublasSetWorkspace_v2")?,
            set_math_mode: function(name, &loaded, c"cublasSetMathMode")?,
            set_atomics_mode: function(name, &loaded, c"cublasSetAtomicsMode")?,
            set_pointer_mode: function(name, &loaded, c"cublasSetPointerMode_v2")?,
            ssyrk: function(name, &loaded, c"cublasSsyrk_v2")?,
            sgemm: function(name, &loaded, c"cublasSgemm_v2")?,
            _loaded: loaded,
        })
    }
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
