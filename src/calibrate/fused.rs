//! Layers that the runtime computes as one product end with one scale, where the format has one for a whole
//! tensor: the larger amax serves all of them.
//!
//! That is an invariant of the groups that the host declares, not a guess from names. Members of a
//! `fused_group` share the amax of the input and, in formats with one amax for the tensor (INT8 or FP8 per
//! tensor, NVFP4 with dynamic blocks, the second step of W4A8), that of the weight. Experts of an
//! `expert_group` share that of the input, which the runtime gathers into one tensor; each keeps the
//! scale of its weight. Static NVFP4 blocks have their global scale from `shared_scale`.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::NumBits;
use crate::model::{Amax, Model, Quantizer, Slot, SlotState};

/// Makes the scales of every declared group one.
pub(super) fn share(model: &Model) {
    for (_, members) in model.layer_groups(|spec| spec.fused_group.as_deref()) {
        share_among(members.iter().map(|layer| layer.input_slot()));
        share_among(members.iter().filter_map(|layer| layer.weight_slot()));
    }
    for (_, members) in model.layer_groups(|spec| spec.expert_group.as_deref()) {
        share_among(members.iter().map(|layer| layer.input_slot()));
    }
}

/// What has to agree for two quantizers to have one scale: the step of a sequence, and its numbers.
type Format = (usize, NumBits, bool);

fn share_among<'a>(slots: impl Iterator<Item = &'a Arc<Slot>>) {
    let slots: Vec<&Arc<Slot>> = slots.collect();
    let mut largest: HashMap<Format, (f32, usize)> = HashMap::new();
    for slot in &slots {
        for (format, amax) in shareable(&slot.state()) {
            let (highest, count) = largest.entry(format).or_insert((0.0, 0));
            *highest = highest.max(amax);
            *count += 1;
        }
    }
    for slot in slots.iter().filter(|slot| slot.packed().is_none()) {
        let state = slot.state();
        let mut step = 0;
        let shared = state.map(|q| {
            let format = (step, q.attributes.num_bits, q.attributes.unsigned);
            step += 1;
            match (one_amax(q), largest.get(&format)) {
                (Some(own), Some((highest, 2..))) if own != *highest => Arc::new(Quantizer {
                    amax: Some(Amax::new(vec![*highest], &[])),
                    ..(**q).clone()
                }),
                _ => Arc::clone(q),
            }
        });
        if shared != *state {
            slot.replace(Arc::new(shared));
        }
    }
}

fn shareable(state: &SlotState) -> Vec<(Format, f32)> {
    let members = state.members().iter().enumerate();
    members
        .filter_map(|(step, q)| {
            let format = (step, q.attributes.num_bits, q.attributes.unsigned);
            Some((format, one_amax(q)?))
        })
        .collect()
}

/// The amax of an enabled quantizer that has one for the whole tensor.
fn one_amax(q: &Quantizer) -> Option<f32> {
    if !(q.enabled && q.keeps_amax() && q.has_one_amax()) || q.attributes.constant_amax.is_some() {
        return None;
    }
    match q.amax.as_ref()?.values() {
        [one] => Some(*one),
        _ => None,
    }
}
