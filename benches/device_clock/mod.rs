//! The first GPU, and how long its work takes.

use std::sync::Arc;

use cudarc::driver::sys;
use mq::kernels::cuda::{Gpu, GpuSettings, UseCublas};

/// Panics unless the driver did what it was asked.
pub fn ok(result: sys::CUresult) {
    assert_eq!(result, sys::CUresult::CUDA_SUCCESS);
}

/// Opens the first GPU; ends the program when there is none. A benchmark has nothing to skip.
pub fn open(cublas: UseCublas) -> Arc<Gpu> {
    let settings = GpuSettings {
        device: 0,
        context: std::ptr::null_mut(),
        stream: std::ptr::null_mut(),
        memory: None,
        cublas,
    };
    // SAFETY: no handles.
    match unsafe { Gpu::open(settings) } {
        Ok(gpu) => gpu,
        Err(error) => {
            eprintln!("nothing is measured: {error}");
            std::process::exit(1);
        }
    }
}

/// Makes the device's primary context current, where [`open`] works, and says what is measured on; returns the version of
/// the driver.
pub fn introduce(gpu: &Gpu) -> i32 {
    let (mut primary, mut driver) = (std::ptr::null_mut(), 0);
    // SAFETY: places for the handle and the number; the device is there.
    unsafe {
        ok(sys::cuDevicePrimaryCtxRetain(&mut primary, 0));
        ok(sys::cuCtxPushCurrent_v2(primary));
        ok(sys::cuDriverGetVersion(&mut driver));
    }
    if gpu.name().starts_with("Mock") {
        println!("An emulator: whether this runs is of interest, the times are not.");
    }
    println!(
        "{}, driver for CUDA {}.{}",
        gpu.name(),
        driver / 1000,
        driver % 1000 / 10
    );
    driver
}

/// Milliseconds between two points of the default stream.
pub struct Clock {
    start: sys::CUevent,
    stop: sys::CUevent,
}

impl Clock {
    /// A context is current (see [`introduce`]).
    pub fn new() -> Self {
        let (mut start, mut stop) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: places for the handles.
        unsafe {
            ok(sys::cuEventCreate(&mut start, 0));
            ok(sys::cuEventCreate(&mut stop, 0));
        }
        Self { start, stop }
    }

    /// How long the GPU takes for `work`.
    pub fn milliseconds(&self, work: impl FnOnce()) -> f64 {
        let stream = std::ptr::null_mut();
        let mut elapsed = 0.0f32;
        // SAFETY: events of ours on the default stream.
        unsafe {
            ok(sys::cuEventRecord(self.start, stream));
            work();
            ok(sys::cuEventRecord(self.stop, stream));
            ok(sys::cuEventSynchronize(self.stop));
            ok(sys::cuEventElapsedTime(&mut elapsed, self.start, self.stop));
        }
        f64::from(elapsed)
    }
}
