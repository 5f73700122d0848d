//! Operations over tensors, one folder or file each: validate and dispatch, the scalar definition,
//! and the loops that are compiled for several instruction sets.
//!
//! Kernels know nothing of layers. They are *exact*, the same bits on every instruction set and for every
//! number of threads, but for the *reducing* ones: `gram`, `quadratic` and `clipping`, the sums of `channel_stats` and
//! `channel_squares`, `perturbation`, `divergence`, and the sums of errors in `fake_quant`. Those have the same bits for
//! every number of threads and state the
//! bound of their error.

pub mod absmax;
pub mod bias;
pub mod block_magnitudes;
pub mod channel_scale;
pub mod channel_squares;
pub mod channel_stats;
pub mod clipping;
pub mod copy;
pub mod cuda;
pub mod difference;
pub mod divergence;
mod element;
pub mod fake_quant;
pub(crate) mod fetch;
pub mod fingerprint;
mod gemm;
pub mod gram;
pub mod grid;
pub mod hadamard;
pub mod histogram;
pub mod isa;
pub mod load_rows;
pub mod machine;
pub mod pack;
pub mod perturbation;
mod pieces;
pub mod quadratic;
pub mod row_scale;
pub mod scaled_difference;
mod tree_sum;
pub mod unfold;

pub use grid::Grid;
pub use isa::Isa;
pub use machine::Machine;
