//! The reference's own results: every case must come out bit for bit. Cases are counted.

mod owned;
mod safetensors_file;

use mq::calibrate;
use mq::config::QuantizeConfig;
use mq::error::Result;
use mq::format::half::{Bf16, F16};
use mq::model::{Context, LayerKind, LayerSpec, Model, fake_quant_once};
use mq::tensor::DType;
use owned::Owned;
use safetensors_file::Tensors;
use serde_json::{Value, json};

fn context() -> std::sync::Arc<Context> {
    std::sync::Arc::new(Context::new(2, Box::new(|_, _| {})).expect("two threads"))
}

fn cases(text: &str) -> Vec<Value> {
    let doc: Value = serde_json::from_str(text).expect("golden JSON");
    doc["cases"].as_array().expect("cases").clone()
}

/// Takes the absolute value of every element, whatever the dtype: clears the sign bit.
fn absolute(tensor: &mut Owned) {
    let size = tensor.dtype.size();
    for element in tensor.bytes_mut().chunks_exact_mut(size) {
        element[size - 1] &= 0x7f;
    }
}

/// Equal bits, but any NaN equals any NaN.
fn assert_same(got: &Owned, want: &Owned, name: &str) {
    assert_eq!(got.dtype, want.dtype, "{name}");
    assert_eq!(got.shape, want.shape, "{name}");
    let (got, want) = (got.view().to_f32(), want.view().to_f32());
    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
        assert!(
            g.to_bits() == w.to_bits() || g.is_nan() && w.is_nan(),
            "{name}: element {i} is {g:e}, expected {w:e}"
        );
    }
}

#[test]
fn fake_quant_matches_every_case() {
    let tensors = Tensors::parse(include_bytes!("data/golden/fake_quant.safetensors"));
    let cases = cases(include_str!("data/golden/fake_quant.json"));
    assert_eq!(cases.len(), 288, "the golden file lost its cases");
    let context = context();
    for case in &cases {
        let text = |key: &str| case[key].as_str().unwrap_or_default();
        let mut x = tensors.get(text("input"));
        if case["abs_input"] == true {
            absolute(&mut x);
        }
        let want = tensors.get(text("expected"));
        let amax = case
            .get("amax")
            .map(|name| tensors.get(name.as_str().expect("a name")));
        let attributes = case["attrs"].to_string();

        let mut apart = Owned::zeros(x.dtype, &x.shape);
        let amax_view = amax.as_ref().map(Owned::view);
        fake_quant_once(&context, x.view(), &attributes, amax_view, apart.view_mut())
            .unwrap_or_else(|e| panic!("{}: {e}", text("name")));
        assert_same(&apart, &want, text("name"));

        let place = x.view_mut();
        fake_quant_once(&context, place, &attributes, amax_view, place)
            .unwrap_or_else(|e| panic!("{}: {e}", text("name")));
        assert_same(&x, &want, &format!("{} in place", text("name")));

        // Where an amax is kept, it is also what the tensor itself gives.
        if amax.is_some() {
            let mut x = tensors.get(text("input"));
            if case["abs_input"] == true {
                absolute(&mut x);
            }
            fake_quant_once(&context, x.view(), &attributes, None, apart.view_mut())
                .unwrap_or_else(|e| panic!("{}: {e}", text("name")));
            assert_same(
                &apart,
                &want,
                &format!("{} with its own amax", text("name")),
            );
        }
    }
}

