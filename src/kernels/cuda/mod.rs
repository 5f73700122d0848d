//! The GPU: mq's kernels on the host's own device memory, context and stream.
//!
//! The driver is found at run time: a library that is built once runs with it and without it. What is borrowed is left
//! as found: the context that was current is current again after every call, the stream is neither synchronized in a
//! tap nor destroyed. Kernels are `.cu` files beside the operation they implement, compiled beforehand (`image`).
//!
//! A kernel that cannot be launched does not stop the caller, who would not know what to do: the first failure is kept,
//! and whoever ends the call asks for it ([`Gpu::take_failure`]), as CUDA's own errors come late.

mod address;
mod context;
mod driver;
mod gpu;
mod image;
mod memory;
mod params;
#[cfg(test)]
pub(crate) mod testing;

pub use driver::{GpuError, GpuErrorKind, count_devices};
pub use gpu::{Gpu, GpuSettings};
pub(crate) use gpu::{THREADS, by_dtype, launch};
pub(crate) use memory::Plain;
pub use memory::{DeviceBuffer, DeviceMemory};
pub(crate) use params::{Elements, FormatParams, GridParams, TILE, tiles};
