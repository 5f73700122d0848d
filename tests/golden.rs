//! The reference's own results: every case must come out bit for bit. Cases are counted.

mod network;
mod on_gpu;
mod owned;
mod safetensors_file;

use mq::calibrate;
use mq::config::QuantizeConfig;
use mq::error::Result;
use mq::model::{Context, Model, fake_quant_once};
use mq::tensor::{DType, TensorView};
use network::{Network, check_output, config_of};
use on_gpu::Place;
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
    let places = Place::all(2);
    for (place, case) in places
        .iter()
        .flat_map(|place| cases.iter().map(move |case| (place, case)))
    {
        let text = |key: &str| case[key].as_str().unwrap_or_default();
        let name = format!("{} on the {}", text("name"), place.name());
        let mut x = tensors.get(text("input"));
        if case["abs_input"] == true {
            absolute(&mut x);
        }
        let want = tensors.get(text("expected"));
        let amax = case
            .get("amax")
            .map(|name| tensors.get(name.as_str().expect("a name")));
        let attributes = case["attrs"].to_string();

        let amax_view = amax.as_ref().map(Owned::view);
        let mut apart = Owned::zeros(x.dtype, &x.shape);
        quantize(place, &x, &attributes, amax_view, &mut apart, &name);
        assert_same(&apart, &want, &name);

        place
            .with(&mut x, |x| {
                fake_quant_once(place.context(), x, &attributes, amax_view, x)
            })
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_same(&x, &want, &format!("{name} in place"));

        // Where an amax is kept, it is also what the tensor itself gives.
        if amax.is_some() {
            let mut x = tensors.get(text("input"));
            if case["abs_input"] == true {
                absolute(&mut x);
            }
            quantize(place, &x, &attributes, None, &mut apart, &name);
            assert_same(&apart, &want, &format!("{name} with its own amax"));
        }
    }
    println!("{} cases in {} places", cases.len(), places.len());
}

/// Fake-quantizes one tensor into another, both there.
fn quantize(
    place: &Place,
    x: &Owned,
    attributes: &str,
    amax: Option<TensorView>,
    out: &mut Owned,
    name: &str,
) {
    let mut x = x.clone();
    place
        .with(&mut x, |x| {
            place.with(out, |out| {
                fake_quant_once(place.context(), x, attributes, amax, out)
            })
        })
        .unwrap_or_else(|e| panic!("{name}: {e}"));
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
    let places = Place::all(2);
    for (place, case) in places
        .iter()
        .flat_map(|place| max.iter().map(move |case| (place, case)))
    {
        let mut model = Model::new(std::sync::Arc::clone(place.context()));
        let slot = model.add_quantizer("q", None).expect("a new name");
        let entry = json!({"quantizer_name": "q", "cfg": {"num_bits": 8, "axis": case["axis"]}});
        let config = json!({"quant_cfg": [entry], "algorithm": "max"}).to_string();
        let config = QuantizeConfig::parse(&config).expect("a valid configuration");
        let data = case["data"].as_str().expect("a name");
        let mut forward = || -> Result<()> {
            for batch in 0..case["batches"].as_u64().unwrap_or(0) {
                let mut x = tensors.get(&format!("in.{data}.{batch}"));
                place.with(&mut x, |x| slot.forward(None, x, None))?;
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
        let mut network = Network::new(context(), &tensors, DType::F32, false);
        network.quantize(&config_of(case)).expect(name);

        let listed = case["quantizers"].as_object().expect("quantizers");
        for slot in network.model.slots() {
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
        for (layer, weight) in &network.layers {
            if let Some(want) = tensors.find(&format!("{name}.{}.weight_fq", layer.name())) {
                let mut got = Owned::zeros(weight.dtype, &weight.shape);
                layer.weight_into(got.view_mut()).expect(name);
                assert_same(&got, &want, &format!("{name} {} weight", layer.name()));
                weights += 1;
            }
            if let Some(want) = tensors.find(&format!("{name}.{}.y0", layer.name())) {
                check_output(&tensors, layer, weight, &want, 1e-5);
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

#[test]
fn block_formats_match_every_case() {
    let tensors = Tensors::parse(include_bytes!("data/golden/block_formats.safetensors"));
    let cases = cases(include_str!("data/golden/block_formats.json"));
    assert_eq!(cases.len(), 198, "the golden file lost its cases");
    let places = Place::all(2);
    for (place, case) in places
        .iter()
        .flat_map(|place| cases.iter().map(move |case| (place, case)))
    {
        let text = |key: &str| case[key].as_str().unwrap_or_default();
        let name = format!("{} on the {}", text("name"), place.name());
        let dtype = match text("dtype") {
            "float32" => DType::F32,
            "float16" => DType::F16,
            "bfloat16" => DType::BF16,
            other => panic!("dtype {other}"),
        };
        // Inputs and outputs of this file are stored as float32 and exact in the case's dtype.
        let x = tensors.get(text("input")).cast(dtype);
        let want = tensors.get(text("expected")).cast(dtype);
        let mut amax = Owned::zeros(DType::F32, &[]);
        let given = case.get("amax").and_then(Value::as_f64);
        if let Some(given) = given {
            amax.bytes_mut()
                .copy_from_slice(&(given as f32).to_ne_bytes());
        }
        let amax = given.map(|_| amax.view());
        let mut got = Owned::zeros(dtype, &x.shape);
        let attributes = case["attrs"].to_string();
        quantize(place, &x, &attributes, amax, &mut got, &name);
        assert_same(&got, &want, &name);
    }
    println!("{} cases in {} places", cases.len(), places.len());
}
