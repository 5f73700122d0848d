//! Structs that say their own size, so that old and new headers work with one library.

use std::mem::size_of;

use super::status::mq_status;
use crate::error::{Error, Result};

/// A plain C struct whose first field is its size in bytes.
///
/// # Safety
/// `repr(C)`, no padding that matters, every bit pattern valid, `struct_size: u32` first.
pub(crate) unsafe trait Versioned: Copy {
    /// Size of the first released version; anything smaller is refused.
    const MIN_SIZE: usize;
    /// Name in the header, for messages.
    const NAME: &'static str;
    /// The struct with its defaults.
    fn defaults() -> Self;
}

/// Reads a caller's struct that may be older (shorter) or newer (longer) than ours.
///
/// # Safety
/// `src` is not NULL and points to at least `src->struct_size` readable bytes.
pub(crate) unsafe fn read<T: Versioned>(src: *const T) -> Result<T> {
    // SAFETY: the size comes first in every version.
    let theirs = unsafe { src.cast::<u32>().read_unaligned() } as usize;
    if theirs < T::MIN_SIZE {
        return Err(Error::InvalidArgument(format!(
            "{}: struct_size is {theirs}, expected at least {}; call {}_init() first",
            T::NAME,
            T::MIN_SIZE,
            T::NAME
        )));
    }
    if !theirs.is_multiple_of(align_of::<T>()) {
        return Err(Error::InvalidArgument(format!(
            "{}: struct_size is {theirs}, no size such a struct can have",
            T::NAME
        )));
    }
    let ours = size_of::<T>();
    let mut value = T::defaults();
    // SAFETY: both sides have min(theirs, ours) bytes; T accepts any bytes (trait contract).
    unsafe {
        (&raw mut value)
            .cast::<u8>()
            .copy_from_nonoverlapping(src.cast::<u8>(), theirs.min(ours));
    }
    for i in ours..theirs {
        // SAFETY: `theirs` bytes are readable (contract).
        if unsafe { src.cast::<u8>().add(i).read() } != 0 {
            return Err(Error::InvalidArgument(format!(
                "{}: sets a field that this library does not know (byte {i}); link a newer libmq",
                T::NAME
            )));
        }
    }
    Ok(value)
}

/// Fills `dst` with defaults, never writing past the caller's `struct_size` bytes.
///
/// # Safety
/// `dst` is NULL or has `struct_size` writable bytes.
pub(crate) unsafe fn init<T: Versioned>(dst: *mut T, struct_size: u32) -> mq_status {
    super::guard::enter(|| {
        let size = struct_size as usize;
        if dst.is_null() {
            return Err(Error::InvalidArgument(format!("{} is NULL", T::NAME)));
        }
        if size < T::MIN_SIZE {
            return Err(Error::InvalidArgument(format!(
                "struct_size is {size}, expected sizeof({}), at least {}",
                T::NAME,
                T::MIN_SIZE
            )));
        }
        let defaults = T::defaults();
        // SAFETY: `size` bytes are writable (contract); the copy stays within both structs.
        unsafe {
            dst.cast::<u8>().write_bytes(0, size);
            dst.cast::<u8>().copy_from_nonoverlapping(
                (&raw const defaults).cast::<u8>(),
                size.min(size_of::<T>()),
            );
            dst.cast::<u32>().write_unaligned(struct_size);
        }
        Ok(())
    })
}
