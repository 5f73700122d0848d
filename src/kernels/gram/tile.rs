//! Tiles of a Gram matrix: full ones, and those on the diagonal, of which little more than the upper
//! triangle is computed.

use std::mem::size_of;
use std::ops::Range;

use crate::kernels::gemm::{self, K_CHUNK, Strided};

/// Largest height and width of a tile.
pub(super) const TILE: usize = 256;

/// Height of the strips that a tile on the diagonal is cut into: what is computed for nothing is the
/// lower triangle of a square of this size for each strip.
const STRIP: usize = 64;

/// The matrix that all tasks write to, each its own entries.
#[derive(Clone, Copy)]
pub(super) struct Target {
    data: *mut f32,
    stride: usize,
}

// SAFETY: an address; whoever writes through it promises that the entries are its own (contracts below).
unsafe impl Sync for Target {}
// SAFETY: as above.
unsafe impl Send for Target {}

impl Target {
    /// All of `memory`, in rows of `stride`.
    pub fn new(memory: &mut [f32], stride: usize) -> Self {
        Self {
            data: memory.as_mut_ptr(),
            stride,
        }
    }

    /// The matrix without its first `rows` rows.
    pub fn below(self, rows: usize) -> Self {
        Self {
            data: self.data.wrapping_add(rows * self.stride),
            ..self
        }
    }

    /// The address of an entry.
    pub fn at(self, row: usize, column: usize) -> *mut f32 {
        self.data.wrapping_add(row * self.stride + column)
    }
}

/// Columns of some rows, copied so that rows follow closely: what `gemm` packs is then read from a core's
/// own cache. Rows that are a multiple of 4096 bytes apart would all fall into a few lines of it, which
/// costs a tenth of the speed.
struct Columns(Vec<f32>);

/// Floats from one copied row to the next: 17 cache lines.
const APART: usize = TILE + 16;

impl Columns {
    fn new() -> Self {
        Self(vec![0.0; K_CHUNK * APART])
    }

    /// Copies `columns` (at most `TILE`) of `rows`, which has at most `K_CHUNK` rows of `n`.
    fn load(&mut self, rows: &[f32], n: usize, columns: &Range<usize>) {
        for (to, row) in self.0.chunks_exact_mut(APART).zip(rows.chunks_exact(n)) {
            to[..columns.len()].copy_from_slice(&row[columns.clone()]);
        }
    }

    /// The matrix from its column `first` on.
    fn right_of(&self, first: usize) -> Strided<'_> {
        Strided {
            values: &self.0[first..],
            row_stride: APART,
            column_stride: 1,
        }
    }
}

/// What a task needs beside its input: allocated once for each task.
pub(super) struct Scratch {
    left: Columns,
    right: Columns,
}

/// Bytes of a [`Scratch`].
pub(super) const SCRATCH_BYTES: usize = 2 * K_CHUNK * APART * size_of::<f32>();

impl Scratch {
    pub fn new() -> Self {
        Self {
            left: Columns::new(),
            right: Columns::new(),
        }
    }
}

/// A rectangle of a Gram matrix: columns `i` times columns `j` of the rows, at most `TILE` each.
pub(super) struct Tile {
    pub i: Range<usize>,
    pub j: Range<usize>,
    /// Where its first entry lies in the target.
    pub row: usize,
    pub column: usize,
}

impl Tile {
    /// Adds the tile's products to `target`; `rows` is `[count, n]` row-major. Of a tile on the diagonal
    /// (`i` equals `j`) the upper triangle, and what lies below it in squares of `STRIP` on the diagonal.
    ///
    /// # Safety
    /// The rectangle lies in the target, and nobody else accesses it meanwhile.
    pub unsafe fn add(&self, rows: &[f32], n: usize, target: Target, scratch: &mut Scratch) {
        // As `gemm` chunks them: entries are the same as for all rows at once.
        for chunk in rows.chunks(K_CHUNK * n) {
            let (count, width) = (chunk.len() / n, self.j.len());
            scratch.left.load(chunk, n, &self.i);
            if self.i != self.j {
                scratch.right.load(chunk, n, &self.j);
                let (left, right) = (
                    scratch.left.right_of(0).transposed(),
                    scratch.right.right_of(0),
                );
                let to = target.at(self.row, self.column);
                let sizes = [self.i.len(), count, width];
                // SAFETY: contract.
                unsafe { gemm::run(sizes, 1.0, left, right, 1.0, to, target.stride) };
                continue;
            }
            for from in (0..width).step_by(STRIP) {
                let right = scratch.left.right_of(from);
                let to = target.at(self.row + from, self.column + from);
                let sizes = [STRIP.min(width - from), count, width - from];
                let left = right.transposed();
                // SAFETY: contract; a strip of the square from the diagonal on.
                unsafe { gemm::run(sizes, 1.0, left, right, 1.0, to, target.stride) };
            }
        }
    }
}
