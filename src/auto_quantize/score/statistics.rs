//! Scores from statistics alone, of linear layers: one forward over the steps (and one backward, where gradients
//! weigh), and no replay. In as many passes as the memory limit asks for.

use std::sync::{Arc, Mutex};

use super::expected::{self, Expected};
use super::moments::{Moments, MomentsTap, SquaresTap};
use super::moments_on_gpu::Shared;
use super::work::Values;
use super::{Reading, Scores, Scoring};
use crate::auto_quantize::checkpoint::Checkpoint;
use crate::auto_quantize::formats::observed;
use crate::auto_quantize::host::{Host, fetch};
use crate::error::{Error, Result};
use crate::model::{Layer, LayerKind, Progress, Slot};
use crate::observe::{Gate, InputNeeds, InputStatistics};

/// Whether the gradients at the outputs count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gradients {
    /// No backward pass is run.
    Unused,
    /// Every output weighs as much as the mean square of the gradient there.
    Squared,
}

/// Fills in the scores of all groups.
pub(super) fn run(
    scoring: &Scoring,
    host: &mut dyn Host,
    gradients: Gradients,
    scores: &mut Scores,
    checkpoint: &mut Checkpoint,
) -> Result<()> {
    let mut waiting = scoring.readings();
    let mut searched = waiting.iter().flatten();
    searched.try_for_each(|(_, layer)| check(scoring, layer))?;
    waiting.reverse();
    // What a step of an interrupted search has added does not count: nothing is kept before the end.
    scores.iter_mut().for_each(|scores| scores.fill(0.0));
    let (mut done, all) = (0, waiting.len() as u64);
    let mut is_reached = false;
    while !waiting.is_empty() {
        let pass = Pass::new(scoring, &mut waiting, gradients)?;
        let outcome = pass.observe(scoring, host, gradients);
        pass.leave();
        outcome?;
        is_reached |= pass.is_reached();
        for watched in &pass.watched {
            watched.score(scoring, gradients, scores)?;
            done += 1;
            scoring.model.shared().check_cancelled()?;
            scoring.model.context().progress(&Progress {
                phase: "score",
                done,
                total: all,
                layer: watched.moments[0].layer().name(),
            })?;
        }
    }
    if !is_reached {
        return Err(super::no_inputs(scoring));
    }
    for (group, scores) in scoring.groups.iter().zip(scores.iter()) {
        super::check(group, scores, scoring.steps.saturating_sub(1))?;
    }
    checkpoint.keep_scores(scoring.steps, scores, &[])
}

/// Refuses layers whose statistics do not say enough.
fn check(scoring: &Scoring, layer: &Layer) -> Result<()> {
    if linear_inputs(layer).is_none() {
        return Err(Error::Unsupported(format!(
            "layer `{}` is not linear: its formats can be scored by the methods gradient and kl_div only; \
             choose one of those, or list it in disabled_layers",
            layer.name()
        )));
    }
    let candidates = scoring.formats.layers_of(layer)?;
    let mut slots = candidates.iter().flat_map(|layer| layer.slots());
    let rotates = |slot: &Arc<Slot>| {
        let state = slot.state();
        state.members().iter().any(|q| q.attributes.rotate.enable)
    };
    match slots.any(rotates) {
        false => Ok(()),
        true => Err(Error::Unsupported(format!(
            "layer `{}`: a format with rotation can be scored by the methods gradient and kl_div only",
            layer.name()
        ))),
    }
}

fn linear_inputs(layer: &Layer) -> Option<usize> {
    let spec = layer.spec();
    let weight = spec
        .weight
        .filter(|_| spec.kind == LayerKind::Linear && spec.forward.is_none())?;
    weight.shape().dims().get(1).copied()
}

const NEEDS: InputNeeds = InputNeeds {
    mean_abs: false,
    gram: true,
    blocks: None,
};

/// One activation in one pass.
struct Watched {
    groups: Vec<usize>,
    moments: Vec<Arc<Moments>>,
    gram: Arc<InputStatistics>,
    gate: Arc<Gate>,
}

impl Watched {
    fn new(scoring: &Scoring, reading: &Reading, shared: &Arc<Mutex<Shared>>) -> Result<Self> {
        let name = reading[0].1.input_slot().name().to_owned();
        let moments = reading.iter().map(|(_, layer)| {
            let outputs = layer
                .spec()
                .weight
                .map_or(0, |weight| weight.shape().dims()[0]);
            Ok(Arc::new(Moments::new(
                layer,
                &scoring.formats.layers_of(layer)?,
                outputs,
                shared,
            )))
        });
        Ok(Self {
            groups: reading.iter().map(|(group, _)| *group).collect(),
            moments: moments.collect::<Result<_>>()?,
            gram: Arc::new(InputStatistics::new(&name, channels_of(reading), NEEDS)?),
            gate: Arc::new(Gate::new(reading.len())),
        })
    }

