//! Copies a tensor.

use super::machine::Machine;
use crate::tensor::TensorView;

/// Bytes per task; below it a copy is not worth waking threads for.
const PIECE_BYTES: usize = 256 * 1024;

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
