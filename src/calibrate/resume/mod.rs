//! The file that keeps what a calibration has finished, so that one that was killed goes on from there.
//!
//! A record holds the states of the quantizers of one item (see `record`), and the fingerprints of their weights,
//! which a resumed calibration must find unchanged.

pub(crate) mod file;
pub(crate) mod frame;
pub(crate) mod record;

use std::collections::HashMap;
use std::sync::Arc;

use super::algorithm::States;
use crate::config::Algorithm as AlgorithmConfig;
use crate::error::{Error, Result};
use crate::kernels::fingerprint;
use crate::model::{Amax, Model, Slot, SlotState};
use file::{Kind, RecordFile};

static KIND: Kind = Kind {
    magic: b"mqcalib1",
    name: "resume file",
    mismatch: ": it is of another model, configuration or algorithm; remove it, or name another",
};

/// What is finished, of all algorithms of one verb.
pub(super) struct Journal {
    /// None: the host wants none.
    file: Option<RecordFile>,
    /// Which algorithm is running.
    stage: u64,
    /// What the file held, by stage and name of the slot.
    kept: HashMap<(u64, String), record::Kept>,
}

impl Journal {
    /// A journal that keeps nothing.
    pub(super) fn none() -> Self {
        Self {
            file: None,
            stage: 0,
            kept: HashMap::new(),
        }
    }

    /// The journal of a verb: empty, or what an earlier run of the same verb has left.
    pub(super) fn open(model: &Model, algorithms: &[AlgorithmConfig]) -> Result<Self> {
        let mut journal = Self::none();
        let Some(path) = &model.calibration_options().resume_file else {
            return Ok(journal);
        };
        let (file, frames) = RecordFile::open(path, &KIND, fingerprint_of(model, algorithms))?;
        let kept = frames.into_iter().filter_map(record::Kept::read);
        journal.kept = kept.collect();
        journal.file = Some(file);
        Ok(journal)
    }

    /// The next algorithm begins.
    pub(super) fn begin(&mut self, algorithm: usize) {
        self.stage = 2 * algorithm as u64;
    }

    /// Its second look at the weights begins.
    pub(super) fn begin_refining(&mut self) {
        self.stage |= 1;
    }

    /// States that an earlier run has finished in this stage.
    pub(super) fn restore(&self, model: &Model) -> Result<States> {
        let mut states = States::new();
        if self.kept.is_empty() {
            return Ok(states);
        }
        for slot in model.slots() {
            if let Some(state) = self.state_of(slot)? {
                states.push((Arc::clone(slot), state));
            }
        }
        if !states.is_empty() {
            model.context().info(&format!(
                "{} quantizers are taken from the resume file",
                states.len()
            ));
        }
        Ok(states)
    }

    /// The state that an earlier run has finished for a slot in this stage.
    pub(super) fn state_of(&self, slot: &Slot) -> Result<Option<SlotState>> {
        let Some(kept) = self.kept.get(&(self.stage, slot.name().to_owned())) else {
            return Ok(None);
        };
        if kept.weight != slot.weight_fingerprint() {
            return Err(Error::State(format!(
                "resume file: the weight of `{}` is not what it was; remove the file to begin anew",
                slot.name()
            )));
        }
        Ok(kept.state(&slot.state()))
    }

    /// Keeps the states of one item.
    pub(super) fn keep<'a>(
        &mut self,
        states: impl IntoIterator<Item = (&'a Arc<Slot>, &'a SlotState)>,
    ) -> Result<()> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let records = states.into_iter();
        let records = records.filter_map(|(slot, state)| record::write(self.stage, slot, state));
        file.append(&records.flatten().collect::<Vec<u8>>())
    }

    /// The verb has succeeded: there is nothing to resume.
    pub(super) fn finish(self, model: &Model) {
        if let Some(file) = self.file
            && let Err(error) = file.remove()
        {
            let text = format!("{error}; remove it, for it is used up");
            model.context().warn(&text);
        }
    }
}

/// Names, shapes, attributes and scales of everything, and the algorithms with their fields.
fn fingerprint_of(model: &Model, algorithms: &[AlgorithmConfig]) -> u64 {
    let mut state = 0;
    let mut add = |text: &str| state = fingerprint::of_bytes(state, text.as_bytes());
    for algorithm in algorithms {
        add(&algorithm.to_json().to_string());
    }
    for slot in model.slots() {
        add(slot.name());
        if let Some(weight) = slot.weight() {
            add(&format!("{} {:?}", weight.dtype(), weight.shape()));
        }
        for q in slot.state().members() {
            add(&q.attributes.to_json().to_string());
            // A calibration goes on from what is there.
            let values = |amax: &Option<Amax>| amax.as_ref().map(|amax| amax.values().to_vec());
            let bits = |values: Option<Vec<f32>>| -> Option<Vec<u32>> {
                values.map(|values| values.iter().map(|value| value.to_bits()).collect())
            };
            let factors = q.pre_quant_scale.as_ref().map(|factors| factors.to_vec());
            add(&format!(
                "{:?} {:?} {:?}",
                bits(values(&q.amax)),
                bits(values(&q.collected)),
                bits(factors)
            ));
        }
    }
    for layer in model.layers() {
        let spec = layer.spec();
        add(&format!(
            "{:?} {:?} {:?}",
            spec.fused_group, spec.shared_input_group, spec.expert_group
        ));
    }
    state
}
