//! Memory that the scoring of a layer works in: reused from call to call.

use crate::error::{Error, Result};
use crate::kernels::Machine;
use crate::kernels::load_rows::{self, Rows};
use crate::tensor::{DType, TensorView};

/// A buffer that only grows.
#[derive(Default)]
pub(super) struct Buffer(Vec<f32>);

impl Buffer {
    /// The first `count` floats of it; what they hold is unspecified.
    pub fn floats(&mut self, count: usize) -> Result<&mut [f32]> {
        if self.0.len() < count {
            let more = count - self.0.len();
            self.0.try_reserve_exact(more).map_err(|e| {
                Error::OutOfMemory(format!(
                    "{} bytes to score a layer in: {e}",
                    count * size_of::<f32>()
                ))
            })?;
            self.0.resize(count, 0.0);
        }
        Ok(&mut self.0[..count])
    }

    /// A tensor like `x`, of unspecified values.
    pub fn like(&mut self, x: &TensorView) -> Result<TensorView> {
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
    pub fn like(&mut self, x: &TensorView) -> Result<TensorView> {
        self.own.like(x)
    }

    /// The float32 values of what was written to the room that `like` gave for `x`.
    pub fn written(&mut self, machine: &Machine, x: &TensorView) -> Result<&[f32]> {
        if x.dtype() == DType::F32 {
            return Ok(self.own.floats(x.count())?);
        }
        let own = self.own.like(x)?;
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
}
