//! The error of weights under a Gram matrix: `δ G δᵀ` for every row δ.
//!
//! With `T` the upper triangle of G, doubled above the diagonal, it is `(δ T) · δ`: half the products of a
//! full one, and nothing below the diagonal is read. Columns come in panels, `δ T` in float32, and its
//! product with δ in float64.
//!
//! *Reducing*: within [`max_rel_err`] of the sum in float64. A row's bits depend neither on the rows beside
//! it nor on the thread. G is positive semidefinite in exact arithmetic, but a result may be negative
//! within that bound: it is not clamped, so that differences of results keep their meaning.

pub mod cuda;
pub(crate) mod rows_cuda;

use super::gemm::{self, K_CHUNK, Strided};

/// Columns for which `δ T` is held at a time, and rows of T that are multiplied at a time.
const PANEL: usize = K_CHUNK;

/// Floats from one copied row to the next: 17 cache lines. Rows that are a multiple of 4096 bytes apart
/// would all fall into a few lines of a core's cache, which costs a tenth of the speed.
const APART: usize = PANEL + 16;

/// Columns of a panel on the diagonal that are multiplied at a time, down to the diagonal.
const STEP: usize = 64;

/// Bound of an error for `n` columns, times `|δ| |G| |δ|ᵀ`.
///
/// A value of `δ T` is a sum of up to n products in chunks as `gemm` bounds it; doubling is exact. Its
/// product with δ is exact in float64, whose roundings all together are less than one of float32.
pub fn max_rel_err(n: usize) -> f64 {
    gemm::max_rel_err(n) + gemm::UNIT_ROUNDOFF
}

/// Floats of scratch for `m` rows of `n` columns: a square of T, and for every row a piece of δ and of
/// `δ T`.
pub const fn scratch_len(n: usize, m: usize) -> usize {
    let panel = if n < PANEL { n } else { PANEL };
    (panel + 2 * m) * APART
}

/// Bytes that [`rows`] and [`block_rows`] allocate while they run, for packing; per thread.
pub const fn gemm_workspace_bytes() -> usize {
    gemm::workspace_bytes(PANEL)
}

/// `out[i] = δ_i G δ_iᵀ` for the rows of `deltas` (`[out.len(), n]`, row-major) and `gram` (`[n, n]`,
/// row-major), of which entries (i, j) with i <= j are read.
///
/// On the calling thread: call it in a task, with about 256 rows. `scratch` has
/// `scratch_len(n, out.len())` floats or more.
pub fn rows(gram: &[f32], n: usize, deltas: &[f32], scratch: &mut [f32], out: &mut [f64]) {
    assert_eq!(gram.len(), n * n, "gram");
    assert_eq!(deltas.len(), n * out.len(), "deltas");
    let form = Form {
        gram,
        stride: n,
        width: n,
    };
    form.apply(deltas, n, scratch, out);
}

/// The same for one block of columns: `gram` is a block as `gram::accumulate_blocks` leaves it, with rows
/// `ld` apart, of which `width <= ld` rows and columns count; row i of `deltas` begins at `i * stride` and
/// has `width` values. `out` has a value for each of `m` rows, `scratch` has `scratch_len(width, m)`
/// floats or more.
#[allow(
    clippy::too_many_arguments,
    reason = "two strided matrices and two buffers"
)]
pub fn block_rows(
    gram: &[f32],
    ld: usize,
    width: usize,
    deltas: &[f32],
    stride: usize,
    m: usize,
    scratch: &mut [f32],
    out: &mut [f64],
) {
    assert!(width <= ld, "{width} columns in {ld}");
    assert!(width <= stride || m <= 1, "rows of {width} every {stride}");
    assert_eq!(out.len(), m, "out");
    let form = Form {
        gram,
        stride: ld,
        width,
    };
    form.apply(deltas, stride, scratch, out);
}

/// A matrix of `[width, width]` of which the upper triangle counts.
struct Form<'a> {
    gram: &'a [f32],
    /// Elements from one row to the next.
    stride: usize,
    width: usize,
}

impl Form<'_> {
    fn apply(&self, deltas: &[f32], stride: usize, scratch: &mut [f32], out: &mut [f64]) {
        out.fill(0.0);
        let m = out.len();
        if self.width == 0 || m == 0 {
            return;
        }
        let (square, rows) = scratch.split_at_mut(PANEL.min(self.width) * APART);
        let (piece, rows) = rows.split_at_mut(m * APART);
        let product = &mut rows[..m * APART];
        for first in (0..self.width).step_by(PANEL) {
            let columns = PANEL.min(self.width - first);
            product.fill(0.0);
            for above in (0..=first).step_by(PANEL) {
                let height = PANEL.min(self.width - above);
                for (i, to) in piece.chunks_exact_mut(APART).enumerate() {
                    let start = i * stride + above;
                    to[..height].copy_from_slice(&deltas[start..start + height]);
                }
                self.copy(above, first, [height, columns], square);
                if above < first {
                    add([height, 0, columns], 2.0, piece, square, product);
                    continue;
                }
                for from in (0..columns).step_by(STEP) {
                    let width = STEP.min(columns - from);
                    add([from + width, from, width], 1.0, piece, square, product);
                }
            }
            // `piece` is now that of the panel's own columns.
            let pairs = product.chunks_exact(APART).zip(piece.chunks_exact(APART));
            for (out, (product, delta)) in out.iter_mut().zip(pairs) {
                *out += dot(&product[..columns], &delta[..columns]);
            }
        }
    }

    /// Copies entries from (`row`, `column`) on: as they are, or the triangle T when it is on the
    /// diagonal.
    fn copy(&self, row: usize, column: usize, [height, width]: [usize; 2], to: &mut [f32]) {
        for (i, to) in to.chunks_exact_mut(APART).take(height).enumerate() {
            let start = (row + i) * self.stride + column;
            let (from, to) = (&self.gram[start..start + width], &mut to[..width]);
            if row < column {
                to.copy_from_slice(from);
                continue;
            }
            to[..i].fill(0.0);
            to[i] = from[i];
            for (to, from) in to[i + 1..].iter_mut().zip(&from[i + 1..]) {
                *to = 2.0 * from;
            }
        }
    }
}

