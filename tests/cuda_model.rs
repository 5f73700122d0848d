//! A model whose tensors live on a GPU ends as the same model in host memory does, bit for bit; and what can go wrong
//! there is said, with the model as it was.

mod network;
mod on_gpu;
mod owned;
mod safetensors_file;
mod scarce;
mod there;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use mq::apply::fold_weight;
use mq::calibrate;
use mq::error::Error;
use mq::model::{Layer, LayerKind, LayerSpec, Mode, Model};
use mq::tensor::{DType, Device, TensorView};
use on_gpu::{OnGpu, bits};
use owned::Owned;
use safetensors_file::Tensors;
use scarce::{PLENTY, Scarce};
use there::{TENSORS, There, config, here, states};

/// Every way to quantize a weight or an activation, and the algorithms that need nothing but magnitudes.
const CONFIGS: [&str; 29] = [
    "INT8_DEFAULT_CFG",
    "INT8_WEIGHT_ONLY_CFG",
    "FP8_DEFAULT_CFG",
    "FP8_PER_CHANNEL_PER_TOKEN_CFG",
    "FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG",
    "INT4_BLOCKWISE_WEIGHT_ONLY_CFG",
    "MXFP8_DEFAULT_CFG",
    "MXFP6_DEFAULT_CFG",
    "MXFP4_DEFAULT_CFG",
    "MXINT8_DEFAULT_CFG",
    "NVFP4_DEFAULT_CFG",
    r#"{"quant_cfg": {"*weight_quantizer": {"num_bits": [2, 1], "block_sizes": {"-1": 16, "type": "static", "scale_bits": [4, 3]}},
        "*input_quantizer": {"num_bits": 8, "axis": -1}, "default": {"enable": false}}, "algorithm": "max"}"#,
    r#"{"quant_cfg": {"*weight_quantizer": [{"num_bits": 4, "block_sizes": {"-1": 16, "type": "static"}}, {"num_bits": [4, 3]}],
        "*input_quantizer": {"num_bits": [4, 3], "type": "dynamic"}, "default": {"enable": false}}, "algorithm": "max"}"#,
    r#"{"quant_cfg": {"*weight_quantizer": {"num_bits": 8, "axis": 0, "type": "dynamic"},
        "*input_quantizer": {"num_bits": [2, 1], "block_sizes": {"-1": 16, "type": "dynamic", "scale_bits": [4, 3]}, "type": "dynamic"},
        "default": {"enable": false}}, "algorithm": "max"}"#,
    "INT8_SMOOTHQUANT_CFG",
    r#"{"quant_cfg": {"*weight_quantizer": {"num_bits": 8, "axis": 0}, "*input_quantizer": {"num_bits": 8},
        "default": {"enable": false}}, "algorithm": {"method": "histogram", "amax_method": "entropy", "stride": 8}}"#,
    r#"{"quant_cfg": {"*weight_quantizer": {"num_bits": 8, "axis": 0}, "*input_quantizer": {"num_bits": [4, 3]},
        "default": {"enable": false}}, "algorithm": {"method": "histogram", "amax_method": "mse", "stride": 16}}"#,
    r#"{"quant_cfg": {"*weight_quantizer": {"num_bits": 8, "axis": 0}, "*input_quantizer": {"num_bits": 8},
        "default": {"enable": false}}, "algorithm": {"method": "histogram", "amax_method": "percentile"}}"#,
    r#"{"quant_cfg": {"*weight_quantizer": {"num_bits": 8, "axis": 0, "rotate": {"enable": true, "mode": "rotate_back"}},
        "*input_quantizer": {"num_bits": 8, "rotate": true}, "default": {"enable": false}}, "algorithm": "max"}"#,
    r#"{"quant_cfg": {"*weight_quantizer": {"num_bits": 8, "axis": 0, "bias": {"-1": null, "type": "static"}},
        "*input_quantizer": {"num_bits": 8, "bias": {"-1": null, "type": "dynamic"}}, "default": {"enable": false}},
        "algorithm": "max"}"#,
    r#"{"quant_cfg": {"*weight_quantizer": {"num_bits": 8, "axis": 0, "bias": {"-1": null, "type": "static", "method": "max_min"}},
        "*input_quantizer": {"num_bits": [4, 3], "bias": {"-2": null, "type": "static"}}, "default": {"enable": false}},
        "algorithm": "max"}"#,
    r#"{"quant_cfg": {"*weight_quantizer": {"num_bits": 8, "axis": 0, "type": "dynamic", "bias": {"-1": null, "type": "dynamic",
        "method": "max_min"}}, "*input_quantizer": {"num_bits": 8, "axis": -1, "type": "dynamic", "bias": {"-1": null, "-2": null,
        "type": "dynamic"}}, "default": {"enable": false}}, "algorithm": "max"}"#,
    r#"{"quant_cfg": {"*weight_quantizer": {"num_bits": 4, "block_sizes": {"-1": 16, "type": "static", "scale_bits": 8,
        "scale_block_sizes": {"-1": 4}}}, "default": {"enable": false}}, "algorithm": "max"}"#,
    r#"{"quant_cfg": {"*weight_quantizer": {"num_bits": 4, "block_sizes": {"-1": 24, "type": "static", "scale_bits": 8,
        "scale_block_sizes": {"-1": 256}}}, "*input_quantizer": {"num_bits": 4, "block_sizes": {"-1": 7, "type": "static",
        "scale_bits": 8, "scale_block_sizes": {"-1": 3}}}, "default": {"enable": false}}, "algorithm": null}"#,
    r#"{"quant_cfg": {"*weight_quantizer": {"num_bits": 4, "constant_amax": 0.7, "block_sizes": {"-1": 16, "type": "static",
        "scale_bits": 8, "scale_block_sizes": {"-1": 4}}}, "*input_quantizer": {"num_bits": [2, 1], "constant_amax": 2.5,
        "block_sizes": {"-1": 16, "type": "static", "scale_bits": [4, 3]}}, "default": {"enable": false}}, "algorithm": "max"}"#,
    r#"{"quant_cfg": {"*weight_quantizer": {"num_bits": [2, 1], "block_sizes": {"-1": 16, "type": "static", "scale_bits": [4, 3]}},
        "*input_quantizer": {"num_bits": [2, 1], "block_sizes": {"-1": 32, "type": "static", "scale_bits": [4, 3]}},
        "default": {"enable": false}}, "algorithm": null}"#,
    r#"{"quant_cfg": {"*weight_quantizer": {"num_bits": [2, 1], "block_sizes": {"-1": 16, "type": "static", "scale_bits": [4, 3],
        "four_over_six": true}}, "*input_quantizer": {"num_bits": 8, "axis": 0, "bias": {"-1": null, "type": "static"},
        "type": "dynamic"}, "default": {"enable": false}}, "algorithm": "max"}"#,
    r#"{"quant_cfg": {"*weight_quantizer": {"num_bits": [2, 1], "block_sizes": {"-1": 16, "type": "static", "scale_bits": [4, 3]}},
        "default": {"enable": false}}, "algorithm": {"method": "mse", "fp8_scale_sweep": true}}"#,
    r#"{"quant_cfg": {"*weight_quantizer": {"num_bits": 4, "axis": 0},
        "default": {"enable": false}}, "algorithm": {"method": "mse"}}"#,
];

