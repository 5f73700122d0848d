//! The GPU: mq's kernels on the host's own device memory, context and stream.
//!
//! The driver is found at run time: a library that is built once runs with it and without it. What is borrowed is left
//! as found: the context that was current is current again after every call, the stream is neither synchronized in a
//! tap nor destroyed. Kernels are `.cu` files beside the operation they implement, compiled beforehand (`image`).
//!
//! A kernel that cannot be launched does not stop the caller, who would not know what to do: the first failure is kept,
//! and whoever ends the call asks for it ([`Gpu::take_failure`]), as CUDA's own errors come late.
//!
//! Without the cargo feature `cuda` there is neither driver nor kernels: `without` has the same types, of which there
//! are no values, and what works with them is compiled to nothing.

#[cfg(feature = "cuda")]
mod address;
#[cfg(feature = "cuda")]
mod context;
#[cfg(feature = "cuda")]
mod cublas;
#[cfg(feature = "cuda")]
mod driver;
mod error;
#[cfg(feature = "cuda")]
mod gpu;
#[cfg(feature = "cuda")]
mod image;
mod launch;
mod lent;
#[cfg(feature = "cuda")]
mod memory;
mod params;
mod products;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(not(feature = "cuda"))]
mod without;

pub(crate) use error::without_gpu;
pub use error::{GpuError, GpuErrorKind};
#[cfg(feature = "cuda")]
pub use gpu::Gpu;
pub(crate) use launch::{THREADS, by_dtype, launch};
pub(crate) use lent::Plain;
pub use lent::{DeviceMemory, GpuSettings};
#[cfg(feature = "cuda")]
pub use memory::DeviceBuffer;
pub(crate) use params::{Elements, FormatParams, GridParams, TILE, tiles};
pub(crate) use products::Product;
pub use products::UseCublas;
#[cfg(not(feature = "cuda"))]
pub use without::{DeviceBuffer, Gpu};
