//! The model under every format of the search: shadows whose searched layers are all on one format, calibrated side
//! by side.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::grouping::Group;
use super::host::{Host, fetch};
use super::recipe::Recipe;
use crate::calibrate::together::{self, Lane};
use crate::error::{Error, Result};
use crate::kernels::Machine;
use crate::model::{CalibrationOptions, Layer, Mode, Model, Observer, Slot, SlotState, Snapshot};
use crate::tensor::TensorView;

/// The formats of a search and what their calibrations found.
pub struct Formats {
    /// From the most to the least compressed; the last one is no quantization.
    pub recipes: Vec<Recipe>,
    /// One for each recipe.
    shadows: Vec<Model>,
    /// Its quantizers before they were calibrated.
    configured: Vec<Snapshot>,
}

impl Formats {
    /// Puts the layers of all groups on each of the formats; nothing is calibrated yet. `recipes` are in order and
    /// end with no quantization.
    pub fn new(model: &Model, groups: &[Group], recipes: Vec<Recipe>) -> Result<Self> {
        let shadows = recipes.iter().map(|recipe| shadow(model, groups, recipe));
        let shadows: Vec<Model> = shadows.collect::<Result<_>>()?;
        Ok(Self {
            configured: shadows.iter().map(Model::snapshot).collect(),
            recipes,
            shadows,
        })
    }

    /// The recipes that quantize, with their positions and shadows.
    pub fn quantizing(&self) -> impl Iterator<Item = (usize, &Model)> {
        self.shadows.iter().take(self.count()).enumerate()
    }

    /// How many recipes quantize: all but the last.
    pub fn count(&self) -> usize {
        self.shadows.len() - 1
    }

    /// The position of no quantization.
    pub fn none(&self) -> usize {
        self.count()
    }

    /// The layer of every shadow that quantizes, which stands for `layer` of the model.
    pub fn layers_of(&self, layer: &Layer) -> Result<Vec<Arc<Layer>>> {
        self.quantizing()
            .map(|(_, shadow)| shadow.find_layer(layer.name()))
            .collect()
    }

    /// The state that a slot of the model has under a recipe.
    pub fn state(&self, recipe: usize, slot: &Slot) -> Result<Arc<SlotState>> {
        Ok(self.shadows[recipe].find_quantizer(slot.name())?.0.state())
    }

    /// The quantizers of a recipe as they were before they were calibrated.
    pub fn configured(&self, recipe: usize) -> impl Iterator<Item = (&Arc<Slot>, &Arc<SlotState>)> {
        self.shadows[recipe]
            .slots()
            .iter()
            .zip(self.configured[recipe].states())
    }

    /// Calibrates the formats for which `is_done` is false, over `steps` batches, or a quarter of them where the
    /// algorithm is AWQ, as in the reference.
    pub fn calibrate(
        &mut self,
        model: &Model,
        host: &mut dyn Host,
        steps: u64,
        is_done: &dyn Fn(usize) -> bool,
    ) -> Result<()> {
        let waiting: Vec<usize> = (0..self.count()).filter(|at| !is_done(*at)).collect();
        let lanes: Vec<Lane> = waiting
            .iter()
            .map(|at| Lane {
                model: &self.shadows[*at],
                algorithms: self.recipes[*at]
                    .config
                    .as_ref()
                    .map_or(&[], |config| &config.algorithm),
                steps: steps_of(&self.recipes[*at], steps),
            })
            .collect();
        together::calibrate(&lanes, &mut |lanes| {
            let readers: Vec<Reader> = lanes
                .iter()
                .map(|lane| Reader {
                    shadow: &self.shadows[waiting[*lane]],
                    steps: steps_of(&self.recipes[waiting[*lane]], steps),
                })
                .collect();
            forward(model, host, &readers)
        })
        .map_err(|error| self.explained(error))
    }

    fn explained(&self, error: Error) -> Error {
        match error {
            Error::Config(text) => {
                let names: Vec<&str> = self
                    .recipes
                    .iter()
                    .map(|recipe| recipe.name.as_str())
                    .collect();
                Error::Config(format!("{text} (formats: {})", names.join(", ")))
            }
            other => other,
        }
    }
}

/// Batches that a format is calibrated on.
pub fn steps_of(recipe: &Recipe, steps: u64) -> u64 {
    match recipe.is_awq() {
        true => (steps / 4).max(1),
        false => steps,
    }
}

