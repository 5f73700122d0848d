//! Rounding on a GPU as a slot's quantizer would do it with other numbers: many tensors, in memory that is found once.

use std::sync::Arc;

use super::launch::Places;
use super::refresh::tensor_amax;
use super::resident::Member;
use super::{Slot, quantization};
use crate::error::Result;
use crate::kernels::cuda::{DeviceBuffer, Gpu};
use crate::model::quantizer::Quantizer;
use crate::tensor::TensorView;

/// A quantizer that is tried, and its numbers in device memory.
pub(crate) struct Rounding {
    gpu: Arc<Gpu>,
    slot: Arc<Slot>,
    quantizer: Quantizer,
    member: Member,
    flaws: DeviceBuffer,
}

impl Rounding {
    /// With a quantizer that neither changes its input nor has a bias.
    pub fn new(gpu: &Arc<Gpu>, slot: &Arc<Slot>, quantizer: Quantizer) -> Result<Self> {
        let none = || DeviceBuffer::new(gpu, 0).map(Arc::new);
        let mut rounding = Self {
            gpu: Arc::clone(gpu),
            slot: Arc::clone(slot),
            quantizer: quantizer.clone(),
            member: Member {
                amax: none()?,
                tensor_amax: none()?,
                pre_quant_scale: none()?,
                bias: none()?,
                scratch: none()?,
                own_bias: none()?,
            },
            flaws: DeviceBuffer::zeroed(gpu, size_of::<u32>())?,
        };
        rounding.set(quantizer)?;
        Ok(rounding)
    }

    /// Tries another quantizer: one with as many numbers finds them in the same memory.
    pub fn set(&mut self, quantizer: Quantizer) -> Result<()> {
        let gpu = &self.gpu;
        let write = |to: &mut Arc<DeviceBuffer>, values: &[f32]| -> Result<()> {
            if to.len() != size_of_val(values) {
                *to = Arc::new(DeviceBuffer::new(gpu, size_of_val(values))?);
            }
            Ok(to.write(values)?)
        };
        let amax = quantization::amax_values(&quantizer).unwrap_or_default();
        let tensor = tensor_amax(&quantizer);
        write(&mut self.member.amax, amax)?;
        write(&mut self.member.tensor_amax, tensor.as_slice())?;
        self.quantizer = quantizer;
        Ok(())
    }

    /// Rounds `x` into `out`, which may be `x`: puts work on the stream. Room for amax values that a tensor finds for
    /// itself grows when a larger one comes first.
    pub fn run(&mut self, x: &TensorView, out: &TensorView) -> Result<()> {
        // Nothing that was captured reads what is outgrown.
        let mut outgrown = Vec::new();
        let flaws = self.flaws.address();
        let mut places = Places::new(&self.gpu, &mut self.member, flaws, &mut outgrown);
        self.slot.launch(&self.quantizer, &mut places, x, out)
    }

    /// Errors when a tensor had values that are no scale, or negative ones under `unsigned`: waits for the stream.
    pub fn check(&self) -> Result<()> {
        let mut found = [0u32];
        self.flaws.read(&mut found)?;
        match found[0] {
            0 => Ok(()),
            found => Err(self.slot.flaw(found)),
        }
    }
}
