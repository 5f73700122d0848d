//! Which quantizers and layers are observed together, and what that takes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::needs::{Planned, SlotNeeds};
use crate::error::Result;
use crate::model::{Layer, Model, Role, Slot};
use crate::observe::{Histogram, InputNeeds, Sample};

/// Something to observe: one activation, and everybody who has use for its statistics.
#[derive(Clone)]
pub enum Item {
    /// Quantizers treated one by one, with equal settings.
    Slots(Vec<Arc<Slot>>, SlotNeeds),
    /// Layers treated as a whole.
    Layers(Vec<Arc<Layer>>, InputNeeds),
}

impl Item {
    /// The taps that the activation passes.
    pub fn slots(&self) -> Vec<Arc<Slot>> {
        match self {
            Self::Slots(slots, _) => slots.clone(),
            Self::Layers(layers, _) => {
                let inputs = layers.iter().map(|layer| layer.input_slot());
                inputs.cloned().collect()
            }
        }
    }

    /// Name of its first tap.
    pub fn name(&self) -> &str {
        match self {
            Self::Slots(slots, _) => slots[0].name(),
            Self::Layers(layers, _) => layers[0].input_slot().name(),
        }
    }

    /// The quantizers that get their state from it.
    pub fn treated(&self) -> Vec<Arc<Slot>> {
        let mut slots = self.slots();
        if let Self::Layers(layers, _) = self {
            let weights = layers.iter().filter_map(|layer| layer.weight_slot());
            slots.extend(weights.cloned());
        }
        slots
    }

    /// Channels of the activation, where they are known.
    pub fn channels(&self) -> Option<usize> {
        match self {
            Self::Slots(slots, _) => slots[0].channels(),
            Self::Layers(layers, _) => layers[0].input_slot().channels(),
        }
    }

    /// Bytes of its statistics.
    pub fn statistics_bytes(&self) -> u64 {
        let channels = self.channels().unwrap_or(0);
        let statistic = match self {
            Self::Slots(slots, SlotNeeds::Histogram { .. }) => {
                Histogram::most_bytes() + small(slots)
            }
            Self::Slots(slots, _) => {
                // One value for each channel at most; what depends on a shape yet unseen is not known.
                let state = slots[0].state();
                let kept = match state.members().iter().all(|q| q.has_one_amax()) {
                    true => 1,
                    false => channels,
                };
                // The running value, that of a batch, and the merged one.
                (3 * kept * size_of::<f32>()) as u64 + small(slots)
            }
            Self::Layers(layers, needs) => {
                // Where the weights are, activations are expected too.
                let mut weights = layers.iter().filter_map(|layer| layer.weight_slot());
                let there = match weights.any(|slot| slot.weight_gpu().is_some()) {
                    true => needs.device_workspace_bytes(channels),
                    false => 0,
                };
                needs.size_bytes(channels) + there + 512 * layers.len() as u64
            }
        };
        statistic + Sample::size_bytes(channels)
    }
}

impl Item {
    /// Bytes that a tap of it takes while it observes.
    pub fn transient_bytes(&self, threads: usize) -> u64 {
        let channels = self.channels().unwrap_or(0);
        match self {
            Self::Slots(_, SlotNeeds::Histogram { .. }) => Histogram::transient_bytes(threads),
            // A row for each thread, or two copies of the sample to measure the error on; a scaled copy of a batch,
            // of a size yet unseen, is not known.
            Self::Slots(..) => {
                let rows = (threads * channels * size_of::<f32>()) as u64;
                rows.max(2 * Sample::size_bytes(channels))
            }
            Self::Layers(_, needs) => {
                let sampled = 2 * Sample::size_bytes(channels);
                needs.transient_bytes(channels, threads).max(sampled)
            }
        }
    }
}

/// Names, locks and pointers.
fn small(slots: &[Arc<Slot>]) -> u64 {
    512 * slots.len() as u64
}

/// Everything an algorithm waits for: weights apart from what the host's forward must bring.
pub struct Items {
    /// Weight quantizers that are treated alone.
    pub weights: Vec<Arc<Slot>>,
    /// Observed by taps, in the order of registration.
    pub observed: Vec<Item>,
}

impl Items {
    /// What `algorithm` needs of `model`.
    pub fn new(model: &Model, algorithm: &dyn Planned) -> Result<Self> {
        let mut items = Self {
            weights: Vec::new(),
            observed: Vec::new(),
        };
        let mut treated_with_layer = HashSet::new();
        let mut by_input: HashMap<(String, InputNeeds), usize> = HashMap::new();
        let config = algorithm.config();
        for layer in model
            .layers()
            .iter()
            .filter(|layer| config.concerns(layer.name()))
        {
            let Some(needs) = algorithm.input_needs(layer)? else {
                continue;
            };
            treated_with_layer.insert(Arc::as_ptr(layer.input_slot()));
            treated_with_layer.extend(layer.weight_slot().map(Arc::as_ptr));
            let key = shared_input(layer).map(|group| (group, needs));
            match key.as_ref().and_then(|key| by_input.get(key)) {
                Some(&at) => {
                    if let Item::Layers(layers, _) = &mut items.observed[at] {
                        layers.push(Arc::clone(layer));
                    }
                }
                None => {
                    by_input.extend(key.map(|key| (key, items.observed.len())));
                    let layers = vec![Arc::clone(layer)];
                    items.observed.push(Item::Layers(layers, needs));
                }
            }
        }
        let inputs: HashMap<*const Slot, &Arc<Layer>> = model
            .layers()
            .iter()
            .map(|layer| (Arc::as_ptr(layer.input_slot()), layer))
            .collect();
        let mut by_group: HashMap<String, Vec<usize>> = HashMap::new();
        for slot in model.slots() {
            let is_done =
                slot.packed().is_some() || treated_with_layer.contains(&Arc::as_ptr(slot));
            if is_done || !config.concerns(slot.owner()) {
                continue;
            }
            let needs = algorithm.slot_needs(slot);
            if needs == SlotNeeds::Nothing {
                continue;
            }
            if slot.role() == Role::Weight {
                items.weights.push(Arc::clone(slot));
                continue;
            }
            let group = inputs
                .get(&Arc::as_ptr(slot))
                .and_then(|layer| shared_input(layer));
            let shared = group.iter().flat_map(|group| by_group.get(group)).flatten();
            let equal = |at: &usize| match &items.observed[*at] {
                Item::Slots(slots, other) => *other == needs && slots[0].state() == slot.state(),
                Item::Layers(..) => false,
            };
            match shared.copied().find(equal) {
                Some(at) => {
                    if let Item::Slots(slots, _) = &mut items.observed[at] {
                        slots.push(Arc::clone(slot));
                    }
                }
                None => {
                    if let Some(group) = group {
                        by_group
                            .entry(group)
                            .or_default()
                            .push(items.observed.len());
                    }
                    let slots = vec![Arc::clone(slot)];
                    items.observed.push(Item::Slots(slots, needs));
                }
            }
        }
        Ok(items)
    }
}

/// The name of the activation a layer reads, if others may read it too. A quantizer that scales or rotates
/// first sees something of its own.
fn shared_input(layer: &Layer) -> Option<String> {
    let state = layer.input_slot().state();
    let changes = state.members().iter().any(|q| q.changes_input());
    layer.shared_input().filter(|_| !changes)
}
