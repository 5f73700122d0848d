//! `compress` end to end: formats, layouts, what a packed weight refuses, and that it comes back.

mod owned;
mod safetensors_file;

use std::sync::Arc;

use mq::apply;
use mq::calibrate;
use mq::config::{Algorithm, CompressConfig, JsonPath, QuantizeConfig};
use mq::error::{Error, Result};
use mq::model::{
    Context, Layer, LayerKind, LayerSpec, Model, Part, PartType, Selector, SummaryFormat,
    allocate_own, fake_quant_once,
};
use mq::tensor::DType;
use owned::Owned;
use safetensors_file::Tensors;
use serde_json::{Value, json};

fn context() -> Arc<Context> {
    Arc::new(Context::new(2, Box::new(|_, _| {})).expect("two threads"))
}

fn tensor(dtype: DType, shape: &[usize], values: &[f32]) -> Owned {
    use mq::format::half::{Bf16, F16};
    let mut tensor = Owned::zeros(dtype, shape);
    let size = dtype.size();
    for (element, value) in tensor.bytes_mut().chunks_exact_mut(size).zip(values) {
        match dtype {
            DType::F32 => element.copy_from_slice(&value.to_ne_bytes()),
            DType::F16 => element.copy_from_slice(&F16::from_f32(*value).0.to_ne_bytes()),
            DType::BF16 => element.copy_from_slice(&Bf16::from_f32(*value).0.to_ne_bytes()),
        }
    }
    tensor
}

/// Numbers without a pattern, a few of them zero, that every dtype rounds differently.
fn numbers(count: usize) -> Vec<f32> {
    let mut state = 1u32;
    let next = |i: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let value = (state >> 8) as f32 / 8_388_608.0 - 1.0;
        let scale = [1.0, 0.01, 3.0][i / 64 % 3];
        if i % 37 == 5 { 0.0 } else { value * scale }
    };
    (0..count).map(next).collect()
}

fn spec(name: &str, weight: &mut Owned) -> LayerSpec {
    LayerSpec {
        name: name.to_owned(),
        kind: LayerKind::Generic,
        class_name: None,
        weight: Some(weight.view_mut()),
        bias: None,
        fused_group: None,
        shared_input_group: None,
    }
}

/// A model of one layer `l`, quantized with these attributes of the weight and calibrated.
fn model(attributes: &Value, weight: &mut Owned) -> Result<(Model, Arc<Layer>)> {
    let mut model = Model::new(context());
    let layer = model.add_layer(spec("l", weight))?;
    let config = json!({"quant_cfg": [
        {"quantizer_name": "*", "enable": false},
        {"quantizer_name": "*weight_quantizer", "cfg": attributes},
    ], "algorithm": "max"});
    let config = QuantizeConfig::parse(&config.to_string())?;
    calibrate::quantize(&mut model, &config, None)?;
    Ok((model, layer))
}

fn compress(model: &mut Model) -> Result<usize> {
    apply::compress(model, &CompressConfig::all(), false, &mut allocate_own)
}

fn weight_of(layer: &Layer, like: &Owned) -> Owned {
    let mut out = Owned::zeros(like.dtype, &like.shape);
    layer.weight_into(out.view_mut()).expect("the weight");
    out
}

/// The same bits; of integers the sign of a zero may differ.
#[track_caller]
fn assert_same(got: &Owned, want: &Owned, integers: bool, what: &str) {
    let (got, want) = (got.view().to_f32(), want.view().to_f32());
    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
        let same = g.to_bits() == w.to_bits() || integers && *g == 0.0 && *w == 0.0;
        assert!(same, "{what}: element {i} is {g:e}, expected {w:e}");
    }
}

fn floats(part: &Part) -> &[f32] {
    assert_eq!(part.dtype, PartType::F32);
    part.memory.floats()
}

/// Attributes, format and the parts of a weight of `[8, 128]`.
type Case = (Value, &'static str, Vec<(&'static str, PartType, Vec<i64>)>);

