//! The whole configuration of `quantize`: a preset's name, or an object in one of two shapes.

use serde_json::Value;

use super::algorithm::Algorithm;
use super::attributes::effective_bits;
use super::entry::{self, Entry};
use super::path::JsonPath;
use super::presets;
use super::read::{invalid, object, optional, shown, unknown};
use crate::error::{Error, Result};

const KEYS: &[&str] = &["quant_cfg", "algorithm", "effective_bits"];

/// How `quant_cfg` was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// An ordered list of entries.
    List,
    /// A dictionary from pattern to attributes.
    Dict,
}

/// A configuration, checked and in the order in which its entries take effect: later ones win.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizeConfig {
    /// The preset it came from.
    pub preset: Option<String>,
    /// How it was written.
    pub shape: Shape,
    /// What to do to which quantizers.
    pub entries: Vec<Entry>,
    /// What to run afterwards, in this order. Empty: no calibration.
    pub algorithm: Vec<Algorithm>,
    /// What one element of the whole model costs in `auto_quantize`.
    pub effective_bits: Option<f64>,
}

impl QuantizeConfig {
    /// Reads a preset's name, bare or as a JSON string, or a JSON object.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let is_name = |text: &str| {
            text.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
        };
        if text.is_empty() {
            let text = "the configuration is empty; expected the name of a preset or a JSON object";
            return Err(Error::Config(text.into()));
        }
        if is_name(text) {
            return Self::preset(text);
        }
        Self::from_value(&json(text)?)
    }

    /// Reads a preset's name or an object that is already parsed.
    pub fn from_value(value: &Value) -> Result<Self> {
        match value {
            Value::String(name) => Self::preset(name.trim()),
            _ => Self::from_object(value),
        }
    }

    fn preset(name: &str) -> Result<Self> {
        let read = Self::from_object(presets::find(name)?)?;
        Ok(Self {
            preset: Some(name.to_owned()),
            ..read
        })
    }

    fn from_object(value: &Value) -> Result<Self> {
        let top = &JsonPath::root("");
        let map = object(
            value,
            "the name of a preset or an object with \"quant_cfg\"",
            top,
        )?;
        if let Some(key) = map.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(unknown("key", key, KEYS, top));
        }
        let at = &top.key("quant_cfg");
        let (shape, entries) = match map.get("quant_cfg") {
            Some(Value::Array(items)) => (Shape::List, entry::from_list(items, at)?),
            Some(Value::Object(patterns)) => (Shape::Dict, entry::from_dictionary(patterns, at)?),
            Some(other) => {
                let text = "quant_cfg must be a sequence of entries (or a legacy flat mapping)";
                return Err(invalid(at, format_args!("{text}, got {}", shown(other))));
            }
            None => {
                let every_int8 = serde_json::json!([{"quantizer_name": "*", "cfg": {"num_bits": 8, "axis": null}}]);
                let items = every_int8.as_array().map(Vec::as_slice).unwrap_or_default();
                (Shape::List, entry::from_list(items, at)?)
            }
        };
        // The reference's schema says "max", but its `quantize` asks the plain mapping, where an
        // absent key is no calibration.
        let algorithm = Algorithm::parse(
            map.get("algorithm").unwrap_or(&Value::Null),
            &top.key("algorithm"),
        )?;
        let bits = map.get("effective_bits").unwrap_or(&Value::Null);
        let effective_bits = optional(bits, &top.key("effective_bits"), effective_bits)?;
        Ok(Self {
            preset: None,
            shape,
            entries,
            algorithm,
            effective_bits,
        })
    }
}

/// Parses JSON; a syntax error says where.
pub(super) fn json(text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|error| {
        // The printed form of a Python dictionary is the usual mistake.
        let python = ["{'", "True", "False", "None"]
            .iter()
            .any(|mark| text.contains(mark));
        let remedy = if python {
            "; Python's json.dumps() writes JSON"
        } else {
            ""
        };
        Error::Config(format!("not valid JSON: {error}{remedy}"))
    })
}
