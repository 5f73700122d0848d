//! What one quantizer does to one tensor.

use super::amax::Amax;
use super::bias;
use super::granularity::Granularity;
use super::quantizer::{CONSTANT_AMAX, Kind, Quantizer};
use crate::config::Bias;
use crate::error::{Error, Result};
use crate::format::nvfp4;
use crate::kernels::bias::shift;
use crate::kernels::fake_quant::Format;
use crate::kernels::{Machine, absmax, fake_quant, pack};
use crate::tensor::{Shape, TensorView};

/// Where the scales of a tensor come from, and how far one reaches.
pub(super) struct Prepared<'a> {
    pub step: Step,
    pub blocks: Granularity,
    /// None: every block's own.
    pub amax: Option<&'a [f32]>,
}

/// What is done to the elements.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// Each rounded to a grid.
    Round(Format),
    /// NF4, so many blocks to a group of scales; always with an amax.
    Nf4 { group: usize },
}

/// Fake-quantizes `x` into `out`, which passed `x.check_out`, with one enabled quantizer; `name` goes
/// into messages.
pub fn apply(
    machine: &Machine,
    quantizer: &Quantizer,
    name: &str,
    x: &TensorView,
    out: &TensorView,
) -> Result<()> {
    if x.count() == 0 {
        return Ok(());
    }
    let Some((bias, value)) = quantizer.applied_bias() else {
        return apply_without_bias(machine, quantizer, name, x, out);
    };
    let invalid = |text| Error::State(format!("`{name}`: {text}"));
    let own;
    let value = match value {
        Some(value) => value,
        None => {
            own = bias::of_tensor(machine, bias, x).map_err(invalid)?;
            &own
        }
    };
    let blocks = bias_blocks(bias, value, name, x)?;
    shift(machine, x, out, blocks.grid(), value.values(), -1.0);
    apply_without_bias(machine, quantizer, name, out, out)?;
    shift(machine, out, out, blocks.grid(), value.values(), 1.0);
    Ok(())
}

/// How a tensor is cut for a bias with this value. Errors when it does not fit.
pub(super) fn bias_blocks(
    bias: &Bias,
    value: &Amax,
    name: &str,
    x: &TensorView,
) -> Result<Granularity> {
    let blocks = fits(bias::granularity(bias, x.shape()), name)?;
    match value.values().len() == blocks.grid().num_blocks() {
        true => Ok(blocks),
        false => Err(Error::State(format!(
            "`{name}`: its bias has shape {:?}, which does not fit a tensor of shape {:?}",
            value.shape(),
            x.shape()
        ))),
    }
}

fn apply_without_bias(
    machine: &Machine,
    quantizer: &Quantizer,
    name: &str,
    x: &TensorView,
    out: &TensorView,
) -> Result<()> {
    let mut own = Vec::new();
    let prepared = prepare(machine, quantizer, name, x, &mut own)?;
    let grid = prepared.blocks.grid();
    match (prepared.step, prepared.amax) {
        (Step::Nf4 { group }, amax) => {
            pack::fake_nf4(machine, x, out, grid, amax.unwrap_or_default(), group);
        }
        (Step::Round(format), Some(amax)) => fake_quant::run(machine, x, out, grid, amax, format),
        (Step::Round(format), None) => {
            let largest = fake_quant::run_dynamic(machine, x, out, grid, format);
            // MX has a definition for everything; elsewhere a scale must be finite.
            if !largest.is_finite() && !matches!(format, Format::Mx(_)) {
                return Err(Error::Numeric(format!(
                    "`{name}`: its dynamic amax would be {largest}: NaN or Inf in a tensor of shape {:?}",
                    x.shape()
                )));
            }
        }
    }
    Ok(())
}

/// What `apply` would refuse, found without writing anything.
pub(super) fn check(
    machine: &Machine,
    quantizer: &Quantizer,
    name: &str,
    x: &TensorView,
) -> Result<()> {
    if x.count() == 0 {
        return Ok(());
    }
    let mut own = Vec::new();
    let prepared = prepare(machine, quantizer, name, x, &mut own)?;
    match (prepared.amax, prepared.step) {
        (Some(_), _) | (None, Step::Round(Format::Mx(_))) => Ok(()),
        (None, _) => match absmax::not_finite(machine, x) {
            None => Ok(()),
            Some(found) => Err(not_finite(name, x, found)),
        },
    }
}

