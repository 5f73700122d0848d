//! The host of a search: forwards and backwards that call every layer, and what is read around its taps.

use std::sync::{Arc, Mutex};

use mq::auto_quantize::host::Host;
use mq::error::{Error, Result};
use mq::model::Layer;
use mq::tensor::{DType, TensorView};

use super::kind::{Kind, noise};
use crate::on_gpu::{OnGpu, Place};
use crate::owned::Owned;

/// Counters of the driver: how far they moved inside of taps, by step.
pub struct Probe {
    pub read: Box<dyn Fn() -> Vec<i64> + Send + Sync>,
    pub moved: Mutex<Vec<Vec<i64>>>,
}

impl Probe {
    fn around(&self, step: u64, tap: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = (self.read)();
        tap()?;
        let after = (self.read)();
        let mut moved = self.moved.lock().expect("nobody panicked");
        let step = step as usize;
        if moved.len() <= step {
            moved.resize(step + 1, vec![0; before.len()]);
        }
        for (moved, (before, after)) in moved[step].iter_mut().zip(before.iter().zip(after)) {
            *moved += after - before;
        }
        Ok(())
    }
}

/// Calls every layer once in a step.
pub struct Passes {
    pub place: Place,
    pub layers: Vec<(Arc<Layer>, Kind)>,
    /// A layer, and what the second element of its gradient is.
    pub spoil: Option<(usize, f32)>,
    /// A layer whose gradient is in host memory.
    pub apart: Option<usize>,
    pub probe: Option<Arc<Probe>>,
    pub is_probed: bool,
    pub logits: Option<(Owned, Option<OnGpu>)>,
}

impl Passes {
    fn tap(&self, step: u64, tap: impl FnOnce() -> Result<()>) -> Result<()> {
        match self.probe.as_ref().filter(|_| self.is_probed) {
            Some(probe) => probe.around(step, tap),
            None => tap(),
        }
    }
}

impl Host for Passes {
    fn data(&mut self, _: u64) -> Result<bool> {
        Ok(true)
    }

    /// The logits are sums of what the layers make of input and weight.
    fn forward(&mut self, step: u64) -> Result<()> {
        let mut logits = vec![0.0f32; 3 * CLASSES];
        for (at, (layer, kind)) in self.layers.iter().enumerate() {
            let mut x = noise(kind.types[0], &kind.x, 7 + at + 5 * step as usize);
            let mut weight = Owned::zeros(kind.types[1], &kind.weight);
            let place = &self.place;
            place.with(&mut x, |x| self.tap(step, || layer.input(x, Some(x))))?;
            self.place
                .with(&mut weight, |weight| layer.weight_into(weight))?;
            let (x, weight) = (x.view().to_f32(), weight.view().to_f32());
            for (i, (x, weight)) in x.iter().zip(weight.iter().cycle()).enumerate() {
                logits[i % (3 * CLASSES)] += x * weight;
            }
        }
        let mut shown = Owned::zeros(DType::F32, &[3, CLASSES]);
        for (place, value) in shown.bytes_mut().chunks_exact_mut(4).zip(logits) {
            place.copy_from_slice(&value.to_ne_bytes());
        }
        let there = match &self.place {
            Place::Host(_) => None,
            Place::Gpu(gpu, _) => Some(OnGpu::copy_of(gpu, &shown)),
        };
        self.logits = Some((shown, there));
        Ok(())
    }

    fn forward_backward(&mut self, step: u64) -> Result<f64> {
        self.is_probed = true;
        self.forward(step)?;
        for (at, (layer, kind)) in self.layers.iter().enumerate().rev() {
            let mut g = noise(kind.types[2], &kind.g, 3 + at + 11 * step as usize);
            if let Some((_, value)) = self.spoil.filter(|(layer, _)| *layer == at) {
                let mut one = Owned::zeros(DType::F32, &[1]);
                one.bytes_mut().copy_from_slice(&value.to_ne_bytes());
                let mut one = one.cast(kind.types[2]);
                let size = kind.types[2].size();
                g.bytes_mut()[size..2 * size].copy_from_slice(one.bytes_mut());
            }
            match self.apart == Some(at) {
                true => layer.gradient(g.view())?,
                false => {
                    let place = &self.place;
                    place.with(&mut g, |g| self.tap(step, || layer.gradient(g)))?;
                }
            }
        }
        Ok(1.0)
    }

    fn check_backward(&self) -> Result<()> {
        Ok(())
    }

    fn logits(&mut self, _: u64) -> Result<TensorView> {
        match &self.logits {
            Some((_, Some(there))) => Ok(there.view()),
            Some((here, None)) => Ok(here.view()),
            None => Err(Error::Internal("no forward ran".into())),
        }
    }

    fn check_logits(&self) -> Result<()> {
        Ok(())
    }
}

/// Classes of the logits.
const CLASSES: usize = 700;
