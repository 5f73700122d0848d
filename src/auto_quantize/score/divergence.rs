//! The score without a backward pass: how far the model's output moves when one group is quantized,
//! `Σ p (log p - log q)` over all positions and classes. One forward for each format of each group and batch.

use super::{Resumed, Scores, Scoring};
use crate::auto_quantize::checkpoint::Checkpoint;
use crate::auto_quantize::host::{Host, fetch};
use crate::error::{Error, Result};
use crate::kernels::Machine;
use crate::kernels::divergence;
use crate::kernels::divergence::cuda::Distribution;
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
    let machine = scoring.model.context().machine();
    let original = LogProbabilities::of(machine, &logits(scoring, host, step)?, true)?;
    original.check(step)?;
    let searched = scoring.groups.iter().zip(scores.iter_mut());
    for (group, scores) in searched.filter(|(group, _)| !group.is_disabled) {
        let slots = || group.layers.iter().flat_map(|layer| layer.slots());
        for (recipe, score) in scores.iter_mut().enumerate().take(scoring.formats.count()) {
            for slot in slots() {
                slot.replace(scoring.formats.state(recipe, slot)?);
            }
            let changed = LogProbabilities::of(machine, &logits(scoring, host, step)?, false)?;
            let found = original.divergence(&changed, step, group.name())?;
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

/// The logarithms of probabilities over the last axis, where the logits lie.
struct LogProbabilities {
    shape: Vec<usize>,
    values: Values,
}

enum Values {
    Host(Vec<f32>),
    Device(Distribution),
}

impl LogProbabilities {
    /// Of logits that the host may write over once they are `kept`.
    fn of(machine: &Machine, logits: &TensorView, is_kept: bool) -> Result<Self> {
        machine
            .check_place(logits)
            .map_err(|error| error.of("logits"))?;
        let shape = logits.shape().dims().to_vec();
        let classes = shape.last().copied().unwrap_or(1).max(1);
        let values = match machine.gpu_of(logits) {
            Some(gpu) => Values::Device(Distribution::new(gpu, logits, is_kept)?),
            None => {
                let mut values = logits.to_f32();
                divergence::log_softmax(&mut values, classes);
                Values::Host(values)
            }
        };
        Ok(Self { shape, values })
    }

    fn check(&self, step: u64) -> Result<()> {
        if self.shape.is_empty() || self.shape.contains(&0) {
            return Err(Error::InvalidArgument(format!(
                "the logits of step {step} have shape {:?}, expected [.., classes]",
                self.shape
            )));
        }
        let is_flawed = match &self.values {
            Values::Host(values) => values.iter().any(|x| x.is_nan()),
            Values::Device(values) => values.is_flawed()?,
        };
        match is_flawed {
            false => Ok(()),
            true => Err(Error::Numeric(format!(
                "the logits of step {step} of the unquantized model hold NaN or Inf"
            ))),
        }
    }

    /// How far these are from those of the model with one group quantized.
    fn divergence(&self, changed: &Self, step: u64, group: &str) -> Result<f64> {
        if self.shape != changed.shape {
            return Err(Error::InvalidArgument(format!(
                "the logits of step {step} have shape {:?} once `{group}` is quantized, {:?} before",
                changed.shape, self.shape
            )));
        }
        match (&self.values, &changed.values) {
            (Values::Host(p), Values::Host(q)) => Ok(divergence::of(p, q)),
            (Values::Device(p), Values::Device(q)) => Ok(p.divergence(q)?),
            _ => Err(Error::InvalidArgument(format!(
                "the logits of step {step} are in host memory once and in device memory another time; bring them in one \
                 place (`{group}` is quantized)"
            ))),
        }
    }
}
