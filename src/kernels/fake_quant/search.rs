//! The amax that a block is best rounded under: of several candidates the one of least squared error.
//!
//! A block's elements are loaded once and stay in the core's cache while the candidates are tried. Most of
//! them end early: the sum of squares never falls, so a candidate is out once a part of its sum is above
//! the best, be it a stretch of elements or the largest of them alone. What is chosen, and its error,
//! are those of trying all of them in full.

use std::ops::Range;

use super::super::element::{Element, with_element};
use super::super::grid::{Grid, Runs};
use super::super::isa::Loop;
use super::super::machine::Machine;
use super::super::pieces::PIECE;
use super::error::{Term, load, sum_up_to};
use super::{Format, Fp8, Nvfp4Static, Rounding, search_cuda};
use crate::tensor::TensorView;

/// The amax values that are tried on a block.
#[derive(Debug, Clone, Copy)]
pub enum Candidates<'a> {
    /// The block's amax times each of the factors.
    Multiples {
        /// One for each block.
        amax: &'a [f32],
        /// What it is multiplied with.
        factors: &'a [f32],
    },
    /// These, the same for every block. Ascending ones are tried faster.
    Values(&'a [f32]),
}

impl Candidates<'_> {
    pub(super) fn count(self) -> usize {
        match self {
            Self::Multiples { factors, .. } => factors.len(),
            Self::Values(values) => values.len(),
        }
    }

    /// Writes the scales for a block.
    #[inline(always)]
    fn scales<R: Rounding>(self, block: usize, rounding: R, scales: &mut [R::Scale]) {
        match self {
            Self::Multiples { amax, factors } => {
                let amax = amax[block];
                for (scale, factor) in scales.iter_mut().zip(factors) {
                    *scale = rounding.scale(amax * factor);
                }
            }
            Self::Values(values) => {
                for (scale, amax) in scales.iter_mut().zip(values) {
                    *scale = rounding.scale(*amax);
                }
            }
        }
    }
}

/// What a block is best rounded under.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Best {
    /// The first candidate of least squared error; None when no error is finite.
    pub candidate: Option<u32>,
    /// Its squared error; infinity when there is none.
    pub error: f64,
}

impl Best {
    pub(super) const NONE: Self = Self {
        candidate: None,
        error: f64::INFINITY,
    };

    /// Takes a candidate that is better, or as good and earlier; a NaN is neither.
    #[inline(always)]
    pub(super) fn offer(&mut self, candidate: usize, error: f64) {
        let candidate = candidate as u32;
        let is_earlier = self.candidate.is_some_and(|best| candidate < best);
        if error < self.error || error == self.error && is_earlier {
            *self = Self {
                candidate: Some(candidate),
                error,
            };
        }
    }
}

/// Bytes that [`search`] and [`super::squared_error`] take at most.
pub fn search_workspace_bytes(grid: &Grid, candidates: usize, threads: usize) -> u64 {
    let blocks = grid.num_blocks();
    // Results by task, and one after the other; or the sums of the parts of large blocks.
    let parts = grid.longest_block().div_ceil(PIECE);
    let sums = match parts {
        0 | 1 => 0,
        _ => blocks * parts * (candidates * size_of::<f64>() + size_of::<Vec<f64>>()),
    };
    let results = 2 * blocks * size_of::<Best>() + sums;
    // A task's elements as float32, and rounded; its scales and errors.
    let a_thread = 2 * PIECE * size_of::<f32>() + candidates * 4 * size_of::<f64>();
    let pieces = grid.count().div_ceil(PIECE) + grid.rows();
    (results + threads * a_thread + pieces * 2 * size_of::<f64>()) as u64
}