#[test]
fn every_format_calibrates_and_quantizes_to_the_same_bits() {
    let Some(gpu) = on_gpu::gpu(std::ptr::null_mut(), None) else {
        return;
    };
    for (i, text) in CONFIGS.iter().enumerate() {
        let dtype = [DType::F32, DType::BF16, DType::F16][i % 3];
        let config = config(text);
        let mut here = here(dtype);
        let mut there = There::new(Arc::clone(&gpu), &here, dtype);
        here.quantize(&config).expect(text);
        there.quantize(&config).expect(text);
        assert_eq!(there.states(), states(&here.model), "{text}");
        for ((layer, weight), (other, own)) in here.layers.iter().zip(&there.layers) {
            let what = format!("{text} {}", layer.name());
            let mut x = here
                .tensors
                .get(&format!("x.{}.1", layer.name()))
                .cast(dtype);
            let far = OnGpu::copy_of(&gpu, &x);
            let place = x.view_mut();
            layer.input(place, Some(place)).expect(&what);
            other.input(far.view(), Some(far.view())).expect(&what);
            assert_eq!(far.bits(), bits(&x), "{what}");
            let mut w = Owned::zeros(dtype, &weight.shape);
            let far = OnGpu::copy_of(&gpu, &w);
            layer.weight_into(w.view_mut()).expect(&what);
            other.weight_into(far.view()).expect(&what);
            assert_eq!(far.bits(), bits(&w), "{what}");
            assert_eq!(own.bits(), bits(weight), "{what}: the host's own stays");
        }
        fold_weight(&mut here.model, false).expect(text);
        fold_weight(&mut there.model, false).expect(text);
        for ((layer, weight), (_, own)) in here.layers.iter().zip(&there.layers) {
            assert_eq!(own.bits(), bits(weight), "{text} {}", layer.name());
        }
    }
}

