//! Errors of a weight under a Gram matrix on the GPU. *Reducing*, the same bytes every run, in one of two ways:
//!
//! By mq's tiles: float32 products summed in the order of the columns, in the chunks of the CPU; their products with δ in
//! float32 over four neighbours (4 roundings), the rest in float64 by a tree that the sizes decide. Within
//! [`super::max_rel_err`] and 4 roundings of the sum in float64, on every GPU the same.
//!
//! By cuBLAS, where it has large products: `δ T` in panels of columns, of each only the rows of T that are not zero, which
//! is half of the whole as well, and their products with δ in float64, by a tree as above. Within `n + 2` roundings of
//! float32, whatever the order in which cuBLAS adds.

use std::sync::Arc;

use crate::kernels::cuda::{DeviceBuffer, Gpu, GpuError, Product, by_dtype, launch};
use crate::kernels::gram::Gram;
use crate::tensor::TensorView;

/// Rows and columns of a tile, `kQuadraticSide` of the kernel.
const SIDE: usize = 128;

/// Rows and columns that a block of threads turns round, `kTurned`.
const TURNED: usize = 64;

/// Columns of a panel of `δ T` that cuBLAS makes: wide enough for its tiles, and little of the triangle is zeros.
const PANEL: usize = 1024;

/// Elements of a panel that a block of threads multiplies with δ, `kDotPart`.
const DOT_PART: usize = 16384;

/// A Gram matrix on the GPU, and room for the errors under it.
pub struct Form {
    pub(super) gpu: Arc<Gpu>,
    /// Its upper triangle, doubled above the diagonal.
    pub(super) upper: DeviceBuffer,
    pub(super) n: usize,
    /// `[n, rows]`.
    pub(super) deltas: DeviceBuffer,
    inverse: DeviceBuffer,
    /// Of tiles, and behind them the total.
    sums: DeviceBuffer,
    /// A panel; empty where cuBLAS makes none.
    panel: DeviceBuffer,
    rows: usize,
}

/// Sums of tiles, or of parts of panels.
fn sums(rows: usize, n: usize) -> usize {
    let tiles = rows.div_ceil(SIDE) * n.div_ceil(SIDE);
    tiles.max(n.div_ceil(PANEL) * (rows * PANEL.min(n)).div_ceil(DOT_PART))
}

impl Form {
    /// Bytes of device memory that a matrix of `n` columns takes at most, with room for so many rows at a time, and cuBLAS
    /// for its products.
    pub fn bytes(gpu: &Gpu, n: usize, rows: usize) -> usize {
        let cublas = gpu.bytes_of_cublas(multiplications(rows, n));
        let (panel, workspace) = match cublas {
            Some(workspace) => (rows * PANEL.min(n), workspace),
            None => (0, 0),
        };
        let floats = n * n + rows * n + n + panel;
        floats * size_of::<f32>() + (sums(rows, n) + 1) * size_of::<f64>() + workspace
    }

    /// Takes a whole matrix of which the entries on and above the diagonal are read, with room for so many rows at a time.
    /// With `factors`, one for each column, it is that of activations before they were multiplied with them.
    pub fn new(
        gpu: &Arc<Gpu>,
        gram: &Gram,
        factors: Option<&[f32]>,
        rows: usize,
    ) -> Result<Self, GpuError> {
        let work = multiplications(rows, gram.n());
        gpu.prepare_cublas(work);
        Self::with(gpu, gram, factors, rows, gpu.takes_cublas(work))
    }

