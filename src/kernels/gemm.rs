//! One product of float32 matrices on the calling thread: the only door to `matrixmultiply`.
//!
//! *Reducing*: the bits depend on the CPU (fused multiply-add or not), and on nothing else. An entry of the
//! result is a sum over `k` in chunks of [`K_CHUNK`]: the products of a chunk are added one after the
//! other, starting from zero, and the chunk's sum is multiplied by `alpha` and added to the entry. That
//! order does not depend on where a tile begins, how large it is, or which thread computes it, as long as
//! `alpha` is a power of two, whose product is exact; `gram::check` and `quadratic` test it.

use std::mem::size_of;

/// Rows of `b` that are summed up before the sum is added to the result ("KC" of `matrixmultiply`).
pub(crate) const K_CHUNK: usize = 256;

/// Unit roundoff of float32: half the distance between 1 and the next number.
pub(crate) const UNIT_ROUNDOFF: f64 = f32::EPSILON as f64 / 2.0;

/// Bound of the relative error of a sum of `k` products, times `sum |a||b| + |c|`.
///
/// The first product of a chunk goes through one rounding of its own where there is no fused
/// multiply-add and at most [`K_CHUNK`] additions, then through one addition for every chunk: `d`
/// roundings in all. (1 + u)^d - 1 is below `d u` by less than a thousandth for d < 16000; the factor
/// is rounded up to cover it.
pub(crate) fn max_rel_err(k: usize) -> f64 {
    let roundings = K_CHUNK.min(k) + k.div_ceil(K_CHUNK) + 1;
    roundings as f64 * UNIT_ROUNDOFF * 1.001
}

/// Bytes that one product allocates while it runs, at most: a memory planner counts them once for every
/// thread. `columns` is the width of the widest result.
///
/// Both operands are packed: [`K_CHUNK`] times 64 rows of `a` ("MC") and up to 1024 columns of `b`
/// ("NC", rounded up to 16 columns of a kernel), and up to 64 bytes for alignment.
/// A thread also keeps about a kilobyte for good, for the edges.
pub(crate) const fn workspace_bytes(columns: usize) -> usize {
    let columns = if columns > 1024 { 1024 } else { columns };
    K_CHUNK * (64 + columns.next_multiple_of(16)) * size_of::<f32>() + 64
}

/// An operand: entry (i, j) is `values[i * row_stride + j * column_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Strided<'a> {
    /// From the first entry on.
    pub values: &'a [f32],
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Elements from one column to the next.
    pub column_stride: usize,
}

impl Strided<'_> {
    /// Rows for columns.
    pub fn transposed(self) -> Self {
        Self {
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    fn assert_holds(&self, rows: usize, columns: usize) {
        if rows > 0 && columns > 0 {
            let last = (rows - 1) * self.row_stride + (columns - 1) * self.column_stride;
            assert!(
                last < self.values.len(),
                "entry {last} of {}",
                self.values.len()
            );
        }
    }
}

/// `c = alpha a b + beta c` with `a` of `[m, k]`, `b` of `[k, n]` and `c` of `[m, n]`, whose rows are
/// `stride >= n` elements apart. With `beta` 0, what was in `c` does not matter.
///
/// # Safety
/// `c` is valid for these entries, and nobody else accesses them meanwhile.
pub(crate) unsafe fn run(
    [m, k, n]: [usize; 3],
    alpha: f32,
    a: Strided,
    b: Strided,
    beta: f32,
    c: *mut f32,
    stride: usize,
) {
    a.assert_holds(m, k);
    b.assert_holds(k, n);
    assert!(n <= stride || m <= 1, "{n} columns in {stride}");
    // SAFETY: all entries of the operands lie in their slices (asserted), those of `c` are ours
    // (contract) and apart (asserted); strides of slices fit an isize.
    unsafe {
        matrixmultiply::sgemm(
            m,
            k,
            n,
            alpha,
            a.values.as_ptr(),
            a.row_stride as isize,
            a.column_stride as isize,
            b.values.as_ptr(),
            b.row_stride as isize,
            b.column_stride as isize,
            beta,
            c,
            stride as isize,
            1,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_that_of_the_packed_operands() {
        assert_eq!(workspace_bytes(256), 256 * (64 + 256) * 4 + 64);
        assert_eq!(workspace_bytes(5000), 256 * (64 + 1024) * 4 + 64);
    }

    /// What `max_rel_err` rests on: a sum that is smaller than half a unit of the whole survives within a
    /// chunk only.
    #[test]
    fn sums_are_taken_in_chunks() {
        let tiny = f32::EPSILON / 2.0;
        let sum = |k: usize| {
            let (mut a, b) = (vec![tiny; k], vec![1.0f32; k]);
            a[0] = 1.0;
            let a = Strided {
                values: &a,
                row_stride: k,
                column_stride: 1,
            };
            let b = Strided {
                values: &b,
                row_stride: 1,
                column_stride: 1,
            };
            let mut c = 0.0f32;
            // SAFETY: one entry, ours.
            unsafe { run([1, k, 1], 1.0, a, b, 0.0, &mut c, 1) };
            c
        };
        assert_eq!(sum(K_CHUNK), 1.0);
        assert_eq!(
            sum(2 * K_CHUNK),
            1.0 + K_CHUNK as f32 * tiny,
            "a build with another MATMUL_SGEMM_KC needs another K_CHUNK"
        );
    }
}
