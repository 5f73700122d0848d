//! The host's stream, context and graphs: borrowed, left as found, and safe to capture once calibrated.

mod on_gpu;
mod owned;
mod streams;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys;
use mq::calibrate;
use mq::config::QuantizeConfig;
use mq::error::Error;
use mq::kernels::cuda::{Gpu, GpuErrorKind, GpuSettings, UseCublas};
use mq::model::{Layer, LayerKind, LayerSpec, Model, Scales};
use mq::tensor::DType;
use on_gpu::{OnGpu, bits};
use owned::Owned;
use streams::{Stream, ok};

/// Tests here wait for streams by calls of their own, which the driver refuses while another thread captures.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn noise(shape: &[usize], dtype: DType, seed: usize) -> Owned {
    let mut owned = Owned::zeros(DType::F32, shape);
    for (i, value) in owned.bytes_mut().chunks_exact_mut(4).enumerate() {
        let number = ((i * 37 + seed * 101) as f32 * 0.7311).sin();
        value.copy_from_slice(&number.to_ne_bytes());
    }
    owned.cast(dtype)
}

const CONFIGS: [&str; 7] = [
    r#"{"*weight_quantizer": {"num_bits": 8, "axis": 0}, "*input_quantizer": {"num_bits": 8, "axis": null}}"#,
    r#"{"*weight_quantizer": {"num_bits": [4, 3]}, "*input_quantizer": {"num_bits": [4, 3], "type": "dynamic"}}"#,
    r#"{"*weight_quantizer": {"num_bits": [2, 1], "block_sizes": {"-1": 16, "type": "static", "scale_bits": [4, 3]}},
        "*input_quantizer": {"num_bits": [2, 1], "block_sizes": {"-1": 16, "type": "dynamic", "scale_bits": [4, 3]}}}"#,
    r#"{"*weight_quantizer": {"num_bits": [4, 3], "block_sizes": {"-1": 32, "type": "dynamic", "scale_bits": [8, 0]}},
        "*input_quantizer": {"num_bits": 8, "axis": -1, "type": "dynamic"}}"#,
    r#"{"*weight_quantizer": {"num_bits": 4, "block_sizes": {"-1": 20, "type": "static", "scale_bits": 8,
        "scale_block_sizes": {"-1": 5}}}, "*input_quantizer": {"num_bits": 8, "bias": {"-1": null, "type": "dynamic"}}}"#,
    r#"{"*weight_quantizer": {"num_bits": 8, "axis": 0, "bias": {"-1": null, "type": "dynamic", "method": "max_min"}},
        "*input_quantizer": {"num_bits": 4, "constant_amax": 1.5, "block_sizes": {"-1": 16, "type": "static", "scale_bits": 8,
        "scale_block_sizes": {"-1": 3}}}}"#,
    r#"{"*weight_quantizer": {"num_bits": [2, 1], "constant_amax": 0.9, "block_sizes": {"-1": 16, "type": "static",
        "scale_bits": [4, 3]}}, "*input_quantizer": {"num_bits": 8, "axis": -1, "type": "dynamic", "bias": {"-1": null,
        "-2": null, "type": "dynamic"}}}"#,
];

