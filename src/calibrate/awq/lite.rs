//! `awq_lite`: the scales of the columns among `mean|x|^α / mean|w|^(1-α)` that give the least error.

use super::super::algorithm::Run;
use super::losses::{self, Candidate};
use super::output_error;
use super::target::{Reach, Target};
use crate::error::{Error, Result};
use crate::kernels::load_rows::{self, Rows};
use crate::kernels::{Grid, Machine, absmax, fetch};
use crate::model::QuantizationError;
use crate::observe::InputSummary;
use crate::tensor::{DType, TensorView};

/// Scales stay within this range before they are centred.
const RANGE: (f32, f32) = (1e-4, 1e4);

/// What the search found.
pub(super) struct Best {
    /// Factors of the input: one over the scales.
    pub factors: Vec<f32>,
    /// Of the layer's output; before: the plain weight rounded.
    pub error: Option<QuantizationError>,
}

/// Tries every exponent; the first of equal ones wins.
pub(super) fn search(
    run: &Run,
    target: &Target,
    input: &InputSummary,
    alphas: &[f32],
) -> Result<Best> {
    let mut best = None;
    target.slot.with_seen_weight(|weight| {
        best = Some(search_seen(run, target, weight, input, alphas)?);
        Ok(())
    })?;
    best.ok_or_else(|| Error::Internal(format!("`{}` has no weight", target.slot.name())))
}

fn search_seen(
    run: &Run,
    target: &Target,
    weight: &TensorView,
    input: &InputSummary,
    alphas: &[f32],
) -> Result<Best> {
    let (dtype, channels) = (weight.dtype(), target.channels());
    let mut columns = vec![0.0; channels];
    let grid = Grid::new(weight.shape(), &[target.rows(), 1]);
    absmax::run(run.machine, weight, &grid, &mut columns);
    let largest = absmax::largest(&columns);
    if !largest.is_finite() {
        let found = absmax::not_finite(run.machine, weight).unwrap_or((0, largest));
        return Err(crate::model::not_finite(target.slot.name(), weight, found));
    }
    let mut memory = Vec::new();
    let near = fetch::to_host(run.machine, weight, &mut memory);
    let magnitudes = weight_magnitudes(run.machine, &near, target.block());
    drop(memory);
    // A type of little range may not hold what a scale makes of an outlier: then it is no candidate.
    let fits = |scales: &Vec<f32>| {
        let scaled = |(largest, s): (&f32, f32)| dtype.round(largest * dtype.round(s)).is_finite();
        let weights = columns.iter().zip(scales.iter().copied());
        let inputs = input.channel_max.iter().zip(scales.iter().map(|s| 1.0 / s));
        weights.into_iter().all(scaled)
            && inputs.into_iter().all(scaled)
            && input.holds(scales.iter().map(|s| 1.0 / s))
    };
    let all = alphas
        .iter()
        .map(|alpha| scales(&input.mean_abs, &magnitudes, *alpha));
    let mut scales: Vec<Vec<f32>> = all.filter(fits).collect();
    if scales.is_empty() {
        run.context.warn(&format!(
            "awq_lite: no scale of `{}` fits {dtype}; its pre_quant_scale is one",
            target.name
        ));
        scales.push(vec![1.0; channels]);
    }
    let mut candidates: Vec<Candidate> = scales
        .iter()
        .map(|scales| {
            let scale: Vec<f32> = scales.iter().map(|s| dtype.round(*s)).collect();
            Candidate {
                inverse: Some(scales.iter().map(|s| dtype.round(1.0 / s)).collect()),
                amax: amax(target.reach, &columns, &scale, dtype),
                scale: Some(scale),
            }
        })
        .collect();
    candidates.push(Candidate {
        scale: None,
        inverse: None,
        amax: amax(target.reach, &columns, &vec![1.0; channels], dtype),
    });
    let plain = candidates.len() - 1;
    let search = losses::Search {
        run,
        target,
        seen: weight,
        candidates: &candidates,
        gram: &input.gram,
    };
    let (mut errors, energy) = search.least(plain)?;
    let plain = errors.pop().unwrap_or_default();
    let mut best = 0;
    for (i, error) in errors.iter().enumerate() {
        if *error < errors[best] {
            best = i;
        }
    }
    Ok(Best {
        factors: scales[best].iter().map(|s| 1.0 / s).collect(),
        error: output_error(plain, errors[best], energy),
    })
}

