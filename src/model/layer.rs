//! A layer of the host's model: what it is, the tensors it borrows, and its quantizers.

use std::sync::{Arc, PoisonError, RwLock};

use super::convolution::Convolution;
use super::quantizer::Quantizer;
use super::registry::{Mode, Shared};
use super::slot::{NewWeight, Role, Scales, Slot, SlotSpec};
use crate::config::{Attributes, Axis};
use crate::error::{Error, Result};
use crate::kernels::Machine;
use crate::kernels::cuda::GpuError;
use crate::tensor::TensorView;

/// What a layer computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerKind {
    /// Weight `[out, in]`.
    Linear,
    /// Weight `[out, in / groups, ...]` with this many spatial axes.
    Conv {
        /// 1, 2 or 3.
        spatial: usize,
    },
    /// Weight `[in, out / groups, ...]` with this many spatial axes.
    ConvTranspose {
        /// 1, 2 or 3.
        spatial: usize,
    },
    /// Weight `[rows, dim]`; its input is indices.
    Embedding,
    /// Anything else.
    Generic,
}

impl LayerKind {
    /// Class that a configuration may select by.
    pub fn class_name(self) -> Option<&'static str> {
        match self {
            Self::Linear => Some("nn.Linear"),
            Self::Conv { spatial: 1 } => Some("nn.Conv1d"),
            Self::Conv { spatial: 2 } => Some("nn.Conv2d"),
            Self::Conv { .. } => Some("nn.Conv3d"),
            Self::ConvTranspose { spatial: 1 } => Some("nn.ConvTranspose1d"),
            Self::ConvTranspose { spatial: 2 } => Some("nn.ConvTranspose2d"),
            Self::ConvTranspose { .. } => Some("nn.ConvTranspose3d"),
            Self::Embedding => Some("nn.Embedding"),
            Self::Generic => None,
        }
    }

    /// Rank of the weight; None when any is right.
    fn weight_rank(self) -> Option<usize> {
        match self {
            Self::Linear | Self::Embedding => Some(2),
            Self::Conv { spatial } | Self::ConvTranspose { spatial } => Some(2 + spatial),
            Self::Generic => None,
        }
    }
}

/// Computes the output of a layer that mq cannot compute itself.
pub trait LayerForward: Send + Sync {
    /// Writes the output, without the bias or with it, for an input and a weight; all in the host's layout. May be called
    /// from any thread, one call at a time for a layer.
    fn forward(&self, x: &TensorView, weight: Option<&TensorView>, y: &TensorView) -> Result<()>;
}

/// Receives the gradient of a loss at a layer's output.
pub trait GradientObserver: Send + Sync {
    /// Sees `g`, which is memory of the host's. Called from any thread.
    fn observe(&self, machine: &Machine, g: &TensorView) -> Result<()>;
}

/// A layer to register.
#[derive(Clone)]
pub struct LayerSpec {
    /// Dotted name, unique in the model.
    pub name: String,
    /// What it computes.
    pub kind: LayerKind,
    /// Class that a configuration may select by; None: that of the kind.
    pub class_name: Option<String>,
    /// The weight; required but for generic layers.
    pub weight: Option<TensorView>,
    /// The bias.
    pub bias: Option<TensorView>,
    /// Layers the runtime fuses share this name.
    pub fused_group: Option<String>,
    /// Layers that read the same activation share this name.
    pub shared_input_group: Option<String>,
    /// Layers that are the same projection of the experts of one block share this name: peers, of which
    /// each sees part of the tokens.
    pub expert_group: Option<String>,
    /// The norm whose output this layer reads, and nothing in between.
    pub norm: Option<Norm>,
    /// Name of the linear layer whose output, channel by channel, scales what this layer reads.
    pub producer: Option<String>,
    /// How a convolution moves over its input; ignored for other kinds.
    pub convolution: Convolution,
    /// Computes the layer, where mq cannot.
    pub forward: Option<Arc<dyn LayerForward>>,
}

/// The elementwise gain of a norm, which can take over a `pre_quant_scale`.
#[derive(Debug, Clone, Copy)]
pub struct Norm {
    /// `[channels]`, written to by folding.
    pub gain: TensorView,
    /// Of the same length, of a LayerNorm.
    pub bias: Option<TensorView>,
    /// The norm multiplies with `1 + gain`.
    pub adds_one: bool,
}

impl LayerSpec {
    /// A layer of which nothing but name and kind is known; the other fields are to be set.
    pub fn new(name: impl Into<String>, kind: LayerKind) -> Self {
        Self {
            name: name.into(),
            kind,
            class_name: None,
            weight: None,
            bias: None,
            fused_group: None,
            shared_input_group: None,
            expert_group: None,
            norm: None,
            producer: None,
            convolution: Convolution::default(),
            forward: None,
        }
    }

