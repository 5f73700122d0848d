//! What tests of packed weights begin with: numbers, a model of one layer, and comparisons.
#![allow(dead_code, reason = "no test file uses all of it")]

use std::sync::Arc;

use mq::apply;
use mq::calibrate;
use mq::config::{CompressConfig, QuantizeConfig};
use mq::error::Result;
use mq::model::{Context, Layer, LayerKind, LayerSpec, Model, Part, PartType, allocate_own};
use mq::tensor::DType;
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

/// A model of one layer `l`, quantized with these attributes of the weight and calibrated.
pub fn model(attributes: &Value, weight: &mut Owned) -> Result<(Model, Arc<Layer>)> {
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
