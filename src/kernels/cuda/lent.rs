//! What the host lends and what it may copy: settings of a GPU, memory, plain numbers.

use std::ffi::c_void;

use super::products::UseCublas;

/// What a GPU is opened with.
pub struct GpuSettings {
    /// Index of the device.
    pub device: i32,
    /// The host's context; NULL: that of the stream, the current one, or the device's primary one.
    pub context: *mut c_void,
    /// The host's stream; NULL: the default one.
    pub stream: *mut c_void,
    /// The host's memory.
    pub memory: Option<Box<dyn DeviceMemory>>,
    /// What large products may be made with.
    pub cublas: UseCublas,
}

/// Gives device memory, in the host's way. Called from any thread, while the context is current.
pub trait DeviceMemory: Send + Sync {
    /// So many bytes, aligned to 256, usable by what is put on `stream` from now on. None: there is none.
    fn allocate(&self, bytes: usize, stream: *mut c_void) -> Option<u64>;
    /// Gives them back once what is on `stream` now is done.
    fn free(&self, address: u64, bytes: usize, stream: *mut c_void);
}

/// Numbers that are nothing but their bytes.
pub trait Plain: Copy {}
impl Plain for u8 {}
impl Plain for i8 {}
impl Plain for u32 {}
impl Plain for u64 {}
impl Plain for f32 {}
impl Plain for f64 {}
