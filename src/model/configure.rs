//! Applies the entries of a configuration to the quantizers, in order, later ones winning.

use std::collections::HashMap;
use std::sync::Arc;

use super::granularity::Granularity;
use super::layer::Layer;
use super::quantizer::{Quantizer, SlotState};
use super::registry::Model;
use super::select::Target;
use super::slot::Slot;
use crate::config::{Attributes, Cfg, Entry, QuantizeConfig, hint};
use crate::error::{Error, Result};

/// Classes of the reference that a configuration may name although no registered layer has them.
const KNOWN_CLASSES: [&str; 29] = [
    "nn.Linear",
    "nn.Conv1d",
    "nn.Conv2d",
    "nn.Conv3d",
    "nn.ConvTranspose1d",
    "nn.ConvTranspose2d",
    "nn.ConvTranspose3d",
    "nn.Embedding",
    "nn.LayerNorm",
    "nn.LeakyReLU",
    "nn.BatchNorm1d",
    "nn.BatchNorm2d",
    "nn.BatchNorm3d",
    "nn.InstanceNorm1d",
    "nn.InstanceNorm2d",
    "nn.InstanceNorm3d",
    "nn.MaxPool1d",
    "nn.MaxPool2d",
    "nn.MaxPool3d",
    "nn.AvgPool1d",
    "nn.AvgPool2d",
    "nn.AvgPool3d",
    "nn.AdaptiveAvgPool1d",
    "nn.AdaptiveAvgPool2d",
    "nn.AdaptiveAvgPool3d",
    "nn.RNN",
    "nn.LSTM",
    "nn.GRU",
    "nn.RMSNorm",
];

impl Model {
    /// Applies a configuration to the quantizers. On failure the caller restores a snapshot.
    pub fn configure(&mut self, config: &QuantizeConfig) -> Result<()> {
        if self.slots().is_empty() {
            return Err(Error::InvalidArgument(
                "the model has no quantizers; register layers first".into(),
            ));
        }
        let (mut enabling, mut reached) = (Vec::new(), 0);
        for entry in &config.entries {
            let targets = self.entry_targets(entry)?;
            self.apply_entry(entry, &targets)?;
            if targets.is_empty() && config.preset.is_none() {
                self.context().warn(&format!(
                    "{} `{}` matches no quantizer",
                    entry.path,
                    entry.pattern.as_str()
                ));
            }
            if entry.enable {
                enabling.push(entry);
                reached += targets.len();
            }
        }
        if !enabling.is_empty() && reached == 0 {
            let names: Vec<_> = enabling
                .iter()
                .map(|entry| format!("{} `{}`", entry.path, entry.pattern.as_str()))
                .collect();
            return Err(Error::Config(format!(
                "no enabling entry matches any of the {} quantizers (named like `{}`): {}",
                self.slots().len(),
                self.slots()[0].name(),
                names.join(", ")
            )));
        }
        self.check_packable()?;
        self.check_weights_fit()?;
        self.check_weights_took_effect(config)
    }

    /// Refuses axes and blocks that a weight does not have.
    pub(crate) fn check_weights_fit(&self) -> Result<()> {
        for slot in self.slots() {
            let (Some(weight), state) = (slot.weight(), slot.state()) else {
                continue;
            };
            for quantizer in state.members().iter().filter(|q| q.enabled) {
                Granularity::new(&quantizer.attributes, weight.shape())
                    .map_err(|text| Error::Config(format!("`{}`: {text}", slot.name())))?;
            }
        }
        Ok(())
    }

    /// Applies a configuration to the quantizers of one layer, which it knows by their bare names:
    /// `weight_quantizer`, whatever the layer is called. On failure the caller restores a snapshot.
    pub(crate) fn configure_layer(&mut self, layer: &Layer, config: &QuantizeConfig) -> Result<()> {
        for entry in &config.entries {
            self.check_class(entry)?;
            let named = layer.slots().map(|slot| (slot, slot.bare_name()));
            let targets = Self::targets_named(named, |slot, name| Ok(reaches(entry, slot, name)))?;
            self.apply_entry(entry, &targets)?;
        }
        Ok(())
    }

    fn entry_targets(&self, entry: &Entry) -> Result<Vec<Target>> {
        self.check_class(entry)?;
        self.targets(|slot, name| Ok(reaches(entry, slot, name)))
    }

