//! `max`: the amax of a quantizer is the largest magnitude it has seen.

use std::sync::Arc;

use super::algorithm::Algorithm;
use crate::config::Algorithm as AlgorithmConfig;
use crate::error::Result;
use crate::kernels::Machine;
use crate::model::{Quantizer, Role, Slot, SlotState};
use crate::observe::AbsMax;
use crate::plan::{Planned, SlotNeeds};
use crate::tensor::TensorView;

/// The algorithm. Of its fields, `distributed_sync` and `sync_expert_weight_amax` say what to do
/// between ranks, of which there is one; the forward is skipped whenever nothing waits for it.
pub(super) struct Max {
    pub config: AlgorithmConfig,
}

impl Planned for Max {
    fn config(&self) -> &AlgorithmConfig {
        &self.config
    }

    fn slot_needs(&self, slot: &Slot) -> SlotNeeds {
        needs(slot)
    }
}

impl Algorithm for Max {
    fn as_planned(&self) -> &dyn Planned {
        self
    }
}

/// The largest magnitudes, if any member has use for data.
pub(super) fn needs(slot: &Slot) -> SlotNeeds {
    let state = slot.state();
    let waits = |q: &Arc<Quantizer>| q.is_calibrated_by_data() || q.collects_bias();
    match state.members().iter().any(waits) {
        true => SlotNeeds::AbsMax,
        false => SlotNeeds::Nothing,
    }
}

/// `state` of a weight quantizer, calibrated to the weight as it sees it; None when it needs no data.
pub(super) fn weight(
    machine: &Machine,
    slot: &Slot,
    state: &SlotState,
) -> Result<Option<SlotState>> {
    match slot.weight() {
        Some(weight) => weight_of_values(machine, slot, state, weight),
        None => {
            Ok(AbsMax::of(slot.name(), state).and_then(|seen| solve(Role::Weight, state, &seen)))
        }
    }
}

/// The same for other values that the weight may get.
pub(super) fn weight_of_values(
    machine: &Machine,
    slot: &Slot,
    state: &SlotState,
    values: &TensorView,
) -> Result<Option<SlotState>> {
    let Some(seen) = AbsMax::of(slot.name(), state) else {
        return Ok(None);
    };
    slot.with_values_seen_by(values, state, |weight| seen.observe(machine, None, weight))?;
    seen.settle()?;
    Ok(solve(Role::Weight, state, &seen))
}

/// The state after what was seen.
pub(super) fn solve(role: Role, state: &SlotState, seen: &AbsMax) -> Option<SlotState> {
    let mut collected = seen.collected().into_iter();
    Some(state.map(|quantizer| {
        let found = collected.next().unwrap_or_default();
        let bias = quantizer.attributes.bias.as_ref();
        let running = found.bias.filter(|_| quantizer.collects_bias());
        // A member that saw no data keeps what it has.
        if found.amax.is_none() && running.is_none() {
            return Arc::clone(quantizer);
        }
        Arc::new(Quantizer {
            has_static_block_scale: role == Role::Weight && quantizer.has_static_blocks(),
            amax: found.amax.clone().or_else(|| quantizer.amax.clone()),
            collected: found.amax,
            bias_value: bias
                .zip(running.as_ref())
                .map(|(bias, running)| running.value(bias)),
            collected_bias: running,
            // That of an earlier calibration says nothing of this one.
            record: None,
            ..(**quantizer).clone()
        })
    }))
}
