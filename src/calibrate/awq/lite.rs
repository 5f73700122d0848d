//! `awq_lite`: the scales of the columns among `mean|x|^α / mean|w|^(1-α)` that give the least error.

use super::super::algorithm::Run;
use super::losses::{self, Candidate};
use super::output_error;
use super::target::{Reach, Target};
use crate::error::{Error, Result};
use crate::kernels::{Grid, absmax, block_magnitudes};
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
    let magnitudes = block_magnitudes::means(run.machine, weight, target.block());
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
        factors: None,
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
