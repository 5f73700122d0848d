//! The scores of one layer in a step, by recipe: summed up where its tensors live, so that no tap waits for a GPU.

use std::sync::Arc;

use crate::error::Result;
use crate::kernels::absmax::cuda::note_not_finite;
use crate::kernels::cuda::{DeviceBuffer, Gpu};
use crate::tensor::TensorView;

/// No element of a gradient, as [`note_not_finite`] leaves it.
const NONE: u64 = u64::MAX;

/// Sums of one layer.
pub(super) struct Tally {
    sums: Vec<f64>,
    there: Option<There>,
}

/// Those of a GPU.
struct There {
    /// A float64 for each recipe, and behind them the position of the first element of a gradient that is not finite.
    memory: DeviceBuffer,
    recipes: usize,
    /// Whether anything was put there since it was last fetched.
    is_used: bool,
}

impl Tally {
    /// Of so many recipes.
    pub fn new(recipes: usize) -> Self {
        Self {
            sums: vec![0.0; recipes],
            there: None,
        }
    }

    /// Adds scores that the CPU found.
    pub fn add(&mut self, found: &[f64]) {
        for (sum, found) in self.sums.iter_mut().zip(found) {
            *sum += found;
        }
    }

    /// Takes note of a gradient on a GPU, and gives the address of the first recipe's sum there. Waits for nothing; the
    /// first call finds the memory.
    pub fn enter(&mut self, gpu: &Arc<Gpu>, g: &TensorView) -> Result<u64> {
        let recipes = self.sums.len();
        let there = match &mut self.there {
            Some(there) => there,
            none => {
                let bytes = (recipes + 1) * size_of::<u64>();
                none.insert(There {
                    memory: DeviceBuffer::new(gpu, bytes)?,
                    recipes,
                    is_used: false,
                })
            }
        };
        if !there.is_used {
            gpu.fill(there.memory.address(), 0, there.recipes * size_of::<f64>());
            gpu.fill(there.flaw(), 0xff, size_of::<u64>());
            there.is_used = true;
        }
        note_not_finite(gpu, g, there.flaw());
        Ok(there.memory.address())
    }

    /// Fetches what a GPU has summed up: waits for its stream. Errors when a gradient was not finite.
    pub fn settle(&mut self, layer: &str) -> Result<()> {
        let Some(there) = self.there.as_mut().filter(|there| there.is_used) else {
            return Ok(());
        };
        there.is_used = false;
        let mut words = vec![0u64; there.recipes + 1];
        there.memory.read(&mut words)?;
        if let Some(position) = words.pop().filter(|position| *position != NONE) {
            return Err(super::flawed_gradient(layer, position));
        }
        let found: Vec<f64> = words.into_iter().map(f64::from_bits).collect();
        self.add(&found);
        Ok(())
    }

    /// Forgets everything: the step is run again.
    pub fn clear(&mut self) {
        self.sums.fill(0.0);
        if let Some(there) = &mut self.there {
            there.is_used = false;
        }
    }

    /// What was settled; nothing is left.
    pub fn take(&mut self) -> Vec<f64> {
        let left = vec![0.0; self.sums.len()];
        std::mem::replace(&mut self.sums, left)
    }
}

impl There {
    fn flaw(&self) -> u64 {
        self.memory.address() + (self.recipes * size_of::<f64>()) as u64
    }
}
