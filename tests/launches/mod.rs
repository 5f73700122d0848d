//! Kernel launches that fail, which only the emulator does on demand, and what it counts.
#![allow(dead_code, reason = "no test file uses all of it")]

use std::ffi::{CStr, c_char, c_int, c_void};

unsafe extern "C" {
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

const RTLD_LAZY: c_int = 1;
/// CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES: of one launch, the context lives on.
const OUT_OF_RESOURCES: i64 = 701;

type Set = unsafe extern "C" fn(what: *const c_char, value: i64) -> c_int;
type Get = unsafe extern "C" fn(what: *const c_char) -> i64;

/// The emulator's switch. One test at a time may hold it.
pub struct Launches {
    set: Set,
}

impl Launches {
    /// None on a GPU, which fails when it likes.
    pub fn of_emulator() -> Option<Self> {
        let symbol = symbol(c"mq_mock_set");
        if symbol.is_null() {
            eprintln!("ONLY ON THE EMULATOR: launches that fail");
            return None;
        }
        // SAFETY: the emulator declares it so.
        let set = unsafe { std::mem::transmute::<*mut c_void, Set>(symbol) };
        let launches = Self { set };
        launches.set(c"fail_launch_error", OUT_OF_RESOURCES);
        Some(launches)
    }

    /// All launches after so many fail; a negative number: none does.
    pub fn fail_after(&self, count: i64) {
        self.set(c"fail_launch_after", count);
    }

    fn set(&self, what: &CStr, value: i64) {
        // SAFETY: a text that ends with NUL.
        let known = unsafe { (self.set)(what.as_ptr(), value) };
        assert_eq!(known, 0, "{what:?}");
    }
}

/// A counter of the emulator's: "allocations", "synchronizations", ...
pub fn counted(what: &CStr) -> i64 {
    let symbol = symbol(c"mq_mock_get");
    assert!(!symbol.is_null(), "asked of a GPU");
    // SAFETY: the emulator declares it so, and the text ends with NUL.
    let value = unsafe { std::mem::transmute::<*mut c_void, Get>(symbol)(what.as_ptr()) };
    assert!(value >= 0, "{what:?}");
    value
}

/// Of the driver; NULL where it has none of that name.
fn symbol(name: &CStr) -> *mut c_void {
    // SAFETY: the library is loaded already, for a GPU was opened; its name and the symbol's end with NUL.
    unsafe {
        let library = dlopen(c"libcuda.so.1".as_ptr(), RTLD_LAZY);
        dlsym(library, name.as_ptr())
    }
}

impl Drop for Launches {
    fn drop(&mut self) {
        self.fail_after(-1);
    }
}
