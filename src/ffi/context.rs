//! The context: threads, instruction set, GPU and log, shared by its models.

use std::ffi::{c_char, c_void};
use std::mem::{offset_of, size_of};
use std::sync::Arc;

use super::callback::{mq_log_fn, mq_log_level, mq_progress_fn, take_log, take_progress};
use super::cuda::{self, HostMemory, mq_device_memory_fn};
use super::guard::{enter, out};
use super::options::{self, Versioned};
use super::status::mq_status;
use super::tensor::{MQ_DEVICE_CPU, mq_device};
use crate::error::{Error, Result};
use crate::model::{Context, ContextSettings, LogLevel, Progress, ProgressSink};

/// Threads, instruction set, GPU and log of the library; models are created on one.
///
/// Ownership: created by mq_context_create(), freed by mq_context_destroy(). Models keep what they
/// need of it: it may be destroyed before them.
/// Threads: may be shared by any number of models and threads.
pub struct mq_context {
    pub(crate) context: Arc<Context>,
}

/// How a context works. Call mq_context_options_init() before setting fields.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mq_context_options {
    /// sizeof(mq_context_options) in the caller's header. Set by mq_context_options_init().
    pub struct_size: u32,
    /// Threads that share the work; 0 (default): one for each CPU, 1: the calling thread alone. At most
    /// 1024.
    pub num_threads: u32,
    /// Receives warnings and notes; default: none. Its user data is released with the last of the
    /// context and its models, or at once when mq_context_create() fails (but not when `struct_size` is
    /// too small to hold it).
    pub log: mq_log_fn,
    /// Most bytes that the statistics and the work memory of a calibration may take, in host and device memory
    /// together, beside the host's own memory and the scales it results in; 0 (default): no limit. Where one pass
    /// of the forward would need more, there are several (see mq_plan()); the results are the same.
    pub memory_limit_bytes: u64,
    /// Receives the progress of verbs; default: none. Released as `log`.
    pub progress: mq_progress_fn,
    /// Where tensors may live beside host memory: `MQ_DEVICE_CUDA` and the index of a device. Default: `MQ_DEVICE_CPU`,
    /// host memory alone. Every tensor says itself where it is, and that decides where its work is done: nothing is
    /// copied from one side to the other unasked.
    pub device: mq_device,
    /// The CUcontext to work in, borrowed until the context and all its models are gone. NULL (default): that of
    /// `cuda_stream`; else the calling thread's current one if it is of that device; else the device's primary one,
    /// which the CUDA runtime uses. Whatever is current in a call is current again after it.
    pub cuda_context: *mut c_void,
    /// The CUstream (cudaStream_t) that work is put on, borrowed as `cuda_context`; NULL (default): the default
    /// stream. See mq_context_set_cuda_stream().
    pub cuda_stream: *mut c_void,
    /// Gives device memory for scales, statistics and work memory; default: the driver's pool (cuMemAllocAsync()).
    /// Released as `log`.
    pub device_memory: mq_device_memory_fn,
    /// Whether cuBLAS, which is looked for at run time, may make large products in device memory (Gram matrices and the
    /// errors under them, as AWQ and the search by `gram` need them): `MQ_CUBLAS_DEFAULT`, `MQ_CUBLAS_NEVER` or
    /// `MQ_CUBLAS_IF_FOUND`. A context that has used it holds device memory for it, 32 MiB from `device_memory`
    /// and what cuBLAS takes by itself, and waits for the device when the last of it and its models is destroyed.
    pub cublas: u32,
    /// Must be 0.
    pub reserved: u32,
}
const _: () = assert!(size_of::<mq_context_options>() == 128);
const _: () = assert!(offset_of!(mq_context_options, cublas) == 120);
const _: () = assert!(offset_of!(mq_context_options, device) == 64);
const _: () = assert!(offset_of!(mq_context_options, device_memory) == 88);
const _: () = assert!(offset_of!(mq_context_options, log) == 8);
const _: () = assert!(offset_of!(mq_context_options, memory_limit_bytes) == 32);
const _: () = assert!(offset_of!(mq_context_options, progress) == 40);

