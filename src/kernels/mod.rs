//! Operations over tensors, one folder or file each: validate and dispatch, the scalar definition,
//! and the loops that are compiled for several instruction sets.
//!
//! Kernels know nothing of layers. All of them give the same bits on every instruction set and for every
//! number of threads, and all but the sums of errors in [`fake_quant`] are *exact*.

pub mod absmax;
pub mod bias;
pub mod channel_scale;
pub mod copy;
pub mod cpu;
mod element;
pub mod fake_quant;
pub mod grid;
pub mod hadamard;
pub mod isa;
pub mod pack;
mod pieces;

pub use cpu::Cpu;
pub use grid::Grid;
pub use isa::Isa;
