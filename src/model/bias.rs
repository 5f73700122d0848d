//! The bias of an affine quantizer: its shape, and how batches add up to it.

use super::amax::Amax;
use super::granularity::Granularity;
use crate::config::{Axis, Bias, BiasMethod};
use crate::kernels::Machine;
use crate::kernels::bias::{Spread, spread};
use crate::tensor::{Shape, TensorView};

/// How a tensor is cut for the bias: the configured axes are reduced, the others keep theirs.
pub fn granularity(bias: &Bias, shape: &Shape) -> Result<Granularity, String> {
    Granularity::reducing(&Axis::Many(bias.axes.clone()), shape)
}

/// The bias of one tensor alone.
pub(super) fn of_tensor(machine: &Machine, bias: &Bias, x: &TensorView) -> Result<Amax, String> {
    let mut running = RunningBias::default();
    running.add(machine, bias, x)?;
    Ok(running.value(bias))
}

/// The bias of the batches seen so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunningBias {
    batches: f32,
    shape: Vec<usize>,
    mean: Vec<f32>,
    min: Vec<f32>,
    max: Vec<f32>,
}

impl RunningBias {
    /// Adds a batch: the mean is that of the batches' means, as in the reference.
    pub fn add(&mut self, machine: &Machine, bias: &Bias, x: &TensorView) -> Result<(), String> {
        let granularity = granularity(bias, x.shape())?;
        let blocks: Vec<Spread> = spread(machine, x, granularity.grid());
        if self.batches == 0.0 {
            self.shape = granularity.amax_shape().to_vec();
            self.mean = blocks.iter().map(Spread::mean).collect();
            self.min = blocks.iter().map(|block| block.min).collect();
            self.max = blocks.iter().map(|block| block.max).collect();
        } else if self.shape != granularity.amax_shape() {
            return Err(format!(
                "bias shape changed from {:?} to {:?}",
                self.shape,
                granularity.amax_shape()
            ));
        } else {
            for (i, block) in blocks.iter().enumerate() {
                self.mean[i] = (self.mean[i] * self.batches + block.mean()) / (self.batches + 1.0);
                self.min[i] = self.min[i].min(block.min);
                self.max[i] = self.max[i].max(block.max);
            }
        }
        self.batches += 1.0;
        Ok(())
    }

    /// The bias, in the tensor's units.
    pub fn value(&self, bias: &Bias) -> Amax {
        let values = match bias.method {
            BiasMethod::Mean => self.mean.clone(),
            BiasMethod::MaxMin => {
                let middle = |(max, min): (&f32, &f32)| (max + min) / 2.0;
                self.max.iter().zip(&self.min).map(middle).collect()
            }
        };
        Amax::new(values, &self.shape)
    }
}
