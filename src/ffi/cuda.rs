//! The GPU as the host lends it: context, stream, memory.

use std::ffi::c_void;
use std::sync::Arc;

use super::context::{self, mq_context};
use super::guard::enter;
use super::model::{self, mq_model};
use super::status::mq_status;
use super::tensor::{MQ_DEVICE_CPU, MQ_DEVICE_CUDA, mq_device};
use crate::error::{Error, Result};
use crate::kernels::cuda::{DeviceMemory, Gpu, GpuSettings, UseCublas, without_gpu};

/// `cublas` of mq_context_options: what this version takes for the best, which is MQ_CUBLAS_IF_FOUND and may change.
pub const MQ_CUBLAS_DEFAULT: u32 = 0;
/// No product is made by cuBLAS: they are the same bytes on every GPU and machine.
pub const MQ_CUBLAS_NEVER: u32 = 1;
/// Large products are made by cuBLAS where it can be loaded and works. The log says which library that is, or why it is
/// none. Products are the same bytes in every run with one version of cuBLAS on one model of GPU.
pub const MQ_CUBLAS_IF_FOUND: u32 = 2;

/// What the host wants of cuBLAS. Errors for a number that means nothing.
pub(super) fn use_cublas(number: u32) -> Result<UseCublas> {
    match number {
        MQ_CUBLAS_DEFAULT => Ok(UseCublas::default()),
        MQ_CUBLAS_NEVER => Ok(UseCublas::Never),
        MQ_CUBLAS_IF_FOUND => Ok(UseCublas::WhereItPays),
        other => Err(Error::InvalidArgument(format!(
            "mq_context_options: cublas is {other}, expected MQ_CUBLAS_DEFAULT = 0, MQ_CUBLAS_NEVER = 1 or \
             MQ_CUBLAS_IF_FOUND = 2"
        ))),
    }
}

/// Gives mq device memory, in place of cuMemAllocAsync().
///
/// Threads: called from any thread, several at once, while the CUDA context of the mq_context is current. Must not
/// throw, nor call mq. Ownership: as mq_log_fn.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct mq_device_memory_fn {
    /// Handed back unchanged as the first argument.
    pub user_data: *mut c_void,
    /// Returns `bytes` bytes of device memory, aligned to 256, which work put on `stream` (a CUstream) from now on
    /// may use; NULL when there is none.
    pub allocate: Option<
        unsafe extern "C" fn(
            user_data: *mut c_void,
            bytes: usize,
            stream: *mut c_void,
        ) -> *mut c_void,
    >,
    /// Takes them back; work that is on `stream` now still uses them.
    pub free: Option<
        unsafe extern "C" fn(
            user_data: *mut c_void,
            memory: *mut c_void,
            bytes: usize,
            stream: *mut c_void,
        ),
    >,
    /// Frees `user_data`; NULL when there is nothing to free.
    pub release: Option<unsafe extern "C" fn(user_data: *mut c_void)>,
}

/// The host's memory, released when it is dropped.
pub(super) struct HostMemory(mq_device_memory_fn);

// SAFETY: the host promises that its functions may be called from any thread.
unsafe impl Send for HostMemory {}
// SAFETY: as above.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// No callbacks.
    pub const NONE: Self = Self(mq_device_memory_fn {
        user_data: std::ptr::null_mut(),
        allocate: None,
        free: None,
        release: None,
    });

    /// Takes over the callbacks at `raw`; where there are none, the user data is released at once.
    ///
    /// # Safety
    /// `raw` is readable, and holds to the contract of mq_device_memory_fn.
    pub unsafe fn take(raw: *const mq_device_memory_fn) -> Self {
        // SAFETY: contract of this function.
        let own = Self(unsafe { raw.read() });
        match own.is_given() {
            true => own,
            false => Self::NONE,
        }
    }

    fn is_given(&self) -> bool {
        self.0.allocate.is_some() || self.0.free.is_some()
    }

    fn check(&self) -> Result<()> {
        match (self.0.allocate, self.0.free) {
            (Some(_), Some(_)) => Ok(()),
            _ => Err(Error::InvalidArgument(
                "device_memory: one of allocate and free is NULL, but both or none are needed"
                    .into(),
            )),
        }
    }
}

