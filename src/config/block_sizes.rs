//! `block_sizes`: which dimensions are cut into blocks of one scale each, and how the scales are stored.

use serde_json::{Map, Value};

use super::attributes::QuantType;
use super::num_bits::NumBits;
use super::path::JsonPath;
use super::read::{invalid, object, one_of, positive, shown, unknown};
use crate::error::Result;

/// The keys, for messages.
const KEYS: &[&str] = &[
    "type",
    "scale_bits",
    "scale_block_sizes",
    "four_over_six",
    "-1 (a dimension)",
];

/// The `block_sizes` attribute. Only [`BlockSizes::from_json`] makes one, so it is always valid.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockSizes {
    /// Dimension and block length, in the order written; `None` is the whole dimension. Never
    /// empty, and either all lengths are `None` or none is.
    pub blocks: Vec<(i64, Option<u64>)>,
    /// Whether the amax of a block is calibrated or computed from the data at hand.
    pub quant_type: QuantType,
    /// Bits of a block's scale; `None` keeps it in float32.
    pub scale_bits: Option<NumBits>,
    /// Blocks of the scales themselves (double quantization).
    pub scale_block_sizes: Option<Vec<(i64, u64)>>,
    /// NVFP4 with 4 or 6 as the code of the block's maximum.
    pub four_over_six: bool,
    /// As written, because the summary prints it as Python would print the dictionary.
    source: Map<String, Value>,
}

impl BlockSizes {
    /// Reads and checks the attribute.
    pub fn from_json(value: &Value, parent: &JsonPath) -> Result<Self> {
        let source = object(
            value,
            "a block_sizes object such as {\"-1\": 128, \"type\": \"static\"}",
            parent,
        )?;
        let mut read = Self {
            blocks: Vec::new(),
            quant_type: QuantType::Static,
            scale_bits: None,
            scale_block_sizes: None,
            four_over_six: false,
            source: source.clone(),
        };
        for (key, value) in source {
            let at = &parent.key(key);
            match key.as_str() {
                "type" => read.quant_type = one_of(value, at, QuantType::ALL)?,
                "scale_bits" if value.is_null() => {}
                "scale_bits" => read.scale_bits = Some(scale_bits(value, at)?),
                "scale_block_sizes" if value.is_null() => {}
                "scale_block_sizes" => read.scale_block_sizes = Some(scale_blocks(value, at)?),
                "four_over_six" => read.four_over_six = truth(value, at)?,
                _ => match dimension(key) {
                    Some(dim) if value.is_null() => read.blocks.push((dim, None)),
                    Some(dim) => read.blocks.push((dim, Some(block_length(value, at)?))),
                    None => return Err(unknown("key of block_sizes", key, KEYS, parent)),
                },
            }
        }
        read.check(value, parent)?;
        Ok(read)
    }

    fn check(&self, value: &Value, at: &JsonPath) -> Result<()> {
        let whole = self
            .blocks
            .iter()
            .filter(|(_, length)| length.is_none())
            .count();
        if self.blocks.is_empty() {
            return Err(invalid(
                at,
                format_args!(
                    "block_sizes needs a dimension such as \"-1\": 128, got {}",
                    shown(value)
                ),
            ));
        }
        if whole != 0 && whole != self.blocks.len() {
            return Err(invalid(
                at,
                format_args!(
                    "block_sizes cannot mix null (the whole dimension) and block lengths, got {}",
                    shown(value)
                ),
            ));
        }
        if self.quant_type == QuantType::Dynamic && self.blocks.len() != 1 {
            let text = "Dynamic block quantization only supports quantization last axis: name one dimension, not";
            return Err(invalid(at, format_args!("{text} {}", self.blocks.len())));
        }
        Ok(())
    }

    /// Whether every block is a whole dimension: then this is another way to write an axis, the
    /// dimensions *not* named keeping an amax of their own.
    pub fn spans_whole_dimensions(&self) -> bool {
        self.blocks.iter().all(|(_, length)| length.is_none())
    }

    /// As it was written.
    pub fn to_json(&self) -> Value {
        Value::Object(self.source.clone())
    }

    /// As Python prints the dictionary: `{-1: 128, 'type': 'static'}`.
    pub fn python_repr(&self) -> String {
        python_dict(&self.source)
    }
}

/// A dimension as a JSON key. `-1` is one, `+1` and `01` are not.
pub(super) fn dimension(key: &str) -> Option<i64> {
    key.parse::<i64>().ok().filter(|dim| dim.to_string() == key)
}

fn block_length(value: &Value, at: &JsonPath) -> Result<u64> {
    positive(value, at).map_err(|_| {
        invalid(
            at,
            format_args!(
                "a block length must be a positive int, or null for the whole dimension, got {}",
                shown(value)
            ),
        )
    })
}

fn scale_bits(value: &Value, at: &JsonPath) -> Result<NumBits> {
    let bits = NumBits::from_json(value, at)?;
    // A scale without mantissa is E8M0; nothing else may be zero.
    match bits {
        NumBits::Float {
            exponent: 1..,
            mantissa: 0,
        } => {}
        _ => bits.require_positive(at)?,
    }
    Ok(bits)
}

fn scale_blocks(value: &Value, at: &JsonPath) -> Result<Vec<(i64, u64)>> {
    let map = object(value, "an object such as {\"-1\": 256}", at)?;
    let mut blocks = Vec::with_capacity(map.len());
    for (key, value) in map {
        let at = &at.key(key);
        let dim = dimension(key).ok_or_else(|| {
            invalid(
                at,
                format_args!(
                    "scale_block_sizes has dimensions as keys, such as \"-1\", got {key:?}"
                ),
            )
        })?;
        blocks.push((dim, block_length(value, at)?));
    }
    if blocks.is_empty() {
        return Err(invalid(
            at,
            "scale_block_sizes needs a dimension such as \"-1\": 256",
        ));
    }
    Ok(blocks)
}

/// Python's truth of the values this key is given: presets write 1.
fn truth(value: &Value, at: &JsonPath) -> Result<bool> {
    match value {
        Value::Null => Ok(false),
        Value::Bool(flag) => Ok(*flag),
        Value::Number(number) if number.is_u64() || number.is_i64() => {
            Ok(number.as_i64() != Some(0))
        }
        _ => Err(invalid(
            at,
            format_args!(
                "four_over_six must be true, false, 1 or 0, got {}",
                shown(value)
            ),
        )),
    }
}

fn python_dict(map: &Map<String, Value>) -> String {
    let items: Vec<String> = map
        .iter()
        .map(|(key, value)| match dimension(key) {
            Some(dim) => format!("{dim}: {}", python_value(value)),
            None => format!("'{key}': {}", python_value(value)),
        })
        .collect();
    format!("{{{}}}", items.join(", "))
}

/// Covers what a valid `block_sizes` can hold: no floats, no strings that need escapes.
fn python_value(value: &Value) -> String {
    match value {
        Value::Null => "None".into(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("'{text}'"),
        Value::Array(items) => {
            let texts: Vec<String> = items.iter().map(python_value).collect();
            format!("({})", texts.join(", "))
        }
        Value::Object(map) => python_dict(map),
    }
}
