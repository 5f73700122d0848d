//! The score without a backward pass: how far the model's output moves when one group is quantized,
//! `Σ p (log p - log q)` over all positions and classes. One forward for each format of each group and batch.

use super::{Resumed, Scores, Scoring};
use crate::auto_quantize::checkpoint::Checkpoint;
use crate::auto_quantize::host::{Host, fetch};
use crate::error::{Error, Result};
use crate::model::Mode;
use crate::tensor::TensorView;

/// Adds the scores of the steps that are left.
pub(super) fn run(
    scoring: &Scoring,
    host: &mut dyn Host,
    from: Resumed,
    scores: &mut Scores,
    checkpoint: &mut Checkpoint,
) -> Result<()> {
    for slot in scoring.model.slots() {
        slot.replace(scoring.formats.state(scoring.formats.none(), slot)?);
    }
    let before = scoring.model.mode();
    scoring.model.set_mode(Mode::Quantized);
    for step in from.step..scoring.steps {
        run_step(scoring, host, step, scores)?;
        scoring.end_step(step, scores, &[], checkpoint)?;
    }
    scoring.model.set_mode(before);
    Ok(())
}

fn run_step(scoring: &Scoring, host: &mut dyn Host, step: u64, scores: &mut Scores) -> Result<()> {
    let original = LogProbabilities::of(&logits(scoring, host, step)?)?;
    original.check(step)?;
    let searched = scoring.groups.iter().zip(scores.iter_mut());
    for (group, scores) in searched.filter(|(group, _)| !group.is_disabled) {
        let slots = || group.layers.iter().flat_map(|layer| layer.slots());
        for (recipe, score) in scores.iter_mut().enumerate().take(scoring.formats.count()) {
            for slot in slots() {
                slot.replace(scoring.formats.state(recipe, slot)?);
            }
            let changed = LogProbabilities::of(&logits(scoring, host, step)?)?;
            let found = original.divergence(&changed).ok_or_else(|| {
                Error::InvalidArgument(format!(
                    "the logits of step {step} have shape {:?} once `{}` is quantized, {:?} before",
                    changed.shape,
                    group.name(),
                    original.shape
                ))
            })?;
            if !found.is_finite() {
                return Err(Error::Numeric(format!(
                    "the logits of step {step} hold NaN or Inf once `{}` is quantized to {}",
                    group.name(),
                    scoring.formats.recipes[recipe].name
                )));
            }
            // Rounding must not make a divergence negative.
            *score += found.max(0.0);
        }
        // Not the format switched off: its pre_quant_scale would stay.
        for slot in slots() {
            slot.replace(scoring.formats.state(scoring.formats.none(), slot)?);
        }
    }
    Ok(())
}

fn logits(scoring: &Scoring, host: &mut dyn Host, step: u64) -> Result<TensorView> {
    fetch(scoring.model, host, step, scoring.steps, "num_score_steps")?;
    scoring.model.heed_failures(true);
    let outcome = host.forward(step);
    scoring.model.heed_failures(false);
    scoring.model.failure_or(outcome)?;
    scoring.model.shared().check_cancelled()?;
    host.logits(step)
}

/// `log_softmax` over the last axis.
struct LogProbabilities {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl LogProbabilities {
    fn of(logits: &TensorView) -> Result<Self> {
        let shape = logits.shape().dims().to_vec();
        let mut values = logits.host_values().map_err(Error::InvalidArgument)?;
        let classes = shape.last().copied().unwrap_or(1).max(1);
        for row in values.chunks_exact_mut(classes) {
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            // In f64, for two large numbers may be further apart than f32 reaches.
            let below = |x: f32| f64::from(x) - f64::from(largest);
            let sum: f64 = row.iter().map(|x| below(*x).exp()).sum();
            let shift = sum.ln();
            for x in row {
                *x = (below(*x) - shift) as f32;
            }
        }
        Ok(Self { shape, values })
    }

    fn check(&self, step: u64) -> Result<()> {
        if self.values.is_empty() || self.shape.is_empty() {
            return Err(Error::InvalidArgument(format!(
                "the logits of step {step} have shape {:?}, expected [.., classes]",
                self.shape
            )));
        }
        match self.values.iter().any(|x| x.is_nan()) {
            false => Ok(()),
            true => Err(Error::Numeric(format!(
                "the logits of step {step} of the unquantized model hold NaN or Inf"
            ))),
        }
    }

    /// None: of another shape.
    fn divergence(&self, changed: &Self) -> Option<f64> {
        if self.shape != changed.shape {
            return None;
        }
        let pairs = self.values.iter().zip(&changed.values);
        // A class that is masked with -inf takes no part, as p log p is zero there.
        let possible = pairs.filter(|(p, _)| **p > f32::NEG_INFINITY);
        let terms = possible.map(|(p, q)| f64::from(*p).exp() * (f64::from(*p) - f64::from(*q)));
        Some(terms.sum())
    }
}
