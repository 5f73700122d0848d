//! What a calibration needs before it runs: which quantizers, which statistics, how many forwards.

use std::sync::Arc;

use crate::model::{Model, Role, Slot};
use crate::observe::AbsMax;

/// A statistic an algorithm asks for at a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// The largest magnitudes, at the quantizer's granularity.
    AbsMax,
}

/// One pass over weights and activations.
pub struct Plan {
    /// Weight quantizers, observed from the weights themselves.
    pub weights: Vec<(Arc<Slot>, Arc<AbsMax>)>,
    /// Quantizers of activations, observed by the taps.
    pub activations: Vec<(Arc<Slot>, Arc<AbsMax>)>,
}

impl Plan {
    /// The pass that collects what `needs` asks for.
    pub fn new(model: &Model, needs: impl Fn(&Slot) -> Needs) -> Self {
        let (mut weights, mut activations) = (Vec::new(), Vec::new());
        for slot in model.slots().iter().filter(|slot| slot.packed().is_none()) {
            let Some(statistics) = (match needs(slot) {
                Needs::Nothing => None,
                Needs::AbsMax => AbsMax::new(slot),
            }) else {
                continue;
            };
            match slot.role() {
                Role::Weight => weights.push((Arc::clone(slot), statistics)),
                Role::Input | Role::Output | Role::Host => {
                    activations.push((Arc::clone(slot), statistics));
                }
            }
        }
        Self {
            weights,
            activations,
        }
    }

    /// How often the host's forward must run.
    pub fn forwards(&self) -> usize {
        usize::from(!self.activations.is_empty())
    }
}
