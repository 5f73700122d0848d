//! Device memory of mq's own, and copies between host and device.

use std::sync::Arc;

use cudarc::driver::sys::{self, CUresult};

use super::driver::check;
use super::error::{GpuError, GpuErrorKind};
use super::gpu::Gpu;
use super::lent::Plain;

/// Bytes that addresses are multiples of, also of memory that the host gives.
const ALIGNMENT: u64 = 256;

/// Device memory, freed when it is dropped.
pub struct DeviceBuffer {
    gpu: Arc<Gpu>,
    address: u64,
    bytes: usize,
}

impl DeviceBuffer {
    /// So many bytes; what they hold is not known. Errors when there is no memory, or a stream is being captured.
    pub fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<Self, GpuError> {
        let address = match bytes {
            0 => 0,
            bytes => allocate(gpu, bytes)?,
        };
        Ok(Self {
            gpu: Arc::clone(gpu),
            address,
            bytes,
        })
    }

    /// So many zero bytes.
    pub fn zeroed(gpu: &Arc<Gpu>, bytes: usize) -> Result<Self, GpuError> {
        let buffer = Self::new(gpu, bytes)?;
        buffer.fill(0)?;
        Ok(buffer)
    }

    /// A copy of values.
    pub fn holding<T: Plain>(gpu: &Arc<Gpu>, values: &[T]) -> Result<Self, GpuError> {
        let buffer = Self::new(gpu, size_of_val(values))?;
        buffer.write(values)?;
        Ok(buffer)
    }

    /// The address of the first byte; 0 when there are none.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Where it lies.
    pub(crate) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Fills it with a byte, in the order of the stream.
    pub fn fill(&self, byte: u8) -> Result<(), GpuError> {
        if self.bytes == 0 {
            return Ok(());
        }
        let _current = self.gpu.enter()?;
        // SAFETY: memory of ours, on the stream of its context.
        let result =
            unsafe { sys::cuMemsetD8Async(self.address, byte, self.bytes, self.gpu.stream()) };
        check(result, "cuMemsetD8Async")
    }

    /// Writes values to its beginning, in the order of the stream. They are copied before this returns.
    pub fn write<T: Plain>(&self, values: &[T]) -> Result<(), GpuError> {
        let bytes = size_of_val(values);
        assert!(bytes <= self.bytes, "{bytes} bytes into {}", self.bytes);
        self.gpu.write_to(self.address, values)
    }

    /// Reads values from its beginning, once the stream has come so far: waits for it.
    pub fn read<T: Plain>(&self, values: &mut [T]) -> Result<(), GpuError> {
        let bytes = size_of_val(values);
        assert!(bytes <= self.bytes, "{bytes} bytes from {}", self.bytes);
        self.gpu.read_from(self.address, values)
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        // Where that fails, the host has destroyed the context, and with it the memory.
        if let Ok(_current) = self.gpu.enter() {
            free(&self.gpu, self.address, self.bytes);
        }
    }
}

/// Gives memory back once the stream has come so far. The context is current.
pub(super) fn free(gpu: &Gpu, address: u64, bytes: usize) {
    let stream = gpu.stream();
    if let Some(own) = gpu.allocator() {
        own.free(address, bytes, stream.cast());
        return;
    }
    // SAFETY: ours, and nothing but what is on the stream uses it.
    unsafe {
        match gpu.has_pools() {
            true => sys::cuMemFreeAsync(address, stream),
            false => sys::cuMemFree_v2(address),
        }
    };
}

/// Memory of the host's or of the driver's pool, at least one byte; errors as [`DeviceBuffer::new`].
pub(super) fn allocate(gpu: &Gpu, bytes: usize) -> Result<u64, GpuError> {
    gpu.refuse_capture("an allocation of device memory")?;
    let _current = gpu.enter()?;
    let out_of_memory = || {
        GpuError::new(
            GpuErrorKind::OutOfMemory,
            format!(
                "CUDA: no {bytes} bytes of device memory on device {}; free some, or lower what is kept there",
                gpu.device()
            ),
        )
    };
    if let Some(own) = gpu.allocator() {
        let address = own.allocate(bytes, gpu.stream().cast());
        let address = address
            .filter(|address| *address != 0)
            .ok_or_else(out_of_memory)?;
        return match check_given(gpu, address, bytes) {
            Ok(()) => Ok(address),
            Err(error) => {
                own.free(address, bytes, gpu.stream().cast());
                Err(error.of("device_memory.allocate"))
            }
        };
    }
    let mut address = 0;
    // SAFETY: a place for the address; the stream is of this context.
    let result = unsafe {
        match gpu.has_pools() {
            true => sys::cuMemAllocAsync(&mut address, bytes, gpu.stream()),
            false => sys::cuMemAlloc_v2(&mut address, bytes),
        }
    };
    match result {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => Err(out_of_memory()),
        other => check(other, "cuMemAlloc").map(|()| address),
    }
}

/// Whether memory that the host gives is what was asked for.
fn check_given(gpu: &Gpu, address: u64, bytes: usize) -> Result<(), GpuError> {
    if !address.is_multiple_of(ALIGNMENT) {
        return Err(GpuError::new(
            GpuErrorKind::Invalid,
            format!("{address:#x} is not aligned to {ALIGNMENT} bytes"),
        ));
    }
    gpu.check_address(address, bytes)
}
