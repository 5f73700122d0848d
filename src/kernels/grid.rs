//! Which amax belongs to which element: one rule for per tensor, per axis and blocks in any axes.
//!
//! Every dimension of extent `n` is cut into blocks of `b` indices, the last of which may be short: `b
//! = n` shares one amax along the dimension, `b = 1` keeps one for each index. The amax of an
//! element is the one at the row-major position of its block.

use crate::tensor::{MAX_RANK, Shape};

/// Blocks of a shape.
#[derive(Debug, Clone, Copy)]
pub struct Grid {
    /// Extent and block of each dimension, with neighbours merged where that changes nothing: per
    /// tensor, per axis 0, and blocks that divide the last axis all end as one dimension.
    dims: [(usize, usize); MAX_RANK],
    rank: usize,
}

impl Grid {
    /// Cuts `shape` into blocks: one size, at least 1, for each dimension.
    pub fn new(shape: &Shape, blocks: &[usize]) -> Self {
        debug_assert_eq!(shape.dims().len(), blocks.len());
        let mut grid = Self {
            dims: [(1, 1); MAX_RANK],
            rank: 0,
        };
        for (&n, &b) in shape.dims().iter().zip(blocks) {
            let b = b.clamp(1, n.max(1));
            match grid.rank.checked_sub(1).map(|last| grid.dims[last]) {
                Some(outer) if mergeable(outer, (n, b)) => {
                    grid.dims[grid.rank - 1] = merged(outer, (n, b));
                }
                _ => {
                    grid.dims[grid.rank] = (n, b);
                    grid.rank += 1;
                }
            }
        }
        if grid.rank == 0 {
            grid.rank = 1;
        }
        grid
    }

    /// So many elements in one block.
    pub(crate) fn of_one_block(count: usize) -> Self {
        let mut dims = [(1, 1); MAX_RANK];
        dims[0] = (count, count.max(1));
        Self { dims, rank: 1 }
    }

    /// Number of amax values.
    pub fn num_blocks(&self) -> usize {
        self.dims().iter().map(|(n, b)| n.div_ceil(*b)).product()
    }

    /// Number of elements.
    pub fn count(&self) -> usize {
        self.dims().iter().map(|(n, _)| n).product()
    }

    /// Extent and block of each merged dimension.
    pub(crate) fn dims(&self) -> &[(usize, usize)] {
        &self.dims[..self.rank]
    }

    /// Extent and block of the innermost dimension.
    pub(crate) fn row(&self) -> (usize, usize) {
        self.dims[self.rank - 1]
    }

    /// Number of rows: everything but the innermost dimension.
    pub(crate) fn rows(&self) -> usize {
        self.dims[..self.rank - 1].iter().map(|(n, _)| n).product()
    }

    /// Whether no block spans more than one row.
    pub(crate) fn blocks_stay_in_rows(&self) -> bool {
        self.dims[..self.rank - 1].iter().all(|(_, b)| *b == 1)
    }

    /// Number of elements of a block that is not cut short.
    pub(crate) fn longest_block(&self) -> usize {
        self.dims().iter().map(|(_, b)| b).product()
    }

    /// The elements of the block at a position.
    pub(crate) fn block(&self, position: usize) -> Runs {
        let (mut rest, mut stride) = (position, 1);
        let mut runs = Runs {
            first: 0,
            len: 0,
            outer: [(0, 0); MAX_RANK],
            rank: self.rank - 1,
        };
        for (dim, &(n, b)) in self.dims().iter().enumerate().rev() {
            let start = rest % n.div_ceil(b) * b;
            rest /= n.div_ceil(b);
            runs.first += start * stride;
            match runs.outer[..runs.rank].get_mut(dim) {
                Some(outer) => *outer = (b.min(n - start), stride),
                None => runs.len = b.min(n - start),
            }
            stride *= n;
        }
        runs
    }

    /// Position of the first amax of a row.
    pub(crate) fn first_block_of_row(&self, row: usize) -> usize {
        let (n, b) = self.row();
        let (mut rest, mut stride, mut position) = (row, n.div_ceil(b), 0);
        for &(n, b) in self.dims[..self.rank - 1].iter().rev() {
            position += (rest % n) / b * stride;
            rest /= n;
            stride *= n.div_ceil(b);
        }
        position
    }
}

/// One block as runs of elements that lie side by side.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Runs {
    first: usize,
    len: usize,
    /// Extent of the block and distance of its indices in every dimension but the innermost.
    outer: [(usize, usize); MAX_RANK],
    rank: usize,
}