    fn check_class(&self, entry: &Entry) -> Result<()> {
        if let Some(class) = &entry.parent_class {
            let registered = self.slots().iter().filter_map(|slot| slot.class_name());
            let known: Vec<&str> = KNOWN_CLASSES.iter().copied().chain(registered).collect();
            if !known.contains(&class.as_str()) {
                return Err(Error::Config(format!(
                    "{}: parent_class {class:?} is neither a known class nor that of a registered layer{}",
                    entry.path,
                    hint(class, &known)
                )));
            }
        }
        Ok(())
    }

    fn apply_entry(&self, entry: &Entry, targets: &[Target]) -> Result<()> {
        for target in targets {
            target.slot.check_not_packed()?;
            match &entry.cfg {
                None => {
                    let enabled = entry.enable && !target.slot.is_locked();
                    self.change(&target.slot, target.member, |q| q.switched(enabled));
                }
                Some(cfg) => self.replace_attributes(target, cfg, &entry.cfg_path)?,
            }
        }
        Ok(())
    }

    /// Gives a target new attributes, all of them; `path` says where they stand.
    pub(super) fn replace_attributes(&self, target: &Target, cfg: &Cfg, path: &str) -> Result<()> {
        let locked = target.slot.is_locked();
        let unlocked = |attributes: &Attributes| Attributes {
            enable: attributes.enable && !locked,
            ..attributes.clone()
        };
        match (cfg, target.member) {
            (Cfg::One(attributes), Some(_)) => {
                let attributes = unlocked(attributes);
                self.change(&target.slot, target.member, |q| {
                    q.with_attributes(attributes.clone())
                });
            }
            (Cfg::One(attributes), None) => {
                let attributes = unlocked(attributes);
                let one = match &*target.slot.state() {
                    SlotState::Single(one) => one.with_attributes(attributes),
                    // The reference builds a fresh one in place of the container.
                    SlotState::Sequential(_) => Quantizer::new(attributes),
                };
                target
                    .slot
                    .replace(Arc::new(SlotState::Single(Arc::new(one))));
            }
            (Cfg::Sequential(_), Some(_)) => {
                return Err(Error::Config(format!(
                    "{path}: `{}` is a member of a sequential quantizer and cannot become a sequence itself",
                    target.slot.member_name(target.member)
                )));
            }
            (Cfg::Sequential(list), None) => {
                let state = target.slot.state();
                let members = list.iter().enumerate().map(|(i, attributes)| {
                    let attributes = unlocked(attributes);
                    Arc::new(match &*state {
                        SlotState::Sequential(old) if i < old.len() => {
                            old[i].with_attributes(attributes)
                        }
                        _ => Quantizer::new(attributes),
                    })
                });
                let members = SlotState::Sequential(members.collect());
                target.slot.replace(Arc::new(members));
            }
        }
        Ok(())
    }

    /// A configuration that asks for quantized weights must leave one weight quantizer enabled.
    fn check_weights_took_effect(&self, config: &QuantizeConfig) -> Result<()> {
        const WEIGHT: &str = "weight_quantizer";
        let mut last: HashMap<(&str, Option<&str>), &Entry> = HashMap::new();
        for entry in &config.entries {
            last.insert(
                (entry.pattern.as_str(), entry.parent_class.as_deref()),
                entry,
            );
        }
        let asks = |entry: &&Entry| {
            let pattern = &entry.pattern;
            entry.enable && (pattern.as_str().contains(WEIGHT) || pattern.matches(WEIGHT))
        };
        let Some(entry) = config.entries.iter().find(|entry| {
            let key = (entry.pattern.as_str(), entry.parent_class.as_deref());
            asks(entry) && last.get(&key).is_some_and(asks)
        }) else {
            return Ok(());
        };
        // A model of nothing but quantizers of the host's own has no weights to ask for.
        let mut weights = self
            .slots()
            .iter()
            .filter(|slot| slot.name().contains(WEIGHT))
            .peekable();
        if weights.peek().is_none() {
            return Ok(());
        }
        let enabled = weights.filter(|slot| slot.state().is_enabled());
        match enabled.count() {
            0 => Err(Error::Config(format!(
                "{} `{}` asks for weight quantization but no weight quantizer is enabled: later entries switch them off, or the names differ",
                entry.path,
                entry.pattern.as_str()
            ))),
            _ => Ok(()),
        }
    }
}

/// Whether an entry means a slot that goes by `name`.
fn reaches(entry: &Entry, slot: &Slot, name: &str) -> bool {
    let class = entry.parent_class.as_deref();
    let in_class = class.is_none_or(|class| slot.class_name() == Some(class));
    in_class && entry.pattern.matches_quantizer(name)
}
