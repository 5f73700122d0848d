//! The bias of an affine quantizer: found over some axes, taken off, added again.
//!
//! Sums are taken in float64, element after element in row-major order: the same bytes for every number
//! of threads. The results of `shift` are rounded to the tensor's dtype, as in the reference.

use super::cuda::{DeviceBuffer, Gpu, GridParams, by_dtype, launch, tiles};
use super::element::{Element, with_element};
use super::fetch;
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
///
/// Of a tensor on a GPU a copy is looked at: waits for the stream.
pub fn spread(machine: &Machine, x: &TensorView, grid: &Grid) -> Vec<Spread> {
    assert_eq!(grid.count(), x.count(), "grid of another shape");
    let mut memory = Vec::new();
    let x = &fetch::to_host(machine, x, &mut memory);
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
    x.assert_out(out);
    assert_eq!(grid.count(), x.count(), "grid of another shape");
    assert_eq!(bias.len(), grid.num_blocks(), "bias values");
    if let Some(gpu) = machine.gpu_of(x) {
        let done = DeviceBuffer::holding(gpu, bias).map(|values| {
            shift_resident(gpu, x, out, grid, values.address(), sign);
        });
        return gpu.note(done);
    }
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

/// The same with a bias in device memory, one float32 for each block: puts work on the stream and does nothing else.
pub(crate) fn shift_resident(
    gpu: &Gpu,
    x: &TensorView,
    out: &TensorView,
    grid: &Grid,
    bias: u64,
    sign: f32,
) {
    x.assert_out(out);
    if x.count() == 0 {
        return;
    }
    let tiles = tiles(grid);
    // SAFETY: the kernel of that signature; both tensors have the grid's elements, and there is a bias for each block.
    unsafe {
        launch!(gpu, by_dtype!("shift", x), (gpu.blocks_for(tiles), 1);
            x.address(), out.address(), GridParams::from(grid), tiles, bias, sign);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;
    use crate::kernels::cuda::testing::{self, OnGpu};
    use crate::tensor::Shape;

    #[test]
    fn a_gpu_gives_the_bits_of_the_cpu() {
        let Some(gpu) = testing::machine() else {
            return;
        };
        let cpu = Machine::new(1, Isa::best(None)).expect("a thread");
        let shape = [3, 7, 1300];
        let mut values: Vec<f32> = (0..3 * 7 * 1300)
            .map(|i| ((i * 53) % 997) as f32 / 31.0 - 15.0)
            .collect();
        values[5] = f32::NAN;
        values[6] = f32::INFINITY;
        for blocks in [
            [3, 7, 1300],
            [1, 1, 1300],
            [3, 7, 1],
            [1, 7, 1],
            [1, 1, 16],
            [1, 1, 1],
        ] {
            let grid = Grid::new(&Shape::new(&shape).expect("small"), &blocks);
            let bias: Vec<f32> = (0..grid.num_blocks())
                .map(|i| 0.1 * i as f32 - 1.7)
                .collect();
            for sign in [-1.0, 1.0] {
                let mut want = values.clone();
                let want = TensorView::over(&mut want, &shape).expect("room");
                let there = OnGpu::copy_of(&gpu, &want, 4);
                let apart = OnGpu::copy_of(&gpu, &want, 0);
                shift(&cpu, &want, &want, &grid, &bias, sign);
                shift(&gpu, &there.view(), &apart.view(), &grid, &bias, sign);
                shift(&gpu, &there.view(), &there.view(), &grid, &bias, sign);
                for got in [apart, there] {
                    testing::assert_same(&got.values(), &want.to_f32(), &format!("{blocks:?}"));
                }
            }
            let x = TensorView::over(&mut values, &shape).expect("room");
            let there = OnGpu::copy_of(&gpu, &x, 4);
            let (want, got) = (spread(&cpu, &x, &grid), spread(&gpu, &there.view(), &grid));
            let means =
                |spreads: &[Spread]| -> Vec<f32> { spreads.iter().map(Spread::mean).collect() };
            testing::assert_same(&means(&got), &means(&want), &"means");
            testing::assert_no_failure(&gpu);
        }
    }
}
