//! What a calibration needs before it runs: which statistics of which quantizers and layers, in which
//! pass of the host's forward, and how much memory that takes.

mod items;
mod needs;
mod report;

use std::sync::Arc;

pub use items::Item;
pub use needs::{Planned, SlotNeeds};
pub use report::report;

use crate::config::{Algorithm as AlgorithmConfig, Calibrator, Method};
use crate::error::{Error, Result};
use crate::model::{Model, Quantizer, Slot};

/// What every calibration takes: patterns of names, messages, the plan itself.
const BASE_BYTES: u64 = 64 * 1024;
/// The same for each quantizer.
const SLOT_BYTES: u64 = 1024;

/// What one algorithm does, pass by pass.
pub struct Plan {
    /// Weight quantizers that need no activations.
    pub weights: Vec<Arc<Slot>>,
    /// One for each time the host's forward runs.
    pub passes: Vec<Pass>,
    /// What needs no pass, for it is done already.
    pub done: Vec<Item>,
    /// The most memory that a weight alone takes.
    pub weights_bytes: u64,
}

/// One run of the host's forward.
pub struct Pass {
    /// What is observed.
    pub items: Vec<Item>,
    /// Bytes of all statistics.
    pub statistics_bytes: u64,
    /// Bytes to work with, in a tap or afterwards.
    pub workspace_bytes: u64,
}

impl Pass {
    /// The most memory that the pass takes.
    pub fn peak_bytes(&self) -> u64 {
        self.statistics_bytes + self.workspace_bytes
    }
}

impl Plan {
    /// The plan of `algorithm` for `model`, without what is `done` already. Items go into a pass in the order
    /// of registration until the memory limit of the context is reached; then the next pass begins. Errors
    /// when one item alone does not fit, with the bytes that the largest one needs.
    pub fn new(
        model: &Model,
        algorithm: &dyn Planned,
        done: &dyn Fn(&Slot) -> bool,
    ) -> Result<Self> {
        check_layers(model, algorithm.config())?;
        check_calibrators(model, algorithm.config())?;
        algorithm.check(model)?;
        let items = items::Items::new(model, algorithm)?;
        let threads = model.context().machine().num_threads();
        let limit = model.context().memory_limit_bytes().unwrap_or(u64::MAX);
        let base = BASE_BYTES + SLOT_BYTES * model.slots().len() as u64;
        let workspace = |item: &Item| {
            let solving = match item {
                Item::Slots(_, SlotNeeds::Histogram { .. }) => algorithm.histogram_bytes(),
                Item::Slots(..) => 0,
                Item::Layers(layers, _) => layers
                    .iter()
                    .map(|layer| algorithm.workspace_bytes(layer, threads))
                    .max()
                    .unwrap_or(0),
            };
            base + solving.max(item.transient_bytes(threads))
        };
        let mut plan = Self {
            weights: items.weights,
            passes: Vec::new(),
            done: Vec::new(),
            weights_bytes: 0,
        };
        plan.weights.retain(|slot| !done(slot));
        let is_done = |item: &Item| item.treated().iter().all(|slot| done(slot));
        let (finished, waiting): (Vec<Item>, _) = items.observed.into_iter().partition(is_done);
        plan.done = finished;
        let sized = |item: Item| (item.statistics_bytes(), workspace(&item), item);
        let waiting: Vec<(u64, u64, Item)> = waiting.into_iter().map(sized).collect();
        let weights = plan.weights.iter();
        let weights =
            weights.map(|slot| (base + algorithm.weight_bytes(slot, threads), slot.name()));
        let items = waiting
            .iter()
            .map(|(statistics, workspace, item)| (statistics + workspace, item.name()));
        plan.weights_bytes = weights.clone().map(|(bytes, _)| bytes).max().unwrap_or(0);
        let largest = weights.chain(items).max_by_key(|(bytes, _)| *bytes);
        if let Some((needed, name)) = largest.filter(|(bytes, _)| *bytes > limit) {
            return Err(Error::OutOfMemory(format!(
                "`{name}` needs {needed} bytes for {}, but the context's memory_limit_bytes is {limit}; set it to \
                 {needed} or more",
                algorithm.config().method,
            )));
        }
        for (statistics, workspace, item) in waiting {
            match plan.passes.last_mut() {
                Some(pass)
                    if pass.statistics_bytes + statistics + pass.workspace_bytes.max(workspace)
                        <= limit =>
                {
                    pass.items.push(item);
                    pass.statistics_bytes += statistics;
                    pass.workspace_bytes = pass.workspace_bytes.max(workspace);
                }
                _ => plan.passes.push(Pass {
                    items: vec![item],
                    statistics_bytes: statistics,
                    workspace_bytes: workspace,
                }),
            }
        }
        Ok(plan)
    }

    /// Everything that taps bring, of all passes, and what is done already.
    pub fn items(&self) -> impl Iterator<Item = &Item> {
        let passes = self.passes.iter().flat_map(|pass| &pass.items);
        passes.chain(&self.done)
    }

    /// How often the host's forward must run.
    pub fn forwards(&self) -> usize {
        self.passes.len()
    }
}

/// An algorithm that is for no layer at all is a misspelling.
fn check_layers(model: &Model, config: &AlgorithmConfig) -> Result<()> {
    match model
        .slots()
        .iter()
        .any(|slot| config.concerns(slot.owner()))
    {
        true => Ok(()),
        false => Err(Error::Config(format!(
            "algorithm {}: its layers {} match none of the model",
            config.method, config.fields["layers"]
        ))),
    }
}

/// A quantizer with `calibrator: histogram` has no amax until an algorithm says how to read one from it; the
/// reference fails there after the forward.
fn check_calibrators(model: &Model, config: &AlgorithmConfig) -> Result<()> {
    if config.method == Method::Histogram {
        return Ok(());
    }
    for slot in model
        .slots()
        .iter()
        .filter(|slot| config.concerns(slot.owner()))
    {
        let state = slot.state();
        let asks = |q: &Arc<Quantizer>| {
            q.is_calibrated_by_data() && q.attributes.calibrator == Calibrator::Histogram
        };
        if state.members().iter().any(asks) {
            return Err(Error::Config(format!(
                "`{}` has calibrator histogram, which {} does not read; use the algorithm {{\"method\": \"histogram\", \
                 \"amax_method\": \"entropy\"}}",
                slot.name(),
                config.method
            )));
        }
    }
    Ok(())
}
