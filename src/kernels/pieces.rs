//! Cuts a grid into pieces of work: parts of rows that are whole blocks where blocks are small.

use super::grid::Grid;
use super::machine::Machine;

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

/// How the rows of a grid are cut: decided by the grid alone, not by the number of threads.
#[derive(Clone, Copy)]
struct Cut {
    /// Elements of a row.
    n: usize,
    /// Elements of a piece, the last of a row aside.
    step: usize,
    pieces_per_row: usize,
    pieces: usize,
    pieces_per_task: usize,
}

impl Cut {
    fn new(grid: &Grid) -> Self {
        let (n, b) = grid.row();
        // A piece holds whole blocks, unless a block alone is larger than a piece.
        let step = if b >= PIECE { PIECE } else { PIECE / b * b };
        let pieces_per_row = n.div_ceil(step);
        let one_row_suffices = n > step || n == 0;
        Self {
            n,
            step,
            pieces_per_row,
            pieces: grid.rows() * pieces_per_row,
            pieces_per_task: if one_row_suffices { 1 } else { PIECE / n },
        }
    }

    fn tasks(self) -> usize {
        self.pieces.div_ceil(self.pieces_per_task)
    }

    fn of_task(self, grid: &Grid, task: usize) -> impl Iterator<Item = Piece> {
        let first = task * self.pieces_per_task;
        (first..(first + self.pieces_per_task).min(self.pieces)).map(move |piece| {
            let row = piece / self.pieces_per_row;
            let start = piece % self.pieces_per_row * self.step;
            Piece {
                offset: row * self.n + start,
                len: self.step.min(self.n - start),
                start,
                first_block: grid.first_block_of_row(row),
            }
        })
    }
}

/// Runs `work` on every piece of `grid`, on all threads.
pub(crate) fn for_each(machine: &Machine, grid: &Grid, work: impl Fn(Piece) + Sync) {
    let cut = Cut::new(grid);
    machine.for_each(cut.tasks(), |task| cut.of_task(grid, task).for_each(&work));
}

/// Adds up what `work` finds in every piece of `grid`, on all threads, always in the same order. The
/// memory it is given is left from the piece before.
pub(crate) fn sum<const N: usize>(
    machine: &Machine,
    grid: &Grid,
    work: impl Fn(Piece, &mut Vec<f32>) -> [f64; N] + Sync,
) -> [f64; N] {
    let cut = Cut::new(grid);
    let add = |mut sum: [f64; N], found: [f64; N]| {
        for (sum, found) in sum.iter_mut().zip(found) {
            *sum += found;
        }
        sum
    };
    let sums = machine.map(cut.tasks(), |task| {
        let mut memory = Vec::new();
        let pieces = cut.of_task(grid, task);
        pieces.fold([0.0; N], |sum, piece| add(sum, work(piece, &mut memory)))
    });
    sums.into_iter().fold([0.0; N], add)
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
