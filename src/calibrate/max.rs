//! `max`: the amax of a quantizer is the largest magnitude it has seen.

use std::sync::Arc;

use super::Algorithm;
use crate::model::{Quantizer, Role, Slot, SlotState};
use crate::observe::AbsMax;
use crate::plan::Needs;

/// The algorithm. Of its fields, `distributed_sync` and `sync_expert_weight_amax` say what to do
/// between ranks, of which there is one; the forward is skipped whenever nothing waits for it.
pub struct Max;

impl Algorithm for Max {
    fn needs(&self, _: &Slot) -> Needs {
        Needs::AbsMax
    }

    fn solve(&self, slot: &Slot, statistics: &AbsMax) -> Option<SlotState> {
        let mut collected = statistics.collected().into_iter();
        Some(slot.state().map(|quantizer| {
            let found = collected.next().unwrap_or_default();
            let bias = quantizer.attributes.bias.as_ref();
            let running = found.bias.filter(|_| quantizer.collects_bias());
            // A member that saw no data keeps what it has.
            if found.amax.is_none() && running.is_none() {
                return Arc::clone(quantizer);
            }
            Arc::new(Quantizer {
                has_static_block_scale: slot.role() == Role::Weight
                    && quantizer.has_static_blocks(),
                amax: found.amax.clone().or_else(|| quantizer.amax.clone()),
                collected: found.amax,
                bias_value: bias
                    .zip(running.as_ref())
                    .map(|(bias, running)| running.value(bias)),
                collected_bias: running,
                ..(**quantizer).clone()
            })
        }))
    }
}
