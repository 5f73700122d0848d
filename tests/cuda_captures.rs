//! What is put on the stream can be captured into a graph: quantizing taps, weights that are quantized anew, observing taps.

mod on_gpu;
mod one;
mod owned;
mod streams;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mq::apply;
use mq::calibrate;
use mq::check;
use mq::config::QuantizeConfig;
use mq::error::Error;
use mq::kernels::cuda::Gpu;
use mq::model::{Model, Scales};
use mq::tensor::DType;
use on_gpu::{OnGpu, bits};
use one::{One, config, noise};
use streams::Stream;

/// Tests here wait for streams by calls of their own, which the driver refuses while another thread captures.
static ALONE: Mutex<()> = Mutex::new(());

/// A stream of the host's, a GPU that works on it, and the right to capture.
fn on_stream() -> Option<(MutexGuard<'static, ()>, Stream, Arc<Gpu>)> {
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    on_gpu::gpu(std::ptr::null_mut(), None)?;
    let stream = Stream::new();
    let gpu = on_gpu::gpu(stream.handle(), None)?;
    Some((alone, stream, gpu))
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

#[test]
fn a_captured_forward_sees_new_inputs_and_new_scales() {
    let Some((_alone, stream, gpu)) = on_stream() else {
        return;
    };
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
    let Some((_alone, stream, gpu)) = on_stream() else {
        return;
    };
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
    let Some((_alone, stream, gpu)) = on_stream() else {
        return;
    };
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
    let unfolded = one.weight.bits();
    let graph = stream.capture(|| {
        let error = apply::fold_weight(&mut one.model, false).expect_err("a verb waits");
        assert!(matches!(error, Error::State(_)), "{error}");
        let error = check::check(&one.model).map(|_| ()).expect_err("likewise");
        assert!(matches!(error, Error::State(_)), "{error}");
    });
    stream.launch(&graph);
    assert_eq!(one.weight.bits(), unfolded, "nothing of it is in the graph");
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

/// Room for the amax of a whole tensor is found by the verb: no tap has to come first.
#[test]
fn the_first_tap_of_a_dynamic_tensor_can_be_captured() {
    let Some((_alone, stream, gpu)) = on_stream() else {
        return;
    };
    let first = noise(&[5, 64], DType::BF16, 2);
    for attributes in [
        r#"{"num_bits": 8, "axis": null, "type": "dynamic"}"#,
        r#"{"num_bits": [4, 3], "axis": null, "type": "dynamic"}"#,
    ] {
        let mut one = One::new(&gpu);
        let text = format!(r#"{{"*input_quantizer": {attributes}}}"#);
        let (x, out) = (OnGpu::copy_of(&gpu, &first), OnGpu::copy_of(&gpu, &first));
        calibrate::quantize(&mut one.model, &config(&text), Some(&mut || Ok(()))).expect(&text);
        let tap = || one.layer.input(x.view(), Some(out.view()));
        let graph = stream.capture(|| tap().expect(attributes));
        x.write(&noise(&[5, 64], DType::BF16, 3));
        stream.launch(&graph);
        let captured = out.bits();
        tap().expect(attributes);
        assert_eq!(captured, out.bits(), "{attributes}");
        assert_ne!(captured, x.bits(), "{attributes}");
    }
}

/// What a calibration collects stays on the GPU: a tap that observes waits for nothing and, after the first one, needs no
/// memory. So it can be captured, and the graph observes when it is launched.
#[test]
fn taps_that_observe_can_be_captured() {
    let Some((_alone, stream, gpu)) = on_stream() else {
        return;
    };
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
    let Some((_alone, captured, gpu)) = on_stream() else {
        return;
    };
    let busy = Stream::new();
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
