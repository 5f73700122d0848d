//! The host's stream and context: borrowed, and left as found.

mod on_gpu;
mod one;
mod owned;
mod streams;

use cudarc::driver::sys;
use mq::kernels::cuda::{Gpu, GpuErrorKind, GpuSettings, UseCublas};
use mq::tensor::DType;
use on_gpu::OnGpu;
use one::{One, config, noise};
use streams::{Stream, ok};

/// Weights in rows of INT8, inputs under one scale.
const CONFIG: &str = r#"{"*weight_quantizer": {"num_bits": 8, "axis": 0}, "*input_quantizer": {"num_bits": 8, "axis": null}}"#;

#[test]
fn the_current_context_is_left_as_it_was() {
    if on_gpu::gpu(std::ptr::null_mut(), None).is_none() {
        return;
    }
    let (mut device, mut own, mut now) = (0, std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: places for the handles.
    unsafe {
        ok(sys::cuDeviceGet(&mut device, 0));
        ok(sys::cuCtxCreate_v2(&mut own, 0, device));
        ok(sys::cuCtxPopCurrent_v2(&mut now));
    }
    let open = |context: sys::CUcontext, stream: sys::CUstream| {
        let settings = GpuSettings {
            device: 0,
            context: context.cast(),
            stream: stream.cast(),
            memory: None,
            cublas: UseCublas::default(),
        };
        // SAFETY: live handles.
        unsafe { Gpu::open(settings) }
    };
    let current = || {
        let mut now = std::ptr::null_mut();
        // SAFETY: a place for the handle.
        ok(unsafe { sys::cuCtxGetCurrent(&mut now) });
        now
    };
    assert!(current().is_null());
    {
        // A context of the host's, which is not current: mq works in it, and nobody notices.
        let gpu = open(own, std::ptr::null_mut()).expect("the host's own context");
        let mut one = One::new(&gpu);
        let x = OnGpu::copy_of(&gpu, &noise(&[3, 64], DType::BF16, 5));
        one.quantize(&config(CONFIG), &x).expect("quantized");
        one.layer.input(x.view(), Some(x.view())).expect("a tap");
        one.model.synchronize().expect("nothing wrong");
        assert!(current().is_null());
        // Another one is current.
        let stream = Stream::new();
        let primary = current();
        one.layer.input(x.view(), Some(x.view())).expect("a tap");
        assert_eq!(current(), primary);
        // A stream of another context than the given one.
        // SAFETY: a live stream.
        let error = unsafe { gpu.set_stream(stream.handle()) }.expect_err("another context");
        assert_eq!(error.kind, GpuErrorKind::Invalid);
        assert!(error.text.contains("another CUDA context"), "{error}");
        let error = open(own, stream.raw).err().expect("a stream of another");
        assert_eq!(error.kind, GpuErrorKind::Invalid);
        assert!(error.text.contains("another CUDA context"), "{error}");
        // Two contexts at once, each with its own model.
        let other = open(std::ptr::null_mut(), stream.raw).expect("that of the stream");
        let mut two = One::new(&other);
        let y = OnGpu::copy_of(&other, &noise(&[3, 64], DType::BF16, 5));
        two.quantize(&config(CONFIG), &y).expect("quantized");
        two.layer.input(y.view(), Some(y.view())).expect("a tap");
        assert_eq!(current(), primary);
    }
    // SAFETY: everything in it is gone.
    ok(unsafe { sys::cuCtxDestroy_v2(own) });
}

#[test]
fn two_streams_one_after_the_other() {
    if on_gpu::gpu(std::ptr::null_mut(), None).is_none() {
        return;
    }
    let (a, b) = (Stream::new(), Stream::new());
    let gpu = on_gpu::gpu(a.handle(), None).expect("as before");
    let mut one = One::new(&gpu);
    let x = noise(&[7, 64], DType::BF16, 3);
    let there = OnGpu::copy_of(&gpu, &x);
    one.quantize(&config(CONFIG), &there).expect("quantized");
    let mut seen = Vec::new();
    for stream in [&a, &b, &a] {
        one.model.synchronize().expect("nothing wrong");
        // SAFETY: live streams of the same context.
        unsafe { gpu.set_stream(stream.handle()) }.expect("of the same context");
        there.write(&x);
        one.layer
            .input(there.view(), Some(there.view()))
            .expect("a tap");
        seen.push(there.bits());
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
    drop(one);
}

#[test]
fn a_device_that_is_not_there_is_said() {
    if on_gpu::gpu(std::ptr::null_mut(), None).is_none() {
        return;
    }
    for device in [-1, 4096] {
        let settings = GpuSettings {
            device,
            context: std::ptr::null_mut(),
            stream: std::ptr::null_mut(),
            memory: None,
            cublas: UseCublas::default(),
        };
        // SAFETY: no handles.
        let error = unsafe { Gpu::open(settings) }
            .err()
            .expect("no such device");
        assert_eq!(error.kind, GpuErrorKind::Unavailable);
        assert!(error.text.contains(&device.to_string()), "{error}");
    }
}
