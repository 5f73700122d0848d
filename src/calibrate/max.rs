//! `max`: the amax of a quantizer is the largest magnitude it has seen.

use std::sync::Arc;

use super::Algorithm;
use crate::config::Algorithm as AlgorithmConfig;
use crate::model::{Quantizer, Role, Slot, SlotState};
use crate::observe::AbsMax;
use crate::plan::Needs;

/// The algorithm with its one choice.
pub struct Max {
    skip_forward: bool,
}

impl Max {
    pub fn new(config: &AlgorithmConfig) -> Self {
        Self {
            skip_forward: config.flag("skip_forward_without_activation_calib"),
        }
    }
}

impl Algorithm for Max {
    fn needs(&self, _: &Slot) -> Needs {
        Needs::AbsMax
    }

    fn solve(&self, slot: &Slot, statistics: &AbsMax) -> Option<SlotState> {
        let mut collected = statistics.collected().into_iter();
        Some(slot.state().map(|quantizer| {
            // A member that saw no data keeps what it has.
            let Some(amax) = collected.next().flatten() else {
                return Arc::clone(quantizer);
            };
            Arc::new(Quantizer {
                has_static_block_scale: slot.role() == Role::Weight
                    && quantizer.has_static_blocks(),
                amax: Some(amax.clone()),
                collected: Some(amax),
                ..(**quantizer).clone()
            })
        }))
    }

    fn always_forwards(&self) -> bool {
        !self.skip_forward
    }
}
