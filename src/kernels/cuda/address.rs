//! Whether an address is what the host says it is.

use std::ffi::c_void;

use cudarc::driver::sys;

use super::driver::check;
use super::error::{GpuError, GpuErrorKind};
use super::gpu::Gpu;

/// CU_MEMORYTYPE_HOST: memory that the driver allocated or registered for the host.
const HOST: u32 = 1;

/// What the driver knows of an address; all zero where it knows nothing.
#[derive(Default)]
struct Known {
    kind: u32,
    ordinal: i32,
    is_managed: u8,
    start: u64,
    size: usize,
}

impl Known {
    fn is_host(&self) -> bool {
        matches!(self.kind, 0 | HOST)
    }
}

impl Gpu {
    /// Whether an address is device memory of this context's device, and reaches so far. Errors say what it is.
    pub fn check_address(&self, address: u64, bytes: usize) -> Result<(), GpuError> {
        let invalid = |text: String| Err(GpuError::new(GpuErrorKind::Invalid, text));
        let known = self.look_up(address)?;
        if known.is_host() {
            return invalid(format!(
                "{address:#x} is said to be memory of CUDA device {}, but it is host memory",
                self.device()
            ));
        }
        if known.ordinal != self.device() {
            return invalid(format!(
                "{address:#x} is memory of CUDA device {}, but the context works on device {}",
                known.ordinal,
                self.device()
            ));
        }
        let end = known.start.saturating_add(known.size as u64);
        match known.size > 0 && address.saturating_add(bytes as u64) > end {
            false => Ok(()),
            true => invalid(format!(
                "a tensor of {bytes} bytes at {address:#x} reaches beyond its memory, which ends at {end:#x}"
            )),
        }
    }

    /// Whether the host may follow an address, as far as the driver knows. Errors for memory that is a device's alone.
    pub fn check_host_address(&self, address: u64) -> Result<(), GpuError> {
        let known = self.look_up(address)?;
        match known.is_host() || known.is_managed != 0 {
            true => Ok(()),
            false => Err(GpuError::new(
                GpuErrorKind::Invalid,
                format!(
                    "{address:#x} is said to be host memory, but it is memory of CUDA device {}",
                    known.ordinal
                ),
            )),
        }
    }

    fn look_up(&self, address: u64) -> Result<Known, GpuError> {
        use sys::CUpointer_attribute as Attribute;
        let mut known = Known::default();
        let mut wanted = [
            Attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
            Attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
            Attribute::CU_POINTER_ATTRIBUTE_IS_MANAGED,
            Attribute::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR,
            Attribute::CU_POINTER_ATTRIBUTE_RANGE_SIZE,
        ];
        let mut places: [*mut c_void; 5] = [
            (&raw mut known.kind).cast(),
            (&raw mut known.ordinal).cast(),
            (&raw mut known.is_managed).cast(),
            (&raw mut known.start).cast(),
            (&raw mut known.size).cast(),
        ];
        let _current = self.enter()?;
        // SAFETY: a place for each attribute; the address is only looked up.
        let result = unsafe {
            sys::cuPointerGetAttributes(
                wanted.len() as u32,
                wanted.as_mut_ptr(),
                places.as_mut_ptr(),
                address,
            )
        };
        check(result, "cuPointerGetAttributes")?;
        Ok(known)
    }
}
