//! Memory for a part of a packed weight: our own, or given by the host; in host memory, or on a GPU.

use std::sync::Arc;

use crate::kernels::cuda::{DeviceBuffer, Gpu, GpuError};
use crate::tensor::Device;

/// What our own memory is aligned to, so that any kernel of the host's may read it.
const ALIGNMENT: usize = 64;

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code, reason = "only seen as bytes")] [u8; ALIGNMENT]);

/// A run of bytes that stays where it is until it is dropped.
pub struct Memory {
    source: Source,
    len: usize,
}

enum Source {
    Own(Vec<Line>),
    Host(*mut u8),
    OwnOnGpu(DeviceBuffer),
    HostOnGpu(Arc<Gpu>, u64),
}

// SAFETY: memory of our own is plain bytes; that of the host is ours to use from any thread (contract
// of `of_host`).
unsafe impl Send for Memory {}
// SAFETY: as above; writing needs `&mut`.
unsafe impl Sync for Memory {}

impl Memory {
    /// `len` bytes of our own, zero.
    pub fn new(len: usize) -> Result<Self, String> {
        let lines = len.div_ceil(ALIGNMENT);
        let mut own = Vec::new();
        own.try_reserve_exact(lines)
            .map_err(|e| format!("{len} bytes: {e}"))?;
        own.resize(lines, Line([0; ALIGNMENT]));
        Ok(Self {
            source: Source::Own(own),
            len,
        })
    }

    /// `len` bytes of our own on a GPU; what they hold is not known. Errors when there are none, or while its stream is
    /// being captured.
    pub fn new_on(gpu: &Arc<Gpu>, len: usize) -> Result<Self, GpuError> {
        DeviceBuffer::new(gpu, len).map(|own| Self {
            source: Source::OwnOnGpu(own),
            len,
        })
    }

    /// `len` bytes of the host's.
    ///
    /// # Safety
    /// `data` is valid for `len` bytes for as long as this value lives, and nobody else writes to
    /// them meanwhile. It may be NULL when `len` is 0.
    pub unsafe fn of_host(data: *mut u8, len: usize) -> Self {
        Self {
            source: Source::Host(data),
            len,
        }
    }

    /// `len` bytes of the host's on a GPU.
    ///
    /// # Safety
    /// As `of_host`; the address is one of that GPU's device.
    pub unsafe fn of_host_on(gpu: &Arc<Gpu>, address: u64, len: usize) -> Self {
        Self {
            source: Source::HostOnGpu(Arc::clone(gpu), address),
            len,
        }
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The GPU that it lies on; None: it is host memory.
    pub fn gpu(&self) -> Option<&Arc<Gpu>> {
        match &self.source {
            Source::Own(_) | Source::Host(_) => None,
            Source::OwnOnGpu(own) => Some(own.gpu()),
            Source::HostOnGpu(gpu, _) => Some(gpu),
        }
    }

    /// Where it lies.
    pub fn device(&self) -> Device {
        self.gpu()
            .map_or(Device::Cpu, |gpu| Device::Cuda(gpu.device()))
    }

    /// The address of the first byte, wherever it lies: to hand on.
    pub fn address(&self) -> u64 {
        match &self.source {
            Source::Own(lines) => lines.as_ptr() as u64,
            Source::Host(data) => *data as u64,
            Source::OwnOnGpu(own) => own.address(),
            Source::HostOnGpu(_, address) => *address,
        }
    }

    /// The address of the first byte, in host memory: whoever asks is going to look at it.
    fn data(&self) -> *const u8 {
        let device = self.device();
        assert!(device == Device::Cpu, "bytes on {device} were looked at");
        self.address() as *const u8
    }

    /// The bytes. Panics when they are not in host memory.
    pub fn bytes(&self) -> &[u8] {
        match self.len {
            0 => &[],
            // SAFETY: `len` bytes of ours, or of the host's (contract of `of_host`).
            len => unsafe { std::slice::from_raw_parts(self.data(), len) },
        }
    }

    /// The bytes, to write. Panics when they are not in host memory.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let data = match &mut self.source {
            Source::Own(lines) => lines.as_mut_ptr().cast(),
            _ => self.data().cast_mut(),
        };
        match self.len {
            0 => &mut [],
            // SAFETY: as in `bytes`, and borrowed exclusively.
            len => unsafe { std::slice::from_raw_parts_mut(data, len) },
        }
    }

    /// A copy of the bytes, wherever they lie; waits for the GPU's stream.
    pub fn fetch(&self) -> Result<Vec<u8>, GpuError> {
        let Some(gpu) = self.gpu() else {
            return Ok(self.bytes().to_vec());
        };
        let mut bytes = vec![0; self.len];
        gpu.read_from(self.address(), &mut bytes)?;
        Ok(bytes)
    }

    /// Copies bytes in, as many as fit exactly, wherever it lies; on a GPU in the order of the stream.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), GpuError> {
        assert_eq!(self.len, bytes.len(), "bytes");
        match self.gpu() {
            Some(gpu) => gpu.write_to(self.address(), bytes)?,
            None => self.bytes_mut().copy_from_slice(bytes),
        }
        Ok(())
    }

    /// The bytes as float32. Panics when they are not in host memory, or the host's memory is not aligned for them: who
    /// takes it from the host checks that.
    pub fn floats(&self) -> &[f32] {
        if self.len < size_of::<f32>() {
            return &[];
        }
        assert!(self.data().cast::<f32>().is_aligned(), "alignment");
        // SAFETY: the bytes of `bytes`, aligned; every pattern is a float.
        unsafe {
            std::slice::from_raw_parts(self.data().cast::<f32>(), self.len / size_of::<f32>())
        }
    }

    /// Copies float32 values in; as many as fit exactly. Panics when it is not host memory.
    pub fn write_floats(&mut self, values: &[f32]) {
        assert_eq!(self.len, size_of_val(values), "values");
        let bytes = self.bytes_mut().chunks_exact_mut(size_of::<f32>());
        for (to, value) in bytes.zip(values) {
            to.copy_from_slice(&value.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_memory_is_aligned_and_zero() {
        for len in [0, 1, 63, 64, 65, 1000] {
            let mut memory = Memory::new(len).expect("small");
            assert_eq!(memory.address() as usize % ALIGNMENT, 0);
            assert_eq!(memory.device(), Device::Cpu);
            assert_eq!(memory.bytes(), vec![0; len]);
            memory.bytes_mut().fill(7);
            assert_eq!(memory.bytes(), vec![7; len]);
        }
        let mut floats = Memory::new(8).expect("small");
        floats.write_floats(&[1.5, -2.0]);
        assert_eq!(floats.floats(), [1.5, -2.0]);
        assert!(Memory::new(isize::MAX as usize).is_err());
    }
}
