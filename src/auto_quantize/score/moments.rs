//! What the scores from statistics know of one layer: second moments of its input, of the errors of the formats of its
//! input, and of the gradient at its output.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::work::Buffer;
use crate::error::{Error, Result};
use crate::kernels::{Machine, channel_squares};
use crate::model::{GradientObserver, Layer, Observer, Slot};
use crate::observe::{Gate, InputStatistics, tokens};
use crate::tensor::TensorView;

/// Sums of one layer.
pub(super) struct Moments {
    layer: Arc<Layer>,
    /// The input's quantizer of every format.
    formats: Vec<Arc<Slot>>,
    sums: Mutex<Sums>,
    /// A quantized input.
    scratch: Mutex<Buffer>,
}

/// Of the tokens that passed.
#[derive(Debug, Default, Clone)]
pub(super) struct Sums {
    /// For every format, by channel, the sum over batches of the mean square of what it changes in the input; empty
    /// where it only changes the weight.
    pub errors: Vec<Vec<f64>>,
    /// By output, the sum of the squares of the gradient.
    pub gradients: Vec<f64>,
    /// Rows that the gradients had.
    pub gradient_tokens: u64,
    /// Rows that the inputs had.
    pub tokens: u64,
}

impl Moments {
    /// Nothing seen yet.
    pub fn new(layer: &Arc<Layer>, candidates: &[Arc<Layer>], outputs: usize) -> Self {
        let formats: Vec<Arc<Slot>> = candidates
            .iter()
            .map(|layer| Arc::clone(layer.input_slot()))
            .collect();
        let channels = layer.input_slot().channels().unwrap_or(0);
        let errors = formats.iter().map(|slot| match slot.state().is_enabled() {
            true => vec![0.0; channels],
            false => Vec::new(),
        });
        let sums = Sums {
            errors: errors.collect(),
            gradients: vec![0.0; outputs],
            ..Sums::default()
        };
        Self {
            layer: Arc::clone(layer),
            formats,
            sums: Mutex::new(sums),
            scratch: Mutex::default(),
        }
    }

    /// The layer.
    pub fn layer(&self) -> &Arc<Layer> {
        &self.layer
    }

    fn lock(&self) -> MutexGuard<'_, Sums> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was summed up; nothing is left.
    pub fn take(&self) -> Sums {
        std::mem::take(&mut *self.lock())
    }

    fn enter(&self, machine: &Machine, x: &TensorView) -> Result<()> {
        let channels = x.shape().dims().last().copied().unwrap_or(1);
        let tokens = x.count() / channels.max(1);
        let sums = &mut *self.lock();
        sums.tokens += tokens as u64;
        if tokens == 0 {
            return Ok(());
        }
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        for (slot, errors) in self.formats.iter().zip(&mut sums.errors) {
            if errors.is_empty() {
                continue;
            }
            let quantized = scratch.like(machine, x)?;
            slot.forward(None, *x, Some(quantized))?;
            let state = slot.state();
            let factors = state
                .members()
                .first()
                .and_then(|q| q.pre_quant_scale.clone());
            let of = Some((x, factors.as_deref()));
            channel_squares::run(machine, &quantized, of, 1.0 / tokens as f64, errors);
        }
        Ok(())
    }
}

/// The tap of the layer's input.
pub(super) struct MomentsTap {
    /// Of this layer.
    pub moments: Arc<Moments>,
    /// Of all layers that read the same activation.
    pub gram: Arc<InputStatistics>,
    /// Who of them is heard.
    pub gate: Arc<Gate>,
    /// Position at the gate.
    pub place: usize,
}

impl Observer for MomentsTap {
    fn observe(&self, machine: &Machine, _: Option<usize>, x: &TensorView) -> Result<()> {
        self.moments.enter(machine, x)?;
        match self.gate.hears(self.place, tokens(x.shape())) {
            true => self.gram.observe(machine, x),
            false => Ok(()),
        }
    }
}

/// The tap of the gradient at its output.
pub(super) struct SquaresTap(pub Arc<Moments>);

impl GradientObserver for SquaresTap {
    fn observe(&self, machine: &Machine, g: &TensorView) -> Result<()> {
        let name = self.0.layer.name();
        let sums = &mut *self.0.lock();
        let outputs = sums.gradients.len();
        if g.shape().dims().last() != Some(&outputs) {
            return Err(Error::InvalidArgument(format!(
                "layer `{name}`: a gradient of shape {:?}, expected [.., {outputs}], the shape of its output",
                g.shape()
            )));
        }
        super::check_gradient(machine, name, g)?;
        sums.gradient_tokens += (g.count() / outputs.max(1)) as u64;
        channel_squares::run(machine, g, None, 1.0, &mut sums.gradients);
        Ok(())
    }
}