/// Size of a struct that has `progress`.
const PROGRESS_END: usize = 64;
/// Size of a struct that has `device_memory`.
const DEVICE_MEMORY_END: usize = 120;

// SAFETY: repr(C); integers, pointers and nullable functions, of which all-zero is valid and
// anything else is the caller's promise (contract of mq_log_fn).
unsafe impl Versioned for mq_context_options {
    const MIN_SIZE: usize = 32;
    const NAME: &'static str = "mq_context_options";
    fn defaults() -> Self {
        Self {
            struct_size: size_of::<Self>() as u32,
            num_threads: 0,
            log: mq_log_fn {
                user_data: std::ptr::null_mut(),
                log: None,
                release: None,
            },
            memory_limit_bytes: 0,
            progress: mq_progress_fn {
                user_data: std::ptr::null_mut(),
                progress: None,
                release: None,
            },
            device: mq_device {
                device_type: MQ_DEVICE_CPU,
                device_id: 0,
            },
            cuda_context: std::ptr::null_mut(),
            cuda_stream: std::ptr::null_mut(),
            device_memory: mq_device_memory_fn {
                user_data: std::ptr::null_mut(),
                allocate: None,
                free: None,
                release: None,
            },
            cublas: cuda::MQ_CUBLAS_DEFAULT,
            reserved: 0,
        }
    }
}

/// Version of the library: `major << 16 | minor << 8 | patch`. Equals `MQ_VERSION` of its header.
#[unsafe(no_mangle)]
pub extern "C" fn mq_version() -> u32 {
    let part = |text: &str| text.parse::<u32>().unwrap_or(0);
    part(env!("CARGO_PKG_VERSION_MAJOR")) << 16
        | part(env!("CARGO_PKG_VERSION_MINOR")) << 8
        | part(env!("CARGO_PKG_VERSION_PATCH"))
}

/// Version of the ABI that this header describes: one more whenever a program would have to be compiled again, and then
/// the SONAME changes too. Functions, enumerators and fields at the end of a struct with `struct_size` may come without.
pub const MQ_ABI_VERSION: u32 = 1;

/// Version of the ABI of the library; a program works with it when this equals the `MQ_ABI_VERSION` it was compiled
/// with. For callers that load the library by path: the loader compares the SONAME by itself.
#[unsafe(no_mangle)]
pub extern "C" fn mq_abi_version() -> u32 {
    MQ_ABI_VERSION
}

/// Name of a status, such as "MQ_ERR_CONFIG"; "unknown status" for a number that is none. Never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn mq_status_name(status: i32) -> *const c_char {
    let name = match status {
        0 => c"MQ_OK",
        1 => c"MQ_ERR_INVALID_ARGUMENT",
        2 => c"MQ_ERR_CONFIG",
        3 => c"MQ_ERR_UNSUPPORTED",
        4 => c"MQ_ERR_NOT_FOUND",
        5 => c"MQ_ERR_ALREADY_EXISTS",
        6 => c"MQ_ERR_STATE",
        7 => c"MQ_ERR_NUMERIC",
        8 => c"MQ_ERR_BUSY",
        9 => c"MQ_ERR_CALLBACK",
        10 => c"MQ_ERR_OUT_OF_MEMORY",
        11 => c"MQ_ERR_INTERNAL",
        12 => c"MQ_ERR_POISONED",
        13 => c"MQ_ERR_CANCELLED",
        14 => c"MQ_ERR_CUDA",
        _ => c"unknown status",
    };
    name.as_ptr()
}

/// Fills `options` with the defaults, never writing past `struct_size` bytes.
///
/// @param[out] options      Struct to fill.
/// @param[in]  struct_size  sizeof(mq_context_options) in the caller's header.
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT when `options` is NULL or `struct_size` too small.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_context_options_init(
    options: *mut mq_context_options,
    struct_size: u32,
) -> mq_status {
    // SAFETY: contract above.
    unsafe { options::init(options, struct_size) }
}

