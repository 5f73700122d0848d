//! Whether an address is what the host says it is.

use std::ffi::c_void;

use cudarc::driver::sys;

use super::driver::check;
use super::error::{GpuError, GpuErrorKind};
use super::gpu::Gpu;

/// CU_MEMORYTYPE_HOST: memory that the driver allocated or registered for the host.
const HOST: u32 = 1;

impl Gpu {
    /// Whether an address is device memory of this context's device, and reaches so far. Errors say what it is.
    pub fn check_address(&self, address: u64, bytes: usize) -> Result<(), GpuError> {
        use sys::CUpointer_attribute as Attribute;
        let invalid = |text: String| Err(GpuError::new(GpuErrorKind::Invalid, text));
        let mut kind = 0u32;
        let mut ordinal = 0i32;
        let (mut start, mut size) = (0u64, 0usize);
        let mut wanted = [
            Attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
            Attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
            Attribute::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR,
            Attribute::CU_POINTER_ATTRIBUTE_RANGE_SIZE,
        ];
        let mut places: [*mut c_void; 4] = [
            (&raw mut kind).cast(),
            (&raw mut ordinal).cast(),
            (&raw mut start).cast(),
            (&raw mut size).cast(),
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
        // Of memory that the driver does not know every attribute is zero.
        match kind {
            0 | HOST => {
                return invalid(format!(
                    "{address:#x} is said to be memory of CUDA device {}, but it is host memory",
                    self.device()
                ));
            }
            _ if ordinal != self.device() => {
                return invalid(format!(
                    "{address:#x} is memory of CUDA device {ordinal}, but the context works on device {}",
                    self.device()
                ));
            }
            _ => {}
        }
        let end = start.saturating_add(size as u64);
        match size > 0 && address.saturating_add(bytes as u64) > end {
            false => Ok(()),
            true => invalid(format!(
                "a tensor of {bytes} bytes at {address:#x} reaches beyond its memory, which ends at {end:#x}"
            )),
        }
    }

    /// Whether the host may follow an address, as far as the driver knows. Errors for memory that is a device's alone.
    pub fn check_host_address(&self, address: u64) -> Result<(), GpuError> {
        use sys::CUpointer_attribute as Attribute;
        let mut kind = 0u32;
        let mut ordinal = 0i32;
        let mut is_managed = 0u8;
        let mut wanted = [
            Attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
            Attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
            Attribute::CU_POINTER_ATTRIBUTE_IS_MANAGED,
        ];
        let mut places: [*mut c_void; 3] = [
            (&raw mut kind).cast(),
            (&raw mut ordinal).cast(),
            (&raw mut is_managed).cast(),
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
        match kind {
            0 | HOST => Ok(()),
            _ if is_managed != 0 => Ok(()),
            _ => Err(GpuError::new(
                GpuErrorKind::Invalid,
                format!(
                    "{address:#x} is said to be host memory, but it is memory of CUDA device {ordinal}"
                ),
            )),
        }
    }
}
