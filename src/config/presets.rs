//! The named configurations of both versions of the reference, as data.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::read::{hint, quoted};
use crate::error::{Error, Result};

/// Reference 0.47: the ordered list shape.
static V0_47: LazyLock<Map<String, Value>> =
    LazyLock::new(|| embedded(include_str!("presets/v0_47.json")));

/// Reference 0.21: the dictionary shape.
pub(super) static V0_21: LazyLock<Map<String, Value>> =
    LazyLock::new(|| embedded(include_str!("presets/v0_21.json")));

fn embedded(text: &str) -> Map<String, Value> {
    // The text is part of the library and a test reads it.
    serde_json::from_str(text).expect("the presets are valid JSON")
}

/// Every name: those of 0.47 in alphabetical order, then those that only 0.21 has.
pub fn names() -> impl Iterator<Item = &'static str> {
    let older = V0_21.keys().filter(|name| !V0_47.contains_key(*name));
    V0_47.keys().chain(older).map(String::as_str)
}

/// The configuration of that name as JSON. A name that both versions have is the newer one.
pub fn json(name: &str) -> Option<String> {
    value(name).map(Value::to_string)
}

fn value(name: &str) -> Option<&'static Value> {
    V0_47.get(name).or_else(|| V0_21.get(name))
}

/// The configuration of that name, or an error with the nearest name.
pub(crate) fn find(name: &str) -> Result<&'static Value> {
    value(name).ok_or_else(|| {
        let known: Vec<&str> = names().collect();
        let hint = match hint(name, &known) {
            none if none.is_empty() => {
                "; presets have the reference's names, such as INT8_DEFAULT_CFG".into()
            }
            hint => hint,
        };
        Error::Config(format!("unknown preset {}{hint}", quoted(name)))
    })
}
