//! What tests of packed weights begin with: numbers, a model of one layer, and comparisons.
#![allow(dead_code, reason = "no test file uses all of it")]

use std::sync::Arc;

use mq::apply;
use mq::calibrate;
use mq::config::{CompressConfig, QuantizeConfig};
use mq::error::Result;
use mq::model::{Context, Layer, LayerKind, LayerSpec, Model, Part, PartType, allocate_own};
use mq::tensor::{DType, TensorView};
use serde_json::{Value, json};

use crate::owned::Owned;

pub fn context() -> Arc<Context> {
    Arc::new(Context::new(2, Box::new(|_, _| {})).expect("two threads"))
}

pub fn tensor(dtype: DType, shape: &[usize], values: &[f32]) -> Owned {
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
pub fn numbers(count: usize) -> Vec<f32> {
    let mut state = 1u32;
    let next = |i: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let value = (state >> 8) as f32 / 8_388_608.0 - 1.0;
        let scale = [1.0, 0.01, 3.0][i / 64 % 3];
        if i % 37 == 5 { 0.0 } else { value * scale }
    };
    (0..count).map(next).collect()
}

#[allow(dead_code, reason = "not every test calibrates")]
pub fn linear(name: &str, weight: &mut Owned) -> LayerSpec {
    LayerSpec {
        weight: Some(weight.view_mut()),
        ..LayerSpec::new(name, LayerKind::Linear)
    }
}

pub fn spec(name: &str, weight: &mut Owned) -> LayerSpec {
    LayerSpec {
        weight: Some(weight.view_mut()),
        ..LayerSpec::new(name, LayerKind::Generic)
    }
}

/// Attributes, format and the parts of a weight of `[8, 128]`.
pub type Case = (Value, &'static str, Vec<(&'static str, PartType, Vec<i64>)>);

/// Every format that a weight can be packed in.
pub fn cases() -> Vec<Case> {
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

/// A model of one layer `l`, quantized with these attributes of the weight and calibrated.
pub fn model(attributes: &Value, weight: &mut Owned) -> Result<(Model, Arc<Layer>)> {
    model_on(context(), attributes, weight.view_mut())
}

/// The same with a weight that lies where that context works.
pub fn model_on(
    context: Arc<Context>,
    attributes: &Value,
    weight: TensorView,
) -> Result<(Model, Arc<Layer>)> {
    let mut model = Model::new(context);
    let spec = LayerSpec {
        weight: Some(weight),
        ..LayerSpec::new("l", LayerKind::Generic)
    };
    let layer = model.add_layer(spec)?;
    let config = json!({"quant_cfg": [
        {"quantizer_name": "*", "enable": false},
        {"quantizer_name": "*weight_quantizer", "cfg": attributes},
    ], "algorithm": "max"});
    let config = QuantizeConfig::parse(&config.to_string())?;
    calibrate::quantize(&mut model, &config, None)?;
    Ok((model, layer))
}

pub fn compress(model: &mut Model) -> Result<usize> {
    apply::compress(model, &CompressConfig::all(), false, &mut allocate_own)
}

pub fn weight_of(layer: &Layer, like: &Owned) -> Owned {
    let mut out = Owned::zeros(like.dtype, &like.shape);
    layer.weight_into(out.view_mut()).expect("the weight");
    out
}

/// The same bits; of integers the sign of a zero may differ.
#[track_caller]
pub fn assert_same(got: &Owned, want: &Owned, integers: bool, what: &str) {
    let (got, want) = (got.view().to_f32(), want.view().to_f32());
    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
        let same = g.to_bits() == w.to_bits() || integers && *g == 0.0 && *w == 0.0;
        assert!(same, "{what}: element {i} is {g:e}, expected {w:e}");
    }
}

pub fn floats(part: &Part) -> &[f32] {
    assert_eq!(part.dtype, PartType::F32);
    part.memory.floats()
}