#[test]
fn max_calibrator_matches_every_case() {
    let tensors = Tensors::parse(include_bytes!("data/golden/calibrators.safetensors"));
    let cases = cases(include_str!("data/golden/calibrators.json"));
    let max: Vec<_> = cases
        .iter()
        .filter(|case| case["calibrator"] == "max")
        .collect();
    assert_eq!(max.len(), 6, "the golden file lost its cases");
    for case in max {
        let mut model = Model::new(context());
        let slot = model.add_quantizer("q", None).expect("a new name");
        let entry = json!({"quantizer_name": "q", "cfg": {"num_bits": 8, "axis": case["axis"]}});
        let config = json!({"quant_cfg": [entry], "algorithm": "max"}).to_string();
        let config = QuantizeConfig::parse(&config).expect("a valid configuration");
        let data = case["data"].as_str().expect("a name");
        let mut forward = || -> Result<()> {
            for batch in 0..case["batches"].as_u64().unwrap_or(0) {
                let x = tensors.get(&format!("in.{data}.{batch}"));
                slot.forward(None, x.view(), None)?;
            }
            Ok(())
        };
        calibrate::quantize(&mut model, &config, Some(&mut forward)).expect("calibrates");
        let want = tensors.get(case["expected"].as_str().expect("a name"));
        let amax = slot
            .one(None)
            .expect("one")
            .amax
            .clone()
            .expect("calibrated");
        assert_eq!(amax.shape(), want.shape, "{case}");
        assert_eq!(amax.values(), want.view().to_f32(), "{case}");
    }
}

/// The preset of a case with its blocks of 128 replaced, as the golden file says.
fn config_of(case: &Value) -> QuantizeConfig {
    let name = case["preset"].as_str().expect("a preset");
    let text = mq::config::presets::json(name).expect("a known preset");
    let block = case["block_size_override"].to_string();
    let text = text.replace(":128", &format!(":{block}"));
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    config["algorithm"] = case["algorithm"].clone();
    QuantizeConfig::parse(&config.to_string()).expect("a valid configuration")
}

#[test]
fn max_algorithm_matches_its_cases() {
    const CASES: [&str; 6] = [
        "int8_max",
        "fp8_max",
        "int4_block_max",
        "fp8_2d",
        "fp8_pcpt",
        "int8_wo",
    ];
    let tensors = Tensors::parse(include_bytes!("data/golden/algorithms.safetensors"));
    let cases = cases(include_str!("data/golden/algorithms.json"));
    let (mut quantizers, mut weights, mut outputs) = (0, 0, 0);
    for name in CASES {
        let case = cases.iter().find(|case| case["name"] == name).expect(name);
        let mut model = Model::new(context());
        let mut layers = Vec::new();
        for key in tensors.names().filter(|key| key.starts_with("weight.")) {
            let Some(layer) = key
                .strip_prefix("weight.")
                .and_then(|k| k.strip_suffix(".weight"))
            else {
                continue;
            };
            let mut weight = tensors.get(key);
            let spec = LayerSpec {
                name: layer.to_owned(),
                kind: LayerKind::Linear,
                class_name: None,
                weight: Some(weight.view_mut()),
                bias: None,
                fused_group: None,
                shared_input_group: None,
            };
            layers.push((model.add_layer(spec).expect(layer), weight));
        }
        assert_eq!(layers.len(), 15);
        let mut forward = || -> Result<()> {
            for batch in 0..4 {
                for (layer, _) in &layers {
                    let x = tensors.get(&format!("x.{}.{batch}", layer.name()));
                    layer.input(x.view(), None)?;
                }
            }
            Ok(())
        };
        calibrate::quantize(&mut model, &config_of(case), Some(&mut forward)).expect(name);

        let listed = case["quantizers"].as_object().expect("quantizers");
        for slot in model.slots() {
            let one = slot.one(None).expect("not sequential");
            let what = format!("{name} {}", slot.name());
            assert_eq!(
                one.enabled,
                listed
                    .get(slot.name())
                    .is_some_and(|q| q["enabled"] == true),
                "{what}"
            );
            let Some(key) = listed.get(slot.name()).and_then(|q| q["amax"].as_str()) else {
                continue;
            };
            let want = tensors.get(key);
            let amax = one
                .amax
                .clone()
                .unwrap_or_else(|| panic!("{what}: no amax"));
            assert_eq!(amax.shape(), want.shape, "{what}");
            assert_eq!(amax.values(), want.view().to_f32(), "{what}");
            quantizers += 1;
        }
        for (layer, weight) in &layers {
            if let Some(want) = tensors.find(&format!("{name}.{}.weight_fq", layer.name())) {
                let mut got = Owned::zeros(weight.dtype, &weight.shape);
                layer.weight_into(got.view_mut()).expect(name);
                assert_same(&got, &want, &format!("{name} {} weight", layer.name()));
                weights += 1;
            }
            if let Some(want) = tensors.find(&format!("{name}.{}.y0", layer.name())) {
                check_output(&tensors, layer, weight, &want);
                outputs += 1;
            }
        }
    }
    assert_eq!(
        (quantizers, weights, outputs),
        (112, 90, 15),
        "cases were lost"
    );
}

