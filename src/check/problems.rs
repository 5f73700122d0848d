//! What is wrong with a quantized model, or may be.

use std::sync::Arc;

use crate::format::int::AMAX_EPSILON;
use crate::model::{Amax, Layer, Model, Quantizer, Role, Slot};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// A runtime that takes these scales computes something else than was calibrated.
    Error,
    /// It works, but not as well as it could, or not as was meant.
    Warning,
}

/// What it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A scale is not finite, not positive, or out of range.
    Scale,
    /// Layers that are computed as one have scales of their own.
    Group,
    /// No token, or too few, reached a quantizer.
    Coverage,
    /// A name that leads nowhere, or a group of one.
    Name,
}

impl Kind {
    /// As reports say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scale => "scale",
            Self::Group => "group",
            Self::Coverage => "coverage",
            Self::Name => "name",
        }
    }
}

/// Something to mend or to know.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about.
    pub kind: Kind,
    /// The quantizer, layer or group.
    pub name: String,
    /// What was found, and what to do.
    pub text: String,
}

/// Everything that is found.
pub(super) fn find(model: &Model) -> Vec<Problem> {
    let mut problems = Vec::new();
    for slot in model.slots() {
        scales(slot, &mut problems);
        coverage(model, slot, &mut problems);
    }
    groups(model, &mut problems);
    names(model, &mut problems);
    problems
}

fn scales(slot: &Slot, problems: &mut Vec<Problem>) {
    let state = slot.state();
    let sequential = state.members().len() > 1;
    for (i, q) in state.members().iter().enumerate() {
        let mut add = |severity, text| {
            problems.push(Problem {
                severity,
                kind: Kind::Scale,
                name: slot.member_name(sequential.then_some(i)),
                text,
            });
        };
        if let Some(factors) = &q.pre_quant_scale
            && let Some(at) = factors.iter().position(|p| !(p.is_finite() && *p > 0.0))
        {
            let text = format!("pre_quant_scale {} at {at}, expected positive", factors[at]);
            add(Severity::Error, text);
        }
        let Some(amax) = q.amax.as_ref().filter(|_| q.enabled) else {
            continue;
        };
        let values = amax.values();
        if let Some(at) = values.iter().position(|a| !(a.is_finite() && *a >= 0.0)) {
            let text = format!(
                "amax {} at {at}, expected finite and not negative",
                values[at]
            );
            add(Severity::Error, text);
        }
        let zeros = values.iter().filter(|a| **a <= AMAX_EPSILON).count();
        if zeros == values.len() && zeros > 0 {
            let text =
                "every amax is zero, or so small that its scale means nothing; everything it sees \
                        becomes zero"
                    .to_owned();
            add(Severity::Warning, text);
        } else if zeros > 0 && slot.role() != Role::Weight {
            let text = format!("{zeros} of {} amax values are zero", values.len());
            add(Severity::Warning, text);
        }
    }
}

fn coverage(model: &Model, slot: &Slot, problems: &mut Vec<Problem>) {
    let least = model.calibration_options().min_tokens.max(1);
    let state = slot.state();
    for q in state.members().iter().filter(|q| q.enabled) {
        let record = q.record.as_deref();
        let tokens = record.and_then(|record| record.tokens);
        let filled = record.and_then(|record| record.filled_from.as_deref());
        let text = match (tokens, filled) {
            (_, Some(from)) => format!("saw no tokens; its amax is {from}"),
            (Some(tokens), None) if tokens < least && slot.role() != Role::Weight => {
                format!("saw {tokens} tokens, fewer than {least}")
            }
            (Some(0), None) => {
                "no token passed its layer; its weight was calibrated alone".to_owned()
            }
            _ if q.is_calibrated_by_data() && q.amax.is_none() => {
                "has no amax and takes it from every tensor; calibrate it, or set one".to_owned()
            }
            _ => continue,
        };
        problems.push(Problem {
            severity: Severity::Warning,
            kind: Kind::Coverage,
            name: slot.name().to_owned(),
            text,
        });
    }
}

