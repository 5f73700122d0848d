//! The Gram matrix of rows, `XᵀX`, added to what is there: of all columns, or of blocks of columns.
//!
//! *Reducing*: an entry is within [`max_rel_err`] of `scalar`, the definition, and has the same bits for
//! every number of threads and every tile size, for a tile only decides who computes an entry. Bits differ
//! between CPUs with and without fused multiply-add (see `gemm`).

pub mod cuda;
mod matrix;
mod mirror;
mod scalar;
mod tile;

#[cfg(test)]
mod check;

use std::ops::Range;

use super::gemm::{self, K_CHUNK};
use super::machine::Machine;
pub use matrix::Gram;
use tile::{APART, TILE, Target, Tile};

/// Rows that [`accumulate`] copies at a time. Every so many rows the matrix is read and written once.
const SLAB: usize = 1024;

/// Columns that a task of [`accumulate_blocks`] should have at least.
const COLUMNS_PER_TASK: usize = 256;

/// Bound of an entry's error after one call with `count` rows, times the entry of `|X|ᵀ|X| + |gram|`,
/// `gram` being what was there.
///
/// An entry is one sum of `count` products of the kind that `gemm` bounds. Further calls only add their
/// chunks of 256 rows to it: a matrix that began as zeros and got `count` rows in each of c calls is
/// within `max_rel_err(count) + (c - 1) * ceil(count / 256) * u` of its `|X|ᵀ|X|`, u = 2^-24. Products
/// below the normal range of float32 lose more.
pub fn max_rel_err(count: usize) -> f64 {
    gemm::max_rel_err(count)
}

/// Bytes that [`accumulate`] allocates with `count` rows of `n` on `threads` threads: a copy of up to
/// 1024 rows, and the packing of a product for each thread.
pub fn workspace_bytes(threads: usize, count: usize, n: usize) -> usize {
    let copied = n.div_ceil(TILE) * SLAB.min(count) * APART * size_of::<f32>();
    copied + threads * gemm::workspace_bytes(TILE)
}

/// Bytes that [`accumulate_blocks`] allocates on `threads` threads: two copied chunks and the packing
/// of a product for each.
pub fn blocks_workspace_bytes(threads: usize) -> usize {
    threads * (2 * K_CHUNK * APART * size_of::<f32>() + gemm::workspace_bytes(TILE))
}

/// Adds `rowsᵀ rows` to the upper triangle of `gram`; `rows` is `[count, n]` and `gram` `[n, n]`, both
/// row-major.
///
/// Entries (i, j) with i <= j are valid after it, when they were before. Those below the diagonal are
/// unspecified: some near it are read and written too (at most 63 columns from it), all others are
/// left alone. [`mirror`] makes them valid.
pub fn accumulate(machine: &Machine, rows: &[f32], n: usize, gram: &mut [f32]) {
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
    let slab_rows = SLAB.min(rows.len() / n);
    let mut copies = vec![0.0f32; per_side * slab_rows * APART];
    for slab in rows.chunks(SLAB * n) {
        let count = slab.len() / n;
        let len = count * APART;
        copy_panels(machine, slab, n, &mut copies[..per_side * len]);
        machine.for_each(per_side * (per_side + 1) / 2, |task| {
            let (i, j) = upper(task, per_side);
            let (left, right) = (&copies[i * len..][..len], &copies[j * len..][..len]);
            // SAFETY: tiles of the upper triangle lie in the matrix and do not overlap.
            unsafe { tile(i, j, 0..n, 0).add(left, right, count, target) };
        });
    }
}

/// Copies every `TILE` columns of `rows` to a panel of their own.
fn copy_panels(machine: &Machine, rows: &[f32], n: usize, panels: &mut [f32]) {
    let count = rows.len() / n;
    let per_panel = count.div_ceil(K_CHUNK);
    let target = Target::new(panels, APART);
    machine.for_each(n.div_ceil(TILE) * per_panel, |task| {
        let (panel, first) = (task / per_panel, task % per_panel * K_CHUNK);
        let here = K_CHUNK.min(count - first);
        let columns = panel * TILE..((panel + 1) * TILE).min(n);
        // SAFETY: rows of one panel that no other task has; all panels have `count` rows.
        let to = unsafe {
            std::slice::from_raw_parts_mut(target.at(panel * count + first, 0), here * APART)
        };
        tile::copy(&rows[first * n..(first + here) * n], n, &columns, to);
    });
}

/// Copies the upper triangle of `gram`, which is `[n, n]`, to the lower: bit for bit symmetric after it.
pub fn mirror(machine: &Machine, n: usize, gram: &mut [f32]) {
    assert_eq!(gram.len(), n * n, "gram");
    mirror::run(machine, n, gram);
}

/// Adds the Gram matrix of every `block` columns of `rows` (`[count, n]`, row-major) to `out`: `[block,
/// block]` row-major for each block, one after the other.
///
/// Blocks are full and bit for bit symmetric after it, whatever their lower triangles were. The last
/// block may be short of columns: it still takes `block * block` floats with rows `block` apart, and the
/// rest of it stays as it was.
pub fn accumulate_blocks(machine: &Machine, rows: &[f32], n: usize, block: usize, out: &mut [f32]) {
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
    machine.for_each(blocks.div_ceil(per_task), |task| {
        let (mut left, mut right) = (vec![0.0; K_CHUNK * APART], Vec::new());
        for k in task * per_task..((task + 1) * per_task).min(blocks) {
            let columns = k * block..((k + 1) * block).min(n);
            let (target, width) = (target.below(k * block), columns.len());
            let per_side = width.div_ceil(TILE);
            for number in 0..per_side * (per_side + 1) / 2 {
                let (i, j) = upper(number, per_side);
                let tile = tile(i, j, columns.clone(), columns.start);
                // As `gemm` chunks them: entries are the same as for all rows at once.
                for chunk in rows.chunks(K_CHUNK * n) {
                    tile::copy(chunk, n, &tile.i, &mut left);
                    if i != j {
                        right.resize(left.len(), 0.0);
                        tile::copy(chunk, n, &tile.j, &mut right);
                    }
                    let right = if i == j { &left } else { &right };
                    // SAFETY: the block lies in `out` (asserted), and no other task has it.
                    unsafe { tile.add(&left, right, chunk.len() / n, target) };
                }
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
