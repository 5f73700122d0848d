//! The one place where a C call becomes a Rust call, and its outcome a status.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::status::mq_status;
use crate::error::{Error, Result};

// A panic must unwind to the guard below; with panic = "abort" it would kill the host.
#[cfg(not(panic = "unwind"))]
compile_error!("mq must be built with panic = \"unwind\"");

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::new(CString::default());
}

/// Runs `body` and turns its outcome into a status and this thread's error text.
pub(crate) fn enter(body: impl FnOnce() -> Result<()>) -> mq_status {
    enter_or_poison(|| {}, body)
}

/// Like [`enter`]; a panic in `body` also runs `poison`.
pub(crate) fn enter_or_poison(
    poison: impl FnOnce(),
    body: impl FnOnce() -> Result<()>,
) -> mq_status {
    let error = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return mq_status::MQ_OK,
        Ok(Err(error)) => error,
        Err(payload) => {
            poison();
            Error::Internal(panic_text(&*payload))
        }
    };
    let text: String = error
        .to_string()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    // During thread teardown there is no slot for the text left; the status must do.
    let _ = LAST_ERROR.try_with(|slot| *slot.borrow_mut() = CString::new(text).unwrap_or_default());
    mq_status::from(&error)
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("panic without a message").to_owned()
}

/// One line of text about the last call that failed on the calling thread.
///
/// @return NUL-terminated UTF-8, never NULL, empty when nothing failed yet. Valid until the next
///         failing mq call on this thread or the end of the thread.
///
/// Successful calls leave the text alone. Threads: each has its own text.
#[unsafe(no_mangle)]
pub extern "C" fn mq_last_error_message() -> *const c_char {
    LAST_ERROR
        .try_with(|slot| slot.borrow().as_ptr())
        .unwrap_or(c"".as_ptr())
}

/// Borrows a C string of the caller.
///
/// # Safety
/// `raw` is NULL or NUL-terminated and outlives `'a`.
pub(crate) unsafe fn text<'a>(raw: *const c_char, what: &str) -> Result<&'a str> {
    // SAFETY: forwarded contract.
    unsafe { text_or_null(raw, what) }?
        .ok_or_else(|| Error::InvalidArgument(format!("{what} is NULL")))
}

/// Borrows a C string of the caller that may be NULL.
///
/// # Safety
/// As for [`text`].
pub(crate) unsafe fn text_or_null<'a>(raw: *const c_char, what: &str) -> Result<Option<&'a str>> {
    if raw.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL, NUL-terminated (contract).
    unsafe { CStr::from_ptr(raw) }
        .to_str()
        .map(Some)
        .map_err(|e| Error::InvalidArgument(format!("{what} is not UTF-8: {e}")))
}

/// Borrows an out-parameter that must be there.
///
/// # Safety
/// `raw` is NULL or valid for writes for `'a`.
pub(crate) unsafe fn out<'a, T>(raw: *mut T, what: &str) -> Result<&'a mut T> {
    // SAFETY: contract above.
    unsafe { raw.as_mut() }.ok_or_else(|| Error::InvalidArgument(format!("{what} is NULL")))
}

/// Copies `text` out as snprintf does: at most `capacity - 1` bytes and a NUL; `length` gets the
/// whole length without the NUL.
///
/// # Safety
/// `buffer` is NULL or holds `capacity` bytes; `length` is NULL or writable.
pub(crate) unsafe fn copy_out(
    text: &str,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> Result<()> {
    if buffer.is_null() && capacity > 0 {
        return Err(Error::InvalidArgument(format!(
            "buffer is NULL but capacity is {capacity}"
        )));
    }
    if buffer.is_null() && length.is_null() {
        return Err(Error::InvalidArgument("buffer and length are NULL".into()));
    }
    if capacity > 0 {
        // Never cut a character in half: what is written is valid UTF-8.
        let mut count = text.len().min(capacity - 1);
        while !text.is_char_boundary(count) {
            count -= 1;
        }
        // SAFETY: `count + 1 <= capacity` bytes are writable (contract).
        unsafe {
            buffer
                .cast::<u8>()
                .copy_from_nonoverlapping(text.as_ptr(), count);
            buffer.add(count).write(0);
        }
    }
    // SAFETY: NULL or writable (contract).
    if let Some(length) = unsafe { length.as_mut() } {
        *length = text.len();
    }
    Ok(())
}
