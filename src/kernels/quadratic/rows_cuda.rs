//! Scores of weights under a Gram matrix on the GPU: the error of every row, weighed and summed up. *Reducing*: as the
//! errors of `cuda`, by row; what else is summed is float64 by trees that the sizes decide. The same bytes every run,
//! within [`super::max_rel_err`] and 4 roundings of the sums in float64.

use std::sync::Arc;

use super::cuda::Form;
use crate::kernels::cuda::{DeviceBuffer, Elements, Gpu, GpuError, launch};
use crate::kernels::gram::Gram;
use crate::tensor::TensorView;

/// Rows and columns of a tile, `kQuadraticSide` of the kernel.
const SIDE: usize = 128;

/// A Gram matrix on the GPU, and room for the scores of some rows under it.
pub(crate) struct RowScores {
    form: Form,
    /// By tile across and row.
    of_tiles: DeviceBuffer,
    of_rows: DeviceBuffer,
    tiles: usize,
}

/// What a format changes, beside the weight.
#[derive(Clone, Copy)]
pub(crate) struct Changed<'a> {
    /// Rows of the weight as the format has them.
    pub weight: &'a TensorView,
    /// Whether they are multiplied with the factors of [`RowScores::set_factors`] to be compared.
    pub scaled: bool,
    /// Address of a float64 for each column: the sum of the squares of the input's errors there. 0 for none.
    pub errors: u64,
    /// Address of a float64 for each row, that weighs its error. 0 where all weigh one.
    pub weights: u64,
}

impl RowScores {
    /// Takes a matrix of which the entries on and above the diagonal are read, with room for so many rows at a time.
    pub fn new(gpu: &Arc<Gpu>, gram: &Gram, rows: usize) -> Result<Self, GpuError> {
        let tiles = gram.n().div_ceil(SIDE);
        let doubles = |count: usize| DeviceBuffer::new(gpu, count * size_of::<f64>());
        Ok(Self {
            form: Form::with(gpu, gram, None, rows, false)?,
            of_tiles: doubles(tiles * rows)?,
            of_rows: doubles(rows)?,
            tiles,
        })
    }

    /// The factors of the columns for what is added from now on.
    pub fn set_factors(&self, factors: &[f32]) -> Result<(), GpuError> {
        self.form.set_inverse(factors)
    }