    /// The same with or without room for the panels of cuBLAS.
    pub(super) fn with(
        gpu: &Arc<Gpu>,
        gram: &Gram,
        factors: Option<&[f32]>,
        rows: usize,
        has_panels: bool,
    ) -> Result<Self, GpuError> {
        let n = gram.n();
        assert_eq!(gram.block(), n, "a whole matrix");
        let floats = |count: usize| DeviceBuffer::new(gpu, count * size_of::<f32>());
        let form = Self {
            gpu: Arc::clone(gpu),
            upper: floats(n * n)?,
            n,
            deltas: floats(rows * n)?,
            inverse: floats(n)?,
            sums: DeviceBuffer::new(gpu, (sums(rows, n) + 1) * size_of::<f64>())?,
            panel: floats(if has_panels { rows * PANEL.min(n) } else { 0 })?,
            rows,
        };
        let to = form.upper.address();
        let from = match gram.on(gpu) {
            Some(address) => address,
            None => {
                form.upper.write(gram.on_host()?)?;
                to
            }
        };
        // The room for other factors, which come later.
        let factors = match factors {
            Some(factors) => {
                assert_eq!(factors.len(), n, "columns");
                form.inverse.write(factors)?;
                form.inverse.address()
            }
            None => 0,
        };
        let blocks = gpu.blocks_for(((n * n) as u64).div_ceil(2048));
        if n > 0 {
            // SAFETY: the kernel of that signature; both matrices are n by n, and there are n factors or none.
            unsafe { launch!(gpu, "doubled_upper", (blocks, 1); from, n as u64, factors, to) };
        }
        Ok(form)
    }

    fn total(&self) -> u64 {
        self.sums.address() + (self.sums.len() - size_of::<f64>()) as u64
    }

    /// Begins a sum of errors.
    pub fn clear(&self) {
        self.gpu.fill(self.total(), 0, size_of::<f64>());
    }

    /// Adds the error of some rows: `q * inverse - w`, or of w itself where there is no q. All are on the GPU, `[rows, n]`
    /// in one dtype; `inverse` has a factor for each column, copied with [`Self::set_inverse`]. Waits for nothing.
    pub fn add(&self, q: Option<&TensorView>, scaled: bool, w: &TensorView) {
        let rows = self.set_deltas(q, scaled, w);
        if rows == 0 {
            return;
        }
        let sums = self
            .add_panels(rows)
            .unwrap_or_else(|| self.add_tiles(rows));
        // SAFETY: the kernel of that signature; there are so many sums, and a place for the total.
        unsafe {
            launch!(self.gpu, "sum_of_tiles", (1, 1); self.sums.address(), sums as u64, self.total());
        }
    }

    /// Puts the differences of [`Self::add`] into their place; how many rows there are.
    pub(super) fn set_deltas(&self, q: Option<&TensorView>, scaled: bool, w: &TensorView) -> usize {
        let (count, n) = (w.count(), self.n);
        assert!(
            count <= self.rows * n && count.is_multiple_of(n.max(1)),
            "rows"
        );
        if count == 0 {
            return 0;
        }
        if let Some(q) = q {
            assert!(q.dtype() == w.dtype() && q.count() == count, "two alike");
        }
        let rows = count / n;
        let changed = q.map_or(0, TensorView::address);
        let inverse = if scaled { self.inverse.address() } else { 0 };
        let turned = rows.div_ceil(TURNED) * n.div_ceil(TURNED);
        // SAFETY: the kernel of that signature; the operands have the elements (asserted), the buffer the room.
        unsafe {
            launch!(self.gpu, by_dtype!("scaled_difference", w), (turned as u32, 1);
                changed, inverse, w.address(), rows as u64, n as u64, self.deltas.address());
        }
        rows
    }

    /// The sums of tiles of `δ T * δ`; how many there are.
    fn add_tiles(&self, rows: usize) -> usize {
        let tiles = rows.div_ceil(SIDE) * self.n.div_ceil(SIDE);
        // SAFETY: the kernel of that signature; the buffers have the room for so many rows.
        unsafe {
            launch!(self.gpu, "quadratic_tiles", (tiles as u32, 1);
                self.deltas.address(), self.upper.address(), rows as u64, self.n as u64, self.sums.address());
        }
        tiles
    }