impl Runs {
    /// Number of elements.
    pub(crate) fn count(&self) -> usize {
        let runs: usize = self.outer[..self.rank].iter().map(|(n, _)| n).product();
        runs * self.len
    }

    /// Elements in a run.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Calls `f` with the flat position of the first element of every run, in order.
    pub(crate) fn for_each(&self, mut f: impl FnMut(usize)) {
        let (mut index, mut offset) = ([0; MAX_RANK], self.first);
        loop {
            f(offset);
            let mut dim = self.rank;
            loop {
                let Some(inner) = dim.checked_sub(1) else {
                    return;
                };
                dim = inner;
                let (n, stride) = self.outer[dim];
                (index[dim], offset) = (index[dim] + 1, offset + stride);
                if index[dim] < n {
                    break;
                }
                (index[dim], offset) = (0, offset - n * stride);
            }
        }
    }

    /// Flat position of the first element of run `i`.
    pub(crate) fn offset(&self, i: usize) -> usize {
        let (mut rest, mut offset) = (i, self.first);
        for (n, stride) in self.outer[..self.rank].iter().rev() {
            offset += rest % n * stride;
            rest /= n;
        }
        offset
    }
}

/// Whether an outer dimension and the one inside it can be seen as one.
fn mergeable((outer_n, outer_b): (usize, usize), (n, b): (usize, usize)) -> bool {
    outer_n == 1 || n == 1 || b == n || (outer_b == 1 && n.is_multiple_of(b))
}

fn merged((outer_n, outer_b): (usize, usize), (n, b): (usize, usize)) -> (usize, usize) {
    if outer_n == 1 {
        (n, b)
    } else if n == 1 {
        (outer_n, outer_b)
    } else if b == n {
        // One block spans `outer_b` whole inner rows.
        (outer_n * n, outer_b * n)
    } else {
        (outer_n * n, b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn grid(shape: &[usize], blocks: &[usize]) -> Grid {
        Grid::new(&Shape::new(shape).expect("small"), blocks)
    }

    #[test]
    fn common_granularities_become_one_dimension() {
        assert_eq!(grid(&[3, 4, 5], &[3, 4, 5]).dims(), [(60, 60)]);
        assert_eq!(grid(&[3, 4, 5], &[1, 4, 5]).dims(), [(60, 20)]);
        assert_eq!(grid(&[3, 64], &[1, 16]).dims(), [(192, 16)]);
        assert_eq!(grid(&[3, 50], &[1, 16]).dims(), [(3, 1), (50, 16)]);
        assert_eq!(grid(&[3, 4, 5], &[3, 4, 1]).dims(), [(12, 12), (5, 1)]);
        assert_eq!(grid(&[], &[]).dims(), [(1, 1)]);
    }

    proptest! {
        /// The merged grid gives every element the amax that the definition gives it.
        #[test]
        fn merging_changes_no_position(
            dims in prop::collection::vec((1usize..7, 1usize..8), 0..5)
        ) {
            let (shape, blocks): (Vec<_>, Vec<_>) = dims.iter().copied().unzip();
            let grid = grid(&shape, &blocks);
            let count: usize = shape.iter().product();
            prop_assert_eq!(grid.count(), count);
            let (n, b) = grid.row();
            for flat in 0..count {
                let (mut rest, mut stride, mut expected) = (flat, 1, 0);
                for (&extent, &block) in shape.iter().zip(&blocks).rev() {
                    let block = block.min(extent);
                    expected += (rest % extent) / block * stride;
                    rest /= extent;
                    stride *= extent.div_ceil(block);
                }
                prop_assert_eq!(grid.first_block_of_row(flat / n) + flat % n / b, expected);
                prop_assert!(expected < grid.num_blocks());
            }
            // The other way round: blocks list their elements, in order, every one once.
            let mut listed = 0;
            for position in 0..grid.num_blocks() {
                let runs = grid.block(position);
                prop_assert!(runs.count() <= grid.longest_block());
                let mut offsets = Vec::new();
                runs.for_each(|offset| offsets.push(offset));
                let looked_up: Vec<usize> = (0..runs.count() / runs.len()).map(|i| runs.offset(i)).collect();
                prop_assert_eq!(offsets, looked_up);
                for run in 0..runs.count() / runs.len() {
                    for flat in runs.offset(run)..runs.offset(run) + runs.len() {
                        prop_assert_eq!(grid.first_block_of_row(flat / n) + flat % n / b, position);
                        listed += 1;
                    }
                }
            }
            prop_assert_eq!(listed, count);
        }
    }
}
