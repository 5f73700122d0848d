//! What this version cannot carry out yet, although it is valid configuration.
//!
//! Building a feature means deleting its line here.

use super::algorithm::{Algorithm, Method};
use super::attributes::{Attributes, Calibrator, QuantType};
use super::block_sizes::BlockSizes;
use super::entry::Cfg;
use super::num_bits::NumBits;
use super::path::JsonPath;
use super::quantize::QuantizeConfig;
use crate::error::{Error, Result};

/// What is there, for whoever asked for something else.
const BUILT: &str = "built are integers of 2 to 8 bits and FP8 (4, 3), per tensor, per axis or in static blocks, \
                     and the algorithm max";

/// Tells whether a set of attributes asks for something, and for what in words.
type Missing = fn(&Attributes) -> Option<String>;

/// One line for every feature of the attributes that is not built: its key and its test.
const MISSING: &[(&str, Missing)] = &[
    ("num_bits", |a| {
        scaled_format(a).map(|name| format!("{name} ({})", bits(a)))
    }),
    ("num_bits", |a| {
        when(!is_built(a.num_bits), || format!("num_bits {}", a.num_bits))
    }),
    ("block_sizes", |a| {
        when(scale_bits(a).is_some(), || {
            format!("double-quantized scales ({})", bits(a))
        })
    }),
    ("block_sizes", |a| {
        when(
            blocks(a).is_some_and(|b| b.scale_block_sizes.is_some()),
            || "scale_block_sizes".into(),
        )
    }),
    ("block_sizes", |a| {
        when(blocks(a).is_some_and(|b| b.four_over_six), || {
            "four_over_six".into()
        })
    }),
    ("block_sizes", |a| {
        when(has_dynamic_blocks(a), || {
            format!("dynamic blocks (num_bits {})", a.num_bits)
        })
    }),
    ("bias", |a| {
        when(a.bias.is_some(), || "bias (affine quantization)".into())
    }),
    ("rotate", |a| {
        when(a.rotate.enable, || "rotate (Hadamard rotation)".into())
    }),
    ("calibrator", |a| {
        when(a.calibrator == Calibrator::Histogram, || {
            "calibrator histogram".into()
        })
    }),
    ("fake_quant", |a| {
        when(!a.fake_quant, || {
            "fake_quant false (real quantization)".into()
        })
    }),
    ("backend", |a| {
        a.backend.as_ref().map(|name| format!("backend {name:?}"))
    }),
];

/// Whether this version can carry out the whole configuration.
pub fn check(config: &QuantizeConfig) -> Result<()> {
    check_entries(config).map_err(|error| match (&config.preset, error) {
        (Some(preset), Error::Unsupported(text)) => {
            Error::Unsupported(format!("preset {preset}: {text}"))
        }
        (_, error) => error,
    })
}

fn check_entries(config: &QuantizeConfig) -> Result<()> {
    for entry in &config.entries {
        let at = &JsonPath::root(&entry.cfg_path);
        match &entry.cfg {
            None => {}
            Some(Cfg::One(attributes)) => check_attributes(attributes, at)?,
            Some(Cfg::Sequential(members)) => {
                members
                    .iter()
                    .enumerate()
                    .try_for_each(|(i, member)| check_attributes(member, &at.index(i)))?;
            }
        }
    }
    config.algorithm.iter().try_for_each(check_algorithm)
}

/// Whether this version can carry out one set of attributes. Those of a quantizer that is off
/// count too: it may be switched on later.
pub fn check_attributes(attributes: &Attributes, at: &JsonPath) -> Result<()> {
    for (key, missing) in MISSING {
        if let Some(what) = missing(attributes) {
            return Err(not_built(&at.key(key), &what));
        }
    }
    Ok(())
}

/// Whether this version can carry out an algorithm.
pub fn check_algorithm(algorithm: &Algorithm) -> Result<()> {
    let at = &JsonPath::root("algorithm");
    if algorithm.method != Method::Max {
        return Err(not_built(at, &format!("algorithm {}", algorithm.method)));
    }
    if algorithm
        .fields
        .get("layerwise")
        .is_some_and(|layerwise| layerwise["enable"] == true)
    {
        return Err(not_built(&at.key("layerwise"), "layerwise calibration"));
    }
    if algorithm
        .fields
        .get("moe_calib_experts_ratio")
        .is_some_and(|ratio| !ratio.is_null())
    {
        // Which expert sees which token is decided in the host's forward.
        return Err(not_built(
            &at.key("moe_calib_experts_ratio"),
            "moe_calib_experts_ratio",
        ));
    }
    Ok(())
}

fn not_built(at: &JsonPath, what: &str) -> Error {
    Error::Unsupported(format!(
        "{at}: {what} is not built in this version; {BUILT}"
    ))
}

fn when(asked: bool, words: impl FnOnce() -> String) -> Option<String> {
    asked.then(words)
}

fn is_built(bits: NumBits) -> bool {
    matches!(bits, NumBits::Int(2..=8) | NumBits::E4M3)
}

/// The name of a format whose blocks have low-bit scales.
fn scaled_format(a: &Attributes) -> Option<&'static str> {
    match (a.num_bits, scale_bits(a)?) {
        (NumBits::E2M1, NumBits::E4M3) => Some("NVFP4"),
        (NumBits::Int(8), NumBits::E8M0) => Some("MXINT8"),
        (
            NumBits::Float {
                exponent: 4,
                mantissa: 3,
            }
            | NumBits::Float {
                exponent: 5,
                mantissa: 2,
            },
            NumBits::E8M0,
        ) => Some("MXFP8"),
        (
            NumBits::Float {
                exponent: 3,
                mantissa: 2,
            }
            | NumBits::Float {
                exponent: 2,
                mantissa: 3,
            },
            NumBits::E8M0,
        ) => Some("MXFP6"),
        (NumBits::E2M1, NumBits::E8M0) => Some("MXFP4"),
        _ => None,
    }
}

fn bits(a: &Attributes) -> String {
    match scale_bits(a) {
        Some(scale_bits) => format!("num_bits {}, scale_bits {scale_bits}", a.num_bits),
        None => format!("num_bits {}", a.num_bits),
    }
}

fn blocks(a: &Attributes) -> Option<&BlockSizes> {
    a.block_sizes.as_ref()
}

fn scale_bits(a: &Attributes) -> Option<NumBits> {
    blocks(a)?.scale_bits
}

/// Blocks of the whole dimension are an axis, and an axis may be dynamic.
fn has_dynamic_blocks(a: &Attributes) -> bool {
    let dynamic =
        |b: &BlockSizes| b.quant_type == QuantType::Dynamic || a.quant_type == QuantType::Dynamic;
    blocks(a).is_some_and(|b| !b.spans_whole_dimensions() && dynamic(b))
}
