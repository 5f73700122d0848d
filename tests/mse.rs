//! The mse search against the reference's amax values.

mod owned;
mod safetensors_file;

use mq::calibrate::{self, mse};
use mq::config::{Algorithm, QuantizeConfig, presets};
use mq::format::int::IntGrid;
use mq::kernels::fake_quant::{Format, squared_error};
use mq::kernels::{Grid, Isa, Machine};
use mq::model::{Context, Granularity, Kind, LayerKind, LayerSpec, Model, Quantizer};
use mq::tensor::{DType, TensorView};
use owned::Owned;
use safetensors_file::Tensors;
use serde_json::{Value, json};

fn machine() -> Machine {
    Machine::new(2, Isa::best(None)).expect("two threads")
}

/// A weight of one layer in a model that was calibrated by max, and its quantizer.
fn calibrated(weight: &mut Owned, config: &Value) -> std::sync::Arc<Quantizer> {
    let context = Context::new(2, Box::new(|_, _| {})).expect("two threads");
    let mut model = Model::new(std::sync::Arc::new(context));
    let spec = LayerSpec {
        weight: Some(weight.view_mut()),
        ..LayerSpec::new("l", LayerKind::Linear)
    };
    let layer = model.add_layer(spec).expect("a new name");
    let config = QuantizeConfig::parse(&config.to_string()).expect("a valid configuration");
    calibrate::quantize(&mut model, &config, None).expect("calibrates");
    layer
        .weight_slot()
        .expect("a weight")
        .one(None)
        .expect("single")
}

fn with_cfg(cfg: Value) -> Value {
    json!({"quant_cfg": [{"quantizer_name": "*weight_quantizer", "cfg": cfg}], "algorithm": "max"})
}

fn fields(algorithm: &str) -> mse::Fields {
    mse::Fields::of(&Algorithm::parse_text(algorithm).expect("valid")[0])
}

/// A bell-shaped weight that is the same every time.
fn weight(dtype: DType, shape: &[usize]) -> Owned {
    let mut weight = Owned::zeros(dtype, shape);
    assert_eq!(dtype, DType::F32);
    let mut state = 7u32;
    for element in weight.bytes_mut().chunks_exact_mut(4) {
        let mut sum = 0.0f32;
        for _ in 0..4 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            sum += (state >> 8) as f32 / 16_777_216.0 - 0.5;
        }
        element.copy_from_slice(&sum.to_ne_bytes());
    }
    weight
}

/// Squared errors of all blocks under an amax each, one block after the other.
fn errors(machine: &Machine, weight: &Owned, quantizer: &Quantizer, amax: &[f32]) -> Vec<f64> {
    let Some(Kind::Amax(format)) = quantizer.kind() else {
        panic!("no integers")
    };
    let x = weight.view().to_f32();
    let columns = weight.shape[1];
    let blocks = Granularity::new(&quantizer.attributes, weight.view().shape()).expect("fits");
    let per_row = blocks.grid().num_blocks() / weight.shape[0];
    let size = columns
        .div_ceil(per_row)
        .next_multiple_of(if per_row > 1 { 32 } else { 1 });
    let cut = x.chunks(columns).flat_map(|row| row.chunks(size));
    let error = |(block, amax): (&[f32], &f32)| {
        let mut block = block.to_vec();
        let shape = [block.len()];
        // SAFETY: the block outlives the view.
        let view = unsafe { TensorView::new(block.as_mut_ptr().cast(), DType::F32, &shape) };
        let view = view.expect("aligned");
        let grid = Grid::new(view.shape(), &shape);
        squared_error(machine, &view, &grid, &[*amax], format).0
    };
    cut.zip(amax).map(error).collect()
}

#[test]
fn mse_matches_the_reference() {
    let tensors = Tensors::parse(include_bytes!("data/golden/algorithms.safetensors"));
    let golden: Value =
        serde_json::from_str(include_str!("data/golden/algorithms.json")).expect("golden JSON");
    let cases = golden["cases"].as_array().expect("cases");
    let machine = machine();
    let (mut equal, mut as_good) = (0, 0);
    for name in ["int4_mse", "int8_mse"] {
        let case = cases.iter().find(|case| case["name"] == name).expect(name);
        let preset = presets::json(case["preset"].as_str().expect("a preset")).expect("known");
        let text = preset.replace(":128", &format!(":{}", case["block_size_override"]));
        let mut config: Value = serde_json::from_str(&text).expect("JSON");
        config["algorithm"] = json!("max");
        let fields = fields(&case["algorithm"].to_string());
        let prefix = format!("{name}.");
        for key in tensors.names() {
            let quantizer = key
                .strip_prefix(&prefix)
                .and_then(|key| key.strip_suffix(".amax"));
            let Some(quantizer) = quantizer else { continue };
            let Some(layer) = quantizer.strip_suffix(".weight_quantizer") else {
                continue;
            };
            let mut weight = tensors.get(&format!("weight.{layer}.weight"));
            let max = calibrated(&mut weight, &config);
            let found = mse::search(&machine, &max, quantizer, &weight.view(), &fields)
                .expect("fits")
                .expect("is searched");
            let want = tensors.get(key);
            assert_eq!(found.amax.shape(), want.shape, "{quantizer}");
            let want = want.view().to_f32();
            let ours = errors(&machine, &weight, &max, found.amax.values());
            let theirs = errors(&machine, &weight, &max, &want);
            assert_eq!((ours.len(), theirs.len()), (want.len(), want.len()));
            for (i, (got, want)) in found.amax.values().iter().zip(&want).enumerate() {
                if got.to_bits() == want.to_bits() {
                    equal += 1;
                    continue;
                }
                as_good += 1;
                let limit = theirs[i] * (1.0 + 1e-6);
                assert!(
                    ours[i] <= limit,
                    "{name} {quantizer} block {i}: {got} {want}"
                );
            }
            let sum: f64 = ours.iter().sum();
            assert!((found.after - sum).abs() <= 1e-6 * sum, "{quantizer}");
            // 1 is not among the multipliers: 8 bits end between its neighbours, at most 1.042 times as
            // coarse, with a squared error of about the square. 4 bits have something to gain.
            let limit = if name == "int4_mse" { 1.0 } else { 1.15 };
            assert!(
                found.after < limit * found.before && found.before < found.energy,
                "{name} {quantizer}: {found:?}"
            );
        }
    }
    println!("{equal} values equal, {as_good} as good");
    assert_eq!(equal + as_good, 1664 + 832, "cases were lost");
}