fn cases() -> Vec<Case> {
    use PartType::{E4m3, F32, Int8, UInt8};
    let nvfp4 = |kind: &str, four_over_six: bool| json!({"num_bits": [2, 1], "block_sizes": {"-1": 16, "type": kind, "scale_bits": [4, 3], "four_over_six": four_over_six}});
    let mx = |bits: Value| json!({"num_bits": bits, "block_sizes": {"-1": 32, "type": "dynamic", "scale_bits": [8, 0]}});
    let nvfp4_parts = vec![
        ("weight", UInt8, vec![8, 64]),
        ("scale", E4m3, vec![8, 8]),
        ("double_scale", F32, vec![]),
    ];
    vec![
        (
            json!({"num_bits": 4, "block_sizes": {"-1": 128, "type": "static"}}),
            "int4",
            vec![("weight", UInt8, vec![8, 64]), ("scale", F32, vec![8, 1])],
        ),
        (
            json!({"num_bits": 4, "block_sizes": {"1": 32}, "narrow_range": true}),
            "int4",
            vec![("weight", UInt8, vec![8, 64]), ("scale", F32, vec![32, 1])],
        ),
        (
            json!({"num_bits": 4, "block_sizes": {"-1": 64}, "constant_amax": 1.5}),
            "int4",
            vec![("weight", UInt8, vec![8, 64]), ("scale", F32, vec![16, 1])],
        ),
        (
            json!({"num_bits": 8, "axis": 0}),
            "int8",
            vec![("weight", Int8, vec![8, 128]), ("scale", F32, vec![8, 1])],
        ),
        (
            json!({"num_bits": 8, "axis": null}),
            "int8",
            vec![("weight", Int8, vec![8, 128]), ("scale", F32, vec![])],
        ),
        (
            json!({"num_bits": 8, "axis": 0, "type": "dynamic"}),
            "int8",
            vec![("weight", Int8, vec![8, 128]), ("scale", F32, vec![8, 1])],
        ),
        (
            json!({"num_bits": 8, "block_sizes": {"-1": 48}}),
            "int8",
            vec![("weight", Int8, vec![8, 128]), ("scale", F32, vec![8, 3])],
        ),
        (
            json!({"num_bits": [4, 3], "axis": null}),
            "fp8",
            vec![("weight", E4m3, vec![8, 128]), ("scale", F32, vec![])],
        ),
        (
            json!({"num_bits": [4, 3], "axis": 1}),
            "fp8",
            vec![("weight", E4m3, vec![8, 128]), ("scale", F32, vec![1, 128])],
        ),
        (
            json!({"num_bits": [4, 3], "block_sizes": {"-1": 48, "-2": 3}}),
            "fp8",
            vec![("weight", E4m3, vec![8, 128]), ("scale", F32, vec![3, 3])],
        ),
        (
            json!({"num_bits": [4, 3], "use_constant_amax": true}),
            "fp8",
            vec![("weight", E4m3, vec![8, 128]), ("scale", F32, vec![])],
        ),
        (nvfp4("dynamic", false), "nvfp4", nvfp4_parts.clone()),
        (nvfp4("static", false), "nvfp4", nvfp4_parts.clone()),
        (nvfp4("static", true), "nvfp4", nvfp4_parts),
        (
            mx(json!([2, 1])),
            "mxfp4",
            vec![
                ("weight", UInt8, vec![8, 64]),
                ("scale", UInt8, vec![32, 1]),
            ],
        ),
        (
            mx(json!([4, 3])),
            "mxfp8",
            vec![("weight", E4m3, vec![8, 128]), ("scale", UInt8, vec![8, 4])],
        ),
        (
            json!({"num_bits": 4, "block_sizes": {"-1": 64, "scale_bits": 8, "scale_block_sizes": {"-1": 256}}}),
            "nf4",
            vec![
                ("weight", UInt8, vec![512]),
                ("scale", Int8, vec![1, 256]),
                ("double_scale", F32, vec![1]),
                ("scale_zeros", F32, vec![]),
            ],
        ),
        (
            json!([{"num_bits": 4, "block_sizes": {"-1": 128}}, {"num_bits": [4, 3], "axis": null}]),
            "w4a8",
            vec![
                ("weight", UInt8, vec![8, 64]),
                ("scale", F32, vec![8, 1]),
                ("double_scale", F32, vec![]),
            ],
        ),
    ]
}

