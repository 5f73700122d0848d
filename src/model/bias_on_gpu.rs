//! A running bias in device memory: batches are added without waiting for any.

use std::sync::Arc;

use super::bias::{RunningBias, center, granularity};
use crate::config::{Bias, QuantType};
use crate::error::{Error, Result};
use crate::kernels::bias::Spread;
use crate::kernels::bias::cuda::{SpreadAt, find, shift_resident, workspace_bytes};
use crate::kernels::cuda::{DeviceBuffer, Gpu};
use crate::tensor::TensorView;

/// The bias of the batches seen so far, and memory to work in.
pub struct BiasOnGpu {
    gpu: Arc<Gpu>,
    /// What it goes on from: batches and shape are true, the numbers lie in `spread`.
    running: RunningBias,
    spread: DeviceBuffer,
    /// A float32 for each block, after the last batch.
    bias: DeviceBuffer,
    workspace: DeviceBuffer,
    left: DeviceBuffer,
}

impl BiasOnGpu {
    /// Goes on from what was seen in host memory.
    pub fn new(gpu: &Arc<Gpu>, before: RunningBias) -> Result<Self> {
        let none = || DeviceBuffer::new(gpu, 0);
        Ok(Self {
            spread: DeviceBuffer::holding(gpu, before.blocks())?,
            running: before,
            bias: none()?,
            workspace: none()?,
            left: none()?,
            gpu: Arc::clone(gpu),
        })
    }

    /// Adds a batch, and takes the bias so far off it: gives what is left, in memory that the next call uses again. A
    /// dynamic bias is that of the batch alone. Puts work on the stream, and waits for nothing; `name` goes into messages.
    pub fn add(&mut self, bias: &Bias, name: &str, x: &TensorView) -> Result<TensorView> {
        let invalid = |text| Error::State(format!("`{name}`: {text}"));
        let granularity = granularity(bias, x.shape()).map_err(invalid)?;
        if bias.quant_type == QuantType::Dynamic {
            self.running = RunningBias::default();
        }
        self.running.check_shape(&granularity).map_err(invalid)?;
        let (gpu, grid) = (&self.gpu, granularity.grid());
        let blocks = grid.num_blocks();
        grow(gpu, &mut self.spread, blocks * size_of::<Spread>())?;
        grow(gpu, &mut self.bias, blocks * size_of::<f32>())?;
        grow(gpu, &mut self.workspace, workspace_bytes(grid))?;
        grow(gpu, &mut self.left, x.size_bytes())?;
        let at = SpreadAt {
            spread: self.spread.address(),
            batches: self.running.count_batch(&granularity),
            bias: self.bias.address(),
            center: center(bias),
            workspace: self.workspace.address(),
        };
        find(gpu, x, grid, at);
        let left = x.at_address(self.left.address());
        shift_resident(gpu, x, &left, grid, at.bias, -1.0);
        Ok(left)
    }

    /// The bias in host memory: waits for the stream. Errors when there was a NaN or an infinity.
    pub fn fetched(mut self, name: &str) -> Result<RunningBias> {
        self.spread.read(self.running.blocks_mut())?;
        let numbers = |s: &Spread| [s.mean, s.min, s.max];
        let mut all = self.running.blocks().iter().flat_map(numbers);
        match all.all(f32::is_finite) {
            true => Ok(self.running),
            false => Err(Error::Numeric(format!(
                "`{name}`: NaN or Inf in a tensor on the GPU; a bias needs finite values"
            ))),
        }
    }
}

fn grow(gpu: &Arc<Gpu>, buffer: &mut DeviceBuffer, bytes: usize) -> Result<()> {
    if buffer.len() < bytes {
        *buffer = DeviceBuffer::new(gpu, bytes)?;
    }
    Ok(())
}