/// `product[:, from..from + width] += alpha piece[:, ..k] square[..k, from..from + width]`; all three have
/// rows `APART` apart.
fn add(
    [k, from, width]: [usize; 3],
    alpha: f32,
    piece: &[f32],
    square: &[f32],
    product: &mut [f32],
) {
    assert!(from + width <= PANEL, "columns of the panel");
    let operand = |values| Strided {
        values,
        row_stride: APART,
        column_stride: 1,
    };
    let (m, product) = (product.len() / APART, product.as_mut_ptr());
    let (a, b) = (operand(piece), operand(&square[from..]));
    // SAFETY: m rows, of which these columns are written (asserted); they are borrowed mutably.
    unsafe { gemm::run([m, k, width], alpha, a, b, 1.0, product.add(from), APART) };
}

/// Sum of products in float64, which are exact, in eight sums side by side that are added in order.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0.0f64; 8];
    let (a_blocks, a_rest) = a.as_chunks::<8>();
    let (b_blocks, b_rest) = b.as_chunks::<8>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += f64::from(*a) * f64::from(*b);
        }
    }
    let rest = a_rest.iter().zip(b_rest);
    let rest: f64 = rest.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noise(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed | 1;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        };
        (0..len).map(next).collect()
    }

    /// The definition from the upper triangle, and the same of magnitudes.
    fn defined(gram: &[f32], ld: usize, delta: &[f32]) -> (f64, f64) {
        let (mut sum, mut magnitude) = (0.0, 0.0);
        for (i, left) in delta.iter().enumerate() {
            for (j, right) in delta.iter().enumerate() {
                let entry = f64::from(gram[i.min(j) * ld + i.max(j)]);
                let term = f64::from(*left) * entry * f64::from(*right);
                sum += term;
                magnitude += term.abs();
            }
        }
        (sum, magnitude)
    }

    #[test]
    fn rows_are_within_the_bound_and_do_not_depend_on_each_other() {
        for n in [1, 2, 63, 64, 65, 130, 255, 256, 257, 600] {
            let m = if n > 300 { 5 } else { 19 };
            let mut gram = noise(n * n, 11);
            // What is below the diagonal must not matter.
            (0..n).for_each(|i| gram[i * n..i * n + i].fill(f32::NAN));
            let deltas = noise(m * n, 12);
            let mut scratch = vec![f32::NAN; scratch_len(n, m)];
            let mut out = vec![f64::NAN; m];
            rows(&gram, n, &deltas, &mut scratch, &mut out);
            for (i, got) in out.iter().enumerate() {
                let delta = &deltas[i * n..(i + 1) * n];
                let (want, magnitude) = defined(&gram, n, delta);
                let limit = max_rel_err(n) * magnitude;
                assert!((got - want).abs() <= limit, "{n}: {got} {want} {limit}");
                let mut alone = [0.0];
                rows(&gram, n, delta, &mut scratch, &mut alone);
                assert_eq!(alone[0].to_bits(), got.to_bits(), "row {i} of {n}");
            }
        }
    }

    #[test]
    fn nothing_is_zero() {
        rows(&[1.0], 1, &[], &mut [], &mut []);
        let mut out = [5.0; 2];
        rows(&[], 0, &[], &mut [], &mut out);
        assert_eq!(out, [0.0; 2]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn blocks_are_within_the_bound(
            width in 1usize..140, more in 0usize..9, apart in 0usize..9, m in 1usize..9, seed: u32
        ) {
            let (ld, stride) = (width + more, width + apart);
            let gram = noise(ld * width, seed);
            let deltas = noise((m - 1) * stride + width, !seed);
            let mut scratch = vec![0.0; scratch_len(width, m)];
            let mut out = vec![0.0; m];
            block_rows(&gram, ld, width, &deltas, stride, m, &mut scratch, &mut out);
            for (i, got) in out.iter().enumerate() {
                let delta = &deltas[i * stride..i * stride + width];
                let (want, magnitude) = defined(&gram, ld, delta);
                prop_assert!((got - want).abs() <= max_rel_err(width) * magnitude);
            }
        }
    }
}