#[test]
fn every_format_has_its_parts_and_comes_back() {
    for (attributes, format, parts) in cases() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let what = format!("{attributes} {dtype}");
            let mut weight = tensor(dtype, &[8, 128], &numbers(1024));
            let (mut model, layer) = model(&attributes, &mut weight).expect(&what);
            let want = weight_of(&layer, &weight);
            assert_eq!(compress(&mut model), Ok(1), "{what}");
            // The host's memory is its own again.
            weight.bytes_mut().fill(0xff);
            let integers = ["int4", "int8", "w4a8"].contains(&format);
            assert_same(&weight_of(&layer, &weight), &want, integers, &what);
            let packed = layer.weight_slot().expect("one").packed().expect("packed");
            assert_eq!(packed.format(), format, "{what}");
            let found: Vec<_> = packed
                .parts()
                .iter()
                .map(|part| (part.name, part.dtype, part.shape.clone()))
                .collect();
            assert_eq!(found, parts, "{what}");
            for part in packed.parts() {
                let count: i64 = part.shape.iter().product();
                assert_eq!(part.memory.len(), count as usize * part.dtype.size());
            }
        }
    }
}

/// Rows that blocks do not divide, other ranks, and weights of zeros.
#[test]
fn ragged_rows_and_zeros_come_back() {
    for (attributes, format, _) in cases() {
        for (shape, values) in [
            (vec![5, 70], numbers(350)),
            (vec![3, 2, 2, 46], numbers(552)),
            (vec![6, 130], vec![0.0; 780]),
            (vec![2, 34], vec![1e-9; 68]),
        ] {
            if attributes["axis"] == 1 && shape.len() != 2 {
                continue;
            }
            if attributes["block_sizes"].get("1").is_some() && shape.len() != 2 {
                continue;
            }
            let what = format!("{attributes} {shape:?}");
            let mut weight = tensor(DType::F32, &shape, &values);
            let (mut model, layer) = model(&attributes, &mut weight).expect(&what);
            let want = weight_of(&layer, &weight);
            assert_eq!(compress(&mut model), Ok(1), "{what}");
            let integers = ["int4", "int8", "w4a8"].contains(&format);
            assert_same(&weight_of(&layer, &weight), &want, integers, &what);
            let packed = layer.weight_slot().expect("one").packed().expect("packed");
            for part in packed.parts().iter().filter(|p| p.dtype == PartType::F32) {
                assert!(part.memory.floats().iter().all(|s| s.is_finite()), "{what}");
            }
        }
    }
}

