//! Memory of our own for a tensor that the host gave none for.

use crate::error::{Error, Result};
use crate::kernels::Machine;
use crate::kernels::cuda::DeviceBuffer;
use crate::tensor::{DType, TensorView};

/// Memory of our own for a tensor the host gave none for, where that lives.
#[derive(Default)]
pub(super) struct Scratch {
    host: Vec<f32>,
    device: Option<DeviceBuffer>,
}

impl Scratch {
    /// A tensor like `x`, of unspecified values, which lives as long as this.
    pub(super) fn like(&mut self, machine: &Machine, x: &TensorView) -> Result<TensorView> {
        if let Some(gpu) = machine.gpu_of(x) {
            let buffer = self.device.insert(DeviceBuffer::new(gpu, x.size_bytes())?);
            return Ok(x.at_address(buffer.address()));
        }
        // Float32 elements, so that the memory is aligned for every dtype.
        let floats = x.size_bytes().div_ceil(DType::F32.size());
        self.host
            .try_reserve_exact(floats)
            .map_err(|e| Error::OutOfMemory(format!("{} bytes of scratch: {e}", x.size_bytes())))?;
        self.host.resize(floats, 0.0);
        x.with_data(&mut self.host).map_err(Error::Internal)
    }
}