/// The model with the layers of the groups on one format, and everything else off.
fn shadow(model: &Model, groups: &[Group], recipe: &Recipe) -> Result<Model> {
    let mut shadow = model.shadow()?;
    let mut searched = Vec::new();
    for group in groups.iter().filter(|group| !group.is_disabled) {
        for layer in &group.layers {
            searched.push(shadow.find_layer(layer.name())?);
        }
    }
    let slots = searched.iter().flat_map(|layer| layer.slots());
    let of_searched: HashSet<*const Slot> = slots.map(Arc::as_ptr).collect();
    for slot in shadow.slots() {
        if !of_searched.contains(&Arc::as_ptr(slot)) {
            slot.replace(Arc::new(switched_off(&slot.state())));
        }
    }
    for layer in &searched {
        match &recipe.config {
            Some(config) => {
                // A weight is only quantized by a format that says so.
                if let Some(weight) = layer.weight_slot() {
                    weight.replace(Arc::new(switched_off(&weight.state())));
                }
                shadow.configure_layer(layer, config)?;
                let output = layer.output_slot();
                output.replace(Arc::new(switched_off(&output.state())));
                check(&recipe.name, layer)?;
            }
            None => layer
                .slots()
                .for_each(|slot| slot.replace(Arc::new(switched_off(&slot.state())))),
        }
    }
    shadow
        .check_weights_fit()
        .map_err(|error| named(&recipe.name, error))?;
    // An interrupted search has a file of its own.
    let options = model.calibration_options();
    shadow.set_calibration_options(CalibrationOptions {
        resume_file: None,
        ..options.clone()
    });
    shadow.set_mode(Mode::Quantized);
    Ok(shadow)
}

/// A format that leaves a weight as it is would count as compressed and lose nothing: it would always win.
fn check(recipe: &str, layer: &Layer) -> Result<()> {
    let is_enabled = layer
        .weight_slot()
        .is_some_and(|slot| slot.state().is_enabled());
    match is_enabled {
        true => Ok(()),
        false => Err(Error::Config(format!(
            "{recipe} enables no weight quantizer for layer `{}`: in a search, its patterns see bare names such as \
             `weight_quantizer`; list the layer in disabled_layers, or use a format that quantizes weights",
            layer.name()
        ))),
    }
}

fn named(recipe: &str, error: Error) -> Error {
    match error {
        Error::Config(text) => Error::Config(format!("{recipe}: {text}")),
        other => other,
    }
}

/// The quantizers, off.
pub fn switched_off(state: &SlotState) -> SlotState {
    state.map(|q| Arc::new(q.switched(false)))
}

/// A shadow that waits for data.
struct Reader<'a> {
    shadow: &'a Model,
    steps: u64,
}

/// Runs the host's forward over the batches, and passes on what the taps see.
fn forward(model: &Model, host: &mut dyn Host, readers: &[Reader]) -> Result<()> {
    let step = Arc::new(AtomicU64::new(0));
    for slot in model.slots() {
        let to = readers
            .iter()
            .map(|reader| Ok((reader.shadow.find_quantizer(slot.name())?.0, reader.steps)));
        slot.set_observer(Some(Arc::new(Relay {
            step: Arc::clone(&step),
            to: to.collect::<Result<_>>()?,
        })));
    }
    let steps = readers.iter().map(|reader| reader.steps).max().unwrap_or(0);
    let outcome = observed(model, || {
        for at in 0..steps {
            step.store(at, SeqCst);
            fetch(model, host, at, steps, "num_calib_steps")?;
            host.forward(at)?;
        }
        Ok(())
    });
    for slot in model.slots() {
        slot.set_observer(None);
    }
    outcome
}

/// Runs passes of the host's while the taps of the model, whose quantizers are all off, observe.
pub fn observed(model: &Model, passes: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = model.mode();
    model.take_failure();
    model.set_mode(Mode::Calibrating);
    let outcome = passes();
    model.set_mode(before);
    model.failure_or(outcome)
}

/// Passes on what a tap of the model sees to the slots that stand for it.
struct Relay {
    step: Arc<AtomicU64>,
    /// Slots of shadows, and how many batches each wants.
    to: Vec<(Arc<Slot>, u64)>,
}

impl Observer for Relay {
    fn observe(&self, _: &Machine, member: Option<usize>, x: &TensorView) -> Result<()> {
        let step = self.step.load(SeqCst);
        let mut waiting = self.to.iter().filter(|(_, steps)| step < *steps);
        waiting.try_for_each(|(slot, _)| slot.forward(member, *x, None))
    }
}
