//! Packed weights in every format: their parts, and that they come back.

mod owned;
mod packing;
mod safetensors_file;

use std::sync::Arc;

use mq::calibrate;
use mq::config::QuantizeConfig;
use mq::model::{Model, Part, PartType};
use mq::tensor::DType;
use packing::{
    assert_same, cases, compress, context, floats, model, numbers, spec, tensor, weight_of,
};
use safetensors_file::Tensors;
use serde_json::{Value, json};

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