/// What a host computes from the parts alone.
#[test]
fn documented_scales_give_the_values() {
    let check = |attributes: Value, bound: f32, value: &dyn Fn(&[Part], usize) -> f32| {
        let mut weight = tensor(DType::F32, &[8, 128], &numbers(1024));
        let (mut model, layer) = model(&attributes, &mut weight).expect("quantizes");
        compress(&mut model).expect("packs");
        let want = weight_of(&layer, &weight).view().to_f32();
        let packed = layer.weight_slot().expect("one").packed().expect("packed");
        for (i, want) in want.iter().enumerate() {
            let got = value(packed.parts(), i);
            let far = (got - want).abs() > bound * want.abs();
            assert!(
                !far,
                "{attributes}: element {i} is {got:e}, expected {want:e}"
            );
        }
    };
    let e4m3 = mq::format::e4m3::decode;
    let e2m1 = |parts: &[Part], i: usize| {
        let byte = parts[0].memory.bytes()[i / 2];
        mq::format::e2m1::decode(byte >> (4 * (i % 2)))
    };
    let high_first = |parts: &[Part], i: usize| {
        let byte = parts[0].memory.bytes()[i / 2];
        byte >> (4 - 4 * (i % 2)) & 15
    };
    const ULPS: f32 = 1.0 / 4_194_304.0;
    check(
        json!({"num_bits": 4, "block_sizes": {"-1": 32}}),
        0.0,
        &|parts, i| (f32::from(high_first(parts, i)) - 8.0) / floats(&parts[1])[i / 32],
    );
    check(json!({"num_bits": 8, "axis": 0}), ULPS, &|parts, i| {
        f32::from(parts[0].memory.bytes()[i] as i8) * floats(&parts[1])[i / 128]
    });
    check(json!({"num_bits": [4, 3], "axis": 0}), ULPS, &|parts, i| {
        e4m3(parts[0].memory.bytes()[i]) * floats(&parts[1])[i / 128]
    });
    for (kind, four, bound) in [
        ("dynamic", false, 0.0),
        ("static", false, 2.0 * ULPS),
        ("static", true, 2.0 * ULPS),
    ] {
        let attributes = json!({"num_bits": [2, 1], "block_sizes": {"-1": 16, "type": kind, "scale_bits": [4, 3], "four_over_six": four}});
        check(attributes, bound, &|parts, i| {
            let scale = e4m3(parts[1].memory.bytes()[i / 16]) * floats(&parts[2])[0];
            e2m1(parts, i) * scale
        });
    }
    let mx = |bits: Value| json!({"num_bits": bits, "block_sizes": {"-1": 32, "type": "dynamic", "scale_bits": [8, 0]}});
    let power =
        |parts: &[Part], i: usize| 2f32.powi(i32::from(parts[1].memory.bytes()[i / 32]) - 127);
    check(mx(json!([2, 1])), 0.0, &|parts, i| {
        e2m1(parts, i) * power(parts, i)
    });
    check(mx(json!([4, 3])), 0.0, &|parts, i| {
        e4m3(parts[0].memory.bytes()[i]) * power(parts, i)
    });
    let nf4 = json!({"num_bits": 4, "block_sizes": {"-1": 64, "scale_bits": 8, "scale_block_sizes": {"-1": 8}}});
    check(nf4, 0.0, &|parts, i| {
        let (block, zero) = (i / 64, floats(&parts[3])[0]);
        let code = f32::from(parts[1].memory.bytes()[block] as i8);
        let scale = code / floats(&parts[2])[block / 8] + zero;
        mq::format::nf4::decode(high_first(parts, i)) * scale
    });
}

/// The golden weights: packed, they unpack to the reference's own fake-quantized ones.
#[test]
fn golden_weights_come_back() {
    let tensors = Tensors::parse(include_bytes!("data/golden/algorithms.safetensors"));
    let doc: Value =
        serde_json::from_str(include_str!("data/golden/algorithms.json")).expect("JSON");
    let mut count = 0;
    for name in [
        "int8_max",
        "fp8_max",
        "int4_block_max",
        "fp8_2d",
        "fp8_pcpt",
        "int8_wo",
    ] {
        let all = doc["cases"].as_array().expect("cases");
        let case = all.iter().find(|case| case["name"] == name).expect(name);
        let preset = case["preset"].as_str().expect("a preset");
        let text = mq::config::presets::json(preset).expect("a known preset");
        let block = case["block_size_override"].to_string();
        let config = QuantizeConfig::parse(&text.replace(":128", &format!(":{block}")))
            .expect("a valid configuration");
        let mut model = Model::new(context());
        let mut layers = Vec::new();
        for key in tensors.names().filter(|key| key.starts_with("weight.")) {
            let layer = key
                .strip_prefix("weight.")
                .and_then(|k| k.strip_suffix(".weight"));
            let Some(layer) = layer else { continue };
            let mut weight = tensors.get(key);
            let layer = model.add_layer(spec(layer, &mut weight)).expect(key);
            layers.push((layer, weight));
        }
        calibrate::quantize(&mut model, &config, None).expect(name);
        let packed = compress(&mut model).expect(name);
        assert!(packed > 0, "{name}");
        for (layer, weight) in &mut layers {
            weight.bytes_mut().fill(0xff);
            let key = format!("{name}.{}.weight_fq", layer.name());
            if let Some(want) = tensors.find(&key)
                && layer
                    .weight_slot()
                    .is_some_and(|slot| slot.packed().is_some())
            {
                assert_same(
                    &weight_of(layer, weight),
                    &want,
                    name.starts_with("int"),
                    &key,
                );
                count += 1;
            }
        }
    }
    assert!(count >= 60, "only {count} golden weights were packed");
}

