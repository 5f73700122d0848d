//! The two attributes that are a number or a tuple: `num_bits` and `axis`.

use std::fmt;

use serde_json::{Value, json};

use super::path::JsonPath;
use super::read::{invalid, shown};
use crate::error::{Error, Result};

/// Bits of a quantized value, or of a block's scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NumBits {
    /// An integer of so many bits, the sign included.
    Int(u32),
    /// A floating-point number `(E, M)`; the sign bit is not counted.
    Float {
        /// Bits of the exponent.
        exponent: u32,
        /// Bits of the mantissa.
        mantissa: u32,
    },
}

impl NumBits {
    /// FP8 E4M3.
    pub const E4M3: Self = Self::float(4, 3);
    /// FP4 E2M1.
    pub const E2M1: Self = Self::float(2, 1);
    /// E8M0, the powers of two that scale MX blocks.
    pub const E8M0: Self = Self::float(8, 0);

    /// The format with `exponent` and `mantissa` bits.
    pub const fn float(exponent: u32, mantissa: u32) -> Self {
        Self::Float { exponent, mantissa }
    }

    /// Reads an integer or a pair. Which ones are formats is decided with the other attributes.
    pub(super) fn from_json(value: &Value, at: &JsonPath) -> Result<Self> {
        let small = |value: &Value| value.as_u64().and_then(|bits| u32::try_from(bits).ok());
        let read = match value {
            Value::String(_) => {
                return Err(Error::Unsupported(format!(
                    "{at}: {} is a name of a custom backend's format; write an integer or a pair such as [4, 3]",
                    shown(value)
                )));
            }
            Value::Array(pair) => match pair.as_slice() {
                [exponent, mantissa] => small(exponent)
                    .zip(small(mantissa))
                    .map(|(exponent, mantissa)| Self::Float { exponent, mantissa }),
                _ => None,
            },
            _ => small(value).map(Self::Int),
        };
        read.ok_or_else(|| not_positive(value, at))
    }

    /// Refuses the zeros that [`Self::from_json`] lets pass: a custom backend may want them.
    pub(super) fn require_positive(self, at: &JsonPath) -> Result<()> {
        match self {
            Self::Int(0) | Self::Float { exponent: 0, .. } | Self::Float { mantissa: 0, .. } => {
                Err(not_positive(&self.to_json(), at))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn to_json(self) -> Value {
        match self {
            Self::Int(bits) => json!(bits),
            Self::Float { exponent, mantissa } => json!([exponent, mantissa]),
        }
    }
}

fn not_positive(value: &Value, at: &JsonPath) -> Error {
    let key = at.last_key().unwrap_or("num_bits");
    let text = format!(
        "{key} must be a positive integer or a tuple of positive integers, got {}",
        shown(value)
    );
    invalid(at, text)
}

/// As Python prints it: `8`, `(4, 3)`.
impl fmt::Display for NumBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(bits) => write!(f, "{bits}"),
            Self::Float { exponent, mantissa } => write!(f, "({exponent}, {mantissa})"),
        }
    }
}

/// The dimensions that keep an amax of their own. Negative ones count from the last.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Axis {
    /// One dimension.
    One(i64),
    /// Several; never empty.
    Many(Vec<i64>),
}

impl Axis {
    pub(super) fn from_json(value: &Value, at: &JsonPath) -> Result<Self> {
        let wrong = |why: &str| {
            invalid(
                at,
                format_args!("axis must be an int, a list of ints or null, {why}"),
            )
        };
        if let Some(axis) = value.as_i64() {
            return Ok(Self::One(axis));
        }
        let items = value
            .as_array()
            .ok_or_else(|| wrong(&format!("got {}", shown(value))))?;
        let axes: Option<Vec<i64>> = items.iter().map(Value::as_i64).collect();
        let axes = axes.ok_or_else(|| wrong(&format!("got {}", shown(value))))?;
        if axes.is_empty() {
            return Err(wrong("got []; write null for one amax per tensor"));
        }
        match axes
            .iter()
            .enumerate()
            .find(|(i, axis)| axes[..*i].contains(axis))
        {
            Some((_, twice)) => Err(wrong(&format!("but {} names {twice} twice", shown(value)))),
            None => Ok(Self::Many(axes)),
        }
    }

    /// The dimensions, in the order they were written.
    pub fn dims(&self) -> &[i64] {
        match self {
            Self::One(axis) => std::slice::from_ref(axis),
            Self::Many(axes) => axes,
        }
    }

    pub(super) fn to_json(&self) -> Value {
        match self {
            Self::One(axis) => json!(axis),
            Self::Many(axes) => json!(axes),
        }
    }
}

/// As Python prints it: `0`, `(0, 1)`, `(0,)`.
impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(axis) => write!(f, "{axis}"),
            Self::Many(axes) => match axes.as_slice() {
                [only] => write!(f, "({only},)"),
                axes => {
                    let texts: Vec<String> = axes.iter().map(i64::to_string).collect();
                    write!(f, "({})", texts.join(", "))
                }
            },
        }
    }
}
