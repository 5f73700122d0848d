//! One GPU as a context of the host works on it: CUDA context, stream, compiled kernels.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::sync::atomic::{AtomicPtr, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use cudarc::driver::sys::{self, CUcontext, CUdevice_attribute, CUfunction, CUmodule, CUstream};

use super::context::{Context, Current};
use super::cublas::Products;
use super::driver::{check, count_devices};
use super::error::{GpuError, GpuErrorKind};
use super::image;
use super::lent::{DeviceMemory, GpuSettings, Plain};
use super::products::UseCublas;

/// Blocks that a multiprocessor is given at most when a kernel walks over its work by itself.
const BLOCKS_PER_MULTIPROCESSOR: u64 = 32;

/// Blocks of [`THREADS`](super::THREADS) that a multiprocessor works on at once.
const RESIDENT_BLOCKS: u64 = 8;

/// A GPU in use. Borrowed by every kernel whose tensors lie on it.
pub struct Gpu {
    device: i32,
    name: String,
    multiprocessors: u32,
    has_pools: bool,
    module: CUmodule,
    functions: RwLock<HashMap<&'static str, Function>>,
    stream: AtomicPtr<c_void>,
    memory: Option<Box<dyn DeviceMemory>>,
    failure: Mutex<Option<GpuError>>,
    products: Products,
    /// Dropped last: the module lives in it.
    context: Context,
}

#[derive(Clone, Copy)]
struct Function(CUfunction);

