//! The bias of an affine quantizer: its shape, and how batches add up to it.

use super::amax::Amax;
use super::granularity::Granularity;
use crate::config::{Axis, Bias, BiasMethod};
use crate::kernels::Machine;
use crate::kernels::bias::{Center, Spread, spread};
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
    blocks: Vec<Spread>,
}

impl RunningBias {
    /// Adds a batch: the mean is that of the batches' means, as in the reference.
    pub fn add(&mut self, machine: &Machine, bias: &Bias, x: &TensorView) -> Result<(), String> {
        let granularity = granularity(bias, x.shape())?;
        self.check_shape(&granularity)?;
        let next = spread(machine, x, granularity.grid());
        let batches = self.count_batch(&granularity);
        for (block, next) in self.blocks.iter_mut().zip(next) {
            *block = match batches {
                0.0 => next,
                _ => block.joined(batches, next),
            };
        }
        Ok(())
    }

    /// Counts one more batch; returns how many there were. The first one says how many blocks there are.
    pub(super) fn count_batch(&mut self, granularity: &Granularity) -> f32 {
        if self.batches == 0.0 {
            self.shape = granularity.amax_shape().to_vec();
            self.blocks = vec![Spread::default(); granularity.grid().num_blocks()];
        }
        self.batches += 1.0;
        self.batches - 1.0
    }

    /// What is known of each block.
    pub(super) fn blocks(&self) -> &[Spread] {
        &self.blocks
    }

    /// The same, to be written to.
    pub(super) fn blocks_mut(&mut self) -> &mut [Spread] {
        &mut self.blocks
    }

    /// Errors when a tensor that is cut like this has another bias shape than those before.
    pub(super) fn check_shape(&self, granularity: &Granularity) -> Result<(), String> {
        match self.batches == 0.0 || self.shape == granularity.amax_shape() {
            true => Ok(()),
            false => Err(format!(
                "bias shape changed from {:?} to {:?}",
                self.shape,
                granularity.amax_shape()
            )),
        }
    }

    /// The bias, in the tensor's units.
    pub fn value(&self, bias: &Bias) -> Amax {
        let values = match center(bias) {
            Center::Mean => self.blocks.iter().map(|block| block.mean).collect(),
            Center::Middle => self.blocks.iter().map(Spread::middle).collect(),
        };
        Amax::new(values, &self.shape)
    }
}

/// Which number of a block is the bias.
pub(super) fn center(bias: &Bias) -> Center {
    match bias.method {
        BiasMethod::Mean => Center::Mean,
        BiasMethod::MaxMin => Center::Middle,
    }
}
