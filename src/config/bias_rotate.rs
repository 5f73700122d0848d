//! The two attributes that change a value before it is quantized: `bias` and `rotate`.

use serde_json::{Map, Value, json};

use super::attributes::QuantType;
use super::block_sizes::dimension;
use super::path::JsonPath;
use super::read::{
    boolean, invalid, named_enum, object, one_of, optional, positive, shown, unknown,
};
use crate::error::Result;

named_enum! {
    /// How a static bias is found.
    pub enum BiasMethod {
        /// The running mean.
        Mean = "mean",
        /// Halfway between the extremes.
        MaxMin = "max_min",
    }
}

/// A bias that is taken off before quantization and added again after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bias {
    /// The dimensions the bias is *reduced* over; never empty.
    pub axes: Vec<i64>,
    /// Calibrated, or computed at every call.
    pub quant_type: QuantType,
    /// How it is computed.
    pub method: BiasMethod,
}

impl Bias {
    pub(super) fn from_json(value: &Value, parent: &JsonPath) -> Result<Self> {
        let map = object(
            value,
            "a bias object such as {\"-2\": null, \"type\": \"static\"}",
            parent,
        )?;
        let mut bias = Self {
            axes: Vec::new(),
            quant_type: QuantType::Static,
            method: BiasMethod::Mean,
        };
        for (key, value) in map {
            let at = &parent.key(key);
            match (key.as_str(), dimension(key)) {
                ("type", _) => bias.quant_type = one_of(value, at, QuantType::ALL)?,
                ("method", _) => bias.method = one_of(value, at, BiasMethod::ALL)?,
                (_, Some(axis)) if value.is_null() || value.is_i64() => bias.axes.push(axis),
                (_, Some(_)) => {
                    return Err(invalid(
                        at,
                        format_args!("a dimension of bias takes null, got {}", shown(value)),
                    ));
                }
                (_, None) => {
                    let valid = &["type", "method", "-2 (a dimension)"];
                    return Err(unknown("key of bias", key, valid, parent));
                }
            }
        }
        if bias.axes.is_empty() {
            let text = "The axis for bias computation is not specified: add a dimension such as \"-2\": null, got";
            return Err(invalid(parent, format_args!("{text} {}", shown(value))));
        }
        Ok(bias)
    }

    pub(super) fn to_json(&self) -> Value {
        let mut map: Map<String, Value> = self
            .axes
            .iter()
            .map(|axis| (axis.to_string(), Value::Null))
            .collect();
        map.insert("type".into(), self.quant_type.name().into());
        map.insert("method".into(), self.method.name().into());
        Value::Object(map)
    }

    /// The dictionary as Python prints it: `{-2: None, 'type': 'static', 'method': 'mean'}`.
    pub fn python_repr(&self) -> String {
        let axes: String = self
            .axes
            .iter()
            .map(|axis| format!("{axis}: None, "))
            .collect();
        format!(
            "{{{axes}'type': '{}', 'method': '{}'}}",
            self.quant_type, self.method
        )
    }
}

named_enum! {
    /// Whether the rotation is undone after quantization.
    pub enum RotateMode {
        /// The result stays rotated.
        Rotate = "rotate",
        /// The result is rotated back.
        RotateBack = "rotate_back",
    }
}

/// A Hadamard rotation of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotate {
    /// Whether anything is rotated.
    pub enable: bool,
    /// Whether the rotation is undone.
    pub mode: RotateMode,
    /// Computed in float32 instead of the input's own type.
    pub rotate_fp32: bool,
    /// Length of the groups rotated together; `None` is the largest power of two that fits.
    pub block_size: Option<u64>,
}

impl Default for Rotate {
    fn default() -> Self {
        Self {
            enable: false,
            mode: RotateMode::Rotate,
            rotate_fp32: false,
            block_size: None,
        }
    }
}

impl Rotate {
    pub(super) fn from_json(value: &Value, parent: &JsonPath) -> Result<Self> {
        let mut rotate = Self::default();
        if let Some(enable) = value.as_bool() {
            return Ok(Self { enable, ..rotate });
        }
        for (key, value) in object(value, "true, false or a rotate object", parent)? {
            let at = &parent.key(key);
            match key.as_str() {
                "enable" => rotate.enable = boolean(value, at)?,
                "mode" => rotate.mode = one_of(value, at, RotateMode::ALL)?,
                "rotate_fp32" => rotate.rotate_fp32 = boolean(value, at)?,
                "block_size" => rotate.block_size = optional(value, at, positive)?,
                _ => {
                    let valid = &["enable", "mode", "rotate_fp32", "block_size"];
                    return Err(unknown("key of rotate", key, valid, parent));
                }
            }
        }
        Ok(rotate)
    }

    pub(super) fn to_json(self) -> Value {
        if self
            == (Self {
                enable: self.enable,
                ..Self::default()
            })
        {
            return self.enable.into();
        }
        json!({
            "enable": self.enable,
            "mode": self.mode.name(),
            "rotate_fp32": self.rotate_fp32,
            "block_size": self.block_size,
        })
    }
}
