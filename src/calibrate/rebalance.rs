//! New factors for layers that are calibrated: when their `pre_quant_scale` moves into what produces their
//! input.

use std::sync::Arc;

use super::balance::tensor_amax;
use super::shared_scale::{self, Groups};
use super::{fused, max};
use crate::error::Result;
use crate::kernels::Machine;
use crate::kernels::row_scale::{self, Factors};
use crate::model::{Amax, Layer, Model, Quantizer, Slot, SlotState};
use crate::tensor::DType;

/// Gives all `readers` of an activation the same factors, which their input then comes with.
pub(crate) fn readers(model: &Model, readers: &[Arc<Layer>], factors: &[f32]) -> Result<()> {
    let machine = model.context().machine();
    let mut inputs = Vec::new();
    for layer in readers {
        let input = layer.input_slot();
        let state = input.state();
        let before = state
            .members()
            .first()
            .and_then(|q| q.pre_quant_scale.clone());
        let changes = before.as_deref() != Some(factors);
        let dtype = layer
            .spec()
            .weight
            .map_or(DType::F32, |weight| weight.dtype());
        if changes && let Some(slot) = layer.weight_slot() {
            let weight = slot.state();
            let rebalanced = weight_under(&weight, before.as_deref(), factors);
            let rebalanced = recalibrated(machine, slot, &weight, rebalanced)?;
            slot.replace(Arc::new(rebalanced));
        } else if let Some(slot) = layer.weight_slot().filter(|slot| slot.packed().is_none()) {
            slot.replace(Arc::new(settled(&slot.state())));
        }
        inputs.push((
            input,
            input_under(&state, before.as_deref(), factors, dtype),
        ));
    }
    // One product may read all of them: one scale for their input.
    let amax = |state: &SlotState| match state.members() {
        [q] if q.enabled && q.has_one_amax() => q.amax.as_ref().map(|amax| amax.values()[0]),
        _ => None,
    };
    let highest = inputs
        .iter()
        .filter_map(|(_, state)| amax(state))
        .reduce(f32::max);
    for (slot, state) in inputs {
        let shared = match (amax(&state), highest) {
            (Some(_), Some(highest)) => state.map(|q| {
                Arc::new(Quantizer {
                    amax: Some(Amax::new(vec![highest], &[])),
                    ..(**q).clone()
                })
            }),
            _ => state,
        };
        slot.replace(Arc::new(shared));
    }
    Ok(())
}

/// Makes the scales of fused layers one again, after weights have changed.
pub(crate) fn share(model: &Model) {
    fused::share(model);
    shared_scale::share(model, &Groups::by_default(), &|_| true);
}

/// The weight's state when the input's factors change from `before` to `after`.
fn weight_under(state: &SlotState, before: Option<&[f32]>, after: &[f32]) -> SlotState {
    let mut first = true;
    state.map(|q| {
        if !std::mem::replace(&mut first, false) {
            return Arc::clone(q);
        }
        let own = q.pre_quant_scale.as_deref();
        let factor = |(i, after): (usize, &f32)| {
            let before = before.map_or(1.0, |before| before[i]);
            own.map_or(1.0, |own| own[i]) * (before / after)
        };
        Arc::new(Quantizer {
            pre_quant_scale: Some(after.iter().enumerate().map(factor).collect()),
            balanced_from: None,
            record: q.record_without_error(),
            ..(**q).clone()
        })
    })
}

/// The factors are the activation's own now: another algorithm cannot take them back.
fn settled(state: &SlotState) -> SlotState {
    state.map(|q| {
        Arc::new(Quantizer {
            balanced_from: None,
            ..(**q).clone()
        })
    })
}

