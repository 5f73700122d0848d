//! One layer on the GPU.
#![allow(dead_code, reason = "no test file uses all of it")]

use std::sync::Arc;

use mq::calibrate;
use mq::config::QuantizeConfig;
use mq::kernels::cuda::Gpu;
use mq::model::{Layer, LayerKind, LayerSpec, Model};
use mq::tensor::DType;

use crate::on_gpu::{self, OnGpu};
use crate::owned::Owned;

/// Values without a pattern; the same for the same seed.
pub fn noise(shape: &[usize], dtype: DType, seed: usize) -> Owned {
    let mut owned = Owned::zeros(DType::F32, shape);
    for (i, value) in owned.bytes_mut().chunks_exact_mut(4).enumerate() {
        let number = ((i * 37 + seed * 101) as f32 * 0.7311).sin();
        value.copy_from_slice(&number.to_ne_bytes());
    }
    owned.cast(dtype)
}

/// Quantizers as a dictionary, everything else off, calibrated by `max`.
pub fn config(text: &str) -> QuantizeConfig {
    let text = text.replacen('{', r#"{"quant_cfg": {"default": {"enable": false}, "#, 1);
    QuantizeConfig::parse(&format!(r#"{text}, "algorithm": "max"}}"#)).expect("valid")
}

/// One layer on the GPU.
pub struct One {
    pub model: Model,
    pub layer: Arc<Layer>,
    pub weight: OnGpu,
}

impl One {
    pub fn new(gpu: &Arc<Gpu>) -> Self {
        let weight = OnGpu::copy_of(gpu, &noise(&[24, 64], DType::BF16, 1));
        let mut model = Model::new(on_gpu::context(gpu));
        let spec = LayerSpec {
            weight: Some(weight.view()),
            ..LayerSpec::new("a", LayerKind::Linear)
        };
        let layer = model.add_layer(spec).expect("a layer");
        Self {
            model,
            layer,
            weight,
        }
    }

    pub fn quantize(&mut self, config: &QuantizeConfig, x: &OnGpu) -> mq::error::Result<()> {
        let layer = Arc::clone(&self.layer);
        let mut forward = || layer.input(x.view(), None);
        calibrate::quantize(&mut self.model, config, Some(&mut forward))
    }
}
