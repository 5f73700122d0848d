//! The small network of `data/golden/algorithms.*`: its layers, and the activations that entered them.

#![allow(dead_code, reason = "no test file uses all of it")]

use std::sync::Arc;

use mq::calibrate;
use mq::config::QuantizeConfig;
use mq::error::Result;
use mq::model::{Context, Layer, LayerKind, LayerSpec, Model};
use mq::tensor::DType;
use serde_json::Value;

use crate::owned::Owned;
use crate::safetensors_file::Tensors;

/// Batches of activations in the file.
pub const BATCHES: usize = 4;

/// The layers, registered; the weights are the host's.
pub struct Network<'a> {
    pub model: Model,
    pub layers: Vec<(Arc<Layer>, Owned)>,
    pub tensors: &'a Tensors<'a>,
    /// How often the forward has run.
    pub forwards: usize,
}

/// The activation that a layer reads, as engines would name it.
fn shared_input(layer: &str) -> Option<String> {
    let (parent, name) = layer.rsplit_once('.')?;
    match name {
        "q_proj" | "k_proj" | "v_proj" => Some(format!("{parent} qkv")),
        "gate_proj" | "up_proj" => Some(format!("{parent} gate_up")),
        _ => None,
    }
}

impl<'a> Network<'a> {
    /// All layers, with weights of `dtype`.
    pub fn new(
        context: Arc<Context>,
        tensors: &'a Tensors<'a>,
        dtype: DType,
        shares: bool,
    ) -> Self {
        let mut model = Model::new(context);
        let mut layers = Vec::new();
        for key in tensors.names().filter(|key| key.starts_with("weight.")) {
            let name = key.strip_prefix("weight.").unwrap_or(key);
            let Some(name) = name.strip_suffix(".weight") else {
                continue;
            };
            let mut weight = tensors.get(key).cast(dtype);
            let spec = LayerSpec {
                weight: Some(weight.view_mut()),
                shared_input_group: shared_input(name).filter(|_| shares),
                ..LayerSpec::new(name, LayerKind::Linear)
            };
            layers.push((model.add_layer(spec).expect(name), weight));
        }
        assert_eq!(layers.len(), 15);
        Self {
            model,
            layers,
            tensors,
            forwards: 0,
        }
    }

    /// Quantizes with the recorded activations.
    pub fn quantize(&mut self, config: &QuantizeConfig) -> Result<()> {
        let (layers, tensors, forwards) = (&self.layers, self.tensors, &mut self.forwards);
        let mut forward = || {
            *forwards += 1;
            for batch in 0..BATCHES {
                for (layer, weight) in layers {
                    let x = tensors.get(&format!("x.{}.{batch}", layer.name()));
                    layer.input(x.cast(weight.dtype).view(), None)?;
                }
            }
            Ok(())
        };
        calibrate::quantize(&mut self.model, config, Some(&mut forward))
    }
}

/// The preset of a case with its blocks of 128 replaced, as the golden file says.
pub fn config_of(case: &Value) -> QuantizeConfig {
    let name = case["preset"].as_str().expect("a preset");
    let text = mq::config::presets::json(name).expect("a known preset");
    let block = case["block_size_override"].to_string();
    let text = text.replace(":128", &format!(":{block}"));
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    config["algorithm"] = case["algorithm"].clone();
    QuantizeConfig::parse(&config.to_string()).expect("a valid configuration")
}

/// One layer's output for batch 0 in float64 from mq's input and weight, against the recorded one: within
/// `tolerance` of `1 + |y|`.
pub fn check_output(
    tensors: &Tensors,
    layer: &Layer,
    weight: &Owned,
    want: &Owned,
    tolerance: f64,
) {
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
            error <= tolerance * (1.0 + y.abs()),
            "{} output {i}: {y}, expected {want}",
            layer.name()
        );
    }
}
