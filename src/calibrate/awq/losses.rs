//! The errors of many candidate weights under one Gram matrix, some rows at a time.
//!
//! Rows are independent: a task takes a few of them, makes the rounded rows of every candidate, and has
//! all their errors from one quadratic form. Partial sums are added in the order of the rows, so that the
//! result has the same bits for every number of threads.

use super::super::algorithm::Run;
use super::by_rows::{Rows, by_rows};
use super::target::{Reach, Target};
use crate::error::{Error, Result};
use crate::kernels::load_rows;
use crate::kernels::{Cpu, channel_scale, quadratic, scaled_difference};
use crate::tensor::TensorView;

/// Rows of the weight that a task takes.
const ROWS: usize = 32;

/// A weight that may be better than the plain one: `Q(W * scale) * inverse`.
pub(super) struct Candidate {
    /// Factors of the columns, in the weight's type. None: all one.
    pub scale: Option<Vec<f32>>,
    /// What undoes them, in the weight's type.
    pub inverse: Option<Vec<f32>>,
    /// The amax values of the scaled weight, where they do not follow from some of its rows.
    pub amax: Option<Vec<f32>>,
}

/// Rows of a task: whole groups of rows that share an amax.
fn rows_per_task(target: &Target) -> usize {
    match target.reach {
        Reach::Rows(group) => ROWS
            .div_ceil(group)
            .saturating_mul(group)
            .min(target.rows()),
        Reach::Tensor | Reach::Columns => ROWS,
    }
}

/// Bytes that errors of so many candidates take, on so many threads.
pub(super) fn workspace_bytes(target: &Target, candidates: usize, threads: usize) -> u64 {
    let (rows, channels) = (rows_per_task(target), target.channels());
    let tasks = target.rows().div_ceil(rows);
    let deltas = candidates * rows * channels;
    let scratch = quadratic::scratch_len(channels, candidates * rows);
    // Rows of the weight in its type and as float32, the scaled and rounded ones.
    let floats = deltas + scratch + 4 * rows * channels + 2 * candidates * rows;
    let a_thread = floats * size_of::<f32>() + quadratic::gemm_workspace_bytes();
    let a_layer = candidates * channels * 2 * size_of::<f32>()
        + candidates * tasks * size_of::<f64>()
        // The scaled weight, its amax values, the factors of the channels.
        + target.weight().size_bytes()
        + target.rows() * channels.div_ceil(target.block()) * 3 * size_of::<f32>()
        + channels.div_ceil(target.block()) * target.block() * target.block() * size_of::<f32>();
    (threads * a_thread + a_layer) as u64
}

/// The squared error of the layer's output for every candidate, summed over outputs, in units of the Gram
/// matrix (`[channels, channels]`, valid on and above the diagonal); and that of a weight of nothing, which
/// is what the output has at all.
pub(super) fn of(
    run: &Run,
    target: &Target,
    seen: &TensorView,
    candidates: &[Candidate],
    gram: &[f32],
) -> Result<(Vec<f64>, f64)> {
    let per_task = rows_per_task(target);
    let sums = by_rows(
        run,
        target.rows(),
        per_task,
        || Work::new(target, candidates.len(), per_task),
        |cpu, work, rows| work.rows(cpu, target, seen, candidates, gram, rows),
    )?;
    // One more for the output itself.
    let mut totals = vec![0.0; candidates.len() + 1];
    for sums in &sums {
        for (total, sum) in totals.iter_mut().zip(sums) {
            *total += sum;
        }
    }
    let energy = totals.pop().unwrap_or_default();
    Ok((totals, energy))
}

/// What a thread works in.
struct Work {
    /// Scaled rows, then rounded ones, in the weight's type.
    rounded: Vec<f32>,
    /// The rows as float32.
    plain: Vec<f32>,
    /// The rounded rows as float32.
    loaded: Vec<f32>,
    /// `[candidates, rows, channels]`.
    deltas: Vec<f32>,
    scratch: Vec<f32>,
    errors: Vec<f64>,
}

impl Work {
    fn new(target: &Target, candidates: usize, rows: usize) -> Self {
        let channels = target.channels();
        let candidates = candidates.max(1);
        Self {
            rounded: vec![0.0; rows * channels],
            plain: vec![0.0; rows * channels],
            loaded: vec![0.0; rows * channels],
            deltas: vec![0.0; candidates * rows * channels],
            scratch: vec![0.0; quadratic::scratch_len(channels, candidates * rows)],
            errors: vec![0.0; candidates * rows],
        }
    }

    /// The errors of some rows: one sum for each candidate, then that of no weight at all.
    fn rows(
        &mut self,
        cpu: &Cpu,
        target: &Target,
        seen: &TensorView,
        candidates: &[Candidate],
        gram: &[f32],
        (first, count): Rows,
    ) -> Result<Vec<f64>> {
        let channels = target.channels();
        let len = count * channels;
        let rows = seen.rows(first, count).map_err(Error::Internal)?;
        let rounded = rows.with_data(&mut self.rounded).map_err(Error::Internal)?;
        let plain = &mut self.plain[..len];
        load_rows::run(
            cpu,
            &rows,
            load_rows::Rows::leading(count, channels),
            1.0,
            plain,
        );
        for (candidate, deltas) in candidates.iter().zip(self.deltas.chunks_exact_mut(len)) {
            let from = match &candidate.scale {
                Some(scale) => {
                    channel_scale::run(cpu, &rows, scale, &rounded);
                    &rounded
                }
                None => &rows,
            };
            target.quantize_rows(cpu, candidate.amax.clone(), from, &rounded)?;
            let loaded = &mut self.loaded[..len];
            load_rows::run(
                cpu,
                &rounded,
                load_rows::Rows::leading(count, channels),
                1.0,
                loaded,
            );
            let inverse = candidate.inverse.as_deref();
            scaled_difference::run(cpu.isa(), loaded, inverse, plain, deltas);
        }
        let m = candidates.len() * count;
        let errors = &mut self.errors[..m.max(count)];
        quadratic::rows(
            gram,
            channels,
            &self.deltas[..m * channels],
            &mut self.scratch,
            &mut errors[..m],
        );
        let mut sums: Vec<f64> = errors[..m]
            .chunks_exact(count)
            .map(|errors| errors.iter().sum())
            .collect();
        quadratic::rows(
            gram,
            channels,
            plain,
            &mut self.scratch,
            &mut errors[..count],
        );
        sums.push(errors[..count].iter().sum());
        Ok(sums)
    }
}
