//! Moves magnitude between the channels of an activation and the columns of the weight that reads them:
//! `x' = x * p`, `W' = W / p`. What SmoothQuant and AWQ end with.
//!
//! The host's weight is not written to: the factor `1 / p` stays with the weight quantizer, which applies it
//! to whatever it is asked for, until folding writes both into the weight. So a failed verb has nothing to
//! undo, and another algorithm begins with the weight as it was.

use std::sync::Arc;

use super::algorithm::States;
use super::max;
use crate::error::{Error, Result};
use crate::kernels::Machine;
use crate::model::{Amax, BeforeBalance, Layer, LayerKind, Model, Quantizer, Slot, SlotState};
use crate::tensor::DType;

/// What an algorithm found for a layer.
pub(super) struct Balance<'a> {
    /// The factors for the input, before they are rounded to the weight's type. None: all one.
    pub factors: Option<&'a [f32]>,
    /// Largest magnitude of each channel before the factors; empty when no token passed.
    pub channel_max: &'a [f32],
}

/// The layer's states of input and weight under the factors. The amax of the weight is its largest
/// magnitudes.
pub(super) fn states(machine: &Machine, layer: &Arc<Layer>, balance: &Balance) -> Result<States> {
    let Some(slot) = layer.weight_slot() else {
        return Ok(States::new());
    };
    let Some(weight) = slot.weight() else {
        return Ok(States::new());
    };
    let dtype = weight.dtype();
    let weight = weight_state(machine, slot, &slot.state(), layer, balance.factors)?;
    let input = layer.input_slot();
    let input_state = input_state(&input.state(), balance, dtype);
    for amax in input_state.members().iter().filter_map(|q| q.amax.as_ref()) {
        amax.check(input.name())?;
    }
    Ok(vec![
        (Arc::clone(input), input_state),
        (Arc::clone(slot), weight),
    ])
}

fn weight_state(
    machine: &Machine,
    slot: &Slot,
    state: &SlotState,
    layer: &Layer,
    factors: Option<&[f32]>,
) -> Result<SlotState> {
    let mut first = true;
    let input = layer.input_slot().state();
    let balanced = state.map(|q| {
        let was_first = std::mem::replace(&mut first, false);
        // Found anew: what was collected before was of another weight.
        let fresh = q.reset();
        match factors.filter(|_| was_first) {
            None => Arc::new(fresh),
            Some(factors) => Arc::new(Quantizer {
                balanced_from: Some(Arc::new(BeforeBalance {
                    input: input
                        .members()
                        .first()
                        .and_then(|q| q.pre_quant_scale.clone()),
                    weight: q.pre_quant_scale.clone(),
                })),
                pre_quant_scale: Some(divided(factors, q.pre_quant_scale.as_deref())),
                ..fresh
            }),
        }
    });
    Ok(max::weight(machine, slot, &balanced)?.unwrap_or(balanced))
}

/// The weight's factors: one over those of the input, which are not rounded for this.
pub(super) fn divided(factors: &[f32], before: Option<&[f32]>) -> Arc<[f32]> {
    let before = |i: usize| before.map_or(1.0, |before| before[i]);
    factors
        .iter()
        .enumerate()
        .map(|(i, p)| (1.0 / p) * before(i))
        .collect()
}

/// The input's factors as they are stored: in the weight's type.
fn multiplied(factors: &[f32], before: Option<&[f32]>, dtype: DType) -> Arc<[f32]> {
    let before = |i: usize| before.map_or(1.0, |before| before[i]);
    let stored = factors.iter().enumerate();
    stored.map(|(i, p)| dtype.round(p * before(i))).collect()
}

fn input_state(state: &SlotState, balance: &Balance, dtype: DType) -> SlotState {
    let mut first = true;
    state.map(|q| {
        if !std::mem::replace(&mut first, false) {
            return Arc::clone(q);
        }
        let mut changed = Quantizer {
            record: None,
            ..(**q).clone()
        };
        if let Some(factors) = balance.factors {
            let before = q.pre_quant_scale.as_deref();
            changed.pre_quant_scale = Some(multiplied(factors, before, dtype));
        }
        if !balance.channel_max.is_empty() {
            changed.channel_amax = Some(divided_by(
                balance.channel_max,
                q.pre_quant_scale.as_deref(),
            ));
            // One amax for the whole tensor: the channels are balanced now.
            if q.is_calibrated_by_data() {
                changed.attributes.axis = None;
                let amax = tensor_amax(balance.channel_max, balance.factors, dtype);
                changed.amax = Some(Amax::new(vec![amax], &[]));
                changed.collected = changed.amax.clone();
            }
        }
        Arc::new(changed)
    })
}

/// What the channels were before the factors that the quantizer had multiplied them with.
fn divided_by(channels: &[f32], factors: Option<&[f32]>) -> Arc<[f32]> {
    match factors {
        None => channels.into(),
        Some(factors) => channels
            .iter()
            .zip(factors)
            .map(|(max, p)| max / p)
            .collect(),
    }
}

/// The largest magnitude of an activation under factors for its channels.
pub(super) fn tensor_amax(channel_max: &[f32], factors: Option<&[f32]>, dtype: DType) -> f32 {
    let scaled = |(i, max): (usize, &f32)| match factors {
        None => *max,
        Some(factors) => dtype.round(*max) * factors[i],
    };
    let largest = channel_max
        .iter()
        .enumerate()
        .map(scaled)
        .fold(0.0, f32::max);
    dtype.round(largest)
}

/// Takes the factors of an earlier balance off the layers that `concerns` names: a new one begins with the
/// weight as it is. What the quantizers were calibrated to goes with them.
pub(super) fn undo(model: &Model, concerns: impl Fn(&Layer) -> bool) {
    for layer in model.layers().iter().filter(|layer| concerns(layer)) {
        let Some(slot) = layer.weight_slot().filter(|slot| slot.packed().is_none()) else {
            continue;
        };
        let state = slot.state();
        let first = state.members().first();
        let Some(before) = first.and_then(|q| q.balanced_from.clone()) else {
            continue;
        };
        slot.replace(Arc::new(with_factors(&state, &before.weight)));
        let input = layer.input_slot();
        input.replace(Arc::new(with_factors(&input.state(), &before.input)));
    }
}

fn with_factors(state: &SlotState, factors: &Option<Arc<[f32]>>) -> SlotState {
    let mut first = true;
    state.map(|q| match std::mem::replace(&mut first, false) {
        true => Arc::new(Quantizer {
            pre_quant_scale: factors.clone(),
            balanced_from: None,
            channel_amax: None,
            ..q.reset()
        }),
        false => Arc::new(q.reset()),
    })
}

/// Whether an algorithm can balance this layer at all: a linear one whose weight is the host's, whose weight
/// quantizer is enabled, and whose input quantizer has one amax or one for each channel.
pub(super) fn fits(layer: &Layer) -> bool {
    let Some(slot) = layer.weight_slot() else {
        return false;
    };
    layer.spec().kind == LayerKind::Linear
        && slot.packed().is_none()
        && slot.weight().is_some_and(|weight| weight.count() > 0)
        && slot.state().members().first().is_some_and(|q| q.enabled)
}

/// Refuses factors that are no factors.
pub(super) fn check_factors(name: &str, factors: &[f32]) -> Result<()> {
    match factors.iter().position(|p| !(p.is_finite() && *p > 0.0)) {
        None => Ok(()),
        Some(i) => Err(Error::Numeric(format!(
            "`{name}`: pre_quant_scale should be positive, found {} at {i}",
            factors[i]
        ))),
    }
}
