//! The Gram matrix of rows, `XᵀX`, added to what is there: of all columns, or of blocks of columns.
//!
//! *Reducing*: an entry is within [`max_rel_err`] of `scalar`, the definition, and has the same bits for
//! every number of threads and every tile size, for a tile only decides who computes an entry. Bits differ
//! between CPUs with and without fused multiply-add (see `gemm`).

mod mirror;
mod scalar;
mod tile;

#[cfg(test)]
mod check;

use std::ops::Range;

use super::cpu::Cpu;
use super::gemm;
use tile::{SCRATCH_BYTES, Scratch, TILE, Target, Tile};

/// Columns that a task of [`accumulate_blocks`] should have at least.
const COLUMNS_PER_TASK: usize = 256;

/// Bound of an entry's error after one call with `count` rows, times the entry of `|X|ᵀ|X| + |gram|`,
/// `gram` being what was there. Calls add up: a matrix that began as zeros and got `count` rows each in
/// `c` calls is within `max_rel_err(count) + (c - 1) u` of its `|X|ᵀ|X|`.
///
/// An entry is one sum of `count` products of the kind that `gemm` bounds.
pub fn max_rel_err(count: usize) -> f64 {
    gemm::max_rel_err(count)
}

/// Bytes that every thread allocates during [`accumulate`] or [`accumulate_blocks`].
pub const fn workspace_bytes() -> usize {
    gemm::workspace_bytes(TILE) + SCRATCH_BYTES
}

/// Adds `rowsᵀ rows` to the upper triangle of `gram`; `rows` is `[count, n]` and `gram` `[n, n]`, both
/// row-major.
///
/// Entries (i, j) with i <= j are valid after it, when they were before. Those below the diagonal are
/// unspecified: some near it are read and written too (at most 63 columns from it), all others are
/// left alone. [`mirror`] makes them valid.
pub fn accumulate(cpu: &Cpu, rows: &[f32], n: usize, gram: &mut [f32]) {
    assert_eq!(gram.len(), n * n, "gram");
    if n == 0 {
        assert!(rows.is_empty(), "rows without columns");
        return;
    }
    assert!(rows.len().is_multiple_of(n), "rows of {n}");
    if rows.is_empty() {
        return;
    }
    let target = Target::new(gram, n);
    let per_side = n.div_ceil(TILE);
    cpu.for_each(per_side * (per_side + 1) / 2, |task| {
        let (i, j) = upper(task, per_side);
        let tile = tile(i, j, 0..n, 0);
        // SAFETY: tiles of the upper triangle lie in the matrix and do not overlap.
        unsafe { tile.add(rows, n, target, &mut Scratch::new()) };
    });
}

/// Copies the upper triangle of `gram`, which is `[n, n]`, to the lower: bit for bit symmetric after it.
pub fn mirror(cpu: &Cpu, n: usize, gram: &mut [f32]) {
    assert_eq!(gram.len(), n * n, "gram");
    mirror::run(cpu, n, gram);
}

/// Adds the Gram matrix of every `block` columns of `rows` (`[count, n]`, row-major) to `out`: `[block,
/// block]` row-major for each block, one after the other.
///
/// Blocks are full and bit for bit symmetric after it, whatever their lower triangles were. The last
/// block may be short of columns: it still takes `block * block` floats with rows `block` apart, and the
/// rest of it stays as it was.
pub fn accumulate_blocks(cpu: &Cpu, rows: &[f32], n: usize, block: usize, out: &mut [f32]) {
    assert!(block > 0, "blocks without columns");
    assert_eq!(out.len(), n.div_ceil(block) * block * block, "blocks");
    if n == 0 {
        assert!(rows.is_empty(), "rows without columns");
        return;
    }
    assert!(rows.len().is_multiple_of(n), "rows of {n}");
    if rows.is_empty() {
        return;
    }
    let blocks = n.div_ceil(block);
    let per_task = COLUMNS_PER_TASK.div_ceil(block);
    let target = Target::new(out, block);
    cpu.for_each(blocks.div_ceil(per_task), |task| {
        let mut scratch = Scratch::new();
        for k in task * per_task..((task + 1) * per_task).min(blocks) {
            let columns = k * block..((k + 1) * block).min(n);
            let (target, width) = (target.below(k * block), columns.len());
            let per_side = width.div_ceil(TILE);
            for number in 0..per_side * (per_side + 1) / 2 {
                let (i, j) = upper(number, per_side);
                let tile = tile(i, j, columns.clone(), columns.start);
                // SAFETY: the block lies in `out` (asserted), and no other task has it.
                unsafe { tile.add(rows, n, target, &mut scratch) };
            }
            // SAFETY: as above.
            unsafe { mirror::square(target, width) };
        }
    });
}

/// The tile in row i and column j of the tiles of `columns`, in a target whose first row and column are
/// `origin`.
fn tile(i: usize, j: usize, columns: Range<usize>, origin: usize) -> Tile {
    let span = |k: usize| {
        let start = columns.start + k * TILE;
        start..(start + TILE).min(columns.end)
    };
    Tile {
        i: span(i),
        j: span(j),
        row: span(i).start - origin,
        column: span(j).start - origin,
    }
}

/// Row and column of the tile number `task` of the upper triangle, counted row by row.
fn upper(mut task: usize, per_side: usize) -> (usize, usize) {
    let mut row = 0;
    while task >= per_side - row {
        task -= per_side - row;
        row += 1;
    }
    (row, row + task)
}
