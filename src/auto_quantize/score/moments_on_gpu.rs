//! What the scores from statistics know of a layer whose tensors lie on a GPU: summed up there, so that no tap waits.

use std::sync::Arc;

use super::moments::Sums;
use super::work::Buffer;
use crate::error::Result;
use crate::kernels::Machine;
use crate::kernels::absmax::cuda::note_not_finite;
use crate::kernels::channel_squares::cuda::Room;
use crate::kernels::cuda::{DeviceBuffer, Gpu};
use crate::model::Slot;
use crate::tensor::TensorView;

/// Memory that all layers of a pass work in; it only grows.
#[derive(Default)]
pub(super) struct Shared {
    /// A quantized input.
    quantized: Buffer,
    squares: Room,
}

/// The sums of one layer, as [`Sums`] has them.
pub(super) struct OnGpu {
    gpu: Arc<Gpu>,
    /// For every format that changes the input, the sums of the channels and the factors that go with it.
    errors: Vec<Option<OfFormat>>,
    /// By output, and behind them the position of the first element of a gradient that is not finite.
    gradients: DeviceBuffer,
    outputs: usize,
}

struct OfFormat {
    sums: DeviceBuffer,
    channels: usize,
    /// The `pre_quant_scale`; empty for none.
    factors: DeviceBuffer,
}

/// Bytes of a float64.
const DOUBLE: usize = size_of::<f64>();

impl OnGpu {
    /// Nothing seen yet, for the layer of `sums`.
    pub fn new(gpu: &Arc<Gpu>, formats: &[Arc<Slot>], sums: &Sums) -> Result<Self> {
        let errors = formats.iter().zip(&sums.errors).map(|(slot, errors)| {
            if errors.is_empty() {
                return Ok(None);
            }
            let factors = slot.pre_quant_scale();
            Ok(Some(OfFormat {
                sums: DeviceBuffer::zeroed(gpu, errors.len() * DOUBLE)?,
                channels: errors.len(),
                factors: DeviceBuffer::holding(gpu, factors.as_deref().unwrap_or_default())?,
            }))
        });
        let outputs = sums.gradients.len();
        let found = Self {
            gpu: Arc::clone(gpu),
            errors: errors.collect::<Result<_>>()?,
            gradients: DeviceBuffer::zeroed(gpu, (outputs + 1) * DOUBLE)?,
            outputs,
        };
        gpu.fill(found.flaw(), 0xff, size_of::<u64>());
        Ok(found)
    }

    fn flaw(&self) -> u64 {
        self.gradients.address() + (self.outputs * DOUBLE) as u64
    }

    /// Adds what the formats change in an input.
    pub fn add_input(
        &self,
        machine: &Machine,
        formats: &[Arc<Slot>],
        x: &TensorView,
        shared: &mut Shared,
    ) -> Result<()> {
        for (slot, errors) in formats.iter().zip(&self.errors) {
            let Some(errors) = errors else {
                continue;
            };
            let quantized = shared.quantized.like(machine, x)?;
            slot.forward(None, *x, Some(quantized))?;
            let tokens = x.count() / errors.channels.max(1);
            let to = (errors.sums.address(), errors.channels);
            let of = Some((x, errors.factors.address()));
            let weight = 1.0 / tokens as f64;
            shared.squares.add(&self.gpu, &quantized, of, weight, to)?;
        }
        Ok(())
    }

    /// Adds the squares of a gradient.
    pub fn add_gradient(&self, g: &TensorView, shared: &mut Shared) -> Result<()> {
        note_not_finite(&self.gpu, g, self.flaw());
        let to = (self.gradients.address(), self.outputs);
        shared.squares.add(&self.gpu, g, None, 1.0, to)?;
        Ok(self.gpu.take_failure()?)
    }

    /// Adds everything to what the CPU has seen: waits for the stream.
    pub fn add_to(self, layer: &str, sums: &mut Sums) -> Result<()> {
        let mut words = vec![0u64; self.outputs + 1];
        self.gradients.read(&mut words)?;
        if let Some(position) = words.pop().filter(|position| *position != u64::MAX) {
            return Err(super::flawed_gradient(layer, position));
        }
        for (sum, found) in sums.gradients.iter_mut().zip(words) {
            *sum += f64::from_bits(found);
        }
        for (sums, errors) in sums.errors.iter_mut().zip(&self.errors) {
            let Some(errors) = errors else {
                continue;
            };
            let mut found = vec![0.0f64; errors.channels];
            errors.sums.read(&mut found)?;
            for (sum, found) in sums.iter_mut().zip(found) {
                *sum += found;
            }
        }
        Ok(())
    }
}
