//! Copies the upper triangle of a square matrix to the lower, tile by tile.

use std::ops::Range;

use super::tile::Target;
use crate::kernels::machine::Machine;

/// Side of the tiles that are transposed: two of them lie in a core's first cache.
const SIDE: usize = 32;

/// The whole of `gram`, `[n, n]`; a task has the rows of one tile below the diagonal.
pub(super) fn run(machine: &Machine, n: usize, gram: &mut [f32]) {
    let target = Target::new(gram, n);
    let tasks = n.div_ceil(SIDE);
    machine.for_each(tasks, |task| {
        // The last rows have most to copy, and go first.
        let i = tasks - 1 - task;
        // SAFETY: rows of the matrix. Entries below the diagonal are written by one task each, those
        // above are only read.
        unsafe { lower_rows(target, i * SIDE..((i + 1) * SIDE).min(n)) };
    });
}

/// The first `width` rows and columns of `target`.
///
/// # Safety
/// They lie in the target, and nobody else accesses them meanwhile.
pub(super) unsafe fn square(target: Target, width: usize) {
    for start in (0..width).step_by(SIDE) {
        // SAFETY: contract.
        unsafe { lower_rows(target, start..(start + SIDE).min(width)) };
    }
}

/// The entries of `rows` below the diagonal.
///
/// # Safety
/// They and those they are copied from lie in the target; nobody else writes them or accesses those
/// below the diagonal.
unsafe fn lower_rows(target: Target, rows: Range<usize>) {
    for start in (0..rows.end).step_by(SIDE) {
        for i in rows.clone() {
            for j in start..(start + SIDE).min(i) {
                // SAFETY: contract; j < i.
                unsafe { *target.at(i, j) = *target.at(j, i) };
            }
        }
    }
}
