//! How much a change of a layer's output matters to a loss: `Σ (g ∘ Δy)²`, with g the gradient at the output and
//! Δy the difference of two products of an activation and a weight.
//!
//! *Reducing*: products as `gemm` has them; the sum is float64, over tiles that depend on the sizes alone, added in
//! order. The same bits for every number of threads; those of products depend on the CPU (see `gemm`).

#[cfg(test)]
mod check;
pub(crate) mod cuda;

use super::gemm::{self, Strided};
use super::isa::Loop;
use super::machine::Machine;

/// Rows of a tile: what a thread works on at a time. Both operands are packed anew for every tile, which is worth it for
/// large ones only: at half the rows and columns it takes a third of the time.
const ROWS: usize = 256;
/// Columns of a tile; with its rows it fits a core's second cache.
const COLUMNS: usize = 512;
/// Largest magnitude of a term, as the reference clamps it.
const LARGEST: f32 = 1e10;
/// Sums that are kept side by side: their order is fixed, so that no instruction set shows in the result.
const LANES: usize = 16;

/// Sizes of a product `y[t, o] = Σ_i x[t, i] w[o, i]`, all row-major.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Rows of x and y.
    pub tokens: usize,
    /// Columns of x and w.
    pub inputs: usize,
    /// Rows of w, columns of y.
    pub outputs: usize,
}

impl Sizes {
    fn assert_fit(&self, x: &[f32], w: &[f32]) {
        assert_eq!(x.len(), self.tokens * self.inputs, "x");
        assert_eq!(w.len(), self.outputs * self.inputs, "w");
    }

    fn tiles(&self) -> (usize, usize) {
        (self.tokens.div_ceil(ROWS), self.outputs.div_ceil(COLUMNS))
    }

    /// The tile at a position: first row, rows, first column, columns.
    fn tile(&self, at: usize) -> Tile {
        let (row, column) = (at / self.tiles().1 * ROWS, at % self.tiles().1 * COLUMNS);
        Tile {
            row,
            rows: ROWS.min(self.tokens - row),
            column,
            columns: COLUMNS.min(self.outputs - column),
        }
    }
}

struct Tile {
    row: usize,
    rows: usize,
    column: usize,
    columns: usize,
}

/// The product of a tile into `out`, whose rows are `stride` apart.
///
/// # Safety
/// `out` is valid for the tile's rows of `columns` elements, and nobody else accesses them meanwhile.
unsafe fn product_of(
    tile: &Tile,
    x: &[f32],
    w: &[f32],
    inputs: usize,
    out: *mut f32,
    stride: usize,
) {
    let a = Strided {
        values: &x[tile.row * inputs..],
        row_stride: inputs,
        column_stride: 1,
    };
    let b = Strided {
        values: &w[tile.column * inputs..],
        row_stride: inputs,
        column_stride: 1,
    };
    // SAFETY: contract above.
    unsafe {
        gemm::run(
            [tile.rows, inputs, tile.columns],
            1.0,
            a,
            b.transposed(),
            0.0,
            out,
            stride,
        )
    };
}

/// `y = x wᵀ`; y is `[tokens, outputs]`.
pub fn product(machine: &Machine, x: &[f32], w: &[f32], sizes: Sizes, y: &mut [f32]) {
    sizes.assert_fit(x, w);
    assert_eq!(y.len(), sizes.tokens * sizes.outputs, "y");
    if sizes.inputs == 0 {
        y.fill(0.0);
        return;
    }
    let (down, across) = sizes.tiles();
    let y = Out(y.as_mut_ptr());
    machine.for_each(down * across, |at| {
        let tile = sizes.tile(at);
        // SAFETY: tiles lie in y (asserted) and are apart.
        unsafe {
            let out = y.at(tile.row * sizes.outputs + tile.column);
            product_of(&tile, x, w, sizes.inputs, out, sizes.outputs);
        }
    });
}

/// `Σ (g ∘ (x wᵀ - y))²`; y and g are `[tokens, outputs]`.
pub fn squared(machine: &Machine, x: &[f32], w: &[f32], sizes: Sizes, y: &[f32], g: &[f32]) -> f64 {
    sizes.assert_fit(x, w);
    let count = sizes.tokens * sizes.outputs;
    assert!(y.len() == count && g.len() == count, "y and g");
    let (down, across) = sizes.tiles();
    let isa = machine.isa();
    let sums = machine.map(down * across, |at| {
        let tile = sizes.tile(at);
        let mut changed = vec![0.0f32; tile.rows * tile.columns];
        if sizes.inputs > 0 {
            // SAFETY: a tile of our own.
            unsafe {
                product_of(
                    &tile,
                    x,
                    w,
                    sizes.inputs,
                    changed.as_mut_ptr(),
                    tile.columns,
                )
            };
        }
        let mut sum = 0.0;
        for (i, changed) in changed.chunks_exact(tile.columns).enumerate() {
            let start = (tile.row + i) * sizes.outputs + tile.column;
            let row = start..start + tile.columns;
            sum += isa.run(TermsLoop(changed, &y[row.clone()], &g[row]));
        }
        sum
    });
    sums.iter().sum()
}