#[test]
fn a_sweep_is_no_worse_than_max_and_leaves_zeros_alone() {
    let mut weight = weight(DType::F32, &[32, 64]);
    weight.bytes_mut()[..4 * 16].fill(0);
    let nvfp4 = json!({"num_bits": [2, 1],
        "block_sizes": {"-1": 16, "type": "static", "scale_bits": [4, 3]}});
    let max = calibrated(&mut weight, &with_cfg(nvfp4));
    let sweep = fields(r#"{"method": "mse", "fp8_scale_sweep": true}"#);
    let search = |fields| {
        let found = mse::search(&machine(), &max, "w", &weight.view(), fields).expect("fits");
        found.expect("is searched")
    };
    let found = search(&sweep);
    assert_eq!(found.amax.values()[0], 0.0);
    assert_eq!(found.amax.values().len(), 128);
    assert!(found.after < found.before, "{found:?}");
    // Scales of multiplied amax values are E4M3 too: the sweep tries all of them.
    assert!(found.after <= search(&fields("mse")).after);
}

#[test]
fn what_is_searched() {
    let mut weight = weight(DType::F32, &[32, 64]);
    let mut search = |cfg: Value, algorithm: &str| {
        let quantizer = calibrated(&mut weight, &with_cfg(cfg));
        let fields = fields(algorithm);
        let found =
            mse::search(&machine(), &quantizer, "w", &weight.view(), &fields).expect("fits");
        (quantizer, found)
    };
    let sweep = r#"{"method": "mse", "fp8_scale_sweep": true}"#;
    let int8 = json!({"num_bits": 8});
    assert!(search(int8.clone(), "mse").1.is_some());
    assert_eq!(search(int8, sweep).1, None);
    let nvfp4 = json!({"num_bits": [2, 1],
        "block_sizes": {"-1": 16, "type": "dynamic", "scale_bits": [4, 3]}});
    let (max, found) = search(nvfp4.clone(), "mse");
    let found = found.expect("the amax of the tensor is searched");
    let factor = found.amax.values()[0] / max.amax.as_ref().expect("calibrated").values()[0];
    assert!((0.25..=4.0).contains(&factor) && found.after.is_finite());
    assert_eq!(search(nvfp4, sweep).1, None);
    let mx = json!({"num_bits": [4, 3],
        "block_sizes": {"-1": 32, "type": "dynamic", "scale_bits": [8, 0]}});
    assert_eq!(search(mx, "mse").1, None);
    let dynamic = json!({"num_bits": 8, "type": "dynamic"});
    assert_eq!(search(dynamic, "mse").1, None);
    assert_eq!(
        search(
            json!({"num_bits": [4, 3], "use_constant_amax": true}),
            "mse"
        )
        .1,
        None
    );
    let nf4 = json!({"num_bits": 4, "block_sizes":
        {"-1": 32, "scale_bits": 8, "scale_block_sizes": {"-1": 32}}});
    assert_eq!(search(nf4, "mse").1, None);
    let (on, _) = search(json!({"num_bits": 8}), "mse");
    let off = on.switched(false);
    let found = mse::search(&machine(), &off, "w", &weight.view(), &fields("mse"));
    assert_eq!(found, Ok(None));
}

#[test]
fn four_over_six_chooses_between_two() {
    let mut weight = weight(DType::F32, &[32, 64]);
    let cfg = json!({"num_bits": [2, 1], "block_sizes":
        {"-1": 16, "type": "static", "scale_bits": [4, 3], "four_over_six": true}});
    let max = calibrated(&mut weight, &with_cfg(cfg));
    let found = mse::search(&machine(), &max, "w", &weight.view(), &fields("mse")).expect("fits");
    let found = found.expect("is searched");
    let old = max.amax.as_ref().expect("calibrated").values();
    let mut larger = 0;
    for (new, old) in found.amax.values().iter().zip(old) {
        assert!(new == old || *new == old * 1.5);
        larger += usize::from(new != old);
    }
    assert!(larger > 0 && larger < old.len() && found.after < found.before);
}

#[test]
fn an_amax_of_another_weight_is_refused() {
    let mut one = weight(DType::F32, &[32, 64]);
    let max = calibrated(&mut one, &with_cfg(json!({"num_bits": 8, "axis": 0})));
    let other = weight(DType::F32, &[16, 64]);
    let error = mse::search(&machine(), &max, "w", &other.view(), &fields("mse"));
    assert!(
        matches!(error, Err(mq::error::Error::State(_))),
        "{error:?}"
    );
    assert_eq!(
        max.kind(),
        Some(Kind::Amax(Format::Int(IntGrid::new(8, false, false))))
    );
}