/// One layer's output for batch 0 in float64 from mq's input and weight.
fn check_output(tensors: &Tensors, layer: &mq::model::Layer, weight: &Owned, want: &Owned) {
    let mut x = tensors.get(&format!("x.{}.0", layer.name()));
    let place = x.view_mut();
    layer.input(place, Some(place)).expect("a calibrated input");
    let mut w = Owned::zeros(weight.dtype, &weight.shape);
    layer
        .weight_into(w.view_mut())
        .expect("a calibrated weight");
    let (x, w, want) = (x.view().to_f32(), w.view().to_f32(), want.view().to_f32());
    let bias = tensors.find(&format!("weight.{}.bias", layer.name()));
    let bias = bias.map(|bias| bias.view().to_f32());
    let (outputs, inputs) = (weight.shape[0], weight.shape[1]);
    for (i, want) in want.iter().enumerate() {
        let (token, o) = (i / outputs, i % outputs);
        let products = x[token * inputs..][..inputs]
            .iter()
            .zip(&w[o * inputs..][..inputs]);
        let sum: f64 = products.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
        let y = sum + bias.as_ref().map_or(0.0, |bias| f64::from(bias[o]));
        let error = (y - f64::from(*want)).abs();
        assert!(
            error <= 1e-5 * (1.0 + y.abs()),
            "{} output {i}: {y}, expected {want}",
            layer.name()
        );
    }
}

/// Inputs and outputs of this file are stored as float32 and exact in the case's dtype.
fn cast(tensor: &Owned, dtype: DType) -> Owned {
    let mut cast = Owned::zeros(dtype, &tensor.shape);
    let values = tensor.view().to_f32();
    let size = dtype.size();
    for (element, value) in cast.bytes_mut().chunks_exact_mut(size).zip(values) {
        match dtype {
            DType::F32 => element.copy_from_slice(&value.to_ne_bytes()),
            DType::F16 => element.copy_from_slice(&F16::from_f32(value).0.to_ne_bytes()),
            DType::BF16 => element.copy_from_slice(&Bf16::from_f32(value).0.to_ne_bytes()),
        }
    }
    cast
}

#[test]
fn block_formats_match_every_case() {
    let tensors = Tensors::parse(include_bytes!("data/golden/block_formats.safetensors"));
    let cases = cases(include_str!("data/golden/block_formats.json"));
    assert_eq!(cases.len(), 198, "the golden file lost its cases");
    let context = context();
    for case in &cases {
        let text = |key: &str| case[key].as_str().unwrap_or_default();
        let dtype = match text("dtype") {
            "float32" => DType::F32,
            "float16" => DType::F16,
            "bfloat16" => DType::BF16,
            other => panic!("dtype {other}"),
        };
        let x = cast(&tensors.get(text("input")), dtype);
        let want = cast(&tensors.get(text("expected")), dtype);
        let mut amax = Owned::zeros(DType::F32, &[]);
        let given = case.get("amax").and_then(Value::as_f64);
        if let Some(given) = given {
            amax.bytes_mut()
                .copy_from_slice(&(given as f32).to_ne_bytes());
        }
        let amax = given.map(|_| amax.view());
        let mut got = Owned::zeros(dtype, &x.shape);
        let attributes = case["attrs"].to_string();
        fake_quant_once(&context, x.view(), &attributes, amax, got.view_mut())
            .unwrap_or_else(|e| panic!("{}: {e}", text("name")));
        assert_same(&got, &want, text("name"));
    }
}
