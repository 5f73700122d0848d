//! A library without CUDA: the types of a GPU, of which there are no values.

use std::ffi::c_void;
use std::sync::Arc;

use super::error::{GpuError, built_without};
use super::lent::{GpuSettings, Plain};
use super::products::Product;

/// A GPU in use: none ever is.
pub enum Gpu {}

impl Gpu {
    /// Errors: this library has no kernels for it.
    ///
    /// # Safety
    /// None is asked for; as the one of a library with CUDA.
    pub unsafe fn open(_settings: GpuSettings) -> Result<Arc<Self>, GpuError> {
        Err(built_without())
    }

    /// Index of the device.
    pub fn device(&self) -> i32 {
        match *self {}
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        match *self {}
    }

    /// Puts what comes on another stream.
    ///
    /// # Safety
    /// As the one of a library with CUDA.
    pub unsafe fn set_stream(&self, _stream: *mut c_void) -> Result<(), GpuError> {
        match *self {}
    }

    /// Whether the stream is being captured into a graph.
    pub fn is_capturing(&self) -> Result<bool, GpuError> {
        match *self {}
    }

    /// Waits until everything on the stream is done.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        match *self {}
    }

    /// Whether an address is device memory, and reaches so far.
    pub fn check_address(&self, _address: u64, _bytes: usize) -> Result<(), GpuError> {
        match *self {}
    }

    /// Whether the host may follow an address.
    pub fn check_host_address(&self, _address: u64) -> Result<(), GpuError> {
        match *self {}
    }

    pub(crate) fn read_from<T: Plain>(
        &self,
        _address: u64,
        _values: &mut [T],
    ) -> Result<(), GpuError> {
        match *self {}
    }

    pub(crate) fn write_to<T: Plain>(&self, _address: u64, _values: &[T]) -> Result<(), GpuError> {
        match *self {}
    }

    pub(crate) fn copy(&self, _from: u64, _to: u64, _bytes: usize) {
        match *self {}
    }

    pub(crate) fn fill(&self, _address: u64, _byte: u8, _bytes: usize) {
        match *self {}
    }

    pub(crate) fn prepare_cublas(&self, _multiplications: u64) {
        match *self {}
    }

    pub(crate) fn takes_cublas(&self, _multiplications: u64) -> bool {
        match *self {}
    }

    pub(crate) fn square_by_cublas(&self, _a: u64, _sizes: [usize; 2], _c: u64) -> bool {
        match *self {}
    }

    pub(crate) fn product_by_cublas(&self, _product: &Product) -> bool {
        match *self {}
    }

    /// What products are made with, when that was found out since this was last asked.
    pub fn take_notice(&self) -> Option<String> {
        match *self {}
    }

    pub(crate) fn blocks_for(&self, _pieces: u64) -> u32 {
        match *self {}
    }

    pub(crate) fn resident_blocks(&self, _pieces: u64) -> u32 {
        match *self {}
    }

    pub(crate) unsafe fn launch_raw(
        &self,
        _kernel: &'static str,
        _grid_and_threads: ((u32, u32), u32),
        _arguments: &mut [*mut c_void],
    ) {
        match *self {}
    }

    pub(crate) fn note(&self, _outcome: Result<(), GpuError>) {
        match *self {}
    }

    /// The first failure since this was last asked.
    pub fn take_failure(&self) -> Result<(), GpuError> {
        match *self {}
    }
}

/// Device memory: there is none.
pub struct DeviceBuffer(Gpu);

impl DeviceBuffer {
    /// So many bytes.
    pub fn new(gpu: &Arc<Gpu>, _bytes: usize) -> Result<Self, GpuError> {
        match **gpu {}
    }

    /// So many zero bytes.
    pub fn zeroed(gpu: &Arc<Gpu>, _bytes: usize) -> Result<Self, GpuError> {
        match **gpu {}
    }

    /// A copy of values.
    pub fn holding<T: Plain>(gpu: &Arc<Gpu>, _values: &[T]) -> Result<Self, GpuError> {
        match **gpu {}
    }

    /// The address of the first byte.
    pub fn address(&self) -> u64 {
        match self.0 {}
    }

    /// Where it lies.
    pub(crate) fn gpu(&self) -> &Arc<Gpu> {
        match self.0 {}
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        match self.0 {}
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        match self.0 {}
    }

    /// Fills it with a byte.
    pub fn fill(&self, _byte: u8) -> Result<(), GpuError> {
        match self.0 {}
    }

    /// Writes values to its beginning.
    pub fn write<T: Plain>(&self, _values: &[T]) -> Result<(), GpuError> {
        match self.0 {}
    }

    /// Reads values from its beginning.
    pub fn read<T: Plain>(&self, _values: &mut [T]) -> Result<(), GpuError> {
        match self.0 {}
    }
}