fn input_under(
    state: &SlotState,
    before: Option<&[f32]>,
    after: &[f32],
    dtype: DType,
) -> SlotState {
    let mut first = true;
    state.map(|q| {
        if !std::mem::replace(&mut first, false) {
            return Arc::clone(q);
        }
        let mut changed = (**q).clone();
        changed.pre_quant_scale = None;
        let channels = q.channel_amax.as_deref();
        if let Some(channels) = channels {
            let scaled = channels.iter().zip(after).map(|(max, p)| max * p);
            changed.channel_amax = Some(scaled.collect());
        }
        if let Some(old) = q
            .amax
            .as_ref()
            .filter(|_| q.has_one_amax() && q.keeps_amax())
        {
            let amax = match channels {
                Some(channels) => tensor_amax(channels, Some(after), dtype),
                // Without the channels: no channel grew by more than this.
                None => {
                    let growth =
                        |(i, after): (usize, &f32)| after / before.map_or(1.0, |before| before[i]);
                    old.values()[0] * after.iter().enumerate().map(growth).fold(0.0, f32::max)
                }
            };
            changed.amax = Some(Amax::new(vec![amax], &[]));
            changed.collected = changed.amax.clone();
        }
        Arc::new(changed)
    })
}

/// `after` with amax values for the weight as it sees it. Where `before` had clipped a block, its amax stays in
/// proportion.
fn recalibrated(
    machine: &Machine,
    slot: &Slot,
    before: &SlotState,
    after: SlotState,
) -> Result<SlotState> {
    let fresh = |state: &SlotState| state.map(|q| Arc::new(q.reset()));
    let Some(old) = max::weight(machine, slot, &fresh(before))? else {
        return Ok(after);
    };
    let Some(new) = max::weight(machine, slot, &fresh(&after))? else {
        return Ok(after);
    };
    Ok(in_proportion(before, &old, &new, &after))
}

/// The largest magnitudes of `new` times what `before` made of those of `old`; the rest from `after`.
fn in_proportion(
    before: &SlotState,
    old: &SlotState,
    new: &SlotState,
    after: &SlotState,
) -> SlotState {
    let amax = |state: &SlotState, i: usize| state.members().get(i)?.amax.clone();
    let mut i = 0;
    after.map(|q| {
        let (was, old, new) = (amax(before, i), amax(old, i), amax(new, i));
        i += 1;
        let (Some(was), Some(old), Some(new)) = (was, old, new) else {
            return Arc::clone(q);
        };
        if q.attributes.constant_amax.is_some() || was.shape() != new.shape() {
            return Arc::clone(q);
        }
        let parts = new
            .values()
            .iter()
            .zip(was.values().iter().zip(old.values()));
        let values = parts.map(|(new, (was, old))| match was == old || *old == 0.0 {
            true => *new,
            false => new * (was / old),
        });
        Arc::new(Quantizer {
            amax: Some(Amax::new(values.collect(), new.shape())),
            collected: Some(new),
            ..(**q).clone()
        })
    })
}

/// Gives a layer's weight quantizer the amax that it has once the rows are scaled, and writes nothing of the host's.
pub(crate) fn producer(model: &Model, layer: &Layer, factors: &[f32]) -> Result<()> {
    let machine = model.context().machine();
    let Some(slot) = layer.weight_slot() else {
        return Ok(());
    };
    let before = slot.state();
    let fresh = before.map(|q| Arc::new(q.reset()));
    let old = max::weight(machine, slot, &fresh)?;
    let factors = Factors::new(machine, factors)?;
    let new = slot.with_copy_of_weight(|weight| {
        row_scale::rows(machine, weight, &factors);
        max::weight_of_values(machine, slot, &fresh, weight)
    })?;
    if let (Some(old), Some(new)) = (old, new.flatten()) {
        let settled = settled(&before);
        slot.replace(Arc::new(in_proportion(&before, &old, &new, &settled)));
    }
    Ok(())
}

/// Scales the rows of a layer's weight, and its bias, in the host's memory.
pub(crate) fn scale_rows(machine: &Machine, layer: &Layer, factors: &Factors<'_>) {
    let spec = layer.spec();
    if let Some(weight) = layer.weight_slot().and_then(|slot| slot.weight()) {
        row_scale::rows(machine, weight, factors);
        if let Some(bias) = &spec.bias {
            row_scale::gain(machine, bias, factors, false);
        }
    }
}