    /// Checks what can be checked without the model.
    /// Every tensor of the host's in it.
    pub(super) fn tensors(&self) -> impl Iterator<Item = &TensorView> {
        let norm = self.norm.iter();
        let norm = norm.flat_map(|norm| std::iter::once(&norm.gain).chain(&norm.bias));
        self.weight.iter().chain(&self.bias).chain(norm)
    }

    pub(super) fn check(&self) -> Result<()> {
        let name = &self.name;
        check_name(name)?;
        let invalid = |text: String| Err(Error::InvalidArgument(format!("layer `{name}`: {text}")));
        match (&self.weight, self.kind.weight_rank()) {
            (None, Some(rank)) => {
                return invalid(format!("has no weight, expected one of rank {rank}"));
            }
            (Some(weight), Some(rank)) if weight.shape().dims().len() != rank => {
                return invalid(format!(
                    "weight has shape {:?}, expected rank {rank}",
                    weight.shape()
                ));
            }
            (Some(weight), _) if weight.shape().dims().is_empty() => {
                return invalid("weight has rank 0, expected at least 1".to_owned());
            }
            _ => {}
        }
        if let Some(bias) = &self.bias
            && bias.shape().dims().len() != 1
        {
            return invalid(format!(
                "bias has shape {:?}, expected rank 1",
                bias.shape()
            ));
        }
        let outputs = match (self.kind, &self.weight) {
            (LayerKind::Linear | LayerKind::Conv { .. }, Some(weight)) => {
                weight.shape().dims().first()
            }
            _ => None,
        };
        if let (Some(bias), Some(outputs)) = (&self.bias, outputs)
            && bias.count() != *outputs
        {
            return invalid(format!(
                "bias has {} values, expected {outputs}",
                bias.count()
            ));
        }
        for (what, group) in [
            ("class_name", &self.class_name),
            ("fused_group", &self.fused_group),
            ("shared_input_group", &self.shared_input_group),
            ("expert_group", &self.expert_group),
            ("producer", &self.producer),
        ] {
            if group.as_ref().is_some_and(String::is_empty) {
                return invalid(format!("{what} is empty; pass NULL for none"));
            }
        }
        self.check_producers().or_else(invalid)
    }

    /// Whether a norm or a layer before this one can be what it is said to be.
    fn check_producers(&self) -> std::result::Result<(), String> {
        if self.norm.is_none() && self.producer.is_none() {
            return Ok(());
        }
        if self.norm.is_some() && self.producer.is_some() {
            return Err("has a norm and a producer; name the one its input comes from".to_owned());
        }
        if self.producer.as_ref() == Some(&self.name) {
            return Err("names itself as its producer".to_owned());
        }
        let (LayerKind::Linear, Some(weight)) = (self.kind, &self.weight) else {
            return Err("has a norm or a producer, expected of linear layers only".to_owned());
        };
        let inputs = weight.shape().dims()[1];
        let Some(norm) = &self.norm else {
            return Ok(());
        };
        let parts = [
            ("norm gain", Some(&norm.gain)),
            ("norm bias", norm.bias.as_ref()),
        ];
        for (what, tensor) in parts {
            if let Some(tensor) = tensor
                && tensor.shape().dims() != [inputs]
            {
                return Err(format!(
                    "{what} has shape {:?}, expected [{inputs}], the inputs of the layer",
                    tensor.shape()
                ));
            }
        }
        Ok(())
    }
}

/// Extent of the last axis of what a quantizer of this layer sees, where the layer tells.
fn channels(spec: &LayerSpec, role: Role) -> Option<usize> {
    let dims = spec.weight.as_ref()?.shape().dims();
    match (spec.kind, role) {
        (_, Role::Weight) => dims.last().copied(),
        (LayerKind::Linear, Role::Input) => dims.get(1).copied(),
        _ => None,
    }
}

/// Checks that a name can be found again by a pattern and printed on one line.
pub(super) fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.chars().any(|c| c.is_control()) {
        return Err(Error::InvalidArgument(format!(
            "name {name:?} is empty or holds control characters"
        )));
    }
    Ok(())
}

/// A registered layer.
pub struct Layer {
    spec: LayerSpec,
    input: Arc<Slot>,
    output: Arc<Slot>,
    weight: Option<Arc<Slot>>,
    gradient: RwLock<Option<Arc<dyn GradientObserver>>>,
    shared: Arc<Shared>,
}

