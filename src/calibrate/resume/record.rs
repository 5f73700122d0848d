//! What a record of a resume file says: the state that a calibration gave one slot.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::frame::{self, Frame};
use crate::config::Method;
use crate::model::{
    Amax, BeforeBalance, CalibrationRecord, ErrorOf, QuantizationError, Quantizer, Slot, SlotState,
};

/// The state of one slot.
pub(crate) struct Kept {
    /// Fingerprint of the weight, of a weight quantizer.
    pub weight: Option<u64>,
    members: Vec<Value>,
    values: Vec<f32>,
}

/// The record of a slot's state. None for one that holds more than a record can: an affine quantizer is found anew.
pub(crate) fn write(stage: u64, slot: &Slot, state: &SlotState) -> Option<Vec<u8>> {
    let members = state.members();
    if members.iter().any(|q| q.attributes.bias.is_some()) {
        return None;
    }
    let mut values = Vec::new();
    let members: Vec<Value> = members.iter().map(|q| member(q, &mut values)).collect();
    let header = json!({
        "stage": stage,
        "slot": slot.name(),
        "weight": slot.weight_fingerprint(),
        "members": members,
    });
    frame::write(&header, &values)
}

fn member(q: &Quantizer, values: &mut Vec<f32>) -> Value {
    let mut fields = Map::new();
    let mut put = |name: &str, data: Option<&[f32]>, shape: &[usize]| {
        if let Some(data) = data {
            let place = json!({"first": values.len(), "count": data.len(), "shape": shape});
            values.extend(data);
            fields.insert(name.to_owned(), place);
        }
    };
    let amax = |amax: &Option<Amax>| {
        amax.as_ref()
            .map(|a| (a.values().to_vec(), a.shape().to_vec()))
    };
    for (name, amax) in [("amax", amax(&q.amax)), ("collected", amax(&q.collected))] {
        if let Some((data, shape)) = amax {
            put(name, Some(&data), &shape);
        }
    }
    put("pre_quant_scale", q.pre_quant_scale.as_deref(), &[]);
    put("channel_amax", q.channel_amax.as_deref(), &[]);
    if let Some(before) = &q.balanced_from {
        put("before_input", before.input.as_deref(), &[]);
        put("before_weight", before.weight.as_deref(), &[]);
    }
    put(
        "global_amax",
        q.global_amax.as_ref().map(std::slice::from_ref),
        &[],
    );
    fields.insert("balanced".to_owned(), q.balanced_from.is_some().into());
    fields.insert("per_tensor".to_owned(), q.attributes.axis.is_none().into());
    fields.insert("static_blocks".to_owned(), q.has_static_block_scale.into());
    if let Some(record) = &q.record {
        // As bits: not every decimal comes back as the number that it was.
        let error = record.error.map(
            |e| json!({"of": e.of.name(), "before": e.before.to_bits(), "after": e.after.to_bits()}),
        );
        let record = json!({"algorithm": record.algorithm, "tokens": record.tokens, "filled_from": record.filled_from, "error": error});
        fields.insert("record".to_owned(), record);
    }
    Value::Object(fields)
}

impl Kept {
    /// What a record says, by stage and name of the slot. None: it says something else.
    pub(crate) fn read(frame: Frame) -> Option<((u64, String), Self)> {
        let header = &frame.header;
        let key = (
            header["stage"].as_u64()?,
            header["slot"].as_str()?.to_owned(),
        );
        let kept = Self {
            weight: header["weight"].as_u64(),
            members: header["members"].as_array()?.clone(),
            values: frame.values,
        };
        Some((key, kept))
    }

    /// `state`, the one the slot has when its algorithm begins, with what was kept. None when it does not fit.
    pub(crate) fn state(&self, state: &SlotState) -> Option<SlotState> {
        if state.members().len() != self.members.len() {
            return None;
        }
        let members = state.members().iter().zip(&self.members);
        let members: Option<Vec<_>> = members.map(|(q, kept)| self.member(q, kept)).collect();
        let mut members = members?.into_iter().map(Arc::new);
        Some(match state {
            SlotState::Single(_) => SlotState::Single(members.next()?),
            SlotState::Sequential(_) => SlotState::Sequential(members.collect()),
        })
    }

    fn member(&self, q: &Quantizer, kept: &Value) -> Option<Quantizer> {
        let mut restored = q.clone();
        restored.amax = self.amax(kept, "amax")?;
        restored.collected = self.amax(kept, "collected")?;
        restored.pre_quant_scale = self.channels(kept, "pre_quant_scale")?;
        restored.channel_amax = self.channels(kept, "channel_amax")?;
        let global = self.values(kept, "global_amax")?;
        restored.global_amax = global.and_then(|(values, _)| values.first().copied());
        restored.balanced_from = match kept["balanced"].as_bool()? {
            false => None,
            true => Some(Arc::new(BeforeBalance {
                input: self.channels(kept, "before_input")?,
                weight: self.channels(kept, "before_weight")?,
            })),
        };
        if kept["per_tensor"].as_bool()? {
            restored.attributes.axis = None;
        }
        restored.has_static_block_scale = kept["static_blocks"].as_bool()?;
        restored.record = kept.get("record").and_then(record).map(Arc::new);
        Some(restored)
    }

    /// The outer None: what was kept does not hold together.
    fn values(&self, kept: &Value, name: &str) -> Option<Option<(&[f32], Vec<usize>)>> {
        let Some(place) = kept.get(name) else {
            return Some(None);
        };
        let number = |key: &str| usize::try_from(place[key].as_u64()?).ok();
        let (first, count) = (number("first")?, number("count")?);
        let values = self.values.get(first..first.checked_add(count)?)?;
        let shape = place["shape"].as_array()?.iter();
        let shape: Option<Vec<usize>> = shape.map(|n| usize::try_from(n.as_u64()?).ok()).collect();
        Some(Some((values, shape?)))
    }

    fn amax(&self, kept: &Value, name: &str) -> Option<Option<Amax>> {
        let found = self.values(kept, name)?;
        Some(found.map(|(values, shape)| Amax::new(values.to_vec(), &shape)))
    }

    fn channels(&self, kept: &Value, name: &str) -> Option<Option<Arc<[f32]>>> {
        Some(self.values(kept, name)?.map(|(values, _)| values.into()))
    }
}

fn record(kept: &Value) -> Option<CalibrationRecord> {
    let name = kept["algorithm"].as_str()?;
    let (algorithm, _) = Method::ALL.iter().find(|(known, _)| *known == name)?;
    let of = |name: &str| {
        [ErrorOf::Tensor, ErrorOf::Output]
            .into_iter()
            .find(|of| of.name() == name)
    };
    let error = &kept["error"];
    let error = error["of"].as_str().and_then(of).and_then(|of| {
        Some(QuantizationError {
            of,
            before: f64::from_bits(error["before"].as_u64()?),
            after: f64::from_bits(error["after"].as_u64()?),
        })
    });
    Some(CalibrationRecord {
        algorithm,
        tokens: kept["tokens"].as_u64(),
        filled_from: kept["filled_from"].as_str().map(str::to_owned),
        error,
    })
}
