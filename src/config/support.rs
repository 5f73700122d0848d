//! What this version cannot carry out yet, although it is valid configuration.
//!
//! Building a feature means deleting its line here.

use super::algorithm::{Algorithm, Method};
use super::attributes::{Attributes, QuantType};
use super::block_sizes::BlockSizes;
use super::entry::Cfg;
use super::num_bits::NumBits;
use super::path::JsonPath;
use super::quantize::QuantizeConfig;
use crate::error::{Error, Result};

/// What is there, for whoever asked for something else.
const BUILT: &str = "built are integers of 2 to 8 bits and FP8 (4, 3), per tensor, per axis or in static blocks, \
                     MX in dynamic blocks of 8, 16 or 32, NVFP4 in blocks of 16 or 32, NF4 with 8-bit scales in blocks, \
                     and the algorithms max, mse, histogram, smoothquant, awq_lite, awq_clip, awq_full and real_quantize";

/// Whether a set of attributes asks for a feature.
type Asks = fn(&Attributes) -> bool;

/// One line for every feature of the attributes that is not built: its key, who asks for it, and
/// its name.
const MISSING: &[(&str, Asks, &str)] = &[
    ("num_bits", |a| !is_built(a), "this number format"),
    ("block_sizes", has_scale_blocks, "scale_block_sizes"),
    ("block_sizes", has_dynamic_blocks, "dynamic blocks"),
    ("block_sizes", has_wrong_block, "a block of this size"),
    ("backend", |a| a.backend.is_some(), "a custom backend"),
];

/// The algorithms that are built.
const ALGORITHMS: &[Method] = &[
    Method::Max,
    Method::Mse,
    Method::Histogram,
    Method::SmoothQuant,
    Method::AwqLite,
    Method::AwqClip,
    Method::AwqFull,
    Method::RealQuantize,
];

/// Elements of the MX formats.
const MX: &[NumBits] = &[
    NumBits::E4M3,
    NumBits::float(5, 2),
    NumBits::float(3, 2),
    NumBits::float(2, 3),
    NumBits::E2M1,
    NumBits::float(1, 2),
    NumBits::Int(8),
];

/// Blocks that MX formats may have.
const MX_BLOCKS: &[u64] = &[8, 16, 32];

/// Blocks that NVFP4 may have.
const NVFP4_BLOCKS: &[u64] = &[16, 32];

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
    for (key, is_asked, name) in MISSING {
        if is_asked(attributes) {
            let what = match *key {
                "num_bits" | "block_sizes" => format!("{name} ({})", bits(attributes)),
                _ => (*name).to_owned(),
            };
            return Err(not_built(&at.key(key), &what));
        }
    }
    Ok(())
}

/// Whether this version can carry out an algorithm.
pub fn check_algorithm(algorithm: &Algorithm) -> Result<()> {
    let at = &JsonPath::root("algorithm");
    if !ALGORITHMS.contains(&algorithm.method) {
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
    let has_layers = algorithm
        .fields
        .get("layers")
        .is_some_and(|layers| !layers.is_null());
    if algorithm.method == Method::RealQuantize && has_layers {
        // What is packed is said by fake_quant of the quantizers.
        return Err(not_built(&at.key("layers"), "layers of real_quantize"));
    }
    Ok(())
}

fn not_built(at: &JsonPath, what: &str) -> Error {
    Error::Unsupported(format!(
        "{at}: {what} is not built in this version; {BUILT}"
    ))
}

fn is_built(a: &Attributes) -> bool {
    match scale_bits(a) {
        None => matches!(a.num_bits, NumBits::Int(2..=8) | NumBits::E4M3),
        Some(NumBits::E8M0) => MX.contains(&a.num_bits) && is_dynamic_block(a),
        Some(NumBits::E4M3) => a.num_bits == NumBits::E2M1,
        Some(_) => is_nf4(a),
    }
}

/// 4 bits in static blocks along the last axis, with 8-bit scales in blocks.
fn is_nf4(a: &Attributes) -> bool {
    let in_blocks = |b: &BlockSizes| {
        let last = |axis: i64| axis == -1;
        b.scale_bits == Some(NumBits::Int(8))
            && b.quant_type == QuantType::Static
            && matches!(b.blocks[..], [(axis, Some(_))] if last(axis))
            && matches!(b.scale_block_sizes.as_deref(), Some(&[(axis, _)]) if last(axis))
    };
    a.num_bits == NumBits::Int(4)
        && !a.unsigned
        && !a.is_dynamic()
        && blocks(a).is_some_and(in_blocks)
}

fn is_dynamic_block(a: &Attributes) -> bool {
    blocks(a).is_some_and(|b| b.quant_type == QuantType::Dynamic)
}

fn has_wrong_block(a: &Attributes) -> bool {
    if is_nf4(a) {
        return false;
    }
    let allowed = match scale_bits(a) {
        Some(NumBits::E8M0) => MX_BLOCKS,
        Some(_) => NVFP4_BLOCKS,
        None => return false,
    };
    let sizes = blocks(a).map_or(&[][..], |b| &b.blocks);
    !sizes
        .iter()
        .all(|(_, size)| size.is_some_and(|size| allowed.contains(&size)))
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

fn has_scale_blocks(a: &Attributes) -> bool {
    blocks(a).is_some_and(|b| b.scale_block_sizes.is_some()) && !is_nf4(a)
}

/// Blocks of the whole dimension are an axis, and an axis may be dynamic.
fn has_dynamic_blocks(a: &Attributes) -> bool {
    let whole = blocks(a).is_none_or(BlockSizes::spans_whole_dimensions);
    !whole && a.is_dynamic() && scale_bits(a).is_none()
}