/// Checks everything that does not need the result; `own` holds amax values that had to be found.
pub(super) fn prepare<'a>(
    machine: &Machine,
    quantizer: &'a Quantizer,
    name: &str,
    x: &TensorView,
    own: &'a mut Vec<f32>,
) -> Result<Prepared<'a>> {
    let kind = quantizer.kind().ok_or_else(|| {
        Error::Unsupported(format!("`{name}`: {}", quantizer.attributes.num_bits))
    })?;
    if quantizer.attributes.unsigned && absmax::any_negative(machine, x) {
        return Err(negative(name));
    }
    let mut amax = amax_values(quantizer);
    let blocks = fits_shape(quantizer, name, x, amax.map(<[f32]>::len))?;
    let constant = is_constant(quantizer);
    let step = match kind {
        Kind::Amax(format) => {
            if constant {
                let blocks = Granularity::per_tensor(x.shape());
                return Ok(Prepared {
                    step: Step::Round(format),
                    blocks,
                    amax,
                });
            }
            Step::Round(format)
        }
        Kind::Mx(format) => {
            amax = None;
            Step::Round(Format::Mx(format))
        }
        Kind::Nvfp4Dynamic => {
            let tensor = match amax.take() {
                Some(amax) => absmax::largest(amax),
                None => absmax::of_tensor(machine, x),
            };
            if !tensor.is_finite() {
                let found = absmax::not_finite(machine, x).unwrap_or((0, tensor));
                return Err(not_finite(name, x, found));
            }
            Step::Round(Format::Nvfp4 {
                global_scale: nvfp4::global_scale(tensor),
            })
        }
        Kind::Nvfp4Static { largest_scale } => {
            let amax = amax.insert(block_amax(machine, x, &blocks, amax, constant, own));
            let tensor = quantizer
                .global_amax
                .unwrap_or_else(|| absmax::largest(amax));
            if !tensor.is_finite() {
                let found = absmax::not_finite(machine, x).unwrap_or((0, tensor));
                return Err(not_finite(name, x, found));
            }
            Step::Round(Format::Nvfp4Static {
                scale_amax: nvfp4::scale_amax(tensor, largest_scale),
            })
        }
        Kind::Nf4 { group } => {
            let amax = amax.insert(block_amax(machine, x, &blocks, amax, constant, own));
            let tensor = absmax::largest(amax);
            if !tensor.is_finite() {
                let found = absmax::not_finite(machine, x).unwrap_or((0, tensor));
                return Err(not_finite(name, x, found));
            }
            Step::Nf4 { group }
        }
    };
    Ok(Prepared { step, blocks, amax })
}

/// One amax for each block: the given ones, a constant one again and again, or the blocks' own.
fn block_amax<'a>(
    machine: &Machine,
    x: &TensorView,
    blocks: &Granularity,
    given: Option<&'a [f32]>,
    constant: bool,
    own: &'a mut Vec<f32>,
) -> &'a [f32] {
    let count = blocks.grid().num_blocks();
    match given {
        Some(&[one]) if constant => own.resize(count, one),
        Some(given) => return given,
        None => {
            own.resize(count, 0.0);
            absmax::run(machine, x, blocks.grid(), own);
        }
    }
    own
}

/// How a tensor is cut for a quantizer that was given so many amax values. Errors when they do not fit.
pub(super) fn fits_shape(
    quantizer: &Quantizer,
    name: &str,
    x: &TensorView,
    found: Option<usize>,
) -> Result<Granularity> {
    let blocks = fits(Granularity::new(&quantizer.attributes, x.shape()), name)?;
    let keeps = !matches!(quantizer.kind(), Some(Kind::Mx(_)));
    if let Some(found) = found.filter(|_| keeps) {
        let expected = fits(amax_granularity(quantizer, x.shape()), name)?;
        check_amax_fits(quantizer, &expected, name, x, found)?;
    }
    Ok(blocks)
}

/// Whether one amax that the configuration names is that of every block.
pub(super) fn is_constant(quantizer: &Quantizer) -> bool {
    quantizer.attributes.use_constant_amax || quantizer.attributes.constant_amax.is_some()
}

/// The amax values it was given.
pub(super) fn amax_values(quantizer: &Quantizer) -> Option<&[f32]> {
    if quantizer.attributes.use_constant_amax {
        return Some(&[CONSTANT_AMAX]);
    }
    quantizer.amax.as_ref().map(Amax::values)
}

/// How a tensor is cut for the amax that a quantizer keeps: dynamic blocks find their own, so theirs is
/// that of the whole tensor, and so is a constant one.
pub fn amax_granularity(
    quantizer: &Quantizer,
    shape: &Shape,
) -> std::result::Result<Granularity, String> {
    let a = &quantizer.attributes;
    let constant = a.use_constant_amax || a.constant_amax.is_some();
    if constant || matches!(quantizer.kind(), Some(Kind::Nvfp4Dynamic | Kind::Mx(_))) {
        return Ok(Granularity::per_tensor(shape));
    }
    Granularity::new(a, shape)
}

fn fits(granularity: std::result::Result<Granularity, String>, name: &str) -> Result<Granularity> {
    granularity.map_err(|text| Error::State(format!("`{name}`: {text}")))
}

fn check_amax_fits(
    quantizer: &Quantizer,
    granularity: &Granularity,
    name: &str,
    x: &TensorView,
    found: usize,
) -> Result<()> {
    let expected = granularity.grid().num_blocks();
    if expected == found {
        return Ok(());
    }
    let why = if quantizer.has_static_blocks() {
        "Input shape has changed: block-quantization requires a fixed input shape"
    } else {
        "calibrate it with tensors of this shape, or give it an amax of that many values"
    };
    Err(Error::State(format!(
        "`{name}`: its amax has {found} values, but a tensor of shape {:?} needs {expected}; {why}",
        x.shape()
    )))
}

/// The error for a negative value under `unsigned`.
pub fn negative(name: &str) -> Error {
    Error::Numeric(format!(
        "`{name}`: Negative values encountered in unsigned quantization; drop `unsigned` or pass values from 0 on"
    ))
}

/// The error for a NaN or an infinity at a flat position.
pub fn not_finite(name: &str, x: &TensorView, (position, value): (usize, f32)) -> Error {
    let mut index = Vec::new();
    let mut rest = position;
    for extent in x.shape().dims().iter().rev() {
        index.push(rest % extent);
        rest /= extent;
    }
    index.reverse();
    Error::Numeric(format!(
        "`{name}`: {value} at {index:?} of a tensor of shape {:?}; a scale needs finite values",
        x.shape()
    ))
}
