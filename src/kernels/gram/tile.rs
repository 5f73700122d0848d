//! Tiles of a Gram matrix: full ones, and those on the diagonal, of which little more than the upper
//! triangle is computed.

use std::ops::Range;

use crate::kernels::gemm::{self, Strided};

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

/// Floats from one copied row to the next: 17 cache lines.
pub(super) const APART: usize = TILE + 16;

/// Copies `columns` (at most `TILE`) of every row of `rows`, which is `[count, n]`, to rows `APART` apart.
///
/// Tiles work on copies, for the rows of a wide matrix are each in a page of their own, and where they are
/// a multiple of 4096 bytes apart all fall into a few lines of a core's cache: reading 16 columns at a
/// time, as the product does, takes a fifth of the time then.
pub(super) fn copy(rows: &[f32], n: usize, columns: &Range<usize>, to: &mut [f32]) {
    for (to, row) in to.chunks_exact_mut(APART).zip(rows.chunks_exact(n)) {
        to[..columns.len()].copy_from_slice(&row[columns.clone()]);
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
    /// Adds the tile's products to `target`. `left` and `right` are the columns `i` and `j` of `count` rows,
    /// copied. Of a tile on the diagonal (`i` equals `j`) it adds the upper triangle, and what lies below
    /// it in squares of `STRIP` on the diagonal.
    ///
    /// # Safety
    /// The rectangle lies in the target, and nobody else accesses it meanwhile.
    pub unsafe fn add(&self, left: &[f32], right: &[f32], count: usize, target: Target) {
        let (height, width) = (self.i.len(), self.j.len());
        let strip = if self.i == self.j { STRIP } else { height };
        for top in (0..height).step_by(strip) {
            let from = if self.i == self.j { top } else { 0 };
            let sizes = [strip.min(height - top), count, width - from];
            let (left, right) = (operand(left, top).transposed(), operand(right, from));
            let to = target.at(self.row + top, self.column + from);
            // SAFETY: contract; a part of the rectangle.
            unsafe { gemm::run(sizes, 1.0, left, right, 1.0, to, target.stride) };
        }
    }
}

/// Copied columns from `first` on.
fn operand(copied: &[f32], first: usize) -> Strided<'_> {
    Strided {
        values: &copied[first..],
        row_stride: APART,
        column_stride: 1,
    }
}
