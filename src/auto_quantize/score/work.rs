//! Memory that the scoring of a layer works in: reused from call to call.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::kernels::Machine;
use crate::kernels::cuda::{DeviceBuffer, Gpu};
use crate::kernels::load_rows::{self, Rows};
use crate::tensor::{DType, Device, TensorView};

/// A buffer that only grows; beside it, memory on a GPU for a tensor that lives there.
#[derive(Default)]
pub(super) struct Buffer {
    host: Vec<f32>,
    device: Option<DeviceBuffer>,
}

impl Buffer {
    /// The first `count` floats of it; what they hold is unspecified.
    pub fn floats(&mut self, count: usize) -> Result<&mut [f32]> {
        if self.host.len() < count {
            let more = count - self.host.len();
            self.host.try_reserve_exact(more).map_err(|e| {
                Error::OutOfMemory(format!(
                    "{} bytes to score a layer in: {e}",
                    count * size_of::<f32>()
                ))
            })?;
            self.host.resize(count, 0.0);
        }
        Ok(&mut self.host[..count])
    }

    /// So many bytes of it on a GPU; what they hold is unspecified.
    pub fn on_gpu(&mut self, gpu: &Arc<Gpu>, bytes: usize) -> Result<u64> {
        let fits = |buffer: &DeviceBuffer| buffer.len() >= bytes;
        let buffer = match self.device.take().filter(fits) {
            Some(buffer) => buffer,
            None => DeviceBuffer::new(gpu, bytes)?,
        };
        Ok(self.device.insert(buffer).address())
    }

    /// A tensor like `x` where that lives, of unspecified values; the same one as before for one of the same size.
    pub fn like(&mut self, machine: &Machine, x: &TensorView) -> Result<TensorView> {
        if let Some(gpu) = machine.gpu_of(x) {
            return Ok(x.at_address(self.on_gpu(gpu, x.size_bytes())?));
        }
        let memory = self.floats(x.size_bytes().div_ceil(size_of::<f32>()))?;
        x.with_data(memory).map_err(Error::Internal)
    }
}

/// A tensor of ours, and its values as float32.
#[derive(Default)]
pub(super) struct Values {
    own: Buffer,
    floats: Buffer,
}

impl Values {
    /// Room for a tensor like `x`.
    pub fn like(&mut self, machine: &Machine, x: &TensorView) -> Result<TensorView> {
        self.own.like(machine, x)
    }

    /// The float32 values of what was written to the room that `like` gave for `x`.
    pub fn written(&mut self, machine: &Machine, x: &TensorView) -> Result<&[f32]> {
        if x.dtype() == DType::F32 && x.device() == Device::Cpu {
            return Ok(self.own.floats(x.count())?);
        }
        let own = self.own.like(machine, x)?;
        self.load(machine, &own)
    }

    /// The float32 values of any tensor.
    pub fn load(&mut self, machine: &Machine, x: &TensorView) -> Result<&[f32]> {
        let floats = self.floats.floats(x.count())?;
        let channels = x.shape().dims().last().copied().unwrap_or(1).max(1);
        let rows = Rows::leading(x.count() / channels, channels);
        load_rows::run(machine, x, rows, 1.0, floats);
        Ok(floats)
    }
}

/// Everything that is needed for one layer.
#[derive(Default)]
pub(super) struct Work {
    pub x: Values,
    pub weight: Values,
    pub y: Values,
    pub changed: Values,
    pub g: Values,
    pub patches: Buffer,
    pub channels: Buffer,
    pub product: Buffer,
    /// Sums of tiles, on a GPU.
    pub sums: Buffer,
}