fn groups(model: &Model, problems: &mut Vec<Problem>) {
    let fused = model.layer_groups(|spec| spec.fused_group.as_deref());
    let experts = model.layer_groups(|spec| spec.expert_group.as_deref());
    for (name, layers) in &fused {
        let weights = layers.iter().filter_map(|layer| layer.weight_slot());
        differing(name, "weight", weights, problems);
        let inputs = layers.iter().map(|layer| layer.input_slot());
        differing(name, "input", inputs, problems);
        differing_factors(name, layers, problems);
    }
    for (name, layers) in &experts {
        let inputs = layers.iter().map(|layer| layer.input_slot());
        differing(name, "input", inputs, problems);
    }
    for (what, groups) in [("fused_group", &fused), ("expert_group", &experts)] {
        for (name, layers) in groups.iter().filter(|(_, layers)| layers.len() == 1) {
            problems.push(Problem {
                severity: Severity::Warning,
                kind: Kind::Name,
                name: layers[0].name().to_owned(),
                text: format!("is the only layer of {what} `{name}`; is the name misspelt?"),
            });
        }
    }
}

/// The scale of a quantizer for a whole tensor: its amax, or the global one of static NVFP4 blocks.
fn tensor_scale(q: &Quantizer) -> Option<f32> {
    if !q.enabled {
        return None;
    }
    if q.global_amax.is_some() {
        return q.global_amax;
    }
    match q.amax.as_ref().map(Amax::values) {
        Some([one]) if q.has_one_amax() => Some(*one),
        _ => None,
    }
}

fn differing<'a>(
    group: &str,
    what: &str,
    slots: impl Iterator<Item = &'a Arc<Slot>>,
    problems: &mut Vec<Problem>,
) {
    let slots: Vec<&Arc<Slot>> = slots.collect();
    let steps = slots.iter().map(|slot| slot.state().members().len()).max();
    for step in 0..steps.unwrap_or(0) {
        let scales: Vec<(&str, f32)> = slots
            .iter()
            .filter_map(|slot| {
                Some((
                    slot.name(),
                    tensor_scale(slot.state().members().get(step)?)?,
                ))
            })
            .collect();
        let Some(((first, scale), rest)) = scales.split_first() else {
            continue;
        };
        if let Some((other, found)) = rest.iter().find(|(_, other)| other != scale) {
            problems.push(Problem {
                severity: Severity::Error,
                kind: Kind::Group,
                name: group.to_owned(),
                text: format!(
                    "the {what} scales of `{first}` ({scale}) and `{other}` ({found}) differ, but they are computed as \
                     one product; calibrate them together"
                ),
            });
        }
    }
}

fn differing_factors(group: &str, layers: &[Arc<Layer>], problems: &mut Vec<Problem>) {
    let factors = |layer: &Layer| {
        let state = layer.input_slot().state();
        state
            .members()
            .first()
            .and_then(|q| q.pre_quant_scale.clone())
    };
    let first = factors(&layers[0]);
    if let Some(other) = layers.iter().find(|layer| factors(layer) != first) {
        problems.push(Problem {
            severity: Severity::Warning,
            kind: Kind::Group,
            name: group.to_owned(),
            text: format!(
                "`{}` and `{}` have different factors (pre_quant_scale) for one activation; \
                 mq_fold_pre_quant_scale() makes them one",
                layers[0].name(),
                other.name()
            ),
        });
    }
}

fn names(model: &Model, problems: &mut Vec<Problem>) {
    for layer in model.layers() {
        if let Some(producer) = &layer.spec().producer
            && model.find_layer(producer).is_err()
        {
            problems.push(Problem {
                severity: Severity::Error,
                kind: Kind::Name,
                name: layer.name().to_owned(),
                text: format!("names the producer `{producer}`, which is no layer of the model"),
            });
        }
    }
}
