//! `compress` as a verb: what it refuses and leaves alone, what a packed weight refuses, `real_quantize`.

mod owned;
mod packing;

use std::sync::Arc;

use mq::apply;
use mq::calibrate;
use mq::config::{Algorithm, CompressConfig, JsonPath, QuantizeConfig};
use mq::error::{Error, Result};
use mq::kernels::cuda::Gpu;
use mq::model::{Model, Selector, SummaryFormat, allocate_own, fake_quant_once};
use mq::tensor::DType;
use owned::Owned;
use packing::{assert_same, compress, context, linear, model, numbers, spec, tensor, weight_of};
use serde_json::{Value, json};

fn unsupported(outcome: Result<usize>, parts: &[&str]) {
    match outcome {
        Err(Error::Unsupported(text)) => {
            for part in parts.iter().chain(&["`l.weight_quantizer`"]) {
                assert!(text.contains(part), "{text}");
            }
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn formats_without_a_packed_form_are_named() {
    for (attributes, parts) in [
        (json!({"num_bits": 6}), ["num_bits 6"]),
        (
            json!({"num_bits": 4, "axis": 0}),
            ["INT4 without static blocks"],
        ),
        (
            json!({"num_bits": 4, "block_sizes": {"-1": 16, "-2": 2}}),
            ["blocks along the last axis"],
        ),
        (
            json!({"num_bits": 4, "block_sizes": {"0": 2}}),
            ["blocks along the last axis"],
        ),
        (
            json!({"num_bits": [5, 2], "block_sizes": {"-1": 32, "type": "dynamic", "scale_bits": [8, 0]}}),
            ["MX with num_bits (5, 2)"],
        ),
        (
            json!([{"num_bits": 8}, {"num_bits": [4, 3]}]),
            ["only INT4 followed by FP8"],
        ),
        (
            json!([{"num_bits": 4, "block_sizes": {"-1": 16}}, {"num_bits": [4, 3], "axis": 0}]),
            ["one calibrated amax"],
        ),
        (json!({"num_bits": 8, "bias": {"-1": null}}), ["a bias"]),
    ] {
        let mut weight = tensor(DType::F32, &[4, 32], &numbers(128));
        let (mut model, layer) = model(&attributes, &mut weight).expect("quantizes");
        let want = weight_of(&layer, &weight);
        unsupported(compress(&mut model), &parts);
        assert_same(&weight_of(&layer, &weight), &want, false, "as before");
    }
    let mut weight = tensor(DType::F32, &[4, 33], &numbers(132));
    let (mut odd, _) = model(
        &json!({"num_bits": 4, "block_sizes": {"-1": 16}}),
        &mut weight,
    )
    .expect("quantizes");
    unsupported(compress(&mut odd), &["last axis has 33 elements", "even"]);
    let mut weight = tensor(DType::F32, &[2, 2], &[1.0; 4]);
    let (mut positive, _) =
        model(&json!({"num_bits": 8, "unsigned": true}), &mut weight).expect("quantizes");
    unsupported(compress(&mut positive), &["unsigned"]);
}

fn state<T: std::fmt::Debug>(outcome: Result<T>) {
    match outcome {
        Err(Error::State(text)) => assert!(text.contains("`a.weight_quantizer"), "{text}"),
        other => panic!("{other:?}"),
    }
}

fn two_layers(a: &mut Owned, b: &mut Owned) -> Model {
    let mut model = Model::new(context());
    model.add_layer(spec("a", a)).expect("a");
    model.add_layer(spec("b", b)).expect("b");
    let config = QuantizeConfig::parse("INT8_WEIGHT_ONLY_CFG").expect("a preset");
    calibrate::quantize(&mut model, &config, None).expect("quantizes");
    model
}

#[test]
fn a_packed_weight_does_not_change_any_more() {
    let mut a = tensor(DType::F32, &[4, 8], &numbers(32));
    let mut b = a.clone();
    let mut model = two_layers(&mut a, &mut b);
    let only_a = CompressConfig::parse(r#"{"default": false, "a*": true}"#).expect("valid");
    let pack = |model: &mut Model| apply::compress(model, &only_a, false, &mut allocate_own);
    assert_eq!(pack(&mut model), Ok(1));
    state(pack(&mut model));
    state(compress(&mut model));
    let layer = model.find_layer("a").expect("a");
    let want = weight_of(&layer, &a);
    a.bytes_mut().fill(0xff);
    let slot = Arc::clone(layer.weight_slot().expect("one"));
    let amax = tensor(DType::F32, &[4, 1], &[1.0; 4]);
    state(model.set_amax(&slot, None, amax.view()));
    state(model.set_pre_quant_scale(&slot, None, None));
    let all = Selector::wildcard("*").expect("valid");
    state(model.matching(&all, false, |m, t| m.set_enabled(t, true)));
    state(model.matching(&all, false, |m, t| m.set_enabled(t, false)));
    state(model.matching(&all, false, |m, t| m.reset_amax(t)));
    state(model.matching(&all, false, |m, t| m.set_attributes(t, "{}", false)));
    state(model.matching(&all, false, |m, t| {
        m.postprocess_amax(t, false, &mut |_, _| Ok(()))
    }));
    let config = QuantizeConfig::parse("INT8_DEFAULT_CFG").expect("a preset");
    state(calibrate::quantize(&mut model, &config, None));
    // What passes over it: the rest goes on without the host's memory of `a`.
    let max = Algorithm::parse(&json!("max"), &JsonPath::root("")).expect("valid");
    let mut seen = None;
    let mut forward = || {
        seen = Some(weight_of(&layer, &a));
        Ok(())
    };
    calibrate::calibrate(&mut model, &max, Some(&mut forward)).expect("calibrates");
    apply::fold_weight(&mut model, false).expect("folds");
    assert!(a.bytes_mut().iter().all(|byte| *byte == 0xff));
    assert_same(&weight_of(&layer, &a), &want, false, "as packed");
    let slot_b = Arc::clone(
        model
            .find_layer("b")
            .expect("b")
            .weight_slot()
            .expect("one"),
    );
    assert!(!slot_b.state().is_enabled(), "folded");
    let none = apply::compress(&mut model, &only_a, true, &mut allocate_own);
    state(none);
    let other = CompressConfig::parse(r#"{"b*": true}"#).expect("valid");
    let outcome = apply::compress(&mut model, &other, false, &mut allocate_own);
    assert!(matches!(outcome, Err(Error::NotFound(_))), "{outcome:?}");
    let allowed = apply::compress(&mut model, &other, true, &mut allocate_own);
    assert_eq!(allowed, Ok(0));
}

#[test]
fn compress_is_all_or_nothing() {
    let mut a = tensor(DType::F32, &[4, 8], &numbers(32));
    let mut b = a.clone();
    let mut model = two_layers(&mut a, &mut b);
    let mut calls = Vec::new();
    let mut stops = |layer: &str, part: &str, size: usize, gpu: Option<&Arc<Gpu>>| {
        calls.push(format!("{layer} {part} {size}"));
        match layer {
            "b" => Err(Error::OutOfMemory("no more".into())),
            _ => allocate_own(layer, part, size, gpu),
        }
    };
    let outcome = apply::compress(&mut model, &CompressConfig::all(), false, &mut stops);
    assert_eq!(outcome, Err(Error::OutOfMemory("no more".into())));
    assert_eq!(calls, ["a weight 32", "a scale 16", "b weight 32"]);
    assert!(model.slots().iter().all(|slot| slot.packed().is_none()));
    // A NaN that came after the calibration.
    b.bytes_mut()[..4].copy_from_slice(&f32::NAN.to_ne_bytes());
    match compress(&mut model) {
        Err(Error::Numeric(text)) => assert!(text.contains("`b.weight_quantizer`"), "{text}"),
        other => panic!("{other:?}"),
    }
    assert!(model.slots().iter().all(|slot| slot.packed().is_none()));
    let all = Selector::wildcard("a.weight_quantizer").expect("valid");
    let reset = model.matching(&all, false, |m, t| m.reset_amax(t));
    reset.expect("forgets");
    state(compress(&mut model));
    let mut fresh = Model::new(context());
    let outcome = compress(&mut fresh);
    assert!(matches!(outcome, Err(Error::State(_))), "{outcome:?}");
}

#[test]
fn the_summary_counts_bytes() {
    let mut a = tensor(DType::F16, &[4, 8], &numbers(32));
    let mut b = a.clone();
    let mut model = two_layers(&mut a, &mut b);
    let summary = |model: &Model| -> Value {
        serde_json::from_str(&model.summary(SummaryFormat::Json)).expect("JSON")
    };
    assert_eq!(summary(&model)["weight_bytes_before"], 128);
    assert_eq!(summary(&model)["weight_bytes_after"], 128);
    assert_eq!(summary(&model)["layers"][0]["packed"], Value::Null);
    let only_a = CompressConfig::parse(r#"{"default": false, "a*": true}"#).expect("valid");
    apply::compress(&mut model, &only_a, false, &mut allocate_own).expect("packs");
    let after = summary(&model);
    assert_eq!(after["weight_bytes_before"], 128);
    assert_eq!(after["weight_bytes_after"], 64 + 32 + 16);
    let packed = &after["layers"][0]["packed"];
    assert_eq!(packed["format"], "int8");
    assert_eq!(packed["size_bytes"], 48);
    assert_eq!(
        packed["parts"][1],
        json!({"name": "scale", "dtype": "float32", "shape": [4, 1], "size_bytes": 16})
    );
    let line = model.summary(SummaryFormat::Text);
    assert!(line.contains("8 bit axis=0"), "no longer fake: {line}");
}

#[test]
fn real_quantize_packs_after_the_calibration() {
    let mut weight = tensor(DType::BF16, &[8, 128], &numbers(1024));
    let copy = weight.clone();
    let mut model = Model::new(context());
    let layer = model.add_layer(spec("l", &mut weight)).expect("a layer");
    let config = QuantizeConfig::parse("NF4_REAL_QUANT_CFG").expect("a preset");
    calibrate::quantize(&mut model, &config, None).expect("quantizes");
    let packed = layer.weight_slot().expect("one").packed().expect("packed");
    assert_eq!(packed.format(), "nf4");
    // The same as fake quantization without a model, whose amax is the weight's own.
    let attributes = json!({"num_bits": 4, "block_sizes": {"-1": 64, "scale_bits": 8, "scale_block_sizes": {"-1": 256}}});
    let mut want = Owned::zeros(DType::BF16, &copy.shape);
    let text = attributes.to_string();
    fake_quant_once(&context(), copy.view(), &text, None, want.view_mut()).expect("nf4");
    assert_same(&weight_of(&layer, &copy), &want, false, "nf4");
    let (x, y) = (copy.view().to_f32(), want.view().to_f32());
    let error = x.iter().zip(&y).map(|(x, y)| (x - y).abs());
    assert!(error.fold(0.0, f32::max) < 0.5, "nf4 is near the weight");
    // AWQ needs data; without it the other preset packs INT4.
    let text = mq::config::presets::json("INT4_AWQ_REAL_QUANT_CFG").expect("a preset");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    let parsed = QuantizeConfig::parse(&text).expect("valid");
    let mut weight = copy.clone();
    let mut other = Model::new(context());
    let layer = other.add_layer(linear("l", &mut weight)).expect("a layer");
    let outcome = calibrate::quantize(&mut other, &parsed, None);
    assert!(
        matches!(outcome, Err(Error::InvalidArgument(_))),
        "{outcome:?}"
    );
    config["algorithm"] = json!("real_quantize");
    let plain = QuantizeConfig::parse(&config.to_string()).expect("valid");
    calibrate::quantize(&mut other, &plain, None).expect("quantizes");
    let packed = layer.weight_slot().expect("one").packed().expect("packed");
    assert_eq!(packed.format(), "int4");
    // With data the weight is scaled before it is packed.
    let x = tensor(DType::BF16, &[2, 128], &numbers(256));
    let mut forward = || layer.input(x.view(), None);
    let mut weight = copy.clone();
    let mut third = Model::new(context());
    let layer = third.add_layer(linear("l", &mut weight)).expect("a layer");
    calibrate::quantize(&mut third, &parsed, Some(&mut forward))
        .expect_err("the tap of another model");
    let mut forward = || layer.input(x.view(), None);
    calibrate::quantize(&mut third, &parsed, Some(&mut forward)).expect("quantizes");
    assert!(layer.weight_slot().expect("one").packed().is_some());
    let scaled = layer.input_slot().state().members()[0]
        .pre_quant_scale
        .clone();
    assert!(scaled.is_some_and(|scale| scale.iter().any(|s| *s != 1.0)));
    // Only weights have a packed form.
    let text = json!({"quant_cfg": [{"quantizer_name": "*input_quantizer", "cfg": {"fake_quant": false}}]});
    let config = QuantizeConfig::parse(&text.to_string()).expect("valid");
    let mut weight = copy.clone();
    let mut third = Model::new(context());
    third.add_layer(spec("l", &mut weight)).expect("a layer");
    let outcome = calibrate::quantize(&mut third, &config, None);
    assert!(matches!(outcome, Err(Error::Unsupported(_))), "{outcome:?}");
}

#[test]
fn a_weight_without_elements_stays() {
    let mut weight = tensor(DType::F32, &[0, 8], &[]);
    let (mut model, layer) = model(&json!({"num_bits": 8}), &mut weight).expect("quantizes");
    let outcome = compress(&mut model);
    assert!(matches!(outcome, Err(Error::NotFound(_))), "{outcome:?}");
    assert_same(&weight_of(&layer, &weight), &weight, false, "nothing");
}

#[test]
fn an_out_of_another_shape_is_refused() {
    let mut weight = tensor(DType::F32, &[4, 8], &numbers(32));
    let (mut model, layer) = model(&json!({"num_bits": 8}), &mut weight).expect("quantizes");
    compress(&mut model).expect("packs");
    for (dtype, shape) in [(DType::F16, [4, 8]), (DType::F32, [8, 4])] {
        let outcome = layer.weight_into(Owned::zeros(dtype, &shape).view_mut());
        assert!(
            matches!(outcome, Err(Error::InvalidArgument(_))),
            "{outcome:?}"
        );
    }
    // The weight's own memory is as good as any other.
    let want = weight_of(&layer, &weight);
    layer.weight_into(weight.view_mut()).expect("in place");
    assert_same(&weight, &want, false, "over the weight");
}