    fn hang(&self, gradients: Gradients) {
        for (place, moments) in self.moments.iter().enumerate() {
            let layer = moments.layer();
            layer.input_slot().set_observer(Some(Arc::new(MomentsTap {
                moments: Arc::clone(moments),
                gram: Arc::clone(&self.gram),
                gate: Arc::clone(&self.gate),
                place,
            })));
            if gradients == Gradients::Squared {
                layer.set_gradient_observer(Some(Arc::new(SquaresTap(Arc::clone(moments)))));
            }
        }
    }

    fn score(&self, scoring: &Scoring, gradients: Gradients, scores: &mut Scores) -> Result<()> {
        self.gram.settle()?;
        let input = self.gram.summary(scoring.model.context().machine());
        let mut work = <[Values; 2]>::default();
        for (moments, group) in self.moments.iter().zip(&self.groups) {
            let (layer, sums) = (moments.layer(), moments.take()?);
            if gradients == Gradients::Squared && sums.tokens > 0 && sums.gradient_tokens == 0 {
                return Err(super::forgotten_gradient(layer.name()));
            }
            let expected = Expected {
                machine: scoring.model.context().machine(),
                input: &input,
                sums: &sums,
                weighted: gradients == Gradients::Squared,
            };
            let candidates = scoring.formats.layers_of(layer)?;
            let found = expected.scores(layer, &candidates, &mut work)?;
            for (score, found) in scores[*group].iter_mut().zip(found) {
                *score += found;
            }
        }
        Ok(())
    }
}

/// What is observed at once.
struct Pass {
    watched: Vec<Watched>,
}

impl Pass {
    /// Takes from the end of `waiting` what fits the memory together.
    fn new(scoring: &Scoring, waiting: &mut Vec<Reading>, gradients: Gradients) -> Result<Self> {
        let context = scoring.model.context();
        let limit = context.memory_limit_bytes().unwrap_or(u64::MAX);
        let threads = context.machine().num_threads();
        let shared = Arc::default();
        let (mut statistics, mut workspace) = (0, 0);
        let mut pass = Self {
            watched: Vec::new(),
        };
        while let Some(reading) = waiting.pop() {
            let channels = channels_of(&reading);
            let of_layers = reading
                .iter()
                .map(|(_, layer)| expected::workspace_bytes(layer, threads));
            let needed = of_layers
                .max()
                .unwrap_or(0)
                .max(NEEDS.transient_bytes(channels, threads));
            let own = NEEDS.size_bytes(channels) + sums_bytes(scoring, &reading);
            let with = (statistics + own, workspace.max(needed));
            if with.0 + with.1 > limit {
                if pass.watched.is_empty() {
                    return Err(Error::OutOfMemory(format!(
                        "`{}` needs {} bytes to be scored from statistics, but the context's memory_limit_bytes is {limit}",
                        reading[0].1.name(),
                        own + needed
                    )));
                }
                waiting.push(reading);
                break;
            }
            (statistics, workspace) = with;
            let watched = Watched::new(scoring, &reading, &shared)?;
            pass.watched.push(watched);
        }
        pass.watched
            .iter()
            .for_each(|watched| watched.hang(gradients));
        Ok(pass)
    }

    fn observe(&self, scoring: &Scoring, host: &mut dyn Host, gradients: Gradients) -> Result<()> {
        for step in 0..scoring.steps {
            fetch(scoring.model, host, step, scoring.steps, "num_score_steps")?;
            let mut loss = 0.0;
            observed(scoring.model, || {
                match gradients {
                    Gradients::Unused => host.forward(step)?,
                    Gradients::Squared => loss = host.forward_backward(step)?,
                }
                Ok(())
            })?;
            scoring.model.shared().check_cancelled()?;
            super::check_loss(loss, step)?;
        }
        Ok(())
    }

    /// Whether a token passed a tap.
    fn is_reached(&self) -> bool {
        let reached = |watched: &Watched| watched.gate.tokens().iter().any(|tokens| *tokens > 0);
        self.watched.iter().any(reached)
    }

    fn leave(&self) {
        for moments in self.watched.iter().flat_map(|watched| &watched.moments) {
            moments.layer().input_slot().set_observer(None);
            moments.layer().set_gradient_observer(None);
        }
    }
}

/// Channels of what is read.
fn channels_of(reading: &Reading) -> usize {
    linear_inputs(&reading[0].1).unwrap_or(0)
}

/// Bytes of the sums of a reading's layers.
fn sums_bytes(scoring: &Scoring, reading: &Reading) -> u64 {
    let of_layer = |layer: &Arc<Layer>| {
        let outputs = layer
            .spec()
            .weight
            .map_or(0, |weight| weight.shape().dims()[0]);
        let sums = scoring.formats.count() * channels_of(reading) + outputs;
        (sums * size_of::<f64>()) as u64
    };
    reading.iter().map(|(_, layer)| of_layer(layer)).sum()
}