    /// Adds `Σ_r weights[r] (max(δ_r G δ_rᵀ, 0) + Σ_i errors[i] changed[r, i]²)`, δ being what has changed in the rows of
    /// `w`, to the float64 at `total`. Puts work on the stream, and waits for nothing.
    pub fn add(&self, changed: Changed, w: &TensorView, total: u64) {
        let (gpu, n) = (&self.form.gpu, self.form.n);
        let rows = self
            .form
            .set_deltas(Some(changed.weight), changed.scaled, w);
        if rows == 0 {
            return;
        }
        let blocks = rows.div_ceil(SIDE) * self.tiles;
        let (of_tiles, of_rows) = (self.of_tiles.address(), self.of_rows.address());
        let tiles = self.tiles as u64;
        let (count, columns) = (rows as u64, n as u64);
        let of_weight = Elements::from(changed.weight);
        // SAFETY: the kernels of those signatures; the operands have the elements (asserted where the differences are
        // taken), errors and weights are as many as columns and rows (contract), and the buffers have the room.
        unsafe {
            launch!(gpu, "quadratic_rows", (blocks as u32, 1);
                self.form.deltas.address(), self.form.upper.address(), count, columns, of_tiles);
            launch!(gpu, "weighed_rows", (rows as u32, 1);
                of_tiles, tiles, of_weight, changed.errors, changed.weights, count, columns, of_rows);
            launch!(gpu, "sum_of_tiles", (1, 1); of_rows, count, total);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cuda::testing::{self, Host, OnGpu};
    use crate::kernels::quadratic;
    use crate::tensor::DType;

    #[test]
    fn scores_are_those_of_the_cpu_row_by_row() {
        let Some(machine) = testing::machine() else {
            return;
        };
        let gpu = machine.gpu().expect("a GPU");
        for (rows, n, dtype) in [
            (1, 1, DType::F32),
            (3, 17, DType::F16),
            (64, 64, DType::BF16),
            (70, 130, DType::F32),
            (130, 300, DType::F32),
        ] {
            let activations = Host::noise(DType::F32, &[2 * n, n], 9).view().to_f32();
            let mut gram = vec![0.0f32; n * n];
            for i in 0..n {
                for j in i..n {
                    let columns = activations.chunks_exact(n).map(|row| row[i] * row[j]);
                    gram[i * n + j] = columns.sum();
                }
            }
            let mut w = Host::noise(dtype, &[rows, n], 1);
            let mut q = Host::noise(dtype, &[rows, n], 2);
            // A row that is not changed: what rounding leaves must not be negative.
            let (of_w, of_q) = (w.view().to_f32(), q.view().to_f32());
            let factors: Vec<f32> = (0..n).map(|i| 0.5 + i as f32 * 0.01).collect();
            let errors: Vec<f64> = (0..n).map(|i| 0.1 + i as f64 * 0.3).collect();
            let weights: Vec<f64> = (0..rows).map(|r| 2.0 - r as f64 * 0.01).collect();
            let there = [&w.view(), &q.view()].map(|x| OnGpu::copy_of(&machine, x, 8));
            let on_gpu = |values: &[f64]| DeviceBuffer::holding(gpu, values).expect("memory");
            let (far_errors, far_weights) = (on_gpu(&errors), on_gpu(&weights));
            // In two bands, the second of which is short.
            let band = rows.div_ceil(2);
            let scores = RowScores::new(gpu, &Gram::from(gram.clone()), band).expect("memory");
            scores.set_factors(&factors).expect("a copy");
            for (scaled, with_errors, weighted) in [
                (false, false, false),
                (true, false, true),
                (false, true, false),
                (true, true, true),
            ] {
                let measured = || {
                    let total = on_gpu(&[0.0]);
                    for first in (0..rows).step_by(band) {
                        let count = band.min(rows - first);
                        let part = |x: &OnGpu| x.view().rows(first, count).expect("rows");
                        let weights = far_weights.address() + (first * 8) as u64;
                        let changed = Changed {
                            weight: &part(&there[1]),
                            scaled,
                            errors: if with_errors { far_errors.address() } else { 0 },
                            weights: if weighted { weights } else { 0 },
                        };
                        scores.add(changed, &part(&there[0]), total.address());
                    }
                    let mut found = [0.0f64];
                    total.read(&mut found).expect("a copy");
                    found[0]
                };
                let got = measured();
                assert_eq!(
                    got.to_bits(),
                    measured().to_bits(),
                    "the same bytes every run"
                );
                let deltas: Vec<f32> = (0..rows * n)
                    .map(|at| match scaled {
                        true => of_q[at] * factors[at % n] - of_w[at],
                        false => of_q[at] - of_w[at],
                    })
                    .collect();
                let mut want = 0.0;
                let mut bound = 0.0;
                for r in 0..rows {
                    let weight = if weighted { weights[r] } else { 1.0 };
                    let delta = &deltas[r * n..][..n];
                    let mut form = 0.0;
                    let mut magnitude = 0.0;
                    for i in 0..n {
                        for j in 0..n {
                            let entry = f64::from(gram[i.min(j) * n + i.max(j)]);
                            let term = f64::from(delta[i]) * entry * f64::from(delta[j]);
                            (form, magnitude) = (form + term, magnitude + term.abs());
                        }
                        if with_errors {
                            let value = f64::from(of_q[r * n + i]);
                            want += weight * errors[i] * value * value;
                        }
                    }
                    want += weight * form;
                    bound += weight * magnitude;
                }
                let four = 4.0 * f64::from(f32::EPSILON) / 2.0;
                let bound = (quadratic::max_rel_err(n) + four) * bound + 1e-12 * want;
                assert!(
                    (got - want).abs() <= bound,
                    "{rows} x {n} {scaled} {with_errors}: {got} {want} within {bound}"
                );
            }
        }
        testing::assert_no_failure(&machine);
    }

    #[test]
    fn a_form_that_is_negative_counts_as_nothing_and_not_a_number_stays() {
        let Some(machine) = testing::machine() else {
            return;
        };
        let gpu = machine.gpu().expect("a GPU");
        let mut w = Host::of(DType::F32, &[2, 1], &[0.0, 0.0]);
        let w = OnGpu::copy_of(&machine, &w.view(), 0);
        for (values, gram, want) in [
            ([1.0, 2.0], -1.0, 0.0),
            ([1.0, 2.0], 3.0, 15.0),
            ([f32::NAN, 2.0], 3.0, f64::NAN),
        ] {
            let mut q = Host::of(DType::F32, &[2, 1], &values);
            let q = OnGpu::copy_of(&machine, &q.view(), 0);
            let scores = RowScores::new(gpu, &Gram::from(vec![gram]), 2).expect("memory");
            let total = DeviceBuffer::holding(gpu, &[0.0f64]).expect("memory");
            let changed = Changed {
                weight: &q.view(),
                scaled: false,
                errors: 0,
                weights: 0,
            };
            scores.add(changed, &w.view(), total.address());
            let mut got = [0.0f64];
            total.read(&mut got).expect("a copy");
            assert!(
                got[0] == want || got[0].is_nan() && want.is_nan(),
                "{got:?} {want}"
            );
        }
        testing::assert_no_failure(&machine);
    }
}
