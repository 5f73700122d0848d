//! Copies a tensor.

use super::cuda::{GpuError, GpuErrorKind};
use super::machine::Machine;
use crate::tensor::TensorView;

/// Bytes per task; below it a copy is not worth waking threads for.
const PIECE_BYTES: usize = 256 * 1024;

/// A tensor in host memory with the elements of `x`: itself, or a copy in `memory`. Waits for the stream of a GPU.
pub fn on_host(
    machine: &Machine,
    x: &TensorView,
    memory: &mut Vec<f32>,
) -> Result<TensorView, GpuError> {
    let Some(gpu) = machine.gpu_of(x) else {
        return Ok(*x);
    };
    let floats = x.size_bytes().div_ceil(size_of::<f32>());
    memory.try_reserve_exact(floats).map_err(|e| {
        let text = format!("{} bytes for a copy of a tensor: {e}", x.size_bytes());
        GpuError::new(GpuErrorKind::OutOfMemory, text)
    })?;
    memory.resize(floats, 0.0);
    // SAFETY: floats seen as bytes, as many as the tensor has.
    let bytes =
        unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast::<u8>(), x.size_bytes()) };
    gpu.read_from(x.address(), bytes)?;
    x.with_data(memory)
        .map_err(|text| GpuError::new(GpuErrorKind::Driver, text))
}

/// Copies `x` to `out`, which passed `x.check_out`; nothing to do in place.
pub fn run(machine: &Machine, x: &TensorView, out: &TensorView) {
    x.assert_out(out);
    let bytes = x.size_bytes();
    if bytes == 0 || x.address() == out.address() {
        return;
    }
    if let Some(gpu) = machine.gpu_of(x) {
        return gpu.copy(x.address(), out.address(), bytes);
    }
    let (from, to) = (*x, *out);
    machine.for_each(bytes.div_ceil(PIECE_BYTES), |task| {
        let start = task * PIECE_BYTES;
        let len = PIECE_BYTES.min(bytes - start);
        // SAFETY: within both tensors, which do not overlap (asserted) and are ours to use (contract
        // of the view).
        unsafe {
            to.data()
                .add(start)
                .copy_from_nonoverlapping(from.data().add(start), len);
        }
    });
}
