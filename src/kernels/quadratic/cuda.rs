//! Errors of a weight under a Gram matrix on the GPU. *Reducing*: float32 products summed in the order of the columns, in
//! the chunks of the CPU; their products with δ in float32 over four neighbours (4 roundings), the rest in float64 by a
//! tree that the sizes decide. The same bytes every run, within [`super::max_rel_err`] and 4 roundings of the sum in
//! float64.

use std::sync::Arc;

use crate::kernels::cuda::{DeviceBuffer, Gpu, GpuError, by_dtype, launch};
use crate::kernels::gram::Gram;
use crate::tensor::TensorView;

/// Rows and columns of a tile, `kQuadraticSide` of the kernel.
const SIDE: usize = 128;

/// Rows and columns that a block of threads turns round, `kTurned`.
const TURNED: usize = 64;

/// A Gram matrix on the GPU, and room for the errors under it.
pub(crate) struct Form {
    pub(super) gpu: Arc<Gpu>,
    /// Its upper triangle, doubled above the diagonal.
    pub(super) upper: DeviceBuffer,
    pub(super) n: usize,
    /// `[n, rows]`.
    pub(super) deltas: DeviceBuffer,
    inverse: DeviceBuffer,
    /// Of tiles, and behind them the total.
    sums: DeviceBuffer,
    rows: usize,
}

impl Form {
    /// Takes a matrix of which the entries on and above the diagonal are read, with room for so many rows at a time.
    pub fn new(gpu: &Arc<Gpu>, gram: &Gram, rows: usize) -> Result<Self, GpuError> {
        let n = gram.n();
        let floats = |count: usize| DeviceBuffer::new(gpu, count * size_of::<f32>());
        let tiles = rows.div_ceil(SIDE) * n.div_ceil(SIDE);
        let form = Self {
            gpu: Arc::clone(gpu),
            upper: floats(n * n)?,
            n,
            deltas: floats(rows * n)?,
            inverse: floats(n)?,
            sums: DeviceBuffer::new(gpu, (tiles + 1) * size_of::<f64>())?,
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
        let blocks = gpu.blocks_for(((n * n) as u64).div_ceil(2048));
        if n > 0 {
            // SAFETY: the kernel of that signature; both matrices are n by n.
            unsafe { launch!(gpu, "doubled_upper", (blocks, 1); from, n as u64, to) };
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
        let (rows, n) = (self.set_deltas(q, scaled, w), self.n);
        let tiles = rows.div_ceil(SIDE) * n.div_ceil(SIDE);
        if tiles == 0 {
            return;
        }
        // SAFETY: the kernels of those signatures; the differences are in their place, and the buffers have the room.
        unsafe {
            launch!(self.gpu, "quadratic_tiles", (tiles as u32, 1);
                self.deltas.address(), self.upper.address(), rows as u64, n as u64, self.sums.address());
            launch!(self.gpu, "sum_of_tiles", (1, 1);
                self.sums.address(), tiles as u64, self.total());
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
        // SAFETY: the kernel of that signature; the operands have the elements (asserted), and the buffer the room.
        unsafe {
            launch!(self.gpu, by_dtype!("scaled_difference", w), (turned as u32, 1);
                changed, inverse, w.address(), rows as u64, n as u64, self.deltas.address());
        }
        rows
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
            let form = Form::new(gpu, &Gram::from(gram), rows).expect("memory");
            form.set_inverse(&inverse).expect("a copy");
            for (changed, want) in [(Some(&q.view()), of_change), (None, of_weight)] {
                let measure = || {
                    form.clear();
                    form.add(changed, changed.is_some(), &w.view());
                    form.sum().expect("a sum")
                };
                let got = measure();
                assert!(
                    (got - want).abs() <= 1e-5 * want,
                    "{rows} x {n}: {got} {want}"
                );
                assert_eq!(
                    got.to_bits(),
                    measure().to_bits(),
                    "the same bytes every run"
                );
            }
            testing::assert_no_failure(&machine);
        }
    }
}
