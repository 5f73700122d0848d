//! The largest magnitude of every block of a grid. NaN wins over everything, so that it is noticed.
//!
//! Magnitudes are compared as integers, whose order is the same: exact, and free of NaN rules.

pub(crate) mod cuda;

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::element::{Element, with_element};
use super::grid::Grid;
use super::isa::{Isa, Loop};
use super::machine::Machine;
use super::pieces::{self, Piece};
use crate::tensor::TensorView;

/// A running maximum of magnitudes that any thread may raise.
#[derive(Default)]
pub struct Maximum(AtomicU32);

impl Maximum {
    /// Raises it to `value`, which is not negative, or NaN.
    pub(crate) fn raise(&self, value: f32) {
        self.0.fetch_max(value.to_bits() & 0x7fff_ffff, Relaxed);
    }

    /// The maximum; 0 when nothing raised it.
    pub fn get(&self) -> f32 {
        f32::from_bits(self.0.load(Relaxed))
    }
}

/// The largest of some amax values; NaN when one is NaN.
pub fn largest(amax: &[f32]) -> f32 {
    f32::from_bits(magnitude(amax))
}

/// The largest magnitude of a whole tensor; NaN when there is a NaN.
pub fn of_tensor(machine: &Machine, x: &TensorView) -> f32 {
    let mut amax = [0.0];
    run(
        machine,
        x,
        &Grid::new(x.shape(), x.shape().dims()),
        &mut amax,
    );
    amax[0]
}

/// Writes the largest magnitude of every block of `x` to `amax`; `grid` was made for the shape of `x`.
pub fn run(machine: &Machine, x: &TensorView, grid: &Grid, amax: &mut [f32]) {
    assert_eq!(amax.len(), grid.num_blocks(), "amax values");
    assert_eq!(grid.count(), x.count(), "grid of another shape");
    if let Some(gpu) = machine.gpu_of(x) {
        return cuda::run(gpu, x, grid, amax);
    }
    amax.fill(0.0);
    let slots = Slots(amax.as_mut_ptr().cast::<u32>(), amax.len());
    let (n, block) = grid.row();
    let (x, isa, shared) = (*x, machine.isa(), !pieces::hold_whole_blocks(grid));
    if block == 1 && n > 1 {
        with_element!(x.dtype(), T => per_element::<T>(machine, &x, grid, &slots));
        return;
    }
    with_element!(x.dtype(), T => pieces::for_each(machine, grid, |piece| {
        // SAFETY: the piece lies within the tensor (asserted), which nobody writes to (contract of
        // the view).
        let values = unsafe {
            std::slice::from_raw_parts(x.data().cast::<T>().add(piece.offset), piece.len)
        };
        isa.run(PieceLoop { values, piece: &piece, block, shared, slots: &slots });
    }));
}

/// One amax for each index of the last axis: rows are combined element by element, a stretch of rows
/// per thread, and every stretch raises the shared result once.
fn per_element<T: Element>(machine: &Machine, x: &TensorView, grid: &Grid, slots: &Slots) {
    let ((n, _), rows, isa, x) = (grid.row(), grid.rows(), machine.isa(), *x);
    let tasks = machine.num_threads().min(rows.max(1));
    let per_task = rows.div_ceil(tasks);
    machine.for_each(tasks, |task| {
        let mut highest = vec![0u32; n];
        let mut block = None;
        let flush = |highest: &mut [u32], block: Option<usize>| {
            for (i, magnitude) in highest.iter_mut().enumerate() {
                if let Some(block) = block {
                    slots.raise(block + i, T::from_magnitude(*magnitude));
                }
                *magnitude = 0;
            }
        };
        for row in task * per_task..((task + 1) * per_task).min(rows) {
            let position = grid.first_block_of_row(row);
            if block != Some(position) {
                flush(&mut highest, block);
                block = Some(position);
            }
            // SAFETY: the row lies within the tensor, which nobody writes to (contract of the view).
            let values =
                unsafe { std::slice::from_raw_parts(x.data().cast::<T>().add(row * n), n) };
            isa.run(RaiseLoop(&mut highest, values));
        }
        flush(&mut highest, block);
    });
}

/// The result, written by all threads.
struct Slots(*mut u32, usize);

// SAFETY: the memory is only accessed atomically.
unsafe impl Sync for Slots {}

impl Slots {
    /// Writes what nobody else raises.
    #[inline(always)]
    fn set(&self, position: usize, value: f32) {
        assert!(position < self.1, "block {position} of {}", self.1);
        // SAFETY: in bounds; aligned as a float is; for the length of `run` all access is atomic.
        let slot = unsafe { AtomicU32::from_ptr(self.0.add(position)) };
        slot.store(value.to_bits(), Relaxed);
    }