    /// The sums of parts of `δ T * δ`, panel by panel, of which cuBLAS makes `δ T`; how many there are. None: it does not.
    fn add_panels(&self, rows: usize) -> Option<usize> {
        let n = self.n;
        if self.panel.is_empty() || !self.gpu.takes_cublas(multiplications(rows, n)) {
            return None;
        }
        let mut sums = 0;
        for side in (0..n).step_by(PANEL) {
            let columns = PANEL.min(n - side);
            let product = Product {
                // Column by column, δ is `[rows, n]`, and T, whose rows lie there, its own transpose.
                a: self.deltas.address(),
                b: self.upper.address() + (side * size_of::<f32>()) as u64,
                b_stride: n,
                c: self.panel.address(),
                rows,
                columns,
                sums: side + columns,
            };
            if !self.gpu.product_by_cublas(&product) {
                return None;
            }
            let count = rows * columns;
            let deltas = self.deltas.address() + (side * rows * size_of::<f32>()) as u64;
            let to = self.sums.address() + (sums * size_of::<f64>()) as u64;
            let parts = count.div_ceil(DOT_PART);
            // SAFETY: the kernel of that signature; a panel of δ and of `δ T`, and places for its sums.
            unsafe {
                launch!(self.gpu, "dot_of_parts", (parts as u32, 1);
                    self.panel.address(), deltas, count as u64, to);
            }
            sums += parts;
        }
        Some(sums)
    }

    /// The factors of the columns for what is added from now on.
    pub fn set_inverse(&self, inverse: &[f32]) -> Result<(), GpuError> {
        assert_eq!(inverse.len(), self.n, "columns");
        self.inverse.write(inverse)
    }

    /// The sum of what was added: waits for the stream.
    pub fn sum(&self) -> Result<f64, GpuError> {
        let mut total = [0.0f64];
        self.gpu.read_from(self.total(), &mut total)?;
        Ok(total[0])
    }
}

