//! Which quantizers a wildcard verb means, and the verbs that need nothing but that.

use std::cell::RefCell;
use std::sync::Arc;

use super::amax::Amax;
use super::quantizer::{Quantizer, SlotState};
use super::registry::Model;
use super::slot::Slot;
use crate::config::Pattern;
use crate::error::{Error, Result};

/// A filter of the host's: whether it wants the quantizer of that name.
pub type Filter<'a> = &'a mut dyn FnMut(&str) -> Result<bool>;

/// Chooses quantizers by their dotted name.
pub enum Selector<'a> {
    /// Python's fnmatch.
    Wildcard(Pattern),
    /// A filter of the host's.
    Filter(RefCell<Filter<'a>>),
}

impl<'a> Selector<'a> {
    /// A wildcard over whole names.
    pub fn wildcard(glob: &str) -> Result<Self> {
        Ok(Self::Wildcard(Pattern::new(glob)?))
    }

    /// A filter, called once for each name.
    pub fn filter(filter: Filter<'a>) -> Self {
        Self::Filter(RefCell::new(filter))
    }

    fn selects(&self, name: &str) -> Result<bool> {
        match self {
            Self::Wildcard(pattern) => Ok(pattern.matches_quantizer(name)),
            Self::Filter(filter) => (filter.borrow_mut())(name),
        }
    }
}

/// A quantizer that was selected: a slot with all it holds, or one member of a sequential one.
pub struct Target {
    /// The slot.
    pub slot: Arc<Slot>,
    /// The member; None: all of the slot.
    pub member: Option<usize>,
}

impl Model {
    /// Runs a verb on the quantizers that `select` chooses, all or nothing.
    pub fn matching(
        &mut self,
        select: &Selector,
        allow_none: bool,
        verb: impl FnOnce(&mut Self, &[Target]) -> Result<usize>,
    ) -> Result<usize> {
        self.check_quantized()?;
        let targets = self.targets(|_, name| select.selects(name))?;
        if targets.is_empty() && !allow_none {
            let what = match select {
                Selector::Wildcard(pattern) => format!("`{}` matches", pattern.as_str()),
                Selector::Filter(_) => "the filter selects".to_owned(),
            };
            let example = self.slots().first().map_or(String::new(), |slot| {
                format!(", whose names are like `{}`", slot.name())
            });
            return Err(Error::NotFound(format!(
                "{what} none of the {} quantizers{example}; pass MQ_ALLOW_NO_MATCH if that is fine",
                self.slots().len()
            )));
        }
        for target in &targets {
            target.slot.check_not_packed()?;
        }
        self.transaction(|model| verb(model, &targets))
    }

    /// The slots whose name is selected, and the selected members of those whose name is not.
    pub(super) fn targets(
        &self,
        selects: impl FnMut(&Slot, &str) -> Result<bool>,
    ) -> Result<Vec<Target>> {
        Self::targets_named(self.slots().iter().map(|slot| (slot, slot.name())), selects)
    }

    /// The same of some slots, under names of the caller's.
    pub(super) fn targets_named<'a>(
        named: impl Iterator<Item = (&'a Arc<Slot>, &'a str)>,
        mut selects: impl FnMut(&Slot, &str) -> Result<bool>,
    ) -> Result<Vec<Target>> {
        let mut targets = Vec::new();
        for (slot, name) in named {
            if selects(slot, name)? {
                targets.push(Target {
                    slot: Arc::clone(slot),
                    member: None,
                });
            } else if let SlotState::Sequential(members) = &*slot.state() {
                for member in 0..members.len() {
                    if selects(slot, &format!("{name}.{member}"))? {
                        targets.push(Target {
                            slot: Arc::clone(slot),
                            member: Some(member),
                        });
                    }
                }
            }
        }
        Ok(targets)
    }

    /// Switches quantizers on or off; an embedding's input stays off.
    pub fn set_enabled(&mut self, targets: &[Target], enabled: bool) -> Result<usize> {
        for target in targets {
            let enabled = enabled && !target.slot.is_locked();
            // What is switched off by hand stops rotating too, as in the reference.
            self.change(&target.slot, target.member, |q| match enabled {
                true => q.switched(true),
                false => q.switched(false).without_rotation(),
            });
        }
        Ok(targets.len())
    }

    /// Forgets amax and collected statistics.
    pub fn reset_amax(&mut self, targets: &[Target]) -> Result<usize> {
        for target in targets {
            self.change(&target.slot, target.member, Quantizer::reset);
        }
        Ok(targets.len())
    }

    /// Lets `process` change the amax of the targets that have one; returns how many do.
    pub fn postprocess_amax(
        &mut self,
        targets: &[Target],
        allow_none: bool,
        process: &mut dyn FnMut(&str, &mut [f32]) -> Result<()>,
    ) -> Result<usize> {
        let mut changed = 0;
        for target in targets {
            let members = target.slot.members(target.member)?;
            let sequential = matches!(*target.slot.state(), SlotState::Sequential(_));
            for (i, quantizer) in members.iter().enumerate() {
                let Some(amax) = &quantizer.amax else {
                    continue;
                };
                let member = target.member.or(sequential.then_some(i));
                let name = target.slot.member_name(member);
                let mut values = amax.values().to_vec();
                process(&name, &mut values)?;
                let amax = Amax::new(values, amax.shape());
                amax.check(&name)?;
                self.change(&target.slot, member, |q| Quantizer {
                    amax: Some(amax.clone()),
                    record: q.record_without_error(),
                    ..q.clone()
                });
                changed += 1;
            }
        }
        if changed == 0 && !targets.is_empty() && !allow_none {
            return Err(Error::NotFound(format!(
                "none of the {} quantizers that match has an amax; calibrate first, or pass MQ_ALLOW_NO_MATCH if that is fine",
                targets.len()
            )));
        }
        Ok(changed)
    }
}