impl DeviceMemory for HostMemory {
    fn allocate(&self, bytes: usize, stream: *mut c_void) -> Option<u64> {
        let allocate = self.0.allocate?;
        // SAFETY: contract of mq_device_memory_fn.
        let memory = unsafe { allocate(self.0.user_data, bytes, stream) };
        (!memory.is_null()).then_some(memory as u64)
    }

    fn free(&self, address: u64, bytes: usize, stream: *mut c_void) {
        if let Some(free) = self.0.free {
            // SAFETY: as above; the address came from `allocate`.
            unsafe { free(self.0.user_data, address as *mut c_void, bytes, stream) };
        }
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        if let Some(release) = self.0.release {
            // SAFETY: contract of mq_device_memory_fn; once.
            unsafe { release(self.0.user_data) };
        }
    }
}

/// Opens the GPU that a context asks for; None for one that works on host memory alone.
///
/// # Safety
/// `cuda_context` and `cuda_stream` are NULL or live handles, and stay so as long as the context and its models.
pub(super) unsafe fn open(
    device: mq_device,
    cuda_context: *mut c_void,
    cuda_stream: *mut c_void,
    memory: HostMemory,
    cublas: UseCublas,
) -> Result<Option<Arc<Gpu>>> {
    match device.device_type {
        0 | MQ_DEVICE_CPU => {
            let given = !cuda_context.is_null() || !cuda_stream.is_null() || memory.is_given();
            match given {
                false => Ok(None),
                true => Err(Error::InvalidArgument(
                    "cuda_context, cuda_stream or device_memory is given, but `device` is the CPU"
                        .into(),
                )),
            }
        }
        MQ_DEVICE_CUDA => {
            let memory: Option<Box<dyn DeviceMemory>> = match memory.is_given() {
                true => {
                    memory.check()?;
                    Some(Box::new(memory))
                }
                false => None,
            };
            let settings = GpuSettings {
                device: device.device_id,
                context: cuda_context,
                stream: cuda_stream,
                memory,
                cublas,
            };
            // SAFETY: contract of this function.
            Ok(Some(unsafe { Gpu::open(settings) }?))
        }
        other => Err(Error::Unsupported(format!(
            "device: type {other}, expected MQ_DEVICE_CPU = {MQ_DEVICE_CPU} or MQ_DEVICE_CUDA = {MQ_DEVICE_CUDA}"
        ))),
    }
}

/// Puts what models of a context do on the GPU from now on on another stream. Nothing is waited for: the order between
/// the two streams is the host's to see to (cuStreamWaitEvent()).
///
/// @param[in] context  The context, created with a CUDA device.
/// @param[in] stream   A CUstream (cudaStream_t) of the same CUDA context, borrowed until it is replaced or the context
///                     and all its models are gone; NULL: the default stream.
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT when the context has no CUDA device or the stream is of another CUDA context;
///         MQ_ERR_CUDA; MQ_ERR_UNSUPPORTED when the library was built without CUDA.
///
/// Threads: taps that run meanwhile use either stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_context_set_cuda_stream(
    context: *mut mq_context,
    stream: *mut c_void,
) -> mq_status {
    enter(|| {
        // SAFETY: contract above.
        let context = unsafe { context::borrow(context) }?;
        let gpu = context.context.machine().gpu().ok_or_else(|| {
            without_gpu("the context works on host memory: it has no CUDA device")
        })?;
        // SAFETY: contract above.
        Ok(unsafe { gpu.set_stream(stream) }?)
    })
}

/// Waits until what a model has put on its CUDA stream is done, and reports what was found wrong meanwhile: taps in
/// device memory cannot wait for NaN or Inf to be noticed, nor for the driver's late errors. Verbs report it too, at
/// their end. Does nothing for a model on host memory.
///
/// @param[in] model  The model.
/// @return MQ_OK; MQ_ERR_NUMERIC when a dynamic quantizer met NaN, Inf, or (unsigned) a negative value since this was
///         last asked, the text names it; MQ_ERR_STATE while the stream is being captured; MQ_ERR_CUDA; MQ_ERR_BUSY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_model_synchronize(model: *mut mq_model) -> mq_status {
    // SAFETY: contract above.
    unsafe { model::with(model, |_, model| model.synchronize()) }
}