/// The errors of activations are measured on tokens that were sampled where they passed.
#[test]
fn the_checker_reports_the_same_errors() {
    let Some(gpu) = on_gpu::gpu(std::ptr::null_mut(), None) else {
        return;
    };
    let affine = r#"{"quant_cfg": {"*weight_quantizer": {"num_bits": 4, "block_sizes": {"-1": 16, "type": "static", "scale_bits": 8,
        "scale_block_sizes": {"-1": 4}}}, "*input_quantizer": {"num_bits": 8, "bias": {"-1": null, "type": "dynamic"}},
        "default": {"enable": false}}, "algorithm": "max"}"#;
    for text in [
        "INT8_DEFAULT_CFG",
        "FP8_DEFAULT_CFG",
        "INT8_SMOOTHQUANT_CFG",
        "NVFP4_DEFAULT_CFG",
        affine,
    ] {
        for dtype in [DType::F32, DType::BF16] {
            let mut here = here(dtype);
            let mut there = There::new(Arc::clone(&gpu), &here, dtype);
            here.quantize(&config(text)).expect(text);
            there.quantize(&config(text)).expect(text);
            let [want, got] = [&here.model, &there.model]
                .map(|model| mq::check::check(model).expect(text).to_json());
            let quantizers = |report: &serde_json::Value| {
                report["quantizers"].as_array().expect("a list").clone()
            };
            let (want, got) = (quantizers(&want), quantizers(&got));
            assert_eq!(got.len(), want.len());
            let (mut measured, mut enabled) = (0, 0);
            for (got, want) in got.iter().zip(&want) {
                let name = want["name"].as_str().expect("a name");
                if name.ends_with("input_quantizer") {
                    assert_eq!(got, want, "{text}");
                    enabled += usize::from(want["enabled"] == true);
                    measured += usize::from(
                        got["error"]["after"]
                            .as_f64()
                            .is_some_and(|error| error > 0.0),
                    );
                }
                // The squares of a weight are summed in another order.
                let after = |of: &serde_json::Value| of["error"]["after"].as_f64().unwrap_or(-1.0);
                let (got, want) = (after(got), after(want));
                assert!(
                    (got - want).abs() <= 1e-9 * want.abs(),
                    "{text} {name}: {got} {want}"
                );
            }
            assert!(enabled > 10, "{text}");
            assert_eq!(measured, enabled, "{text} {dtype}");
        }
    }
}