/// Multiplications of `δ T` for so many rows.
fn multiplications(rows: usize, n: usize) -> u64 {
    (rows * n) as u64 * (n as u64 + 1) / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cuda::testing::{self, OnGpu};
    use crate::kernels::{quadratic, scaled_difference};

    fn noise(count: usize, seed: usize) -> Vec<f32> {
        let number = |i: usize| ((i * 37 + seed * 101) as f32 * 0.7311).sin();
        (0..count).map(number).collect()
    }

    #[test]
    fn errors_are_those_of_the_cpu() {
        let Some(machine) = testing::machine() else {
            return;
        };
        let gpu = machine.gpu().expect("a GPU");
        for (rows, n) in [(1, 1), (3, 17), (64, 64), (70, 130), (130, 300)] {
            let activations = noise(2 * n * n, 9);
            let mut gram = vec![0.0f32; n * n];
            for i in 0..n {
                for j in i..n {
                    let columns = activations.chunks_exact(n).map(|row| row[i] * row[j]);
                    gram[i * n + j] = columns.sum();
                }
            }
            let [mut w, mut q] = [noise(rows * n, 1), noise(rows * n, 2)];
            let inverse: Vec<f32> = (0..n).map(|i| 0.5 + i as f32 * 0.01).collect();
            let mut deltas = vec![0.0; rows * n];
            scaled_difference::run(machine.isa(), &q, Some(&inverse), &w, &mut deltas);
            let mut scratch = vec![0.0; quadratic::scratch_len(n, rows)];
            let mut sum = |deltas: &[f32]| {
                let mut errors = vec![0.0; rows];
                quadratic::rows(&gram, n, deltas, &mut scratch, &mut errors);
                errors.iter().sum::<f64>()
            };
            let (of_change, of_weight) = (sum(&deltas), sum(&w));
            let there = |values: &mut Vec<f32>| {
                let view = TensorView::over(values, &[rows, n]).expect("valid");
                OnGpu::copy_of(&machine, &view, 8)
            };
            let (w, q) = (there(&mut w), there(&mut q));
            // The matrix of activations that are a quarter of these, or double, and multiplied with factors it is this one.
            let factors: Vec<f32> = (0..n).map(|i| [4.0, 0.5][i % 2]).collect();
            let mut unscaled = gram.clone();
            for (row, a) in unscaled.chunks_exact_mut(n).zip(&factors) {
                for (value, b) in row.iter_mut().zip(&factors) {
                    *value /= a * b;
                }
            }
            let form = Form::new(gpu, &Gram::from(gram), None, rows).expect("memory");
            let scaled = Form::new(gpu, &Gram::from(unscaled), Some(&factors), rows);
            let scaled = scaled.expect("memory");
            scaled.set_inverse(&inverse).expect("a copy");
            form.set_inverse(&inverse).expect("a copy");
            for (changed, want) in [(Some(&q.view()), of_change), (None, of_weight)] {
                let measure = |form: &Form| {
                    form.clear();
                    form.add(changed, changed.is_some(), &w.view());
                    form.sum().expect("a sum")
                };
                let got = measure(&form);
                assert!(
                    (got - want).abs() <= 1e-5 * want,
                    "{rows} x {n}: {got} {want}"
                );
                assert_eq!(
                    got.to_bits(),
                    measure(&form).to_bits(),
                    "the same bytes every run"
                );
                assert_eq!(got.to_bits(), measure(&scaled).to_bits(), "with factors");
            }
            testing::assert_no_failure(&machine);
        }
    }

    #[test]
    fn panels_of_cublas_give_the_same_errors() {
        let (Some(plain), Some(with)) = (testing::machine(), testing::machine_with_cublas()) else {
            return;
        };
        for (rows, n) in [(1, 1), (3, 17), (70, 130), (5, PANEL), (20, PANEL + 37)] {
            // Of four rows, so that the test is fast.
            let activations = noise(4 * n, 9);
            let mut gram = vec![f32::NAN; n * n];
            for i in 0..n {
                for j in i..n {
                    let columns = activations.chunks_exact(n).map(|row| row[i] * row[j]);
                    gram[i * n + j] = columns.sum();
                }
            }
            let w = noise(rows * n, 1);
            let mut scratch = vec![0.0; quadratic::scratch_len(n, rows)];
            let mut errors = vec![0.0; rows];
            quadratic::rows(&gram, n, &w, &mut scratch, &mut errors);
            let want: f64 = errors.iter().sum();
            // Of `|δ| |G| |δ|ᵀ`, as the bounds of both sides.
            let magnitude = |delta: &[f32]| -> f64 {
                let along = activations.chunks_exact(n).map(|row| {
                    let products = row.iter().zip(delta).map(|(x, d)| f64::from((x * d).abs()));
                    products.sum::<f64>().powi(2)
                });
                along.sum()
            };
            let limit = (n + 2) as f64 * 2f64.powi(-24) + quadratic::max_rel_err(n);
            let limit = limit * w.chunks_exact(n).map(magnitude).sum::<f64>();
            let measure = |machine: &crate::kernels::Machine| {
                let gpu = machine.gpu().expect("a GPU");
                let mut w = w.clone();
                let view = TensorView::over(&mut w, &[rows, n]).expect("valid");
                let there = OnGpu::copy_of(machine, &view, 8);
                let form = Form::new(gpu, &Gram::from(gram.clone()), None, rows).expect("memory");
                form.clear();
                form.add(None, false, &there.view());
                let sum = form.sum().expect("a sum");
                testing::assert_no_failure(machine);
                sum
            };
            let got = measure(&with);
            assert!((got - want).abs() <= limit, "{rows} x {n}: {got} {want}");
            assert_eq!(got.to_bits(), measure(&with).to_bits(), "every run");
            let is_real = !testing::is_emulator(with.gpu().expect("a GPU"));
            let is_other = measure(&plain).to_bits() != got.to_bits();
            assert!(
                is_other || is_real || n < 100,
                "{rows} x {n} was not its work"
            );
        }
    }
}
