//! What the scores from statistics know of one layer: second moments of its input, of the errors of the formats of its
//! input, and of the gradient at its output.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::moments_on_gpu::{OnGpu, Shared};
use super::work::Buffer;
use crate::error::{Error, Result};
use crate::kernels::cuda::Gpu;
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
    /// What a GPU has seen, and is not fetched yet.
    there: Mutex<Option<OnGpu>>,
    /// What layers on a GPU share, which are worked on one after the other.
    shared: Arc<Mutex<Shared>>,
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
    pub fn new(
        layer: &Arc<Layer>,
        candidates: &[Arc<Layer>],
        outputs: usize,
        shared: &Arc<Mutex<Shared>>,
    ) -> Self {
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
            there: Mutex::default(),
            shared: Arc::clone(shared),
        }
    }

    /// The layer.
    pub fn layer(&self) -> &Arc<Layer> {
        &self.layer
    }

    fn lock(&self) -> MutexGuard<'_, Sums> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was summed up; nothing is left. Waits for a GPU that has seen some of it; errors when a gradient there was not
    /// finite.
    pub fn take(&self) -> Result<Sums> {
        let mut sums = std::mem::take(&mut *self.lock());
        let mut there = self.there.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = there.take() {
            there.add_to(self.layer.name(), &mut sums)?;
        }
        Ok(sums)
    }

    /// Calls `work` with what a GPU sums up; the first call finds the memory.
    fn on_gpu(
        &self,
        gpu: &Arc<Gpu>,
        sums: &Sums,
        work: impl FnOnce(&OnGpu, &mut Shared) -> Result<()>,
    ) -> Result<()> {
        let mut there = self.there.lock().unwrap_or_else(PoisonError::into_inner);
        let there = match &mut *there {
            Some(there) => there,
            none => none.insert(OnGpu::new(gpu, &self.formats, sums)?),
        };
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        work(there, &mut shared)
    }

    fn enter(&self, machine: &Machine, x: &TensorView) -> Result<()> {
        let channels = x.shape().dims().last().copied().unwrap_or(1);
        let tokens = x.count() / channels.max(1);
        let sums = &mut *self.lock();
        sums.tokens += tokens as u64;
        if tokens == 0 {
            return Ok(());
        }
        if let Some(gpu) = machine.gpu_of(x) {
            return self.on_gpu(gpu, sums, |there, shared| {
                there.add_input(machine, &self.formats, x, shared)
            });
        }
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        for (slot, errors) in self.formats.iter().zip(&mut sums.errors) {
            if errors.is_empty() {
                continue;
            }
            let quantized = scratch.like(machine, x)?;
            slot.forward(None, *x, Some(quantized))?;
            let factors = slot.pre_quant_scale();
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
        sums.gradient_tokens += (g.count() / outputs.max(1)) as u64;
        if let Some(gpu) = machine.gpu_of(g) {
            let of = &self.0;
            return of.on_gpu(gpu, sums, |there, shared| there.add_gradient(g, shared));
        }
        super::check_gradient(machine, name, g)?;
        channel_squares::run(machine, g, None, 1.0, &mut sums.gradients);
        Ok(())
    }
}
