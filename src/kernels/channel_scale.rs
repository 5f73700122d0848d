//! Multiplies the last axis of a tensor by one factor per channel: the pre_quant_scale.
//!
//! The product is rounded to the tensor's dtype before anything else sees it, as in the reference.

use super::cuda::{DeviceBuffer, Gpu, by_dtype, launch};
use super::element::{Element, with_element};
use super::isa::{Isa, Loop};
use super::machine::Machine;
use super::pieces::PIECE;
use crate::tensor::TensorView;

/// `out[.., j] = x[.., j] * scale[j]`; `out` passed `x.check_out`, and `scale` has as many values as
/// the last axis.
pub fn run(machine: &Machine, x: &TensorView, scale: &[f32], out: &TensorView) {
    x.assert_out(out);
    assert_eq!(x.shape().dims().last(), Some(&scale.len()), "channels");
    if x.count() == 0 {
        return;
    }
    if let Some(gpu) = machine.gpu_of(x) {
        let done = DeviceBuffer::holding(gpu, scale).map(|factors| {
            run_resident(gpu, x, out, factors.address());
        });
        return gpu.note(done);
    }
    let channels = scale.len();
    let rows = x.count() / channels;
    let rows_per_task = (PIECE / channels).max(1);
    let (x, out, isa) = (*x, *out, machine.isa());
    with_element!(x.dtype(), T => machine.for_each(rows.div_ceil(rows_per_task), |task| {
        for row in task * rows_per_task..((task + 1) * rows_per_task).min(rows) {
            // SAFETY: the row lies within both tensors (asserted), which are ours to use (contract of
            // the view).
            unsafe {
                let from = x.data().cast::<T>().add(row * channels);
                let to = out.data().cast::<T>().add(row * channels);
                run_row(isa, from, to, scale);
            }
        }
    }));
}

/// The same with factors in device memory, one float32 for each channel: puts work on the stream and does nothing else.
pub(crate) fn run_resident(gpu: &Gpu, x: &TensorView, out: &TensorView, factors: u64) {
    x.assert_out(out);
    let channels = x.shape().dims().last().copied().unwrap_or(1);
    if x.count() == 0 {
        return;
    }
    let (rows, channels) = ((x.count() / channels) as u64, channels as u64);
    let blocks = gpu.blocks_for((x.size_bytes() as u64).div_ceil(16 * 256));
    // SAFETY: the kernel of that signature; both tensors have the elements, and there is a factor for each channel.
    unsafe {
        launch!(gpu, by_dtype!("channel_scale", x), (blocks, 1);
            x.address(), out.address(), rows, channels, factors);
    }
}

/// # Safety
/// `x` and `out` hold `factors.len()` elements, the same memory or apart.
unsafe fn run_row<T: Element>(isa: Isa, x: *const T, out: *mut T, factors: &[f32]) {
    if x == out {
        // SAFETY: contract; one slice for both.
        let values = unsafe { std::slice::from_raw_parts_mut(out, factors.len()) };
        isa.run(InPlace { values, factors });
    } else {
        // SAFETY: contract; apart.
        let (x, out) = unsafe {
            (
                std::slice::from_raw_parts(x, factors.len()),
                std::slice::from_raw_parts_mut(out, factors.len()),
            )
        };
        isa.run(Apart { x, out, factors });
    }
}

struct InPlace<'a, T> {
    values: &'a mut [T],
    factors: &'a [f32],
}

impl<T: Element> Loop for InPlace<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        for (value, factor) in self.values.iter_mut().zip(self.factors) {
            *value = T::store(value.load() * factor);
        }
    }
}

struct Apart<'a, T> {
    x: &'a [T],
    out: &'a mut [T],
    factors: &'a [f32],
}

impl<T: Element> Loop for Apart<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        for ((out, x), factor) in self.out.iter_mut().zip(self.x).zip(self.factors) {
            *out = T::store(x.load() * factor);
        }
    }
}
