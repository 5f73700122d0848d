//! The score of a format from statistics, without replaying the layer.
//!
//! With x the input, e what the format changes in it, W the weight and Ŵ the format's, `Δy = x (Ŵ - W)ᵀ + e Ŵᵀ`. The
//! sum of its squares over the tokens is exactly `δ G δᵀ` for each row δ of `Ŵ - W` when the input is not quantized,
//! with G = Σ xᵀx. For the errors of the input only their squares by channel are known: they are taken as independent
//! of each other and of x.
//!
//! With a `pre_quant_scale` p, which the format divides its weight by, Ŵ and e are meant without it: both are put back
//! into the units of x.

use std::sync::Arc;

use super::moments::Sums;
use super::work::Values;
use crate::error::{Error, Result};
use crate::kernels::{Machine, quadratic};
use crate::model::Layer;
use crate::observe::InputSummary;
use crate::tensor::TensorView;

/// Rows of a weight that are a task.
const ROWS: usize = 128;

/// Scores of one layer.
pub(super) struct Expected<'a> {
    pub machine: &'a Machine,
    pub input: &'a InputSummary,
    pub sums: &'a Sums,
    /// Weighs every output with the mean square of the gradient there.
    pub weighted: bool,
}

/// Bytes that one score takes beside the statistics, on so many threads.
pub(super) fn workspace_bytes(layer: &Layer, threads: usize) -> u64 {
    let weight = layer.spec().weight.map_or(0, |weight| weight.count());
    let inputs = layer.input_slot().channels().unwrap_or(0);
    let scratch = ROWS * inputs + quadratic::scratch_len(inputs, ROWS);
    let packing = quadratic::gemm_workspace_bytes();
    (5 * weight * size_of::<f32>() + threads * (scratch * size_of::<f32>() + packing)) as u64
}

/// Rounding can make a form of the Gram matrix negative, which it is not. NaN stays: it is no lossless format.
fn not_negative(form: f64) -> f64 {
    match form < 0.0 {
        true => 0.0,
        false => form,
    }
}

impl Expected<'_> {
    /// The scores of the formats that the candidates are on.
    pub fn scores(
        &self,
        layer: &Layer,
        candidates: &[Arc<Layer>],
        work: &mut [Values; 2],
    ) -> Result<Vec<f64>> {
        let missing = || {
            Error::Internal(format!(
                "layer `{}` is scored without a weight",
                layer.name()
            ))
        };
        let weight = layer.spec().weight.ok_or_else(missing)?;
        if self.input.tokens == 0 || weight.count() == 0 {
            return Ok(vec![0.0; candidates.len()]);
        }
        // The statistics are means over the tokens of a batch.
        let tokens = self.input.tokens as f64 / self.input.batches.max(1) as f64;
        let found = match self.machine.gpu_of(&weight) {
            Some(gpu) => self.on_gpu(gpu, candidates, &weight, &mut work[1])?,
            None => {
                let numbered = candidates.iter().enumerate();
                let scores = numbered
                    .map(|(format, candidate)| self.score(candidate, format, &weight, work));
                scores.collect::<Result<_>>()?
            }
        };
        Ok(found.iter().map(|score| tokens * score).collect())
    }

    /// The score of the format that `candidate` is on, for a token.
    fn score(
        &self,
        candidate: &Layer,
        format: usize,
        view: &TensorView,
        work: &mut [Values; 2],
    ) -> Result<f64> {
        let (outputs, inputs) = (view.shape().dims()[0], view.shape().dims()[1]);
        let [own, changed] = work;
        candidate.weight_into(changed.like(self.machine, view)?)?;
        let (own, changed) = (
            own.load(self.machine, view)?,
            changed.written(self.machine, view)?,
        );
        let factors = candidate.input_slot().pre_quant_scale();
        let factor = |i: usize| factors.as_ref().map_or(1.0, |factors| factors[i]);
        let errors = self.errors(format);
        let gram = self.input.gram.on_host()?;
        let rows = self.machine.map(outputs.div_ceil(ROWS), |task| {
            let first = task * ROWS;
            let count = ROWS.min(outputs - first);
            let mut deltas = vec![0.0f32; count * inputs];
            let mut of_input = vec![0.0f64; count];
            for (row, deltas) in deltas.chunks_exact_mut(inputs).enumerate() {
                let start = (first + row) * inputs;
                for (i, delta) in deltas.iter_mut().enumerate() {
                    let effective = changed[start + i] * factor(i);
                    *delta = effective - own[start + i];
                    if let Some(errors) = errors {
                        // The error was measured times p, as was the weight divided.
                        of_input[row] += errors[i] * f64::from(changed[start + i]).powi(2);
                    }
                }
            }
            let mut scratch = vec![0.0f32; quadratic::scratch_len(inputs, count)];
            let mut of_weight = vec![0.0f64; count];
            quadratic::rows(gram, inputs, &deltas, &mut scratch, &mut of_weight);
            let both = of_weight.iter().zip(&of_input);
            both.zip(first..)
                .map(|((of_weight, of_input), output)| {
                    (not_negative(*of_weight) + of_input) * self.weight(output)
                })
                .sum::<f64>()
        });
        Ok(rows.iter().sum())
    }

    /// The squares of what a format changes in the input, by channel; None: nothing.
    pub(super) fn errors(&self, format: usize) -> Option<&Vec<f64>> {
        let errors = self.sums.errors.get(format);
        errors.filter(|errors| !errors.is_empty())
    }

    /// What the error of an output counts.
    pub(super) fn weight(&self, output: usize) -> f64 {
        match self.weighted {
            true => self.sums.gradients[output] / self.sums.gradient_tokens.max(1) as f64,
            false => 1.0,
        }
    }
}
