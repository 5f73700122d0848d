//! One entry of `quant_cfg`: which quantizers it reaches and what it does to them, in every shape
//! the reference accepts.

use serde_json::{Map, Value};

use super::attributes::Attributes;
use super::path::JsonPath;
use super::pattern::Pattern;
use super::read::{boolean, hint, invalid, object, optional, shown, string, unknown};
use crate::error::Result;

/// Keys of an entry in the list shape.
const KEYS: &[&str] = &["quantizer_name", "parent_class", "cfg", "enable"];

/// What an entry puts in place of a quantizer's attributes.
#[derive(Debug, Clone, PartialEq)]
pub enum Cfg {
    /// One quantizer.
    One(Box<Attributes>),
    /// Quantizers applied one after the other; never empty.
    Sequential(Vec<Attributes>),
}

/// One entry of `quant_cfg`.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Which quantizers, by their full name.
    pub pattern: Pattern,
    /// Only quantizers whose parent module has this class, such as `nn.Linear`.
    pub parent_class: Option<String>,
    /// The new attributes, all of them; `None` keeps what is there and only switches on or off.
    pub cfg: Option<Cfg>,
    /// On or off. `cfg` says the same in its own `enable`; only the members of a sequence in the
    /// dictionary shape may differ, and this is then whether any of them is on.
    pub enable: bool,
    /// Where the entry stands, for messages.
    pub path: String,
    /// Where its `cfg` stands, for messages.
    pub cfg_path: String,
}

/// The list shape. An item may also be a dictionary entry of its own, as in `{"*": {...}}`.
pub(super) fn from_list(items: &[Value], at: &JsonPath) -> Result<Vec<Entry>> {
    let mut entries = Vec::with_capacity(items.len());
    for (i, item) in items.iter().enumerate() {
        let at = &at.index(i);
        let what = "an entry such as {\"quantizer_name\": \"*\", \"enable\": false}";
        let map = object(item, what, at)?;
        if map.contains_key("quantizer_name") {
            entries.push(explicit(map, at)?);
        } else if is_dictionary(map) {
            map.iter()
                .try_for_each(|(key, value)| keyed(key, value, at, &mut entries))?;
        } else {
            let near = map
                .keys()
                .find(|key| !KEYS.contains(&key.as_str()))
                .map(|key| hint(key, KEYS));
            let text = format!(
                "Invalid quant_cfg entry: quantizer_name is missing in {}",
                shown(item)
            );
            return Err(invalid(at, text + &near.unwrap_or_default()));
        }
    }
    Ok(entries)
}

/// The dictionary shape. `default` comes first wherever it stands, as in reference 0.21: presets
/// of that time end with it, and would otherwise switch everything off.
pub(super) fn from_dictionary(map: &Map<String, Value>, at: &JsonPath) -> Result<Vec<Entry>> {
    let mut entries = Vec::with_capacity(map.len());
    let (first, rest): (Vec<_>, Vec<_>) = map.iter().partition(|(key, _)| *key == "default");
    first
        .into_iter()
        .chain(rest)
        .try_for_each(|(key, value)| keyed(key, value, at, &mut entries))?;
    Ok(entries)
}

/// Whether an item of the list is written as the dictionary shape writes it.
fn is_dictionary(map: &Map<String, Value>) -> bool {
    let scoped = map.keys().any(|key| key.starts_with("nn."));
    let single = map.len() == 1 && !map.keys().any(|key| KEYS.contains(&key.as_str()));
    // {"quantiser_name": "*"} is a slip of the pen, not a pattern.
    scoped || (single && !map.values().any(Value::is_string))
}

/// `{"quantizer_name": ..., "parent_class": ..., "cfg": ..., "enable": ...}`.
fn explicit(map: &Map<String, Value>, at: &JsonPath) -> Result<Entry> {
    if let Some(key) = map.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(unknown("key of an entry", key, KEYS, at));
    }
    let null = Value::Null;
    let get = |key| map.get(key).unwrap_or(&null);
    let name = string(get("quantizer_name"), &at.key("quantizer_name"))?;
    let read_class = |value: &Value, at: &JsonPath| string(value, at).map(str::to_owned);
    let parent_class = optional(get("parent_class"), &at.key("parent_class"), read_class)?;
    if !map.contains_key("cfg") && !map.contains_key("enable") {
        let text =
            "QuantizerCfgEntry must specify 'cfg', 'enable', or both; this one has no effect";
        return Err(invalid(at, text));
    }
    let enable = match map.get("enable") {
        Some(value) => boolean(value, &at.key("enable"))?,
        None => true,
    };
    let cfg_at = &at.key("cfg");
    let cfg = get("cfg");
    let cfg = match cfg {
        Value::Null => None,
        // Replacing all attributes by their defaults is not what {} with "off" can mean.
        _ if is_empty(cfg) && !enable => None,
        _ => Some(attributes(cfg, Some(enable), cfg_at)?),
    };
    Ok(Entry {
        pattern: pattern(name, at)?,
        parent_class,
        cfg,
        enable,
        path: at.to_string(),
        cfg_path: cfg_at.to_string(),
    })
}

