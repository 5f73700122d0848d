//! The recorded network with its weights on a GPU, beside the one in host memory.
#![allow(dead_code, reason = "no test file uses all of it")]

use std::sync::Arc;

use mq::calibrate;
use mq::config::QuantizeConfig;
use mq::kernels::cuda::Gpu;
use mq::model::{CalibrationRecord, Context, Layer, LayerKind, LayerSpec, Model, Role, Slot};
use mq::tensor::DType;

use crate::network::{BATCHES, Network};
use crate::on_gpu::{self, OnGpu};
use crate::safetensors_file::Tensors;

pub static TENSORS: &[u8] = include_bytes!("../data/golden/algorithms.safetensors");

/// A preset whose blocks fit the small network, or JSON.
pub fn config(text: &str) -> QuantizeConfig {
    let text = match text.starts_with('{') {
        true => text.to_owned(),
        false => mq::config::presets::json(text)
            .expect("a known preset")
            .replace(":128", ":16"),
    };
    QuantizeConfig::parse(&text).expect("a valid configuration")
}

/// The network in host memory.
pub fn here(dtype: DType) -> Network<'static> {
    let tensors = Box::leak(Box::new(Tensors::parse(TENSORS)));
    let context = Arc::new(Context::new(1, Box::new(|_, _| {})).expect("one thread"));
    Network::new(context, tensors, dtype, true)
}

/// The network on the GPU.
pub struct There<'a> {
    pub gpu: Arc<Gpu>,
    pub model: Model,
    pub layers: Vec<(Arc<Layer>, OnGpu)>,
    pub tensors: &'a Tensors<'a>,
}

impl<'a> There<'a> {
    /// With the weights of the one in host memory.
    pub fn new(gpu: Arc<Gpu>, host: &Network<'a>, dtype: DType) -> Self {
        let mut model = Model::new(on_gpu::context(&gpu));
        let mut layers = Vec::new();
        for (layer, _) in &host.layers {
            let name = layer.name();
            let weight = host.tensors.get(&format!("weight.{name}.weight"));
            let weight = OnGpu::copy_of(&gpu, &weight.cast(dtype));
            let spec = LayerSpec {
                weight: Some(weight.view()),
                shared_input_group: layer.spec().shared_input_group.clone(),
                ..LayerSpec::new(name, LayerKind::Linear)
            };
            layers.push((model.add_layer(spec).expect(name), weight));
        }
        Self {
            gpu,
            model,
            layers,
            tensors: host.tensors,
        }
    }

    /// Quantizes with the recorded activations.
    pub fn quantize(&mut self, config: &QuantizeConfig) -> mq::error::Result<()> {
        let (layers, tensors, gpu) = (&self.layers, self.tensors, &self.gpu);
        let mut forward = || {
            for batch in 0..BATCHES {
                for (layer, weight) in layers {
                    let x = tensors.get(&format!("x.{}.{batch}", layer.name()));
                    let x = OnGpu::copy_of(gpu, &x.cast(weight.view().dtype()));
                    layer.input(x.view(), None)?;
                }
            }
            Ok(())
        };
        calibrate::quantize(&mut self.model, config, Some(&mut forward))
    }

    /// What every quantizer holds.
    pub fn states(&self) -> Vec<String> {
        states(&self.model)
    }
}

/// What every quantizer holds, but for the error of weights, whose sums a GPU takes in another order.
pub fn states(model: &Model) -> Vec<String> {
    let one = |slot: &Arc<Slot>| {
        let state = slot.state();
        let numbers = state.members().iter().map(|q| {
            let record = q
                .record
                .as_deref()
                .cloned()
                .map(|record| CalibrationRecord {
                    error: record.error.filter(|_| slot.role() != Role::Weight),
                    ..record
                });
            format!(
                "{} {:?} {:?} {:?} {:?} {record:?}",
                q.enabled, q.amax, q.global_amax, q.pre_quant_scale, q.bias_value
            )
        });
        format!("{} {:?}", slot.name(), numbers.collect::<Vec<_>>())
    };
    model.slots().iter().map(one).collect()
}
