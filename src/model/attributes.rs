//! Changes attributes of selected quantizers, in part or as a whole.

use std::sync::Arc;

use serde_json::Value;

use super::quantizer::SlotState;
use super::registry::Model;
use super::select::Target;
use crate::config::{Attributes, Cfg, JsonPath, support};
use crate::error::{Error, Result};

/// What the JSON text is called in messages.
const ROOT: &str = "attributes";

/// Reads a JSON text; `what` it is goes into the message.
pub(super) fn parse_json(text: &str, what: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|e| Error::Config(format!("{what} are not valid JSON: {e}")))
}

/// An attribute object, or a list of them, as a whole.
pub(super) fn parse_cfg(text: &str) -> Result<Cfg> {
    let at = JsonPath::root(ROOT);
    let cfg = match parse_json(text, ROOT)? {
        Value::Array(list) if list.is_empty() => {
            return Err(Error::Config(format!("{ROOT}: the list is empty")));
        }
        Value::Array(list) => {
            let member = |(i, value)| Attributes::from_json(value, &at.index(i));
            let members: Result<Vec<_>> = list.iter().enumerate().map(member).collect();
            Cfg::Sequential(members?)
        }
        value => Cfg::One(Box::new(Attributes::from_json(&value, &at)?)),
    };
    let all = match &cfg {
        Cfg::One(one) => std::slice::from_ref(&**one),
        Cfg::Sequential(members) => members,
    };
    for attributes in all {
        support::check_attributes(attributes, &at)?;
    }
    Ok(cfg)
}

impl Model {
    /// Changes the attributes of the targets; `replace` sets what is not given to its default.
    pub fn set_attributes(
        &mut self,
        targets: &[Target],
        attributes: &str,
        replace: bool,
    ) -> Result<usize> {
        if replace {
            let cfg = parse_cfg(attributes)?;
            for target in targets {
                self.replace_attributes(target, &cfg, ROOT)?;
            }
        } else {
            let update = parse_json(attributes, ROOT)?;
            for target in targets {
                merge(target, &update)?;
            }
        }
        self.check_packable()?;
        self.check_weights_fit()?;
        Ok(targets.len())
    }
}

fn merge(target: &Target, update: &Value) -> Result<()> {
    let at = JsonPath::root(ROOT);
    let state = target.slot.state();
    if let (Value::Array(list), SlotState::Sequential(members), None) =
        (update, &*state, target.member)
        && list.len() != members.len()
    {
        return Err(Error::Config(format!(
            "{ROOT}: a list of {} for `{}`, which has {} members",
            list.len(),
            target.slot.name(),
            members.len()
        )));
    }
    if update.is_array() && (target.member.is_some() || matches!(*state, SlotState::Single(_))) {
        return Err(Error::Config(format!(
            "{ROOT}: Attributes is a list but `{}` is not a sequential quantizer; give an object, or replace its attributes",
            target.slot.member_name(target.member)
        )));
    }
    let mut members = Vec::with_capacity(state.members().len());
    for (i, quantizer) in state.members().iter().enumerate() {
        if target.member.is_some_and(|member| member != i) {
            members.push(Arc::clone(quantizer));
            continue;
        }
        let merged = match update {
            Value::Array(list) => quantizer.attributes.merged(&list[i], &at.index(i))?,
            update => quantizer.attributes.merged(update, &at)?,
        };
        support::check_attributes(&merged, &at)?;
        let merged = Attributes {
            enable: merged.enable && !target.slot.is_locked(),
            ..merged
        };
        members.push(Arc::new(quantizer.with_attributes(merged)));
    }
    let changed = match &*state {
        SlotState::Sequential(_) => SlotState::Sequential(members),
        SlotState::Single(_) => match members.pop() {
            Some(one) => SlotState::Single(one),
            None => return Ok(()),
        },
    };
    target.slot.replace(Arc::new(changed));
    Ok(())
}