/// Finds the best candidate for every block of `grid`, in float32 whatever the dtype, with the rounding
/// of [`super::run`].
///
/// `grid` was made for the shape of `x`, and the format is none that finds its own scales.
pub fn search(
    machine: &Machine,
    x: &TensorView,
    grid: &Grid,
    candidates: Candidates<'_>,
    format: Format,
) -> Vec<Best> {
    assert_eq!(grid.count(), x.count(), "grid of another shape");
    if let Candidates::Multiples { amax, .. } = candidates {
        assert_eq!(amax.len(), grid.num_blocks(), "amax values");
    }
    if let Some(gpu) = machine.gpu_of(x) {
        return search_cuda::run(gpu, x, grid, candidates, format).unwrap_or_else(|error| {
            gpu.note(Err(error));
            vec![Best::NONE; grid.num_blocks()]
        });
    }
    with_element!(x.dtype(), T => match format {
        Format::Int(rounding) => search_as::<T, _>(machine, x, grid, candidates, rounding),
        Format::E4m3 => search_as::<T, _>(machine, x, grid, candidates, Fp8),
        Format::Nvfp4Static { scale_amax } => {
            search_as::<T, _>(machine, x, grid, candidates, Nvfp4Static { scale_amax })
        }
        Format::Mx(_) | Format::Nvfp4 { .. } => panic!("{format:?} finds its own scales"),
    })
}

fn search_as<T: Element, R: Rounding>(
    machine: &Machine,
    x: &TensorView,
    grid: &Grid,
    candidates: Candidates<'_>,
    rounding: R,
) -> Vec<Best> {
    let (x, longest, blocks) = (*x, grid.longest_block(), grid.num_blocks());
    let work = |blocks: Range<usize>, first, len| Work::<T, R> {
        x: x.data().cast(),
        grid,
        candidates,
        rounding,
        blocks,
        first,
        values: vec![0.0; len],
        scales: vec![rounding.scale(0.0); candidates.count()],
    };
    if longest <= PIECE {
        let per_task = PIECE / longest.max(1);
        let found = machine.map(blocks.div_ceil(per_task), |task| {
            let range = task * per_task..((task + 1) * per_task).min(blocks);
            machine.isa().run(BlockLoop(work(range, 0, longest)))
        });
        return found.concat();
    }
    // Blocks too large for one task: their parts in any order, the sums in that of the elements.
    let parts = longest.div_ceil(PIECE);
    let sums = machine.map(blocks * parts, |task| {
        let (block, first) = (task / parts, task % parts * PIECE);
        let len = grid.block(block).count().saturating_sub(first).min(PIECE);
        machine
            .isa()
            .run(PartLoop(work(block..block + 1, first, len)))
    });
    let of_block = |sums: &[Vec<f64>]| {
        let mut best = Best::NONE;
        for candidate in 0..candidates.count() {
            best.offer(candidate, sums.iter().map(|part| part[candidate]).sum());
        }
        best
    };
    sums.chunks(parts).map(of_block).collect()
}

/// Some blocks, or a part of one, and memory for what is looked at.
struct Work<'a, T, R: Rounding> {
    x: *const T,
    grid: &'a Grid,
    candidates: Candidates<'a>,
    rounding: R,
    blocks: Range<usize>,
    /// First element of a part.
    first: usize,
    values: Vec<f32>,
    scales: Vec<R::Scale>,
}

/// The squared error of an element.
#[derive(Clone, Copy)]
struct Error<R: Rounding> {
    rounding: R,
    scale: R::Scale,
}

impl<R: Rounding> Term for Error<R> {
    #[inline(always)]
    fn of(self, x: f32) -> f32 {
        let error = self.rounding.apply(x, self.scale) - x;
        error * error
    }
}

