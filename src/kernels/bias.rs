//! The bias of an affine quantizer: found over some axes, taken off, added again.
//!
//! Sums are taken in float64, element after element in row-major order: the same bytes for every number
//! of threads. The results of `shift` are rounded to the tensor's dtype, as in the reference.

use super::element::{Element, with_element};
use super::grid::Grid;
use super::machine::Machine;
use super::pieces;
use crate::tensor::TensorView;

/// Mean and extremes of one block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    sum: f64,
    count: u64,
    /// Smallest element.
    pub min: f32,
    /// Largest element.
    pub max: f32,
}

impl Spread {
    const EMPTY: Self = Self {
        sum: 0.0,
        count: 0,
        min: f32::INFINITY,
        max: f32::NEG_INFINITY,
    };

    /// The mean.
    pub fn mean(&self) -> f32 {
        (self.sum / self.count.max(1) as f64) as f32
    }
}

/// Mean and extremes of every block of `x`; `grid` was made for its shape.
pub fn spread(x: &TensorView, grid: &Grid) -> Vec<Spread> {
    assert_eq!(grid.count(), x.count(), "grid of another shape");
    let mut blocks = vec![Spread::EMPTY; grid.num_blocks()];
    if x.count() == 0 {
        return blocks;
    }
    let (n, block) = grid.row();
    with_element!(x.dtype(), T => {
        // SAFETY: contract of the view; there are elements, so the address is not NULL.
        let values = unsafe { std::slice::from_raw_parts(x.data().cast::<T>(), x.count()) };
        for (row, values) in values.chunks_exact(n).enumerate() {
            let first = grid.first_block_of_row(row);
            for (i, value) in values.iter().enumerate() {
                let (value, spread) = (value.load(), &mut blocks[first + i / block]);
                spread.sum += f64::from(value);
                spread.count += 1;
                spread.min = spread.min.min(value);
                spread.max = spread.max.max(value);
            }
        }
    });
    blocks
}

/// `out = x + sign * bias`, one bias for each block of `grid`; `out` passed `x.check_out`.
pub fn shift(
    machine: &Machine,
    x: &TensorView,
    out: &TensorView,
    grid: &Grid,
    bias: &[f32],
    sign: f32,
) {
    if machine.refuses("an affine quantizer (bias)", x) {
        return;
    }
    x.assert_out(out);
    assert_eq!(grid.count(), x.count(), "grid of another shape");
    assert_eq!(bias.len(), grid.num_blocks(), "bias values");
    let (x, out, block) = (*x, *out, grid.row().1);
    with_element!(x.dtype(), T => pieces::for_each(machine, grid, |piece| {
        for (first, len, position) in pieces::runs(&piece, block) {
            for i in piece.offset + first..piece.offset + first + len {
                // SAFETY: within both tensors (asserted), which are ours to use (contract of the view).
                unsafe {
                    let value = x.data().cast::<T>().add(i).read().load() + sign * bias[position];
                    out.data().cast::<T>().add(i).write(T::store(value));
                }
            }
        }
    }));
}