// SAFETY: handles of the driver, which any thread may use; the context is made current around every call.
unsafe impl Send for Gpu {}
// SAFETY: as above; what changes is behind locks.
unsafe impl Sync for Gpu {}
// SAFETY: as above.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Gpu {
    /// Opens a device and loads the kernels. Errors when there is no driver or device, the driver is too old, the
    /// device has no machine code here, or context, stream and device do not belong together.
    ///
    /// # Safety
    /// `context` and `stream` are NULL or live handles, and stay so as long as this is used.
    pub unsafe fn open(settings: GpuSettings) -> Result<Arc<Self>, GpuError> {
        let count = count_devices()?;
        let device = settings.device;
        if device < 0 || device >= count {
            return Err(GpuError::new(
                GpuErrorKind::Unavailable,
                format!("CUDA: device_id is {device}, but there are {count} devices"),
            ));
        }
        let mut handle = 0;
        check(
            // SAFETY: a place for the handle.
            unsafe { sys::cuDeviceGet(&mut handle, device) },
            "cuDeviceGet",
        )?;
        // SAFETY: contract of this function.
        let context = unsafe {
            Context::choose(
                handle,
                settings.context as CUcontext,
                settings.stream as CUstream,
            )
        }?;
        let attribute = |which| {
            let mut value = 0;
            // SAFETY: a place for the number.
            let result = unsafe { sys::cuDeviceGetAttribute(&mut value, which, handle) };
            check(result, "cuDeviceGetAttribute").map(|()| value)
        };
        use CUdevice_attribute as Attribute;
        let multiprocessors =
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.max(1);
        let has_pools = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? != 0;
        let capability = (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        let name = device_name(handle)?;
        let module = {
            let _current = context.enter()?;
            let mut module = std::ptr::null_mut();
            // SAFETY: a whole fat binary, aligned.
            let result =
                unsafe { sys::cuModuleLoadData(&mut module, image::bytes().as_ptr().cast()) };
            check(
                result,
                &format!(
                    "mq's kernels cannot be loaded on {name} (compute capability {}.{}; 7.5 or later is needed)",
                    capability.0, capability.1
                ),
            )?;
            module
        };
        Ok(Arc::new(Self {
            device,
            name,
            multiprocessors: multiprocessors as u32,
            has_pools,
            module,
            functions: RwLock::default(),
            stream: AtomicPtr::new(settings.stream),
            memory: settings.memory,
            failure: Mutex::default(),
            products: Products::new(settings.cublas),
            context,
        }))
    }

    /// Index of the device.
    pub fn device(&self) -> i32 {
        self.device
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn has_pools(&self) -> bool {
        self.has_pools
    }

    pub(super) fn allocator(&self) -> Option<&dyn DeviceMemory> {
        self.memory.as_deref()
    }

    pub(super) fn products(&self) -> &Products {
        &self.products
    }

    /// The stream that work is put on.
    pub(super) fn stream(&self) -> CUstream {
        self.stream.load(SeqCst).cast()
    }

    /// Makes its context current on this thread for a while.
    pub(super) fn enter(&self) -> Result<Current, GpuError> {
        self.context.enter()
    }

    /// Puts what comes from now on on another stream of the same context. Nothing is waited for: the order between
    /// both streams is the host's.
    ///
    /// # Safety
    /// `stream` is NULL or a live handle, and stays so as long as it is used.
    pub unsafe fn set_stream(&self, stream: *mut c_void) -> Result<(), GpuError> {
        // SAFETY: contract of this function.
        unsafe { self.context.check_stream(stream as CUstream) }?;
        self.stream.store(stream, SeqCst);
        Ok(())
    }

    /// Whether the stream is being captured into a graph.
    pub fn is_capturing(&self) -> Result<bool, GpuError> {
        let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        let _current = self.enter()?;
        // SAFETY: a place for the status.
        let asked = unsafe { sys::cuStreamIsCapturing(self.stream(), &mut status) };
        if let Err(error) = check(asked, "cuStreamIsCapturing") {
            // A context that has failed says so to whoever asks it next: what failed first was noted.
            self.take_failure()?;
            return Err(error);
        }
        Ok(status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
    }

    /// Errors while the stream is being captured, before anything would break the capture.
    pub(crate) fn refuse_capture(&self, what: &str) -> Result<(), GpuError> {
        match self.is_capturing()? {
            false => Ok(()),
            true => Err(GpuError::new(
                GpuErrorKind::Capturing,
                format!(
                    "CUDA: {what} is needed while the stream is being captured into a graph; call what is captured once \
                     before the capture, so that everything is in place"
                ),
            )),
        }
    }

    /// Waits until everything on the stream is done.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        self.refuse_capture("a synchronization")?;
        let _current = self.enter()?;
        check(
            // SAFETY: a stream of this context.
            unsafe { sys::cuStreamSynchronize(self.stream()) },
            "cuStreamSynchronize",
        )
    }

    /// Copies from device memory, once the stream has come so far. Errors with what has failed before, if that is not
    /// taken yet: what would be read is not what it should have become.
    pub(crate) fn read_from<T: Plain>(
        &self,
        address: u64,
        values: &mut [T],
    ) -> Result<(), GpuError> {
        let bytes = size_of_val(values);
        if bytes == 0 {
            return Ok(());
        }
        self.take_failure()?;
        self.refuse_capture("a copy to host memory")?;
        let _current = self.enter()?;
        // SAFETY: the caller knows that the address holds the values; waited for below.
        let result = unsafe {
            sys::cuMemcpyDtoHAsync_v2(values.as_mut_ptr().cast(), address, bytes, self.stream())
        };
        check(result, "cuMemcpyDtoHAsync")?;
        check(
            // SAFETY: a stream of this context.
            unsafe { sys::cuStreamSynchronize(self.stream()) },
            "cuStreamSynchronize",
        )
    }

    /// Copies values to device memory, in the order of the stream. They are read before this returns.
    pub(crate) fn write_to<T: Plain>(&self, address: u64, values: &[T]) -> Result<(), GpuError> {
        let bytes = size_of_val(values);
        if bytes == 0 {
            return Ok(());
        }
        self.refuse_capture("a copy from pageable host memory")?;
        let _current = self.enter()?;
        // SAFETY: the caller knows that the address has room for the values; the driver stages pageable memory before it
        // returns.
        let result = unsafe {
            sys::cuMemcpyHtoDAsync_v2(address, values.as_ptr().cast(), bytes, self.stream())
        };
        check(result, "cuMemcpyHtoDAsync")
    }

    /// Copies within device memory, in the order of the stream.
    pub(crate) fn copy(&self, from: u64, to: u64, bytes: usize) {
        let copied = self.enter().and_then(|_current| {
            // SAFETY: both are device memory of the host's or ours (checked where they came in).
            let result = unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, self.stream()) };
            check(result, "cuMemcpyDtoDAsync")
        });
        self.note(copied);
    }

    /// Fills device memory with a byte, in the order of the stream.
    pub(crate) fn fill(&self, address: u64, byte: u8, bytes: usize) {
        let filled = self.enter().and_then(|_current| {
            // SAFETY: device memory of ours.
            let result = unsafe { sys::cuMemsetD8Async(address, byte, bytes, self.stream()) };
            check(result, "cuMemsetD8Async")
        });
        self.note(filled);
    }

    /// Thread blocks for work of so many pieces, which a kernel walks over by itself.
    pub(crate) fn blocks_for(&self, pieces: u64) -> u32 {
        pieces.clamp(
            1,
            u64::from(self.multiprocessors) * BLOCKS_PER_MULTIPROCESSOR,
        ) as u32
    }

    /// The same, but no more than are at work at once: for kernels with something to do at the end of each.
    pub(crate) fn resident_blocks(&self, pieces: u64) -> u32 {
        pieces.clamp(1, u64::from(self.multiprocessors) * RESIDENT_BLOCKS) as u32
    }

    /// Puts a kernel on the stream; a failure is kept. [`launch!`] calls it.
    ///
    /// # Safety
    /// `arguments` point to values of exactly the types of the kernel's parameters, and what those point to is as
    /// the kernel expects it.
    pub(crate) unsafe fn launch_raw(
        &self,
        kernel: &'static str,
        (grid, threads): ((u32, u32), u32),
        arguments: &mut [*mut c_void],
    ) {
        let launched = self.function(kernel).and_then(|function| {
            let _current = self.enter()?;
            // SAFETY: contract of this function.
            let result = unsafe {
                sys::cuLaunchKernel(
                    function.0,
                    grid.0,
                    grid.1,
                    1,
                    threads,
                    1,
                    1,
                    0,
                    self.stream(),
                    arguments.as_mut_ptr(),
                    std::ptr::null_mut(),
                )
            };
            check(result, kernel)
        });
        self.note(launched);
    }

    fn function(&self, kernel: &'static str) -> Result<Function, GpuError> {
        let known = self
            .functions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(kernel)
            .copied();
        if let Some(known) = known {
            return Ok(known);
        }
        let name = CString::new(kernel)
            .map_err(|_| GpuError::new(GpuErrorKind::Driver, "a kernel's name holds NUL"))?;
        let mut function = std::ptr::null_mut();
        let _current = self.enter()?;
        check(
            // SAFETY: a loaded module and a string.
            unsafe { sys::cuModuleGetFunction(&mut function, self.module, name.as_ptr()) },
            kernel,
        )?;
        let mut functions = self
            .functions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        Ok(*functions.entry(kernel).or_insert(Function(function)))
    }

    /// Keeps a failure, if it is the first.
    pub(crate) fn note(&self, outcome: Result<(), GpuError>) {
        if let Err(error) = outcome {
            let mut first = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(error);
        }
    }

    /// The first failure since this was last asked.
    pub fn take_failure(&self) -> Result<(), GpuError> {
        let mut first = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        first.take().map_or(Ok(()), Err)
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if let Ok(_current) = self.context.enter() {
            std::mem::replace(&mut self.products, Products::new(UseCublas::Never)).end(self);
            // SAFETY: loaded once, unloaded once; nothing of ours is launched any more.
            let _ = unsafe { sys::cuModuleUnload(self.module) };
        }
    }
}

fn device_name(device: sys::CUdevice) -> Result<String, GpuError> {
    let mut text = [0 as std::ffi::c_char; 256];
    check(
        // SAFETY: room for the characters.
        unsafe { sys::cuDeviceGetName(text.as_mut_ptr(), text.len() as i32, device) },
        "cuDeviceGetName",
    )?;
    // SAFETY: the driver ends it with NUL.
    let name = unsafe { CStr::from_ptr(text.as_ptr()) };
    Ok(name.to_string_lossy().into_owned())
}