/// Creates a context.
///
/// @param[in]  options  How it works; NULL means the defaults.
/// @param[out] context  The context, to be freed by mq_context_destroy(). Untouched on failure.
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT when `context` is NULL or an option is out of range;
///         MQ_ERR_OUT_OF_MEMORY when the threads cannot be started; MQ_ERR_CUDA when a CUDA device is asked for and there
///         is no driver, no such device, or the driver or device is too old (the text says which), or
///         MQ_ERR_UNSUPPORTED when the library was built without CUDA.
///
/// The environment variable MQ_ISA (`scalar`, `avx2`, `avx512`) lowers the instruction set that is
/// used; results do not change, bit for bit.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_context_create(
    options: *const mq_context_options,
    context: *mut *mut mq_context,
) -> mq_status {
    enter(|| {
        // SAFETY: NULL or `struct_size` readable bytes (contract).
        let size = unsafe { options.cast::<u32>().as_ref() }.map_or(0, |size| *size as usize);
        // What is not there has no fields that a drop could look at (valgrind would tell): boxed, or without functions.
        let log = match size {
            mq_context_options::MIN_SIZE.. => {
                // SAFETY: the struct is large enough to hold the log. Taken before anything can fail.
                unsafe { take_log(&raw const (*options).log) }.map(Box::new)
            }
            _ => None,
        };
        let progress = match size {
            PROGRESS_END.. => {
                // SAFETY: as above.
                unsafe { take_progress(&raw const (*options).progress) }.map(Box::new)
            }
            _ => None,
        };
        let memory = match size {
            DEVICE_MEMORY_END.. => {
                // SAFETY: as above.
                unsafe { HostMemory::take(&raw const (*options).device_memory) }
            }
            _ => HostMemory::NONE,
        };
        let options = if options.is_null() {
            mq_context_options::defaults()
        } else {
            // SAFETY: not NULL; contract above.
            unsafe { options::read(options) }?
        };
        // SAFETY: contract above.
        let context = unsafe { out(context, "context") }?;
        let sink: crate::model::LogSink = match log {
            Some(log) => Box::new(move |level, text: &str| {
                let level = match level {
                    LogLevel::Warning => mq_log_level::MQ_LOG_WARNING,
                    LogLevel::Info => mq_log_level::MQ_LOG_INFO,
                };
                log.log(level, text);
            }),
            None => Box::new(|_, _| {}),
        };
        let reporter = progress.map(|progress| {
            let report = move |step: &Progress| progress.report(step);
            Box::new(report) as ProgressSink
        });
        if options.reserved != 0 {
            return Err(Error::InvalidArgument(format!(
                "mq_context_options: reserved is {}, expected 0",
                options.reserved
            )));
        }
        let cublas = cuda::use_cublas(options.cublas)?;
        // SAFETY: contract of the options.
        let gpu = unsafe {
            cuda::open(
                options.device,
                options.cuda_context,
                options.cuda_stream,
                memory,
                cublas,
            )
        }?;
        let created = Context::with(ContextSettings {
            threads: options.num_threads as usize,
            memory_limit_bytes: options.memory_limit_bytes,
            log: sink,
            progress: reporter,
            gpu,
        })?;
        *context = Box::into_raw(Box::new(mq_context {
            context: Arc::new(created),
        }));
        Ok(())
    })
}

/// Frees a context; NULL is allowed. Models created on it go on working.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_context_destroy(context: *mut mq_context) {
    if !context.is_null() {
        let _ = enter(|| {
            // SAFETY: from mq_context_create(), freed once (contract).
            drop(unsafe { Box::from_raw(context) });
            Ok(())
        });
    }
}

/// Borrows a context handle.
///
/// # Safety
/// `raw` is NULL or a live handle.
pub(crate) unsafe fn borrow<'a>(raw: *const mq_context) -> Result<&'a mq_context> {
    // SAFETY: contract above.
    unsafe { raw.as_ref() }.ok_or_else(|| Error::InvalidArgument("context is NULL".into()))
}