#[test]
fn a_pre_quant_scale_is_applied_there_too() {
    let Some(gpu) = on_gpu::gpu(std::ptr::null_mut(), None) else {
        return;
    };
    let mut here = here(DType::BF16);
    let mut there = There::new(Arc::clone(&gpu), &here, DType::BF16);
    let config = config("INT8_DEFAULT_CFG");
    here.quantize(&config).expect("quantized");
    there.quantize(&config).expect("quantized");
    let name = here.layers[0].0.name().to_owned();
    let channels = here.layers[0].1.shape[1];
    let mut scale = Owned::zeros(DType::F32, &[channels]);
    for (i, value) in scale.bytes_mut().chunks_exact_mut(4).enumerate() {
        value.copy_from_slice(&(0.5 + i as f32 * 0.03).to_ne_bytes());
    }
    for model in [&mut here.model, &mut there.model] {
        let slot = Arc::clone(model.find_layer(&name).expect("there").input_slot());
        model
            .set_pre_quant_scale(&slot, None, Some(scale.view()))
            .expect("fits");
    }
    let mut x = here.tensors.get(&format!("x.{name}.0")).cast(DType::BF16);
    let far = OnGpu::copy_of(&gpu, &x);
    let place = x.view_mut();
    here.layers[0].0.input(place, Some(place)).expect("a tap");
    let place = far.view();
    there.layers[0].0.input(place, Some(place)).expect("a tap");
    assert_eq!(far.bits(), bits(&x));
}

#[test]
fn nan_is_reported_with_the_name_of_the_layer_and_the_model_is_as_it_was() {
    let Some(gpu) = on_gpu::gpu(std::ptr::null_mut(), None) else {
        return;
    };
    let here = here(DType::F32);
    let mut there = There::new(Arc::clone(&gpu), &here, DType::F32);
    let before = there.states();
    let (layer, weight) = &there.layers[3];
    let name = layer.name().to_owned();
    let mut x = here.tensors.get(&format!("x.{name}.0"));
    x.bytes_mut()[..4].copy_from_slice(&f32::NAN.to_ne_bytes());
    let bad = OnGpu::copy_of(&gpu, &x);
    let layer = Arc::clone(layer);
    let mut forward = || layer.input(bad.view(), None);
    let affine = |kind: &str, bias: &str| {
        format!(
            r#"{{"quant_cfg": {{"*input_quantizer": {{"num_bits": 8, "axis": -1, "type": "{kind}", "bias": {{"-1": null,
            "type": "{bias}"}}}}, "default": {{"enable": false}}}}, "algorithm": "max"}}"#
        )
    };
    for text in [
        "INT8_DEFAULT_CFG",
        &affine("static", "static"),
        &affine("static", "dynamic"),
        &affine("dynamic", "static"),
    ] {
        let error = calibrate::quantize(&mut there.model, &config(text), Some(&mut forward))
            .expect_err("NaN");
        assert!(matches!(error, Error::Numeric(_)), "{error}");
        assert!(error.to_string().contains(&name), "{error}");
        assert_eq!(there.states(), before);
        assert_eq!(there.model.mode(), Mode::Registered);
    }
    // A weight with NaN.
    let mut spoilt = weight.fetch();
    let good = spoilt.clone();
    spoilt.bytes_mut()[8..12].copy_from_slice(&f32::INFINITY.to_ne_bytes());
    weight.write(&spoilt);
    let error = calibrate::quantize(&mut there.model, &config("INT8_WEIGHT_ONLY_CFG"), None)
        .expect_err("Inf");
    assert!(error.to_string().contains(&name), "{error}");
    assert_eq!(there.states(), before);
    weight.write(&good);
    // Once quantized, a tap cannot wait: it is found later.
    for dynamic in [
        r#"{"num_bits": 8, "type": "dynamic"}"#,
        r#"{"num_bits": 8, "axis": -1, "type": "dynamic", "bias": {"-1": null, "type": "dynamic"}}"#,
        r#"{"num_bits": 4, "block_sizes": {"-1": 16, "type": "static", "scale_bits": 8, "scale_block_sizes": {"-1": 4}}}"#,
        r#"{"num_bits": [2, 1], "block_sizes": {"-1": 16, "type": "static", "scale_bits": [4, 3]}}"#,
    ] {
        let text = format!(
            r#"{{"quant_cfg": {{"*input_quantizer": {dynamic}, "*weight_quantizer": {{"enable": false}},
            "default": {{"enable": false}}}}, "algorithm": null}}"#
        );
        let bad = OnGpu::copy_of(&gpu, &x);
        calibrate::quantize(&mut there.model, &config(&text), None).expect(dynamic);
        there.model.synchronize().expect("nothing is wrong");
        layer
            .input(bad.view(), Some(bad.view()))
            .expect("put on the stream");
        let error = there.model.synchronize().expect_err(dynamic);
        assert!(matches!(error, Error::Numeric(_)), "{error}");
        assert!(error.to_string().contains(&name), "{error}");
        there.model.synchronize().expect("said once");
    }
}

