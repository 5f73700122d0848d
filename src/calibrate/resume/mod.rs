//! The file that keeps what a calibration has finished, so that one that was killed goes on from there.
//!
//! Layout: 8 bytes of magic, 8 of a fingerprint of the model and the algorithms, then records that are only
//! ever appended, each with a checksum: what a killed process left half-written is cut off. A record holds
//! the states of the quantizers of one item (see `record`), and the fingerprints of their weights, which a
//! resumed calibration must find unchanged.

mod record;

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::algorithm::States;
use crate::config::Algorithm as AlgorithmConfig;
use crate::error::{Error, Result};
use crate::kernels::fingerprint;
use crate::model::{Amax, Model, Slot, SlotState};

const MAGIC: &[u8; 8] = b"mqcalib1";

/// What is finished, of all algorithms of one verb.
pub(super) struct Journal {
    /// None: the host wants none.
    file: Option<(PathBuf, File)>,
    /// Which algorithm is running.
    stage: u64,
    /// What the file held, by stage and name of the slot.
    kept: HashMap<(u64, String), record::Kept>,
}

impl Journal {
    /// The journal of a verb: empty, or what an earlier run of the same verb has left.
    pub(super) fn open(model: &Model, algorithms: &[AlgorithmConfig]) -> Result<Self> {
        let mut journal = Self {
            file: None,
            stage: 0,
            kept: HashMap::new(),
        };
        let Some(path) = &model.calibration_options().resume_file else {
            return Ok(journal);
        };
        let failed = |error: std::io::Error| cannot("open", path, &error);
        // A pipe or a device would be read without end.
        if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            return Err(Error::State(format!(
                "cannot open the resume file {}: it is no regular file",
                path.display()
            )));
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        let mut header = MAGIC.to_vec();
        header.extend(fingerprint_of(model, algorithms).to_le_bytes());
        let mut bytes = Vec::new();
        let mut start = (&mut file).take(header.len() as u64 + 1);
        start.read_to_end(&mut bytes).map_err(failed)?;
        if bytes.starts_with(&header) {
            file.read_to_end(&mut bytes).map_err(failed)?;
        }
        // A file that is no longer than its header never got as far as a record, whatever it was of.
        let is_ours = bytes.starts_with(MAGIC) || MAGIC.starts_with(&bytes);
        let good = if bytes.len() <= header.len() && is_ours {
            file.seek(SeekFrom::Start(0)).map_err(failed)?;
            file.write_all(&header).map_err(failed)?;
            header.len()
        } else if bytes.starts_with(&header) {
            let (kept, used) = record::read_all(&bytes[header.len()..]);
            journal.kept = kept;
            header.len() + used
        } else {
            return Err(Error::State(format!(
                "resume file {}: it is of another model, configuration or algorithm; remove it, or name another",
                path.display()
            )));
        };
        file.set_len(good as u64).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        journal.file = Some((path.clone(), file));
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
        if kept.weight != slot.weight().map(fingerprint::of_tensor) {
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
        let Some((path, file)) = &mut self.file else {
            return Ok(());
        };
        let mut bytes = Vec::new();
        for (slot, state) in states {
            bytes.extend(record::write(self.stage, slot, state));
        }
        // One write: either the records are there, or their checksum tells.
        file.write_all(&bytes)
            .map_err(|e| cannot("write to", path, &e))
    }

    /// The verb has succeeded: there is nothing to resume.
    pub(super) fn finish(self, model: &Model) {
        if let Some((path, file)) = self.file {
            drop(file);
            if let Err(error) = std::fs::remove_file(&path)
                && error.kind() != ErrorKind::NotFound
            {
                let text = format!(
                    "{}; remove it, for it is used up",
                    cannot("remove", &path, &error)
                );
                model.context().warn(&text);
            }
        }
    }
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Error {
    Error::State(format!(
        "cannot {what} the resume file {}: {error}",
        path.display()
    ))
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
