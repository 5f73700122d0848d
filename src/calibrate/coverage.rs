//! Quantizers that no token reached: filled from those that stand for them, reported, or refused.
//!
//! The ladder, for an input or output quantizer without an amax:
//!
//! 1. what its peers have, the same projection of the other experts (`expert_group`): the mean of their factors
//!    if their channels were balanced, and the largest amax;
//! 2. the largest amax of its group: layers that read the same activation, or that are fused with it;
//! 3. nothing: the weight alone is calibrated, and the quantizer takes its amax from every tensor.

use std::sync::Arc;

use super::balance::{self, Balance};
use crate::config::Algorithm as AlgorithmConfig;
use crate::error::{Error, Result};
use crate::model::{Amax, CalibrationRecord, Layer, Model, Quantizer, Slot, SlotState};
use crate::plan::Plan;

/// Fills what can be filled, of the layers that the algorithm is for. Errors when the host asked for more tokens than a
/// layer saw.
pub(super) fn fill(model: &Model, algorithm: &AlgorithmConfig) -> Result<()> {
    refuse(model)?;
    let layers = || {
        model
            .layers()
            .iter()
            .filter(|layer| algorithm.concerns(layer.name()))
    };
    for layer in layers() {
        adopt_factors(model, layer)?;
    }
    let mut filled = Vec::new();
    for layer in layers() {
        let slots = [
            (layer.input_slot(), Side::Input),
            (layer.output_slot(), Side::Output),
        ];
        for (slot, side) in slots {
            if !is_empty(&slot.state()) {
                continue;
            }
            if let Some((amax, from)) = stand_in(model, layer, side) {
                filled.push((Arc::clone(slot), amax, from));
            }
        }
    }
    for (slot, amax, from) in filled {
        model.context().warn(&format!(
            "`{}` saw no tokens; its amax is {from}",
            slot.name()
        ));
        let state = slot.state().map(|q| {
            let record = CalibrationRecord {
                filled_from: Some(from.clone()),
                ..q.record.as_deref().cloned().unwrap_or_default()
            };
            Arc::new(Quantizer {
                amax: Some(Amax::new(vec![amax], &[])),
                record: Some(Arc::new(record)),
                ..(**q).clone()
            })
        });
        slot.replace(Arc::new(state));
    }
    Ok(())
}

/// An expert that no token reached is balanced as its peers are: an amax of theirs is worth nothing under other
/// factors.
fn adopt_factors(model: &Model, layer: &Arc<Layer>) -> Result<()> {
    let input = layer.input_slot();
    let Some(record) = record_of(input).filter(|record| record.tokens == Some(0)) else {
        return Ok(());
    };
    let Some(group) = &layer.spec().expert_group else {
        return Ok(());
    };
    let balanced = |peer: &Arc<Layer>| {
        let saw = record_of(peer.input_slot())?.tokens? > 0;
        let state = peer.input_slot().state();
        let q = state.members().first()?;
        let found = (q.pre_quant_scale.clone()?, q.channel_amax.clone()?);
        (saw && found.0.len() == input.channels()?).then_some(found)
    };
    let peers = model.layers().iter();
    let peers = peers.filter(|peer| peer.spec().expert_group.as_ref() == Some(group));
    let peers: Vec<_> = peers.filter_map(balanced).collect();
    if peers.is_empty() || !balance::fits(layer) {
        return Ok(());
    }
    let channels = 0..peers[0].0.len();
    let mean = |i: usize| {
        let sum: f64 = peers.iter().map(|(factors, _)| f64::from(factors[i])).sum();
        (sum / peers.len() as f64) as f32
    };
    let factors: Vec<f32> = channels.clone().map(mean).collect();
    let largest = |i: usize| peers.iter().map(|(_, max)| max[i]).fold(0.0, f32::max);
    let channel_max: Vec<f32> = channels.map(largest).collect();
    balance::undo(model, |other| std::ptr::eq(other, &**layer));
    let found = Balance {
        factors: Some(&factors),
        channel_max: &channel_max,
    };
    let from = "that of its peers (expert_group), as are its factors";
    model.context().warn(&format!(
        "`{}` saw no tokens; its amax is {from}",
        input.name()
    ));
    for (slot, state) in balance::states(model.context().machine(), layer, &found)? {
        let state = state.map(|q| {
            Arc::new(Quantizer {
                record: Some(Arc::new(CalibrationRecord {
                    filled_from: Some(from.to_owned()),
                    ..record.clone()
                })),
                ..(**q).clone()
            })
        });
        slot.replace(Arc::new(state));
    }
    Ok(())
}