/// `Σ (g ∘ (changed - y))²` of three alike.
pub fn squared_difference(machine: &Machine, changed: &[f32], y: &[f32], g: &[f32]) -> f64 {
    assert!(
        changed.len() == y.len() && y.len() == g.len(),
        "three alike"
    );
    let piece = ROWS * COLUMNS;
    let isa = machine.isa();
    let sums = machine.map(y.len().div_ceil(piece), |at| {
        let part = at * piece..((at + 1) * piece).min(y.len());
        isa.run(TermsLoop(
            &changed[part.clone()],
            &y[part.clone()],
            &g[part],
        ))
    });
    sums.iter().sum()
}

/// Sum of the terms of elements that lie side by side.
struct TermsLoop<'a>(&'a [f32], &'a [f32], &'a [f32]);

impl Loop for TermsLoop<'_> {
    type Output = f64;
    #[inline(always)]
    fn run(self) -> f64 {
        let mut sums = [0.0f64; LANES];
        let Self(changed, y, g) = self;
        for ((changed, y), g) in changed
            .chunks(LANES)
            .zip(y.chunks(LANES))
            .zip(g.chunks(LANES))
        {
            for (((sum, changed), y), g) in sums.iter_mut().zip(changed).zip(y).zip(g) {
                // A NaN stays one.
                let term = f64::from((g * (changed - y)).clamp(-LARGEST, LARGEST));
                *sum += term * term;
            }
        }
        sums.iter().sum()
    }
}

/// Memory that tasks write disjoint parts of.
struct Out(*mut f32);

// SAFETY: tasks write disjoint parts (see `product`).
unsafe impl Sync for Out {}

impl Out {
    /// # Safety
    /// `offset` lies in the memory.
    unsafe fn at(&self, offset: usize) -> *mut f32 {
        // SAFETY: contract above.
        unsafe { self.0.add(offset) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::Isa;

    fn noise(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed | 1;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        };
        (0..len).map(next).collect()
    }

    fn machine(threads: usize) -> Machine {
        Machine::new(threads, Isa::scalar()).expect("threads")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn the_sum_is_that_of_the_definition_for_any_number_of_threads(
            tokens in 1usize..300, inputs in 0usize..40, outputs in 1usize..300, seed: u32
        ) {
            let sizes = Sizes { tokens, inputs, outputs };
            let (x, w) = (noise(tokens * inputs, seed), noise(outputs * inputs, !seed));
            let (y, g) = (noise(tokens * outputs, seed ^ 7), noise(tokens * outputs, seed ^ 9));
            let mut want = 0.0;
            let mut products = vec![f32::NAN; tokens * outputs];
            product(&machine(1), &x, &w, sizes, &mut products);
            for t in 0..tokens {
                for o in 0..outputs {
                    let exact: f64 = (0..inputs)
                        .map(|i| f64::from(x[t * inputs + i]) * f64::from(w[o * inputs + i]))
                        .sum();
                    let at = t * outputs + o;
                    prop_assert!((exact - f64::from(products[at])).abs() <= 1e-4);
                    let term = f64::from(g[at]) * (exact - f64::from(y[at]));
                    want += term * term;
                }
            }
            let got = squared(&machine(1), &x, &w, sizes, &y, &g);
            prop_assert!((got - want).abs() <= 1e-4 * (1.0 + want), "{got} {want}");
            let threads = squared(&machine(3), &x, &w, sizes, &y, &g);
            prop_assert_eq!(got.to_bits(), threads.to_bits());
            let whole = squared_difference(&machine(2), &products, &y, &g);
            prop_assert!((got - whole).abs() <= 1e-9 * (1.0 + want), "{got} {whole}");
        }
    }

    #[test]
    fn no_change_is_zero_and_terms_are_clamped() {
        let sizes = Sizes {
            tokens: 200,
            inputs: 33,
            outputs: 270,
        };
        let (x, w) = (noise(200 * 33, 1), noise(270 * 33, 2));
        let mut y = vec![0.0; 200 * 270];
        product(&machine(2), &x, &w, sizes, &mut y);
        let g = vec![3e38; 200 * 270];
        assert_eq!(squared(&machine(2), &x, &w, sizes, &y, &g), 0.0);
        assert_eq!(
            squared_difference(&machine(1), &[1e30, 2.0], &[0.0, 1.0], &[1e30, -3.0]),
            1e20 + 9.0
        );
        assert!(squared_difference(&machine(1), &[f32::NAN], &[0.0], &[1.0]).is_nan());
    }
}