#[test]
fn when_device_memory_runs_out_the_model_is_as_it_was() {
    let Some(pool) = on_gpu::gpu(std::ptr::null_mut(), None) else {
        return;
    };
    let live = Arc::new(AtomicI64::new(0));
    let mut refused = 0;
    for allowed in (0..400).step_by(7) {
        let (memory, left) = Scarce::new(&pool, &live);
        let gpu = on_gpu::gpu(std::ptr::null_mut(), Some(memory)).expect("as before");
        let here = here(DType::F32);
        let mut there = There::new(Arc::clone(&gpu), &here, DType::F32);
        let before = there.states();
        let inputs: Vec<OnGpu> = there
            .layers
            .iter()
            .map(|(layer, _)| {
                let x = here.tensors.get(&format!("x.{}.0", layer.name()));
                OnGpu::copy_of(&gpu, &x)
            })
            .collect();
        let layers: Vec<_> = there
            .layers
            .iter()
            .map(|(layer, _)| Arc::clone(layer))
            .collect();
        let mut forward = || {
            let mut all = layers.iter().zip(&inputs);
            all.try_for_each(|(layer, x)| layer.input(x.view(), None))
        };
        left.store(allowed, SeqCst);
        let outcome = calibrate::quantize(
            &mut there.model,
            &config("INT8_DEFAULT_CFG"),
            Some(&mut forward),
        );
        left.store(PLENTY, SeqCst);
        match outcome {
            Ok(()) => break,
            Err(error) => {
                refused += 1;
                assert!(matches!(error, Error::OutOfMemory(_)), "{error}");
                assert_eq!(there.states(), before, "{allowed}");
                assert_eq!(there.model.mode(), Mode::Registered);
            }
        }
        there
            .quantize(&config("INT8_DEFAULT_CFG"))
            .expect("with memory");
    }
    assert!(refused > 5, "{refused}");
    assert_eq!(live.load(SeqCst), 0, "everything was given back");
}

