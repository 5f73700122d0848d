//! The bias of an affine quantizer: found over some axes, taken off, added again.
//!
//! *Exact*: sums are taken in float64, in the order of `tree_sum`, so the same bytes for every number of threads and on a
//! GPU. The results of `shift` are rounded to the tensor's dtype, as in the reference.

pub(crate) mod cuda;

use super::element::{Element, with_element};
use super::grid::Grid;
use super::machine::Machine;
use super::pieces;
use super::tree_sum::TreeSum;
use crate::tensor::TensorView;

/// Mean and extremes of one block, `Spread` of `bias.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spread {
    /// The mean.
    pub mean: f32,
    /// Smallest element.
    pub min: f32,
    /// Largest element.
    pub max: f32,
}

impl Spread {
    /// That of so many batches, of which this is known, and one more: a mean of means.
    pub fn joined(self, batches: f32, next: Self) -> Self {
        Self {
            mean: (self.mean * batches + next.mean) / (batches + 1.0),
            min: of_order(order(self.min).min(order(next.min))),
            max: of_order(order(self.max).max(order(next.max))),
        }
    }

    /// Halfway between the extremes.
    pub fn middle(&self) -> f32 {
        (self.max + self.min) / 2.0
    }
}

/// Which number of a spread is the bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Center {
    /// The mean.
    Mean,
    /// Halfway between the extremes.
    Middle,
}

/// Numbers in the order of these: -0 is below +0, so that an extreme has the same bits in every order of elements.
#[inline(always)]
fn order(x: f32) -> i32 {
    let bits = x.to_bits() as i32;
    bits ^ ((bits >> 31) as u32 >> 1) as i32
}

fn of_order(order: i32) -> f32 {
    f32::from_bits((order ^ ((order >> 31) as u32 >> 1) as i32) as u32)
}

/// Mean and extremes of every block of `x`; `grid` was made for its shape. A NaN is in the mean alone.
///
/// Of a tensor on a GPU they are found there, and copied: waits for the stream.
pub fn spread(machine: &Machine, x: &TensorView, grid: &Grid) -> Vec<Spread> {
    assert_eq!(grid.count(), x.count(), "grid of another shape");
    if let Some(gpu) = machine.gpu_of(x) {
        return cuda::fetched(gpu, x, grid);
    }
    let x = *x;
    with_element!(x.dtype(), T => machine.map(grid.num_blocks(), |position| {
        let runs = grid.block(position);
        let (mut sum, mut lowest, mut highest) =
            (TreeSum::EMPTY, order(f32::INFINITY), order(f32::NEG_INFINITY));
        runs.for_each(|offset| {
            // SAFETY: the run lies within the tensor, which nobody writes to (contract of the view).
            let run = unsafe { std::slice::from_raw_parts(x.data().cast::<T>().add(offset), runs.len()) };
            sum.add_all(run);
            for value in run {
                let value = value.load();
                if !value.is_nan() {
                    (lowest, highest) = (lowest.min(order(value)), highest.max(order(value)));
                }
            }
        });
        Spread {
            mean: (sum.total() / sum.count() as f64) as f32,
            min: of_order(lowest),
            max: of_order(highest),
        }
    }))
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
        return cuda::shift(gpu, x, out, grid, bias, sign);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::half::F16;
    use crate::kernels::Isa;
    use crate::kernels::cuda::testing::Host;
    use crate::tensor::{DType, Shape};

    #[test]
    fn zeros_have_an_order_and_come_back() {
        let values = [
            f32::NEG_INFINITY,
            -2.5,
            -1e-45,
            -0.0,
            0.0,
            1e-45,
            7.0,
            f32::INFINITY,
        ];
        assert!(values.is_sorted_by_key(|x| order(*x)));
        for x in values {
            assert_eq!(of_order(order(x)).to_bits(), x.to_bits());
        }
    }

    /// Every grid, by looking up the block of each element.
    #[test]
    fn blocks_have_their_mean_and_extremes() {
        let shape = [3, 5, 70];
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let mut host = Host::noise(dtype, &shape, 3);
            let x = host.view();
            let loaded = x.to_f32();
            for blocks in [
                [3, 5, 70],
                [1, 5, 70],
                [1, 1, 70],
                [3, 5, 1],
                [1, 5, 1],
                [1, 1, 16],
                [2, 3, 8],
                [1, 1, 1],
            ] {
                let grid = Grid::new(&Shape::new(&shape).expect("small"), &blocks);
                let (n, block) = grid.row();
                let mut of_blocks = vec![Vec::new(); grid.num_blocks()];
                for (flat, value) in loaded.iter().enumerate() {
                    of_blocks[grid.first_block_of_row(flat / n) + flat % n / block].push(*value);
                }
                let one = spread(
                    &Machine::new(1, Isa::scalar()).expect("a thread"),
                    &x,
                    &grid,
                );
                let three = spread(
                    &Machine::new(3, Isa::best(None)).expect("threads"),
                    &x,
                    &grid,
                );
                assert_eq!(one, three, "{dtype} {blocks:?}");
                assert_eq!(one.len(), of_blocks.len());
                for (got, values) in one.iter().zip(of_blocks) {
                    let mean = (TreeSum::of(&values) / values.len() as f64) as f32;
                    assert_eq!(got.mean.to_bits(), mean.to_bits(), "{dtype} {blocks:?}");
                    assert_eq!(
                        got.min,
                        values.iter().copied().fold(f32::INFINITY, f32::min)
                    );
                    assert_eq!(
                        got.max,
                        values.iter().copied().fold(f32::NEG_INFINITY, f32::max)
                    );
                }
            }
        }
    }

    #[test]
    fn nothing_has_no_blocks() {
        let x = TensorView::over(&mut [], &[4, 0]).expect("empty");
        let grid = Grid::new(x.shape(), &[1, 1]);
        let machine = Machine::new(1, Isa::best(None)).expect("a thread");
        assert_eq!(spread(&machine, &x, &grid), []);
    }

    #[test]
    fn not_a_number_is_in_the_mean_alone() {
        let mut halves = [1.0, f32::NAN, -3.0, -0.0].map(|x| F16::from_f32(x).0);
        // SAFETY: the memory outlives the view and is not used meanwhile.
        let x = unsafe { TensorView::new(halves.as_mut_ptr().cast(), DType::F16, &[4]) };
        let machine = Machine::new(1, Isa::best(None)).expect("a thread");
        let found = spread(&machine, &x.expect("aligned"), &Grid::of_one_block(4))[0];
        assert!(found.mean.is_nan());
        assert_eq!((found.min, found.max), (-3.0, 1.0));
        let before = Spread {
            mean: 1.0,
            min: -0.0,
            max: 0.5,
        };
        let joined = before.joined(
            2.0,
            Spread {
                mean: 4.0,
                min: 0.0,
                max: 0.25,
            },
        );
        assert_eq!((joined.mean, joined.max), (2.0, 0.5));
        assert_eq!(joined.min.to_bits(), (-0.0f32).to_bits());
        assert_eq!(joined.middle(), 0.25);
    }
}
