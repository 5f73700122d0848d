//! What large products of matrices may be made with, and what one of them takes.

/// Whether products of matrices may be cuBLAS' work. Which of them are is decided by their sizes alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UseCublas {
    /// Large ones, if it can be loaded.
    #[default]
    WhereItPays,
    /// None: results are the same bytes on every GPU.
    Never,
    /// All that it can do, if it can be loaded: for tests and measurements.
    Always,
}

/// `c = a bᵀ` in float32, all of them stored column by column as cuBLAS has it: `a` is `[rows, sums]`, `b` is `[columns,
/// sums]` with `b_stride` floats from one column to the next. Addresses in device memory.
#[cfg_attr(
    not(feature = "cuda"),
    expect(dead_code, reason = "nobody makes a product without a GPU")
)]
pub(crate) struct Product {
    pub a: u64,
    pub b: u64,
    pub b_stride: usize,
    pub c: u64,
    pub rows: usize,
    pub columns: usize,
    pub sums: usize,
}