#[test]
fn tensors_that_are_not_where_they_are_said_to_be_are_refused() {
    let Some(gpu) = on_gpu::gpu(std::ptr::null_mut(), None) else {
        return;
    };
    let here = here(DType::F32);
    let mut there = There::new(Arc::clone(&gpu), &here, DType::F32);
    let name = there.layers[0].0.name().to_owned();
    let mut x = here.tensors.get(&format!("x.{name}.0"));
    let device = Device::Cuda(gpu.device());
    let lie = |device, x: &mut Owned| {
        let address = x.bytes_mut().as_mut_ptr();
        // SAFETY: never looked at: refused.
        unsafe { TensorView::new_on(device, address, x.dtype, &x.shape) }.expect("valid")
    };
    let refused = |outcome: mq::error::Result<()>, says: &str| {
        let error = outcome.expect_err(says);
        assert!(matches!(error, Error::InvalidArgument(_)), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    };
    let layer = Arc::clone(&there.layers[0].0);
    refused(layer.input(lie(device, &mut x), None), "host memory");
    refused(
        layer.input(lie(Device::Cuda(63), &mut x), None),
        "device 63",
    );
    let far = OnGpu::copy_of(&gpu, &x);
    refused(layer.input(far.view(), Some(x.view_mut())), "host memory");
    let beyond = far.view().rows(0, 1).expect("a row");
    let bytes = far.view().size_bytes();
    // SAFETY: as above.
    let beyond = unsafe {
        let address = (beyond.address() + bytes as u64 - 4) as *mut u8;
        TensorView::new_on(device, address, DType::F32, beyond.shape().dims())
    };
    refused(
        layer.input(beyond.expect("valid"), None),
        "beyond its memory",
    );
    // And the reverse.
    let square = OnGpu::copy_of(&gpu, &Owned::zeros(DType::F32, &[4, 4]));
    let at_home = |there: &OnGpu| {
        let (address, shape) = (there.view().address() as *mut u8, *there.view().shape());
        // SAFETY: as above.
        unsafe { TensorView::new_on(Device::Cpu, address, DType::F32, shape.dims()) }
            .expect("valid")
    };
    let says = "is said to be host memory, but it is memory of CUDA device";
    refused(layer.input(at_home(&far), None), says);
    refused(layer.input(x.view(), Some(at_home(&far))), says);
    refused(layer.output(at_home(&far), None), says);
    let spec = LayerSpec {
        weight: Some(at_home(&square)),
        ..LayerSpec::new("another", LayerKind::Linear)
    };
    refused(there.model.add_layer(spec).map(|_| ()), says);
    // A context without a GPU.
    refused(
        here.layers[0].0.input(far.view(), None),
        "mq_context_options",
    );
    let mut matrix = Owned::zeros(DType::F32, &[4, 4]);
    let spec = LayerSpec {
        weight: Some(lie(device, &mut matrix)),
        ..LayerSpec::new("other", LayerKind::Linear)
    };
    refused(there.model.add_layer(spec).map(|_| ()), "host memory");
    // Numbers of quantizers come from the host.
    there
        .quantize(&config("INT8_DEFAULT_CFG"))
        .expect("quantized");
    let one = OnGpu::copy_of(&gpu, &Owned::zeros(DType::F32, &[]));
    let slot = Arc::clone(layer.input_slot());
    let outcome = there.model.set_amax(&slot, None, one.view());
    refused(outcome, "expected one in host memory");
    // SAFETY: as above.
    let lie = unsafe {
        TensorView::new_on(
            Device::Cpu,
            one.view().address() as *mut u8,
            DType::F32,
            &[],
        )
    };
    refused(there.model.set_amax(&slot, None, lie.expect("valid")), says);
}

#[test]
fn a_mixed_model_works_on_both_sides() {
    let Some(gpu) = on_gpu::gpu(std::ptr::null_mut(), None) else {
        return;
    };
    let mut model = Model::new(on_gpu::context(&gpu));
    let tensors = Tensors::parse(TENSORS);
    let name = tensors
        .names()
        .find(|name| name.starts_with("weight.") && name.ends_with("q_proj.weight"))
        .expect("a layer");
    let mut near = tensors.get(name);
    let far = OnGpu::copy_of(&gpu, &near);
    let spec = |name: &str, weight| LayerSpec {
        weight: Some(weight),
        ..LayerSpec::new(name, LayerKind::Linear)
    };
    let a = model
        .add_layer(spec("near", near.view_mut()))
        .expect("near");
    let b = model.add_layer(spec("far", far.view())).expect("far");
    let x = tensors.get(&format!(
        "x.{}.0",
        name.trim_start_matches("weight.")
            .trim_end_matches(".weight")
    ));
    let there = OnGpu::copy_of(&gpu, &x);
    let mut forward = || {
        a.input(x.view(), None)?;
        b.input(there.view(), None)
    };
    calibrate::quantize(&mut model, &config("FP8_DEFAULT_CFG"), Some(&mut forward))
        .expect("quantized");
    let amax = |layer: &Layer| format!("{:?}", layer.input_slot().state().members()[0].amax);
    assert_eq!(amax(&a), amax(&b));
    let mut out = Owned::zeros(DType::F32, &near.shape);
    let copy = OnGpu::copy_of(&gpu, &out);
    a.weight_into(out.view_mut()).expect("near");
    b.weight_into(copy.view()).expect("far");
    assert_eq!(copy.bits(), bits(&out));
}
