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
    scores: Option<KeptScores>,
}

/// Scores after some steps.
struct KeptScores {
    steps: u64,
    /// Their bits.
    rows: Vec<Vec<u64>>,
    /// Layers that were used in any of the steps.
    used: Vec<bool>,
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
            self.scores = read_scores(steps, header).or(self.scores.take());
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
                if kept.weight != slot.weight_fingerprint() {
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

    /// Whether the file holds the scores of so many steps.
    pub fn is_scored(&self, steps: u64) -> bool {
        self.scores.as_ref().is_some_and(|kept| kept.steps >= steps)
    }

    /// Fills `scores` with those of the file; returns after how many steps they were, and which layers were used in them.
    pub fn restore_scores(&self, scores: &mut Scores) -> Result<(u64, Vec<bool>)> {
        let Some(kept) = &self.scores else {
            return Ok((0, Vec::new()));
        };
        let pairs = || kept.rows.iter().zip(scores.iter());
        if kept.rows.len() != scores.len() || pairs().any(|(a, b)| a.len() != b.len()) {
            return Err(Error::State(
                "checkpoint: its scores are of other groups. Use a different checkpoint path."
                    .into(),
            ));
        }
        for (scores, kept) in scores.iter_mut().zip(&kept.rows) {
            *scores = kept.iter().map(|bits| f64::from_bits(*bits)).collect();
        }
        Ok((kept.steps, kept.used.clone()))
    }

    /// Keeps the scores after so many steps, in which these layers were used.
    pub fn keep_scores(&mut self, steps: u64, scores: &Scores, used: &[bool]) -> Result<()> {
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
        let record = frame::write(
            &json!({"scored_steps": steps, "scores": rows, "used": used}),
            &[],
        );
        file.append(&record.unwrap_or_default())
    }
}

fn read_scores(steps: u64, header: &Value) -> Option<KeptScores> {
    let row = |row: &Value| row.as_array()?.iter().map(Value::as_u64).collect();
    let used = header["used"].as_array()?.iter();
    Some(KeptScores {
        steps,
        rows: header["scores"]
            .as_array()?
            .iter()
            .map(row)
            .collect::<Option<_>>()?,
        used: used.map(Value::as_bool).collect::<Option<_>>()?,
    })
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
            "{} {:?} {weight:?} {:?} {} {:?} {:?} {:?}",
            layer.name(),
            spec.kind,
            spec.convolution,
            spec.forward.is_some(),
            spec.fused_group,
            spec.shared_input_group,
            spec.expert_group
        ));
    }
    parts.join("\n")
}