impl Layer {
    /// A checked layer with its quantizers in their initial state.
    pub(super) fn new(spec: LayerSpec, shared: &Arc<Shared>) -> Result<Self> {
        let embedding = spec.kind == LayerKind::Embedding;
        let class_name = match &spec.class_name {
            Some(class_name) => Some(class_name.clone()),
            None => spec.kind.class_name().map(str::to_owned),
        };
        let slot = |role: Role, enable: bool, axis: Option<Axis>| {
            let suffix = match role {
                Role::Input => "input_quantizer",
                Role::Output => "output_quantizer",
                Role::Weight => "weight_quantizer",
                Role::Host => "quantizer",
            };
            let attributes = Attributes {
                enable,
                axis,
                ..Attributes::default()
            };
            let slot = SlotSpec {
                name: format!("{}.{suffix}", spec.name),
                role,
                class_name: class_name.clone(),
                locked: embedding && role == Role::Input,
                weight: if role == Role::Weight {
                    spec.weight
                } else {
                    None
                },
                channels: channels(&spec, role),
                quantizer: Quantizer::new(attributes),
            };
            Arc::new(Slot::new(slot, Arc::clone(shared)))
        };
        // The weight of an embedding begins per tensor, every other one with an amax per index of
        // axis 0 (for a transposed convolution that is the input channel).
        let weight_axis = if embedding { None } else { Some(Axis::One(0)) };
        Ok(Self {
            input: slot(Role::Input, !embedding, None),
            output: slot(Role::Output, false, None),
            weight: spec
                .weight
                .is_some()
                .then(|| slot(Role::Weight, true, weight_axis)),
            gradient: RwLock::default(),
            shared: Arc::clone(shared),
            spec,
        })
    }

    /// The dotted name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// How it was registered.
    pub fn spec(&self) -> &LayerSpec {
        &self.spec
    }

    /// Its quantizers, in the order in which the reference lists them.
    pub fn slots(&self) -> impl Iterator<Item = &Arc<Slot>> {
        [Some(&self.input), Some(&self.output), self.weight.as_ref()]
            .into_iter()
            .flatten()
    }

    /// What tells the activation it reads from others, if other layers may read it too: the declared group and the
    /// number of channels.
    pub(crate) fn shared_input(&self) -> Option<String> {
        let group = self.spec.shared_input_group.as_ref()?;
        self.input
            .channels()
            .map(|channels| format!("{channels} {group}"))
    }

    /// The input's quantizer.
    pub fn input_slot(&self) -> &Arc<Slot> {
        &self.input
    }

    /// The output's quantizer.
    pub fn output_slot(&self) -> &Arc<Slot> {
        &self.output
    }

    /// The weight's quantizer.
    pub fn weight_slot(&self) -> Option<&Arc<Slot>> {
        self.weight.as_ref()
    }

    /// The tap of its input.
    pub fn input(&self, x: TensorView, out: Option<TensorView>) -> Result<()> {
        self.input.forward(None, x, out)
    }

    /// The tap of its output.
    pub fn output(&self, y: TensorView, out: Option<TensorView>) -> Result<()> {
        self.output.forward(None, y, out)
    }

    /// The tap of the gradient at its output. Outside a pass that asks for gradients nothing happens.
    pub fn gradient(&self, g: TensorView) -> Result<()> {
        self.shared.check_usable()?;
        // As its input's tap does: an expert that no token reached has neither.
        if self.shared.mode() != Mode::Calibrating || g.count() == 0 {
            return Ok(());
        }
        let machine = self.shared.context().machine();
        machine.check_place(&g).map_err(|error| {
            let text = format!("layer `{}`: the gradient: {error}", self.spec.name);
            GpuError { text, ..error }
        })?;
        let observer = self.gradient.read();
        let observer = observer.unwrap_or_else(PoisonError::into_inner).clone();
        let Some(observer) = observer else {
            return Ok(());
        };
        let outcome = self.shared.check_cancelled();
        let outcome = outcome.and_then(|()| observer.observe(self.shared.context().machine(), &g));
        // The verb must fail even if the host ignores this status.
        outcome.inspect_err(|error| self.note_failure(error))
    }

    pub(crate) fn set_gradient_observer(&self, observer: Option<Arc<dyn GradientObserver>>) {
        let mut current = self
            .gradient
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *current = observer;
    }

    /// Writes the weight as the quantized layer uses it.
    pub fn weight_into(&self, out: TensorView) -> Result<()> {
        self.shared.check_usable()?;
        match (&self.spec.weight, &self.weight) {
            (Some(weight), Some(slot)) => slot.weight_into(weight, &out),
            _ => Err(Error::InvalidArgument(format!(
                "layer `{}` has no weight",
                self.spec.name
            ))),
        }
    }

    /// Writes what the quantized layer uses of another weight than the registered one.
    pub fn requantize_into(
        &self,
        weight: TensorView,
        scales: Scales,
        out: TensorView,
    ) -> Result<()> {
        self.shared.check_usable()?;
        match (&self.spec.weight, &self.weight) {
            (Some(registered), Some(slot)) => {
                let new = NewWeight {
                    weight: &weight,
                    out: &out,
                    shares_scale: self.spec.fused_group.is_some(),
                };
                slot.requantize_into(registered, new, scales)
            }
            _ => Err(Error::InvalidArgument(format!(
                "layer `{}` has no weight",
                self.spec.name
            ))),
        }
    }

    /// Remembers why a tap failed, when a calibration is running.
    pub fn note_failure(&self, error: &Error) {
        self.shared.note_failure(error);
    }

    /// Makes the model refuse further work.
    pub fn poison(&self) {
        self.shared.poison();
    }
}
