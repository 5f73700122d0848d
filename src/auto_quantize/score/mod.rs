//! How sensitive the loss is to each format of each group.

mod activations;
mod change;
mod change_on_gpu;
mod divergence;
mod expected;
mod expected_on_gpu;
mod gradient;
mod moments;
mod moments_on_gpu;
mod products;
mod statistics;
mod tally;
mod work;

use std::collections::HashMap;
use std::sync::Arc;

use super::checkpoint::Checkpoint;
use super::formats::Formats;
use super::grouping::Group;
use super::host::Host;
use crate::error::{Error, Result};
use crate::kernels::{Machine, absmax};
use crate::model::{Layer, Model, Progress};
use crate::tensor::TensorView;
use statistics::Gradients;

/// A measure of sensitivity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The reference's: `Σ (g ∘ Δy)²`.
    Gradient,
    /// `Σ Δy²`, expected from the statistics of a layer's input; no backward.
    Gram,
    /// The same, weighted with the mean square of the gradient at each output.
    Fisher,
    /// The divergence of the model's output.
    KlDiv,
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 4] = [Self::Gradient, Self::Gram, Self::Fisher, Self::KlDiv];

    /// Reads a name.
    pub fn read(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|method| method.name() == name);
        found.ok_or_else(|| {
            let known = Self::ALL.map(Self::name);
            Error::Config(format!(
                "Invalid method: {name:?}, expected one of {}",
                known.join(", ")
            ))
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gradient => "gradient",
            Self::Gram => "gram",
            Self::Fisher => "fisher",
            Self::KlDiv => "kl_div",
        }
    }
}

/// An activation: the layers that read it, with the positions of their groups.
type Reading = Vec<(usize, Arc<Layer>)>;

/// Where an interrupted search goes on.
struct Resumed {
    step: u64,
    /// Layers that were used before; empty for none.
    used: Vec<bool>,
}

/// Refuses a host that cannot do what a method needs.
pub fn check_host(method: Method, host: &dyn Host) -> Result<()> {
    match method {
        Method::Gradient | Method::Fisher => host.check_backward(),
        Method::KlDiv => host.check_logits(),
        Method::Gram => Ok(()),
    }
}

/// Scores, by group and by recipe.
pub type Scores = Vec<Vec<f64>>;

/// What is scored.
pub struct Scoring<'a> {
    /// The model, whose quantizers are off.
    pub model: &'a Model,
    /// Its calibrated formats.
    pub formats: &'a Formats,
    /// Its groups; those that are disabled get no score.
    pub groups: &'a [Group],
    /// Batches.
    pub steps: u64,
}

impl Scoring<'_> {
    /// Scores every format of every group; goes on from where the checkpoint ends.
    pub fn run(
        &self,
        method: Method,
        host: &mut dyn Host,
        checkpoint: &mut Checkpoint,
    ) -> Result<Scores> {
        let mut scores = vec![vec![0.0; self.formats.recipes.len()]; self.groups.len()];
        if self.groups.iter().all(|group| group.is_disabled) {
            return Ok(scores);
        }
        let (done, used) = checkpoint.restore_scores(&mut scores)?;
        if done >= self.steps {
            let text = "AutoQuantize: Restored from checkpoint, skipping scoring";
            self.model.context().info(text);
            return Ok(scores);
        }
        let from = Resumed { step: done, used };
        match method {
            Method::Gradient => gradient::run(self, host, from, &mut scores, checkpoint),
            Method::Gram => statistics::run(self, host, Gradients::Unused, &mut scores, checkpoint),
            Method::Fisher => {
                statistics::run(self, host, Gradients::Squared, &mut scores, checkpoint)
            }
            Method::KlDiv => divergence::run(self, host, from, &mut scores, checkpoint),
        }?;
        Ok(scores)
    }
}

impl Scoring<'_> {
    /// What the layers of all groups read, in the order of the groups.
    fn readings(&self) -> Vec<Reading> {
        let mut readings: Vec<Reading> = Vec::new();
        let mut by_name: HashMap<String, usize> = HashMap::new();
        let groups = self.groups.iter().enumerate();
        for (at, group) in groups.filter(|(_, group)| !group.is_disabled) {
            for layer in &group.layers {
                let name = layer.shared_input();
                let known = name.as_ref().and_then(|name| by_name.get(name));
                let reading = known.copied().unwrap_or(readings.len());
                if reading == readings.len() {
                    readings.push(Reading::new());
                    by_name.extend(name.map(|name| (name, reading)));
                }
                readings[reading].push((at, Arc::clone(layer)));
            }
        }
        readings
    }

    /// A step was added to the scores: keeps them, if they are numbers, and tells the host.
    fn end_step(
        &self,
        step: u64,
        scores: &Scores,
        used: &[bool],
        checkpoint: &mut Checkpoint,
    ) -> Result<()> {
        for (group, scores) in self.groups.iter().zip(scores) {
            check(group, scores, step)?;
        }
        checkpoint.keep_scores(step + 1, scores, used)?;
        self.model.context().progress(&Progress {
            phase: "score",
            done: step + 1,
            total: self.steps,
            layer: "",
        })
    }
}

/// Refuses a gradient that no score could come from.
fn check_gradient(machine: &Machine, layer: &str, g: &TensorView) -> Result<()> {
    match absmax::not_finite(machine, g) {
        None => Ok(()),
        Some((position, value)) => Err(Error::Numeric(format!(
            "layer `{layer}`: {value} at element {position} of a gradient of shape {:?}; scores need finite gradients",
            g.shape()
        ))),
    }
}

/// The same of a gradient on a GPU, where only the position was noted.
fn flawed_gradient(layer: &str, position: u64) -> Error {
    Error::Numeric(format!(
        "layer `{layer}`: NaN or Inf at element {position} of a gradient; scores need finite gradients"
    ))
}

/// Refuses the loss of a step whose gradients would be worth nothing.
fn check_loss(loss: f64, step: u64) -> Result<()> {
    match loss.is_finite() {
        true => Ok(()),
        false => Err(Error::Numeric(format!(
            "the loss of step {step} is {loss}; scores need the gradients of a finite one"
        ))),
    }
}

fn no_inputs(scoring: &Scoring) -> Error {
    let searched = scoring.groups.iter().filter(|group| !group.is_disabled);
    let layers: Vec<&str> = searched
        .flat_map(|group| &group.layers)
        .map(|layer| layer.name())
        .collect();
    Error::State(format!(
        "no input passed the tap of any of the {} searched layers (the first is `{}`); call mq_layer_input() in the \
         forward",
        layers.len(),
        layers.first().unwrap_or(&"")
    ))
}

fn forgotten_gradient(first: &str) -> Error {
    Error::State(format!(
        "layer `{first}` was used in the forward but got no gradient; call mq_layer_grad() with the gradient at its \
         output in the backward pass, or list it in disabled_layers"
    ))
}

/// Refuses scores that are no numbers, after a step.
fn check(group: &Group, scores: &[f64], step: u64) -> Result<()> {
    match scores.iter().find(|score| !score.is_finite()) {
        None => Ok(()),
        Some(score) => Err(Error::Numeric(format!(
            "`{}`: its score in step {step} is {score}: NaN or Inf in a gradient, an activation or a weight",
            group.name()
        ))),
    }
}

/// Walking from the most to the least compressed format, no score is above the one before: rounding must not let a
/// format that costs more look worse (the reference does the same).
pub fn make_monotone(scores: &mut [f64]) {
    for at in 1..scores.len() {
        scores[at] = scores[at].min(scores[at - 1]);
    }
}