impl<T: Element, R: Rounding> Work<'_, T, R> {
    /// Loads elements of a block from the `first` on, in the order of the block.
    #[inline(always)]
    fn load(&mut self, runs: &Runs, len: usize) {
        let mut done = 0;
        while done < len {
            let (run, start) = (
                (self.first + done) / runs.len(),
                (self.first + done) % runs.len(),
            );
            let count = (runs.len() - start).min(len - done);
            // SAFETY: the run lies within the tensor, for which the grid was made (asserted) and which
            // nobody writes to (contract of the view).
            let from =
                unsafe { std::slice::from_raw_parts(self.x.add(runs.offset(run) + start), count) };
            load(from, &mut self.values[done..done + count]);
            done += count;
        }
    }

    /// Where the best candidate is to be looked for first: the nearer, the sooner the others are out.
    #[inline(always)]
    fn likely(&self, peak: f32) -> usize {
        match self.candidates {
            Candidates::Multiples { factors, .. } => likely_factor(factors),
            Candidates::Values(values) => values.partition_point(|amax| *amax < peak.abs()),
        }
    }

    /// The best candidate for the first `len` values; `peaks` has room for a value for each candidate.
    #[inline(always)]
    fn best(&self, len: usize, peaks: &mut [f32]) -> Best {
        let values = &self.values[..len];
        let peak = largest(values);
        let rounding = self.rounding;
        for (error, &scale) in peaks.iter_mut().zip(&self.scales) {
            *error = Error { rounding, scale }.of(peak);
        }
        let mut best = Best::NONE;
        let likely = self.likely(peak).min(peaks.len());
        // From the likely one up, then from it down; one loop, for what is in it is large.
        for i in 0..peaks.len() {
            let candidate = match peaks.len() - likely {
                above if i < above => likely + i,
                _ => peaks.len() - 1 - i,
            };
            self.attempt(candidate, values, peaks, &mut best);
        }
        best
    }

    #[inline(always)]
    fn attempt(&self, candidate: usize, values: &[f32], peaks: &[f32], best: &mut Best) {
        // Not `<=`: what is NaN must not be left out here, but by its sum.
        if f64::from(peaks[candidate]) > best.error {
            return;
        }
        let (rounding, scale) = (self.rounding, self.scales[candidate]);
        let error = sum_up_to(values, Error { rounding, scale }, best.error);
        best.offer(candidate, error);
    }
}

/// Where the best factor is to be looked for first.
pub(super) fn likely_factor(factors: &[f32]) -> usize {
    factors.partition_point(|factor| *factor < 1.0)
}

/// A value of largest magnitude.
#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    let mut magnitude = 0;
    for value in values {
        magnitude = magnitude.max(value.magnitude());
    }
    let mut sign = 0;
    for value in values {
        // All that have the magnitude: a sign is enough to know one of them.
        let is_largest = value.magnitude() == magnitude;
        sign |= if is_largest {
            value.to_bits() & 0x8000_0000
        } else {
            0
        };
    }
    f32::from_bits(magnitude | sign)
}

/// The best candidate of every block.
struct BlockLoop<'a, T, R: Rounding>(Work<'a, T, R>);

impl<T: Element, R: Rounding> Loop for BlockLoop<'_, T, R> {
    type Output = Vec<Best>;
    #[inline(always)]
    fn run(self) -> Vec<Best> {
        let mut work = self.0;
        let mut peaks = vec![0.0; work.scales.len()];
        let mut found = Vec::with_capacity(work.blocks.len());
        let (grid, candidates, rounding) = (work.grid, work.candidates, work.rounding);
        candidates.scales(work.blocks.start, rounding, &mut work.scales);
        for block in work.blocks.clone() {
            let runs = grid.block(block);
            work.load(&runs, runs.count());
            if matches!(candidates, Candidates::Multiples { .. }) {
                candidates.scales(block, rounding, &mut work.scales);
            }
            found.push(work.best(runs.count(), &mut peaks));
        }
        found
    }
}

/// The squared error of a part of a block under every candidate.
struct PartLoop<'a, T, R: Rounding>(Work<'a, T, R>);

impl<T: Element, R: Rounding> Loop for PartLoop<'_, T, R> {
    type Output = Vec<f64>;
    #[inline(always)]
    fn run(self) -> Vec<f64> {
        let mut work = self.0;
        let (block, rounding) = (work.blocks.start, work.rounding);
        work.load(&work.grid.block(block), work.values.len());
        work.candidates.scales(block, rounding, &mut work.scales);
        let mut errors = vec![0.0; work.scales.len()];
        for (error, &scale) in errors.iter_mut().zip(&work.scales) {
            *error = sum_up_to(&work.values, Error { rounding, scale }, f64::INFINITY);
        }
        errors
    }
}