fn config(text: &str) -> QuantizeConfig {
    let text = text.replacen('{', r#"{"quant_cfg": {"default": {"enable": false}, "#, 1);
    QuantizeConfig::parse(&format!(r#"{text}, "algorithm": "max"}}"#)).expect("valid")
}

/// One layer on the GPU.
struct One {
    model: Model,
    layer: Arc<Layer>,
    weight: OnGpu,
}

impl One {
    fn new(gpu: &Arc<Gpu>) -> Self {
        let weight = OnGpu::copy_of(gpu, &noise(&[24, 64], DType::BF16, 1));
        let mut model = Model::new(on_gpu::context(gpu));
        let spec = LayerSpec {
            weight: Some(weight.view()),
            ..LayerSpec::new("a", LayerKind::Linear)
        };
        let layer = model.add_layer(spec).expect("a layer");
        Self {
            model,
            layer,
            weight,
        }
    }

    fn quantize(&mut self, config: &QuantizeConfig, x: &OnGpu) -> mq::error::Result<()> {
        let layer = Arc::clone(&self.layer);
        let mut forward = || layer.input(x.view(), None);
        calibrate::quantize(&mut self.model, config, Some(&mut forward))
    }
}

#[test]
fn a_captured_forward_sees_new_inputs_and_new_scales() {
    let _alone = alone();
    if on_gpu::gpu(std::ptr::null_mut(), None).is_none() {
        return;
    }
    let stream = Stream::new();
    let gpu = on_gpu::gpu(stream.handle(), None).expect("as before");
    for text in CONFIGS {
        let mut one = One::new(&gpu);
        let first = noise(&[5, 64], DType::BF16, 2);
        let x = OnGpu::copy_of(&gpu, &first);
        let (out, weight) = (
            OnGpu::copy_of(&gpu, &first),
            OnGpu::copy_of(&gpu, &one.weight.fetch()),
        );
        one.quantize(&config(text), &x).expect(text);
        let layer = Arc::clone(&one.layer);
        let pass = || {
            layer.input(x.view(), Some(out.view())).expect(text);
            layer.weight_into(weight.view()).expect(text);
        };
        pass();
        let graph = stream.capture(pass);
        let before = weight.bits();
        for seed in [2, 9] {
            x.write(&noise(&[5, 64], DType::BF16, seed));
            stream.launch(&graph);
            let replayed = (out.bits(), weight.bits());
            pass();
            assert_eq!((out.bits(), weight.bits()), replayed, "{text} {seed}");
        }
        assert_eq!(weight.bits(), before);
        // A calibration on larger data, after the capture: the graph goes on with its scales.
        let mut large = noise(&[5, 64], DType::F32, 4);
        for value in large.bytes_mut().chunks_exact_mut(4) {
            let number = f32::from_ne_bytes([value[0], value[1], value[2], value[3]]) * 50.0;
            value.copy_from_slice(&number.to_ne_bytes());
        }
        let large = OnGpu::copy_of(&gpu, &large.cast(DType::BF16));
        let mut forward = || layer.input(large.view(), None);
        let again = mq::config::Algorithm::parse_text("max").expect("valid");
        calibrate::calibrate(&mut one.model, &again, Some(&mut forward)).expect(text);
        stream.launch(&graph);
        let replayed = (out.bits(), weight.bits());
        pass();
        assert_eq!(
            (out.bits(), weight.bits()),
            replayed,
            "{text} calibrated again"
        );
    }
}

/// An engine whose weights are updated while it serves captures the update as well: new values of a weight, and scales
/// found anew, come out of the replay, and of the taps after it.
#[test]
fn a_captured_requantization_takes_new_weights_and_scales() {
    let _alone = alone();
    if on_gpu::gpu(std::ptr::null_mut(), None).is_none() {
        return;
    }
    let stream = Stream::new();
    let gpu = on_gpu::gpu(stream.handle(), None).expect("as before");
    for text in CONFIGS {
        for scales in [Scales::Keep, Scales::Refresh] {
            let mut one = One::new(&gpu);
            let x = OnGpu::copy_of(&gpu, &noise(&[5, 64], DType::BF16, 2));
            one.quantize(&config(text), &x).expect(text);
            let fresh = OnGpu::copy_of(&gpu, &noise(&[24, 64], DType::BF16, 6));
            let out = OnGpu::copy_of(&gpu, &one.weight.fetch());
            let update = |to: &OnGpu| {
                let done = one.layer.requantize_into(fresh.view(), scales, to.view());
                done.expect(text);
            };
            update(&out);
            let graph = stream.capture(|| update(&out));
            for seed in [6, 11] {
                let mut values = noise(&[24, 64], DType::F32, seed);
                for value in values.bytes_mut().chunks_exact_mut(4) {
                    let number = f32::from_ne_bytes([value[0], value[1], value[2], value[3]]);
                    value.copy_from_slice(&(number * seed as f32).to_ne_bytes());
                }
                fresh.write(&values.cast(DType::BF16));
                stream.launch(&graph);
                let replayed = out.bits();
                let direct = OnGpu::copy_of(&gpu, &one.weight.fetch());
                update(&direct);
                assert_eq!(direct.bits(), replayed, "{text} {scales:?} {seed}");
            }
            one.model.synchronize().expect(text);
        }
    }
}

#[test]
fn what_cannot_be_captured_is_refused_and_the_capture_goes_on() {
    let _alone = alone();
    if on_gpu::gpu(std::ptr::null_mut(), None).is_none() {
        return;
    }
    let stream = Stream::new();
    let gpu = on_gpu::gpu(stream.handle(), None).expect("as before");
    let mut one = One::new(&gpu);
    let first = noise(&[5, 64], DType::BF16, 2);
    let (x, out) = (OnGpu::copy_of(&gpu, &first), OnGpu::copy_of(&gpu, &first));
    let text = CONFIGS[0];
    // Before the calibration a tap copies, which a graph can do.
    let graph = stream.capture(|| one.layer.input(x.view(), Some(out.view())).expect("a copy"));
    stream.launch(&graph);
    assert_eq!(out.bits(), bits(&first));
    let graph = stream.capture(|| {
        let error = one.quantize(&config(text), &x).expect_err("a verb waits");
        assert!(matches!(error, Error::State(_)), "{error}");
        assert!(error.to_string().contains("captured"), "{error}");
        let error = one.model.synchronize().expect_err("waits");
        assert!(matches!(error, Error::State(_)), "{error}");
    });
    stream.launch(&graph);
    one.quantize(&config(text), &x)
        .expect("outside of a capture");
    // A tap whose numbers are not there yet: the scales of a quantizer that nothing on the GPU has passed.
    for attributes in [
        r#"{"num_bits": 8, "axis": null, "type": "dynamic"}"#,
        r#"{"num_bits": 8, "axis": -1, "type": "dynamic", "bias": {"-1": null, "type": "dynamic"}}"#,
        r#"{"num_bits": 4, "constant_amax": 2.0, "block_sizes": {"-1": 16, "type": "static", "scale_bits": 8,
            "scale_block_sizes": {"-1": 4}}}"#,
    ] {
        let mut model = Model::new(on_gpu::context(&gpu));
        let own = model.add_quantizer("own", None).expect("a quantizer");
        let cfg = format!(r#"{{"quant_cfg": {{"own": {attributes}}}, "algorithm": "max"}}"#);
        let cfg = QuantizeConfig::parse(&cfg).expect("valid");
        calibrate::quantize(&mut model, &cfg, None).expect("dynamic");
        let graph = stream.capture(|| {
            let error = own
                .forward(None, x.view(), Some(out.view()))
                .expect_err("first call");
            assert!(matches!(error, Error::State(_)), "{error}");
            assert!(error.to_string().contains("before the capture"), "{error}");
        });
        stream.launch(&graph);
        own.forward(None, x.view(), Some(out.view())).expect("warm");
        let graph = stream.capture(|| {
            own.forward(None, x.view(), Some(out.view()))
                .expect("again")
        });
        stream.launch(&graph);
    }
}

/// What a calibration collects stays on the GPU: a tap that observes waits for nothing and, after the first one, needs no
/// memory. So it can be captured, and the graph observes when it is launched.
#[test]
fn taps_that_observe_can_be_captured() {
    let _alone = alone();
    if on_gpu::gpu(std::ptr::null_mut(), None).is_none() {
        return;
    }
    let stream = Stream::new();
    let gpu = on_gpu::gpu(stream.handle(), None).expect("as before");
    for text in [
        r#"{"*input_quantizer": {"num_bits": 8, "axis": null}}"#,
        r#"{"*input_quantizer": {"num_bits": 8, "bias": {"-1": null, "type": "static", "method": "max_min"}}}"#,
        r#"{"*input_quantizer": {"num_bits": [4, 3], "bias": {"-2": null, "type": "static"}}}"#,
        r#"{"*input_quantizer": {"num_bits": 8, "bias": {"-1": null, "type": "dynamic"}}}"#,
    ] {
        let batches =
            [2, 3, 4].map(|seed| OnGpu::copy_of(&gpu, &noise(&[40, 64], DType::BF16, seed)));
        let calibrated = |captured: bool| {
            let mut one = One::new(&gpu);
            let layer = Arc::clone(&one.layer);
            let tap = |x: &OnGpu| layer.input(x.view(), None).expect(text);
            let mut forward = || {
                tap(&batches[0]);
                let rest = || batches[1..].iter().for_each(tap);
                match captured {
                    true => stream.launch(&stream.capture(rest)),
                    false => rest(),
                }
                Ok(())
            };
            calibrate::quantize(&mut one.model, &config(text), Some(&mut forward)).expect(text);
            let q = one.layer.input_slot().one(None).expect("single");
            // A bias of every token fits no sample of them.
            let is_measured = q
                .record
                .as_ref()
                .is_some_and(|record| record.error.is_some());
            assert_eq!(is_measured, !text.contains("max_min"), "{text}");
            format!("{:?} {:?} {:?}", q.amax, q.bias_value, q.record)
        };
        assert_eq!(calibrated(true), calibrated(false), "{text}");
    }
}

/// A host captures on one thread what it serves with, while another thread calibrates the next model.
#[test]
fn another_thread_may_work_while_a_stream_is_captured() {
    let _alone = alone();
    if on_gpu::gpu(std::ptr::null_mut(), None).is_none() {
        return;
    }
    let (captured, busy) = (Stream::new(), Stream::new());
    let gpu = on_gpu::gpu(captured.handle(), None).expect("as before");
    let other = on_gpu::gpu(busy.handle(), None).expect("as before");
    let mut one = One::new(&gpu);
    let first = noise(&[5, 64], DType::BF16, 2);
    let (x, out) = (OnGpu::copy_of(&gpu, &first), OnGpu::copy_of(&gpu, &first));
    one.quantize(&config(CONFIGS[0]), &x).expect("quantized");
    one.layer.input(x.view(), Some(out.view())).expect("a tap");
    let want = out.bits();
    out.write(&first);
    let graph = captured.capture(|| {
        let beside = std::thread::scope(|scope| {
            let work = || {
                let mut two = One::new(&other);
                let y = OnGpu::copy_of(&other, &noise(&[3, 64], DType::BF16, 5));
                two.quantize(&config(CONFIGS[1]), &y)?;
                two.layer.input(y.view(), Some(y.view()))?;
                two.model.synchronize()
            };
            scope.spawn(work).join()
        });
        beside.expect("no panic").expect("work on another stream");
        one.layer.input(x.view(), Some(out.view())).expect("a tap");
    });
    captured.launch(&graph);
    assert_eq!(out.bits(), want);
}

#[test]
fn the_current_context_is_left_as_it_was() {
    let _alone = alone();
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
        one.quantize(&config(CONFIGS[0]), &x).expect("quantized");
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
        // Two contexts at once, each with its own model.
        let other = open(std::ptr::null_mut(), stream.raw).expect("that of the stream");
        let mut two = One::new(&other);
        let y = OnGpu::copy_of(&other, &noise(&[3, 64], DType::BF16, 5));
        two.quantize(&config(CONFIGS[0]), &y).expect("quantized");
        two.layer.input(y.view(), Some(y.view())).expect("a tap");
        assert_eq!(current(), primary);
    }
    // SAFETY: everything in it is gone.
    ok(unsafe { sys::cuCtxDestroy_v2(own) });
}

#[test]
fn two_streams_one_after_the_other() {
    let _alone = alone();
    if on_gpu::gpu(std::ptr::null_mut(), None).is_none() {
        return;
    }
    let (a, b) = (Stream::new(), Stream::new());
    let gpu = on_gpu::gpu(a.handle(), None).expect("as before");
    let mut one = One::new(&gpu);
    let x = noise(&[7, 64], DType::BF16, 3);
    let there = OnGpu::copy_of(&gpu, &x);
    one.quantize(&config(CONFIGS[0]), &there)
        .expect("quantized");
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
    let _alone = alone();
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
