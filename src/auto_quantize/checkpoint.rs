//! The file that keeps a search: what the formats were calibrated to, and the scores after every step. A search that
//! was killed goes on from there, and a finished one is solved for another budget without data.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::formats::Formats;
use super::grouping::Group;
use super::score::Scores;
use crate::calibrate::resume::file::{Kind, RecordFile};
use crate::calibrate::resume::frame::{self, Frame};
use crate::calibrate::resume::record::{self, Kept};
use crate::error::{Error, Result};
use crate::kernels::fingerprint;
use crate::model::{Model, Role, Slot};

static KIND: Kind = Kind {
    magic: b"mqsearc1",
    name: "checkpoint",
    mismatch: " does not match this search: its model, formats, grouping, disabled layers, method and steps are other \
               ones. Use a different checkpoint path.",
};

/// An open checkpoint, or none.
pub struct Checkpoint {
    file: Option<RecordFile>,
    states: HashMap<(u64, String), Kept>,
    calibrated: Vec<u64>,
    /// Steps that are scored, and the bits of the scores.
    scores: Option<(u64, Vec<Vec<u64>>)>,
}

impl Checkpoint {
    /// The checkpoint of a search that `description` tells from others. Without a path nothing is kept.
    pub fn open(path: Option<&Path>, description: &str) -> Result<Self> {
        let mut checkpoint = Self {
            file: None,
            states: HashMap::new(),
            calibrated: Vec::new(),
            scores: None,
        };
        let Some(path) = path else {
            return Ok(checkpoint);
        };
        let fingerprint = fingerprint::of_bytes(0, description.as_bytes());
        let (file, frames) = RecordFile::open(path, &KIND, fingerprint)?;
        checkpoint.file = Some(file);
        frames.into_iter().for_each(|frame| checkpoint.read(frame));
        Ok(checkpoint)
    }

    fn read(&mut self, frame: Frame) {
        let header = &frame.header;
        if let Some(recipe) = header["calibrated"].as_u64() {
            self.calibrated.push(recipe);
        } else if let Some(steps) = header["scored_steps"].as_u64() {
            let row = |row: &Value| {
                row.as_array()?
                    .iter()
                    .map(Value::as_u64)
                    .collect::<Option<Vec<u64>>>()
            };
            let rows = header["scores"]
                .as_array()
                .map(|rows| rows.iter().map(row).collect());
            if let Some(Some(rows)) = rows {
                self.scores = Some((steps, rows));
            }
        } else if let Some((key, kept)) = Kept::read(frame) {
            self.states.insert(key, kept);
        }
    }

    /// Gives the shadows what the file holds; returns for which recipes it holds everything.
    pub fn restore_formats(&self, model: &Model, formats: &Formats) -> Result<Vec<bool>> {
        let mut restored = vec![false; formats.count()];
        for ((recipe, shadow), restored) in formats.quantizing().zip(&mut restored) {
            if !self.calibrated.contains(&(recipe as u64)) {
                continue;
            }
            let mut states = Vec::new();
            for slot in calibrated_slots(shadow) {
                let kept = self.states.get(&(recipe as u64, slot.name().to_owned()));
                let Some(kept) = kept else {
                    break;
                };
                if kept.weight != slot.weight().map(fingerprint::of_tensor) {
                    return Err(Error::State(format!(
                        "checkpoint: the weight of `{}` is not what it was. Use a different checkpoint path.",
                        slot.name()
                    )));
                }
                let Some(state) = kept.state(&slot.state()) else {
                    break;
                };
                states.push((slot, state));
            }
            if states.len() == calibrated_slots(shadow).count() {
                states
                    .into_iter()
                    .for_each(|(slot, state)| slot.replace(Arc::new(state)));
                *restored = true;
            }
        }
        let count = restored.iter().filter(|restored| **restored).count();
        if count > 0 {
            model.context().info(&format!(
                "AutoQuantize: Restored {count} formats from checkpoint"
            ));
        }
        Ok(restored)
    }

    /// Keeps what the recipes for which `is_kept` is false were calibrated to.
    pub fn keep_formats(
        &mut self,
        formats: &Formats,
        is_kept: &dyn Fn(usize) -> bool,
    ) -> Result<()> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        for (recipe, shadow) in formats.quantizing().filter(|(recipe, _)| !is_kept(*recipe)) {
            let mut bytes = Vec::new();
            for slot in calibrated_slots(shadow) {
                bytes.extend(
                    record::write(recipe as u64, slot, &slot.state())
                        .into_iter()
                        .flatten(),
                );
            }
            bytes.extend(
                frame::write(&json!({"calibrated": recipe}), &[])
                    .into_iter()
                    .flatten(),
            );
            file.append(&bytes)?;
        }
        Ok(())
    }

    /// Fills `scores` with those of the file; returns after how many steps they were.
    pub fn restore_scores(&self, scores: &mut Scores) -> Result<u64> {
        let Some((steps, kept)) = &self.scores else {
            return Ok(0);
        };
        let alike = kept.len() == scores.len()
            && kept
                .iter()
                .zip(scores.iter())
                .all(|(a, b)| a.len() == b.len());
        if !alike {
            return Err(Error::State(
                "checkpoint: its scores are of other groups. Use a different checkpoint path."
                    .into(),
            ));
        }
        for (scores, kept) in scores.iter_mut().zip(kept) {
            *scores = kept.iter().map(|bits| f64::from_bits(*bits)).collect();
        }
        Ok(*steps)
    }

    /// Keeps the scores after so many steps.
    pub fn keep_scores(&mut self, steps: u64, scores: &Scores) -> Result<()> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        // As bits: not every decimal comes back as the number that it was.
        let bits = |row: &Vec<f64>| {
            row.iter()
                .map(|score| score.to_bits())
                .collect::<Vec<u64>>()
        };
        let rows: Vec<Vec<u64>> = scores.iter().map(bits).collect();
        let record = frame::write(&json!({"scored_steps": steps, "scores": rows}), &[]);
        file.append(&record.unwrap_or_default())
    }
}

/// The slots that a calibration may give something.
fn calibrated_slots(shadow: &Model) -> impl Iterator<Item = &Arc<Slot>> {
    let slots = shadow.slots().iter();
    slots.filter(|slot| matches!(slot.role(), Role::Input | Role::Weight))
}

/// Everything that a search depends on beside the data, as text.
pub fn describe(model: &Model, groups: &[Group], formats: &Formats, further: &[&str]) -> String {
    let mut parts: Vec<String> = further.iter().map(|text| (*text).to_owned()).collect();
    parts.extend(
        formats
            .recipes
            .iter()
            .map(|recipe| recipe.signature().to_owned()),
    );
    for group in groups {
        let names: Vec<&str> = group.layers.iter().map(|layer| layer.name()).collect();
        parts.push(format!("{} {}", group.is_disabled, names.join(" ")));
    }
    for layer in model.layers() {
        let spec = layer.spec();
        let weight = spec
            .weight
            .map(|weight| format!("{} {:?}", weight.dtype(), weight.shape()));
        parts.push(format!(
            "{} {weight:?} {:?} {:?} {:?}",
            layer.name(),
            spec.fused_group,
            spec.shared_input_group,
            spec.expert_group
        ));
    }
    parts.join("\n")
}