fn record_of(slot: &Slot) -> Option<CalibrationRecord> {
    let state = slot.state();
    state.members().first()?.record.as_deref().cloned()
}

#[derive(Clone, Copy)]
enum Side {
    Input,
    Output,
}

impl Side {
    fn slot(self, layer: &Layer) -> &Arc<Slot> {
        match self {
            Self::Input => layer.input_slot(),
            Self::Output => layer.output_slot(),
        }
    }
}

/// A plain quantizer with one amax that should have been calibrated and was not.
fn is_empty(state: &SlotState) -> bool {
    let SlotState::Single(q) = state else {
        return false;
    };
    q.is_calibrated_by_data() && q.amax.is_none() && q.has_one_amax()
}

/// The one amax of a quantizer that tokens reached.
fn amax_of(slot: &Slot) -> Option<f32> {
    let state = slot.state();
    let SlotState::Single(q) = &*state else {
        return None;
    };
    match q.amax.as_ref()?.values() {
        [one] if q.enabled => Some(*one),
        _ => None,
    }
}

fn stand_in(model: &Model, layer: &Layer, side: Side) -> Option<(f32, String)> {
    let largest = |same: &dyn Fn(&Layer) -> bool| {
        let others = model.layers().iter().filter(|other| same(other));
        others
            .filter_map(|other| amax_of(side.slot(other)))
            .reduce(f32::max)
    };
    let spec = layer.spec();
    let same = |mine: &Option<String>, theirs: &Option<String>| mine.is_some() && mine == theirs;
    let peers = largest(&|other| same(&spec.expert_group, &other.spec().expert_group));
    let group = || {
        largest(&|other| {
            let theirs = other.spec();
            let reads = same(&spec.shared_input_group, &theirs.shared_input_group);
            match side {
                Side::Input => reads || same(&spec.fused_group, &theirs.fused_group),
                Side::Output => same(&spec.fused_group, &theirs.fused_group),
            }
        })
    };
    match peers {
        Some(amax) => Some((amax, "that of its peers (expert_group)".to_owned())),
        None => group().map(|amax| (amax, "that of its group".to_owned())),
    }
}

/// Refuses layers that too few tokens reached, when the host asked for it.
fn refuse(model: &Model) -> Result<()> {
    let least = model.calibration_options().min_tokens;
    if least == 0 {
        return Ok(());
    }
    let mut short = Vec::new();
    for slot in model.slots() {
        let state = slot.state();
        let records = state.members().iter().filter_map(|q| q.record.as_ref());
        let tokens = records.filter_map(|record| record.tokens).max();
        if slot.weight().is_none() && tokens.is_some_and(|tokens| tokens < least) {
            short.push(format!("`{}` saw {}", slot.name(), tokens.unwrap_or(0)));
        }
    }
    if short.is_empty() {
        return Ok(());
    }
    let all = short.len();
    short.truncate(8);
    Err(Error::State(format!(
        "{all} quantizers saw fewer than the {least} tokens that min_tokens asks for: {}{}; bring more data, or \
         lower min_tokens",
        short.join(", "),
        if all > short.len() { ", ..." } else { "" }
    )))
}

/// Tells of quantizers that stayed without an amax.
pub(super) fn warn_about_unseen(model: &Model, plan: &Plan, forwarded: bool) {
    let slots: Vec<Arc<Slot>> = plan.items().flat_map(|item| item.slots()).collect();
    let is_without = |slot: &&Arc<Slot>| {
        let state = slot.state();
        let mut members = state.members().iter();
        members.any(|q| q.is_calibrated_by_data() && q.amax.is_none())
    };
    let unseen: Vec<&str> = slots
        .iter()
        .filter(is_without)
        .map(|slot| slot.name())
        .collect();
    if let Some(first) = unseen.first() {
        let why = match forwarded {
            true => "saw no data in the forward",
            false => "were not calibrated, for there is no forward",
        };
        model.context().warn(&format!(
            "{} quantizers {why} and take their amax from every tensor: `{first}`{}",
            unseen.len(),
            if unseen.len() > 1 { ", ..." } else { "" }
        ));
    }
}
