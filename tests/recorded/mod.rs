//! The host of `data/golden/algorithms.*`: plays back what entered the layers, and the gradients at what left them.
#![allow(dead_code, reason = "no test file uses all of it")]

use mq::auto_quantize::host::Host;
use mq::error::{Error, Result};
use mq::tensor::TensorView;

use crate::network::{BATCHES, Network};

/// Plays the recording back; fields change how.
pub struct Recorded<'a> {
    pub network: &'a Network<'a>,
    /// Calls of data, forward and forward_backward.
    pub calls: [u64; 3],
    /// The order in which the layers' gradients come is that of the layers.
    pub forward_order: bool,
    /// Batches there are.
    pub batches: u64,
    /// What every loss is.
    pub loss: f64,
    /// The gradients are multiplied with it.
    pub scale: f32,
    /// Gradients are this number in place of what was recorded.
    pub constant: Option<f32>,
    /// The step whose backward fails.
    pub fails_at: Option<u64>,
    /// A layer whose gradient does not come.
    pub without_gradient: Option<&'static str>,
    /// A layer that is not used from a step on.
    pub absent: Option<(&'static str, u64)>,
}

impl<'a> Recorded<'a> {
    pub fn new(network: &'a Network<'a>) -> Self {
        Self {
            network,
            calls: [0; 3],
            forward_order: false,
            batches: BATCHES as u64,
            loss: 1.0,
            scale: 1.0,
            constant: None,
            fails_at: None,
            without_gradient: None,
            absent: None,
        }
    }

    fn is_absent(&self, layer: &str, step: u64) -> bool {
        self.absent
            .is_some_and(|(absent, from)| absent == layer && step >= from)
    }

    fn inputs(&self, step: u64) -> Result<()> {
        for (layer, weight) in &self.network.layers {
            if self.is_absent(layer.name(), step) {
                continue;
            }
            let x = self
                .network
                .tensors
                .get(&format!("x.{}.{step}", layer.name()));
            layer.input(x.cast(weight.dtype).view(), None)?;
        }
        Ok(())
    }

    fn gradients(&self, step: u64) -> Result<()> {
        let mut layers: Vec<_> = self.network.layers.iter().collect();
        if !self.forward_order {
            layers.reverse();
        }
        for (layer, weight) in layers {
            if self.is_absent(layer.name(), step) || self.without_gradient == Some(layer.name()) {
                continue;
            }
            let g = self
                .network
                .tensors
                .get(&format!("grad.{}.{step}", layer.name()));
            let mut scaled = g.cast(mq::tensor::DType::F32);
            for value in scaled.bytes_mut().chunks_exact_mut(4) {
                let number = f32::from_ne_bytes([value[0], value[1], value[2], value[3]]);
                let number = self.constant.unwrap_or(number) * self.scale;
                value.copy_from_slice(&number.to_ne_bytes());
            }
            layer.gradient(scaled.cast(weight.dtype).view())?;
        }
        Ok(())
    }
}

impl Host for Recorded<'_> {
    fn data(&mut self, step: u64) -> Result<bool> {
        self.calls[0] += 1;
        Ok(step < self.batches)
    }

    fn forward(&mut self, step: u64) -> Result<()> {
        self.calls[1] += 1;
        self.inputs(step)
    }

    fn forward_backward(&mut self, step: u64) -> Result<f64> {
        self.calls[2] += 1;
        self.inputs(step)?;
        if self.fails_at == Some(step) {
            return Err(Error::Callback {
                what: "backward",
                code: 7,
            });
        }
        self.gradients(step)?;
        Ok(self.loss)
    }

    fn check_backward(&self) -> Result<()> {
        Ok(())
    }

    fn logits(&mut self, _: u64) -> Result<TensorView> {
        Err(Error::Internal("no logits were recorded".into()))
    }

    fn check_logits(&self) -> Result<()> {
        Err(Error::Internal("no logits were recorded".into()))
    }
}
