//! A layer that the host computes, in host memory or on a GPU.

use std::sync::OnceLock;

use cudarc::driver::sys;
use mq::error::Result;
use mq::model::LayerForward;
use mq::tensor::{DType, Device, TensorView};

use crate::owned::Owned;

/// A layer of the host's: `y[t, i] = tanh(x[t, i] * w[i])`, of the last axis.
pub struct Times;

impl LayerForward for Times {
    fn forward(&self, x: &TensorView, weight: Option<&TensorView>, y: &TensorView) -> Result<()> {
        let weight = fetch(weight.expect("a weight"));
        let columns = x.shape().dims().last().copied().expect("an axis");
        let mut values = Owned::zeros(DType::F32, y.shape().dims());
        let out = values.bytes_mut().chunks_exact_mut(4);
        for ((at, x), out) in fetch(x).iter().enumerate().zip(out) {
            let value = (x * weight[at % columns]).tanh();
            out.copy_from_slice(&value.to_ne_bytes());
        }
        put(&mut values.cast(y.dtype()), y);
        Ok(())
    }
}

/// Makes the device's primary context the calling thread's, as a host has one that works on it.
fn set_current() {
    static CONTEXT: OnceLock<usize> = OnceLock::new();
    let context = *CONTEXT.get_or_init(|| {
        let (mut device, mut context) = (0, std::ptr::null_mut());
        // SAFETY: places for the handles; the driver is there, for a GPU was opened.
        unsafe {
            ok(sys::cuDeviceGet(&mut device, 0));
            ok(sys::cuDevicePrimaryCtxRetain(&mut context, device));
        }
        context as usize
    });
    // SAFETY: a live context, which is never given back.
    unsafe { ok(sys::cuCtxSetCurrent(context as sys::CUcontext)) };
}

fn ok(result: sys::CUresult) {
    assert_eq!(result, sys::CUresult::CUDA_SUCCESS);
}

/// The values of a tensor anywhere.
fn fetch(x: &TensorView) -> Vec<f32> {
    if x.device() == Device::Cpu {
        return x.to_f32();
    }
    set_current();
    let mut here = Owned::zeros(x.dtype(), x.shape().dims());
    let bytes = here.bytes_mut();
    // SAFETY: device memory of that size, and room for it; the copy waits for the default stream.
    unsafe {
        ok(sys::cuMemcpyDtoH_v2(
            bytes.as_mut_ptr().cast(),
            x.address(),
            bytes.len(),
        ));
    }
    here.view().to_f32()
}
/// Writes a tensor to one like it anywhere.
fn put(from: &mut Owned, to: &TensorView) {
    let bytes = from.bytes_mut();
    match to.device() {
        // SAFETY: memory of that size, apart.
        Device::Cpu => unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.data(), bytes.len());
        },
        Device::Cuda(_) => {
            set_current();
            // SAFETY: device memory of that size; on the default stream.
            unsafe {
                let from = bytes.as_ptr().cast();
                ok(sys::cuMemcpyHtoD_v2(to.address(), from, bytes.len()));
            }
        }
    }
}
