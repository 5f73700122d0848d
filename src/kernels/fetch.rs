//! A look at a tensor from the host, wherever it lives.

use super::cuda::GpuError;
use super::machine::Machine;
use crate::tensor::{DType, TensorView};

/// Bytes that are copied to host memory at a time, where not all of them are needed at once.
const PIECE_BYTES: usize = 16 << 20;

/// The tensor itself, or a copy of it in `memory`, which must outlive what is returned. Zeros when it cannot be copied,
/// which the GPU keeps.
pub(crate) fn to_host(machine: &Machine, x: &TensorView, memory: &mut Vec<f32>) -> TensorView {
    let Some(gpu) = machine.gpu_of(x) else {
        return *x;
    };
    // Float32 elements, so that the memory is aligned for every dtype.
    memory.resize(x.size_bytes().div_ceil(DType::F32.size()), 0.0);
    let copy = x.with_data(memory).expect("room for its bytes");
    if x.count() > 0 {
        // SAFETY: the memory holds the bytes of the tensor, and every pattern of them is a number.
        let bytes = unsafe { std::slice::from_raw_parts_mut(copy.data(), x.size_bytes()) };
        gpu.note(gpu.read_from(x.address(), bytes));
    }
    copy
}

/// Calls `look` with the bytes of a tensor, some after the others; a multiple of 8, but for the last.
pub(crate) fn for_each_piece(
    machine: &Machine,
    x: &TensorView,
    mut look: impl FnMut(&[u8]),
) -> Result<(), GpuError> {
    let bytes = x.size_bytes();
    if bytes == 0 {
        return Ok(());
    }
    let Some(gpu) = machine.gpu_of(x) else {
        // SAFETY: contract of the view; there are elements, so the address is not NULL. Any byte is valid.
        look(unsafe { std::slice::from_raw_parts(x.data(), bytes) });
        return Ok(());
    };
    let mut piece = vec![0; bytes.min(PIECE_BYTES)];
    for first in (0..bytes).step_by(PIECE_BYTES) {
        let piece = &mut piece[..PIECE_BYTES.min(bytes - first)];
        gpu.read_from(x.address() + first as u64, piece)?;
        look(piece);
    }
    Ok(())
}
