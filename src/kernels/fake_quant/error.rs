//! The squared error of fake quantization: `(Q(x) - x)^2`, summed.
//!
//! Reducing: squares are float32, summed in sixteen lanes over at most [`STRETCH`] elements, and from there
//! on in float64, always in the same order: the same bits on every instruction set and for every number of
//! threads, [`MAX_REL_ERR`] from the sum of the same squares without any rounding. On a GPU squares are summed in
//! float64 all along, in an order of their own, which is as near.

use super::super::absmax;
use super::super::element::{Element, with_element};
use super::super::grid::Grid;
use super::super::isa::Loop;
use super::super::machine::Machine;
use super::super::pieces;
use super::{Amax, Format, error_cuda, round_piece};
use crate::tensor::TensorView;

/// Largest relative error of a sum: 8 additions in a lane and 4 of lanes, of float32.
pub const MAX_REL_ERR: f64 = 12.0 * f32::EPSILON as f64 / 2.0;

/// Elements that are summed in float32.
const STRETCH: usize = 128;

const LANES: usize = 16;

/// What is summed: a value of each element, never negative. An error that knows a weight for each element
/// would be another one.
pub(super) trait Term: Copy {
    fn of(self, x: f32) -> f32;
}

/// The sum of a term over `values`. Where it comes above `limit`, a part of the sum that is above it too:
/// no addition of what is not negative makes a rounded sum smaller.
#[inline(always)]
pub(super) fn sum_up_to(values: &[f32], term: impl Term, limit: f64) -> f64 {
    let mut sum = 0.0;
    let (stretches, mut rest) = values.as_chunks::<STRETCH>();
    for stretch in stretches {
        sum += of_stretch(stretch, term);
        if sum > limit {
            return sum;
        }
    }
    if let Some((stretch, after)) = rest.split_first_chunk::<64>() {
        sum += of_stretch(stretch, term);
        rest = after;
    }
    if let Some((stretch, after)) = rest.split_first_chunk::<32>() {
        sum += of_stretch(stretch, term);
        rest = after;
    }
    if let Some((stretch, after)) = rest.split_first_chunk::<LANES>() {
        sum += of_stretch(stretch, term);
        rest = after;
    }
    if !rest.is_empty() {
        let mut terms = [0.0; LANES];
        for (value, x) in terms.iter_mut().zip(rest) {
            *value = term.of(*x);
        }
        sum += of_lanes(terms);
    }
    sum
}

#[inline(always)]
fn of_stretch<const N: usize>(values: &[f32; N], term: impl Term) -> f64 {
    let mut terms = [0.0; N];
    for (value, x) in terms.iter_mut().zip(values) {
        *value = term.of(*x);
    }
    let mut lanes = [0.0; LANES];
    for chunk in terms.as_chunks::<LANES>().0 {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    of_lanes(lanes)
}

#[inline(always)]
fn of_lanes(mut lanes: [f32; LANES]) -> f64 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    f64::from(lanes[0])
}

/// Loads elements that lie side by side.
#[inline(always)]
pub(super) fn load<T: Element>(x: &[T], values: &mut [f32]) {
    let (chunks, rest) = x.as_chunks::<16>();
    let (to, to_rest) = values[..x.len()].as_chunks_mut::<16>();
    for (x, values) in chunks.iter().zip(to) {
        T::load_block(x, values);
    }
    for (x, value) in rest.iter().zip(to_rest) {
        *value = x.load();
    }
}

/// The squared error of `x` under given amax values, one for each block of `grid`, and `x` squared, both
/// summed over the tensor. What is rounded stays float32, whatever the dtype.
///
/// `grid` was made for the shape of `x`, and the format is none that finds its own scales.
pub fn squared_error(
    machine: &Machine,
    x: &TensorView,
    grid: &Grid,
    amax: &[f32],
    format: Format,
) -> (f64, f64) {
    assert_eq!(amax.len(), grid.num_blocks(), "amax values");
    let finds_scale = matches!(format, Format::Mx(_) | Format::Nvfp4 { .. });
    assert!(!finds_scale, "{format:?} finds its own scales");
    if let Some(gpu) = machine.gpu_of(x) {
        return error_cuda::run(gpu, x, grid, amax, format)
            .unwrap_or_else(|error| (gpu.note(Err(error)), (0.0, 0.0)).1);
    }
    of_tensor(machine, x, grid, Amax::Given(amax), format)
}

/// As [`squared_error`], each block under its own amax. Formats that find their own scales have blocks
/// within rows.
pub fn squared_error_dynamic(
    machine: &Machine,
    x: &TensorView,
    grid: &Grid,
    format: Format,
) -> (f64, f64) {
    if let Some(gpu) = machine.gpu_of(x) {
        return error_cuda::run_dynamic(gpu, x, grid, format)
            .unwrap_or_else(|error| (gpu.note(Err(error)), (0.0, 0.0)).1);
    }
    if pieces::hold_whole_blocks(grid) {
        let largest = absmax::Maximum::default();
        return of_tensor(machine, x, grid, Amax::OfTheRun(&largest), format);
    }
    let mut amax = vec![0.0; grid.num_blocks()];
    absmax::run(machine, x, grid, &mut amax);
    squared_error(machine, x, grid, &amax, format)
}

fn of_tensor(
    machine: &Machine,
    x: &TensorView,
    grid: &Grid,
    amax: Amax<'_>,
    format: Format,
) -> (f64, f64) {
    assert_eq!(grid.count(), x.count(), "grid of another shape");
    let (x, isa, block) = (*x, machine.isa(), grid.row().1);
    let [error, energy] = with_element!(x.dtype(), T => pieces::sum(machine, grid, |piece, memory| {
        memory.resize(2 * piece.len, 0.0);
        let (values, rounded) = memory.split_at_mut(piece.len);
        // SAFETY: the piece lies within the tensor (asserted), which nobody writes to (contract of
        // the view).
        let from = unsafe {
            std::slice::from_raw_parts(x.data().cast::<T>().add(piece.offset), piece.len)
        };
        isa.run(LoadLoop { from, values });
        // SAFETY: both hold `piece.len` values, apart.
        unsafe {
            round_piece(isa, values.as_ptr(), rounded.as_mut_ptr(), &piece, block, amax, format);
        }
        isa.run(SumLoop { values, rounded })
    }));
    (error, energy)
}

struct LoadLoop<'a, T> {
    from: &'a [T],
    values: &'a mut [f32],
}

impl<T: Element> Loop for LoadLoop<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        load(self.from, self.values);
    }
}

#[derive(Clone, Copy)]
struct Square;

impl Term for Square {
    #[inline(always)]
    fn of(self, x: f32) -> f32 {
        x * x
    }
}

/// The squared difference and the square of the values; the differences take the place of `rounded`.
struct SumLoop<'a> {
    values: &'a [f32],
    rounded: &'a mut [f32],
}

impl Loop for SumLoop<'_> {
    type Output = [f64; 2];
    #[inline(always)]
    fn run(self) -> [f64; 2] {
        for (y, x) in self.rounded.iter_mut().zip(self.values) {
            *y -= x;
        }
        let all = f64::INFINITY;
        [
            sum_up_to(self.rounded, Square, all),
            sum_up_to(self.values, Square, all),
        ]
    }
}