/// One key of the dictionary shape with its value.
fn keyed(key: &str, value: &Value, at: &JsonPath, entries: &mut Vec<Entry>) -> Result<()> {
    let at = &at.key(key);
    if !key.starts_with("nn.") {
        entries.push(implicit(key, None, value, at)?);
        return Ok(());
    }
    let text = "For 'nn.*' scoped format, value must be a mapping of patterns, such as {\"*\": {\"enable\": false}}";
    let scoped = value
        .as_object()
        .ok_or_else(|| invalid(at, format_args!("{text}, got {}", shown(value))))?;
    for (name, value) in scoped {
        if !value.is_object() && !value.is_array() {
            return Err(invalid(
                at,
                format_args!("{text}, got {}", shown(&Value::Object(scoped.clone()))),
            ));
        }
        entries.push(implicit(name, Some(key), value, &at.key(name))?);
    }
    Ok(())
}

/// An entry whose `enable` stands among the attributes.
fn implicit(name: &str, parent_class: Option<&str>, value: &Value, at: &JsonPath) -> Result<Entry> {
    let (cfg, enable) = match value {
        Value::Object(map) if !map.is_empty() => {
            let enable = match map.get("enable") {
                Some(enable) => boolean(enable, &at.key("enable"))?,
                None => true,
            };
            let mut rest = map.clone();
            rest.shift_remove("enable");
            let cfg = match rest.is_empty() {
                true => None,
                false => Some(attributes(&Value::Object(rest), Some(enable), at)?),
            };
            (cfg, enable)
        }
        Value::Object(_) | Value::Array(_) => {
            let cfg = attributes(value, None, at)?;
            let enable = match &cfg {
                Cfg::One(only) => only.enable,
                Cfg::Sequential(members) => members.iter().any(|member| member.enable),
            };
            (Some(cfg), enable)
        }
        _ => {
            let text = "expected attributes, a list of them, or {\"enable\": false}";
            return Err(invalid(at, format_args!("{text}, got {}", shown(value))));
        }
    };
    Ok(Entry {
        pattern: pattern(if name == "default" { "*" } else { name }, at)?,
        parent_class: parent_class.map(str::to_owned),
        cfg,
        enable,
        path: at.to_string(),
        cfg_path: at.to_string(),
    })
}

/// Reads one set of attributes or a list of them. `enable` is what the entry itself says; it is
/// put into every set, and a set must not say the opposite.
fn attributes(value: &Value, enable: Option<bool>, at: &JsonPath) -> Result<Cfg> {
    if is_empty(value) {
        let text = "'cfg' must specify at least one quantizer attribute; write \"enable\" alone to keep the \
                    attributes there are";
        return Err(invalid(at, format_args!("{text}, got {}", shown(value))));
    }
    let read = |value: &Value, at: &JsonPath| {
        let mut read = Attributes::from_json(value, at)?;
        if let Some(enable) = enable {
            // The reference lets the entry win in silence, and so switches on what says it is off.
            if value
                .get("enable")
                .is_some_and(|own| own.as_bool() != Some(enable))
            {
                let text = format!(
                    "\"enable\" is {} in cfg but {enable} for the entry",
                    read.enable
                );
                return Err(invalid(
                    at,
                    text + " (true when not given); set it on the entry alone",
                ));
            }
            read.enable = enable;
        }
        Ok(read)
    };
    match value {
        Value::Array(items) => {
            let members = items
                .iter()
                .enumerate()
                .map(|(i, item)| read(item, &at.index(i)));
            Ok(Cfg::Sequential(members.collect::<Result<_>>()?))
        }
        _ => Ok(Cfg::One(Box::new(read(value, at)?))),
    }
}

/// `{}`, `[]` or a list of nothing but `{}`.
fn is_empty(cfg: &Value) -> bool {
    let no_attributes = |value: &Value| value.as_object().is_some_and(Map::is_empty);
    match cfg {
        Value::Array(items) => items.iter().all(no_attributes),
        _ => no_attributes(cfg),
    }
}

fn pattern(name: &str, at: &JsonPath) -> Result<Pattern> {
    if name.is_empty() {
        return Err(invalid(
            at,
            "quantizer_name is empty; \"*\" matches every quantizer",
        ));
    }
    Pattern::new(name)
}