/// The amax of the scaled weight, where it does not follow from some of its rows. Rounding keeps the order,
/// so that of a column is its largest magnitude, scaled and rounded.
fn amax(reach: Reach, columns: &[f32], scale: &[f32], dtype: DType) -> Option<Vec<f32>> {
    let scaled = columns.iter().zip(scale).map(|(w, s)| dtype.round(w * s));
    match reach {
        Reach::Rows(_) => None,
        Reach::Tensor => Some(vec![scaled.fold(0.0, f32::max)]),
        Reach::Columns => Some(scaled.collect()),
    }
}

/// `s = clamp(x^α / (w^(1-α) + tiny))`, centred so that the product of the largest and the smallest is one.
fn scales(activations: &[f32], weights: &[f32], alpha: f32) -> Vec<f32> {
    let scale = |(x, w): (&f32, &f32)| {
        let s = x.powf(alpha) / (w.powf(1.0 - alpha) + f32::MIN_POSITIVE);
        s.clamp(RANGE.0, RANGE.1)
    };
    let mut scales: Vec<f32> = activations.iter().zip(weights).map(scale).collect();
    let highest = scales.iter().copied().fold(0.0, f32::max);
    let lowest = scales.iter().copied().fold(f32::INFINITY, f32::min);
    let centre = (highest * lowest).sqrt();
    for s in &mut scales {
        *s /= centre;
    }
    scales
}

/// Rows whose sums are added up before they go to the total, on one thread.
const ROWS: usize = 256;

/// The mean over the rows of `|w| / amax of its block`, in the weight's type as the reference has it.
fn weight_magnitudes(machine: &Machine, weight: &TensorView, block: usize) -> Vec<f32> {
    let (rows, channels) = (weight.shape().dims()[0], weight.shape().dims()[1]);
    let dtype = weight.dtype();
    let tasks = rows.div_ceil(ROWS);
    let sums = std::sync::Mutex::new(vec![Vec::new(); tasks]);
    machine.for_each(tasks, |task| {
        let (first, mut row) = (task * ROWS, vec![0.0f32; channels]);
        let mut sum = vec![0.0f64; channels];
        let Ok(alone) = Machine::new(1, machine.isa()) else {
            return;
        };
        for r in first..(first + ROWS).min(rows) {
            load_rows::run(
                &alone,
                weight,
                Rows {
                    first: r,
                    ..Rows::leading(1, channels)
                },
                1.0,
                &mut row,
            );
            for (values, sums) in row.chunks(block).zip(sum.chunks_mut(block)) {
                let amax = values.iter().fold(0.0f32, |amax, w| amax.max(w.abs()));
                let amax = dtype.round(amax + dtype.tiny());
                for (value, sum) in values.iter().zip(sums) {
                    *sum += f64::from(dtype.round(value.abs() / amax));
                }
            }
        }
        let mut all = sums
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        all[task] = sum;
    });
    let sums = sums
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut total = vec![0.0f64; channels];
    for sum in &sums {
        for (total, value) in total.iter_mut().zip(sum) {
            *total += value;
        }
    }
    let mean = |sum: &f64| dtype.round((sum / rows as f64) as f32);
    total.iter().map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_centred_and_bounded() {
        let s = scales(&[1.0, 4.0, 0.0], &[0.5, 0.5, 0.5], 1.0);
        // 0 is clamped to 1e-4, and the middle of 1e-4 and 4 is 0.02.
        assert!((s[0] - 50.0).abs() < 1e-3, "{s:?}");
        assert!((s[1] * s[2] - 1.0).abs() < 1e-6, "{s:?}");
        assert_eq!(scales(&[3.0, 7.0], &[0.5, 0.5], 0.0), [1.0, 1.0]);
    }
}
