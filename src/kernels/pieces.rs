//! Cuts a grid into pieces of work: parts of rows that are whole blocks where blocks are small.

use super::cpu::Cpu;
use super::grid::Grid;

/// Elements per piece: large enough to be worth a task, small enough to stay in a core's cache.
pub(crate) const PIECE: usize = 32 * 1024;

/// Part of one row of a grid.
pub(crate) struct Piece {
    /// Flat position of its first element.
    pub offset: usize,
    /// Number of elements.
    pub len: usize,
    /// Index within the row of its first element.
    pub start: usize,
    /// Position of the row's first amax.
    pub first_block: usize,
}

/// Runs `work` on every piece of `grid`, on all threads.
pub(crate) fn for_each(cpu: &Cpu, grid: &Grid, work: impl Fn(Piece) + Sync) {
    let (n, b) = grid.row();
    let rows = grid.rows();
    if n == 0 || rows == 0 {
        return;
    }
    // A piece holds whole blocks, unless a block alone is larger than a piece.
    let step = if b >= PIECE { PIECE } else { PIECE / b * b };
    if n > step {
        let per_row = n.div_ceil(step);
        cpu.for_each(rows * per_row, |task| {
            let (row, start) = (task / per_row, task % per_row * step);
            work(Piece {
                offset: row * n + start,
                len: step.min(n - start),
                start,
                first_block: grid.first_block_of_row(row),
            });
        });
    } else {
        let per_task = (PIECE / n).max(1);
        cpu.for_each(rows.div_ceil(per_task), |task| {
            for row in task * per_task..((task + 1) * per_task).min(rows) {
                work(Piece {
                    offset: row * n,
                    len: n,
                    start: 0,
                    first_block: grid.first_block_of_row(row),
                });
            }
        });
    }
}

/// Whether every block lies within one piece.
pub(crate) fn hold_whole_blocks(grid: &Grid) -> bool {
    let (n, b) = grid.row();
    grid.blocks_stay_in_rows() && (b < PIECE || n <= PIECE)
}

/// The runs of a piece that share an amax: `(first, length, position of the amax)`, `first` counted
/// from the piece's beginning.
#[inline(always)]
pub(crate) fn runs(piece: &Piece, block: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    runs_from(piece, block, 0)
}

/// [`runs`] without the first `done` elements.
#[inline(always)]
pub(crate) fn runs_from(
    piece: &Piece,
    block: usize,
    mut done: usize,
) -> impl Iterator<Item = (usize, usize, usize)> {
    let (start, len, first_block) = (piece.start, piece.len, piece.first_block);
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = start + done;
        let run = (block - at % block).min(len - done);
        let item = (done, run, first_block + at / block);
        done += run;
        Some(item)
    })
}
