//! The ratio of each block's amax that changes the output of a layer least, under the blocks of a Gram matrix along its
//! diagonal. A CPU takes its steps one after the other (`fake_quant`, `scaled_difference`, `quadratic::block_rows`); a GPU
//! has one kernel for them.

#[cfg(test)]
mod check;
pub(crate) mod cuda;

use super::gemm::UNIT_ROUNDOFF;

/// Rows whose products the GPU sums up before the sum is added to others: the widest panel of `clipping.cu`.
const PANEL: usize = 128;

/// Bound of an error that the GPU finds for a block of `n` columns, times `|δ| |G| |δ|ᵀ`.
///
/// A value of `δ T` is a sum of up to n products in panels, each of which is then added to the sum (fused multiply-add,
/// so one rounding for each product); four of its products with δ are added in float32, and rounded once each. The
/// rest is in float64, whose roundings all together are less than one of float32.
pub fn max_rel_err(n: usize) -> f64 {
    let roundings = PANEL.min(n) + n.div_ceil(PANEL) + 4 + 1;
    roundings as f64 * UNIT_ROUNDOFF * 1.001
}