    fn raise(&self, position: usize, value: f32) {
        assert!(position < self.1, "block {position} of {}", self.1);
        // SAFETY: in bounds; aligned as a float is; for the length of `run` all access is atomic.
        let slot = unsafe { AtomicU32::from_ptr(self.0.add(position)) };
        slot.fetch_max(value.to_bits(), Relaxed);
    }
}

/// The largest magnitude of `values`, as bits of `T`.
#[inline(always)]
pub(crate) fn magnitude<T: Element>(values: &[T]) -> u32 {
    values
        .iter()
        .fold(0, |highest, value| highest.max(value.magnitude()))
}

/// The largest magnitude of those `values` that are not NaN, as bits of `T`.
#[inline(always)]
pub(crate) fn magnitude_without_nan<T: Element>(values: &[T]) -> u32 {
    let all = magnitude(values);
    if all <= T::INFINITY {
        return all;
    }
    let numbers = values
        .iter()
        .map(|value| value.magnitude())
        .filter(|m| *m <= T::INFINITY);
    numbers.fold(0, u32::max)
}

struct PieceLoop<'a, T> {
    values: &'a [T],
    piece: &'a Piece,
    block: usize,
    /// Whether a block may have parts in other pieces too.
    shared: bool,
    slots: &'a Slots,
}

impl<T: Element> Loop for PieceLoop<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let done = match self.block {
            _ if self.shared => 0,
            16 => self.whole_blocks::<16>(),
            32 => self.whole_blocks::<32>(),
            64 => self.whole_blocks::<64>(),
            128 => self.whole_blocks::<128>(),
            _ => 0,
        };
        for (first, len, position) in pieces::runs_from(self.piece, self.block, done) {
            let magnitude = magnitude(&self.values[first..first + len]);
            self.slots.raise(position, T::from_magnitude(magnitude));
        }
    }
}

impl<T: Element> PieceLoop<'_, T> {
    /// The blocks of `B` elements that lie whole in the piece; returns how many elements that are.
    #[inline(always)]
    fn whole_blocks<const B: usize>(&self) -> usize {
        let first_block = self.piece.first_block + self.piece.start / B;
        let (blocks, _) = self.values.as_chunks::<B>();
        for (i, block) in blocks.iter().enumerate() {
            let magnitude = magnitude(block);
            self.slots
                .set(first_block + i, T::from_magnitude(magnitude));
        }
        blocks.len() * B
    }
}

struct RaiseLoop<'a, T>(&'a mut [u32], &'a [T]);

impl<T: Element> Loop for RaiseLoop<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        for (highest, value) in self.0.iter_mut().zip(self.1) {
            *highest = (*highest).max(value.magnitude());
        }
    }
}

/// Whether an element of `x` is below zero (minus zero is not).
pub fn any_negative(machine: &Machine, x: &TensorView) -> bool {
    if let Some(gpu) = machine.gpu_of(x) {
        return cuda::any_negative(gpu, x);
    }
    let found = Maximum::default();
    let grid = Grid::new(x.shape(), x.shape().dims());
    let (x, isa): (_, Isa) = (*x, machine.isa());
    with_element!(x.dtype(), T => pieces::for_each(machine, &grid, |piece| {
        // SAFETY: the piece lies within the tensor, which nobody writes to (contract of the view).
        let values = unsafe {
            std::slice::from_raw_parts(x.data().cast::<T>().add(piece.offset), piece.len)
        };
        if isa.run(NegativeLoop(values)) {
            found.raise(1.0);
        }
    }));
    found.get() > 0.0
}

struct NegativeLoop<'a, T>(&'a [T]);

impl<T: Element> Loop for NegativeLoop<'_, T> {
    type Output = bool;
    #[inline(always)]
    fn run(self) -> bool {
        self.0.iter().fold(false, |any, x| any | (x.load() < 0.0))
    }
}

/// The first element that is NaN or infinite: its flat position and value.
pub fn not_finite(machine: &Machine, x: &TensorView) -> Option<(usize, f32)> {
    if x.count() == 0 {
        return None;
    }
    if let Some(gpu) = machine.gpu_of(x) {
        return cuda::not_finite(gpu, x);
    }
    if of_tensor(machine, x).is_finite() {
        return None;
    }
    with_element!(x.dtype(), T => {
        // SAFETY: contract of the view; there are elements, so the address is not NULL.
        let values = unsafe { std::slice::from_raw_parts(x.data().cast::<T>(), x.count()) };
        let mut loaded = values.iter().map(|value| value.load()).enumerate();
        loaded.find(|(_, value)| !value.is_finite())
    })
}