#[test]
fn a_calibrated_amax_is_never_recomputed() {
    let mut weight = tensor(
        DType::F32,
        &[2, 4],
        &[8.0, -1.0, 0.5, 0.0, 2.0, 1.0, -3.0, 0.25],
    );
    let (mut model, layer) = model(&json!({"num_bits": 8, "axis": null}), &mut weight).unwrap();
    let slot = Arc::clone(layer.weight_slot().unwrap());
    let amax = tensor(DType::F32, &[], &[2.0]);
    model.set_amax(&slot, None, amax.view()).unwrap();
    let want = weight_of(&layer, &weight);
    compress(&mut model).unwrap();
    assert_same(&weight_of(&layer, &weight), &want, true, "clipped");
    let packed = slot.packed().unwrap();
    assert_eq!(packed.parts()[0].memory.bytes()[0], 127);
    assert_eq!(floats(&packed.parts()[1]), [2.0 / 127.0]);
}

#[test]
fn a_pre_quant_scale_is_packed_in() {
    let mut weight = tensor(DType::BF16, &[4, 32], &numbers(128));
    let attributes = json!({"num_bits": 4, "block_sizes": {"-1": 16}});
    let (mut model, layer) = model(&attributes, &mut weight).unwrap();
    let factors: Vec<f32> = (0..32).map(|i| 0.5 + i as f32 / 7.0).collect();
    let scale = tensor(DType::F32, &[32], &factors);
    let slot = Arc::clone(layer.weight_slot().unwrap());
    model
        .set_pre_quant_scale(&slot, None, Some(scale.view()))
        .unwrap();
    let want = weight_of(&layer, &weight);
    compress(&mut model).unwrap();
    assert_same(&weight_of(&layer, &weight), &want, true, "scaled");
}

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
    let mut stops = |layer: &str, part: &str, size: usize| {
        calls.push(format!("{layer} {part} {size}"));
        match layer {
            "b" => Err(Error::OutOfMemory("no more".into())),
            _ => allocate_own(layer, part, size),
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
    // AWQ is not built; without it the other preset packs INT4.
    let text = mq::config::presets::json("INT4_AWQ_REAL_QUANT_CFG").expect("a preset");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    let parsed = QuantizeConfig::parse(&text).expect("valid");
    let mut weight = copy.clone();
    let mut other = Model::new(context());
    let layer = other.add_layer(spec("l", &mut weight)).expect("a layer");
    let outcome = calibrate::quantize(&mut other, &parsed, None);
    assert!(matches!(outcome, Err(Error::Unsupported(_))), "{outcome:?}");
    config["algorithm"] = json!("real_quantize");
    let parsed = QuantizeConfig::parse(&config.to_string()).expect("valid");
    calibrate::quantize(&mut other, &parsed, None).expect("quantizes");
    let packed = layer.weight_slot().expect("one").packed().expect("packed");
    assert_eq!(packed.format(), "int4");
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
