//! From a quantizer and a weight's shape to the parts of the packed weight, and their contents.
//!
//! The layouts are those of the reference's packed tensors; the codes are those whose values fake
//! quantization gives.

use std::sync::Arc;

use super::amax::Amax;
use super::granularity::Granularity;
use super::packed::{PackedWeight, Part, PartType, Scales};
use super::quantization::{Prepared, Step, prepare};
use super::quantizer::{Kind, Quantizer};
use crate::config::NumBits;
use crate::error::{Error, Result};
use crate::format::int::{AMAX_EPSILON, IntGrid};
use crate::format::minifloat::{E2M1, E4M3};
use crate::format::{e4m3, mx, nvfp4};
use crate::kernels::cuda::GpuError;
use crate::kernels::fake_quant::{Format, MxFormat};
use crate::kernels::pack::{self, Coding};
use crate::kernels::{Grid, Machine, absmax};
use crate::tensor::{Shape, TensorView};

/// A part before it has memory.
pub(super) struct PartSpec {
    pub name: &'static str,
    pub dtype: PartType,
    pub shape: Vec<usize>,
}

impl PartSpec {
    pub fn size_bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }
}

/// How one weight is packed.
pub(super) struct Layout<'q> {
    format: &'static str,
    coding: Coding,
    quantizer: &'q Quantizer,
    grid: Grid,
    /// None: found from the weight.
    amax: Option<Vec<f32>>,
    then: Option<&'q Arc<Quantizer>>,
    parts: Vec<PartSpec>,
}

impl<'q> Layout<'q> {
    /// The layout of `weight` under one enabled quantizer; `name` goes into messages.
    pub fn new(
        machine: &Machine,
        quantizer: &'q Quantizer,
        name: &str,
        weight: &TensorView,
    ) -> Result<Self> {
        check_amax(quantizer, name)?;
        let shape = weight.shape();
        let mut own = Vec::new();
        let mut prepared = prepare(machine, quantizer, name, weight, &mut own)?;
        let (format, coding) = coding(quantizer, name, prepared.step)?;
        let mut amax = prepared.amax.map(<[f32]>::to_vec);
        if let (Coding::Int4(_), Some(&[one])) = (coding, prepared.amax) {
            // A constant amax is one for all blocks; the layout has a scale for each.
            let blocks = Granularity::new(&quantizer.attributes, shape)
                .map_err(|text| Error::State(format!("`{name}`: {text}")))?;
            amax = Some(vec![one; blocks.grid().num_blocks()]);
            prepared.blocks = blocks;
        }
        let grid = *prepared.blocks.grid();
        let parts = parts(quantizer, name, coding, &prepared, shape)?;
        Ok(Self {
            format,
            coding,
            quantizer,
            grid,
            amax,
            then: None,
            parts,
        })
    }

    /// The same with an FP8 quantizer after it, as W4A8 has it.
    pub fn followed_by(mut self, second: &'q Arc<Quantizer>, name: &str) -> Result<Self> {
        let fp8 = matches!(second.kind(), Some(Kind::Amax(Format::E4m3)));
        if !matches!(self.coding, Coding::Int4(_)) || !fp8 {
            return Err(Error::Unsupported(format!(
                "`{name}`: of sequential quantizers only INT4 followed by FP8 (4, 3) can be packed"
            )));
        }
        check_amax(second, name)?;
        if one_amax(second).is_none() {
            return Err(Error::Unsupported(format!(
                "`{name}`: the FP8 after INT4 must have one calibrated amax for the tensor to be packed"
            )));
        }
        self.format = "w4a8";
        self.then = Some(second);
        self.parts.push(PartSpec {
            name: "double_scale",
            dtype: PartType::F32,
            shape: Vec::new(),
        });
        Ok(self)
    }

    /// The parts, the codes first.
    pub fn parts(&self) -> &[PartSpec] {
        &self.parts
    }

    /// Packs `weight` into the parts, which have the specified sizes; the codes may lie on the weight's GPU, the others
    /// are in host memory.
    pub fn fill(
        self,
        machine: &Machine,
        weight: &TensorView,
        mut parts: Vec<Part>,
    ) -> std::result::Result<PackedWeight, GpuError> {
        let amax = match self.amax {
            Some(amax) => amax,
            None => {
                let mut own = vec![0.0; self.grid.num_blocks()];
                absmax::run(machine, weight, &self.grid, &mut own);
                own
            }
        };
        let codes = &mut parts[0].memory;
        pack::encode_into(machine, weight, &self.grid, &amax, self.coding, codes)?;
        let values: Vec<f32>;
        let scales = match self.coding {
            Coding::Int4(grid) => {
                values = amax.iter().map(|a| grid.scale(*a).1).collect();
                parts[1].memory.write_floats(&values);
                Scales::Divisors
            }
            Coding::Int8(grid) => {
                values = amax.iter().map(|a| int8_scale(grid, *a)).collect();
                parts[1].memory.write_floats(&values);
                Scales::OfInt(grid, kept(self.quantizer, amax))
            }
            Coding::E4m3 => {
                values = amax.iter().map(|a| fp8_scale(*a)).collect();
                parts[1].memory.write_floats(&values);
                Scales::OfE4m3(kept(self.quantizer, amax))
            }
            Coding::MxE4m3 | Coding::MxE2m1 => {
                let max = match self.coding {
                    Coding::MxE4m3 => E4M3.max(),
                    _ => E2M1.max(),
                };
                for (code, amax) in parts[1].memory.bytes_mut().iter_mut().zip(&amax) {
                    *code = mx::scale_code(*amax, max);
                }
                Scales::Exponents
            }
            Coding::Nvfp4 { global_scale } => {
                for (code, amax) in parts[1].memory.bytes_mut().iter_mut().zip(&amax) {
                    *code = nvfp4::scale_code(*amax, nvfp4::block_scale(*amax, global_scale));
                }
                parts[2].memory.write_floats(&[global_scale]);
                Scales::Nvfp4(global_scale)
            }
            Coding::Nvfp4Static { scale_amax } => {
                let of = |amax: f32| nvfp4::static_scale_parts(amax, scale_amax);
                for (code, amax) in parts[1].memory.bytes_mut().iter_mut().zip(&amax) {
                    *code = nvfp4::scale_code(*amax, of(*amax).0);
                }
                let unit = static_unit(self.quantizer, &amax, scale_amax);
                parts[2].memory.write_floats(&[unit]);
                Scales::Nvfp4(of(0.0).1)
            }
            Coding::Nf4 => {
                let scales = pack::Nf4Scales::new(&amax, scale_group(self.quantizer));
                for (to, code) in parts[1].memory.bytes_mut().iter_mut().zip(&scales.codes) {
                    *to = *code as u8;
                }
                parts[2].memory.write_floats(&scales.multipliers);
                parts[3].memory.write_floats(&[scales.zero]);
                Scales::Nf4
            }
        };
        if let (Some(amax), Some(part)) = (self.then.and_then(|q| one_amax(q)), parts.get_mut(2)) {
            part.memory.write_floats(&[fp8_scale(amax)]);
        }
        Ok(PackedWeight {
            format: self.format,
            dtype: weight.dtype(),
            shape: *weight.shape(),
            grid: self.grid,
            elements: self.coding.elements(),
            scales,
            then: self.then.cloned(),
            there: None,
            parts,
        })
    }
}

/// Refuses a quantizer that should have been calibrated; NVFP4 in dynamic blocks does with the
/// weight's own amax.
fn check_amax(quantizer: &Quantizer, name: &str) -> Result<()> {
    let finds_its_own = matches!(quantizer.kind(), Some(Kind::Nvfp4Dynamic));
    if quantizer.keeps_amax() && quantizer.amax.is_none() && !finds_its_own {
        return Err(Error::State(format!(
            "`{name}` has no amax to pack its weight with; calibrate it or set its amax"
        )));
    }
    Ok(())
}

/// Name of the format and its codes.
fn coding(quantizer: &Quantizer, name: &str, step: Step) -> Result<(&'static str, Coding)> {
    let a = &quantizer.attributes;
    let built = "can be packed are INT4 in blocks along the last axis, INT8, FP8, NVFP4, MXFP4, MXFP8, NF4, and INT4 followed by FP8";
    let unsupported = |what: String| Err(Error::Unsupported(format!("`{name}`: {what}; {built}")));
    Ok(match (step, a.num_bits) {
        (Step::Round(Format::Int(_)), _) if a.unsigned => {
            return unsupported("unsigned integers cannot be packed".into());
        }
        (Step::Round(Format::Int(grid)), NumBits::Int(8)) => ("int8", Coding::Int8(grid)),
        (Step::Round(Format::Int(grid)), NumBits::Int(4)) if quantizer.has_static_blocks() => {
            ("int4", Coding::Int4(grid))
        }
        (Step::Round(Format::E4m3), _) => ("fp8", Coding::E4m3),
        (Step::Round(Format::Mx(MxFormat::E4m3)), _) => ("mxfp8", Coding::MxE4m3),
        (Step::Round(Format::Mx(MxFormat::E2m1)), _) => ("mxfp4", Coding::MxE2m1),
        (Step::Round(Format::Nvfp4 { global_scale }), _) => {
            ("nvfp4", Coding::Nvfp4 { global_scale })
        }
        (Step::Round(Format::Nvfp4Static { scale_amax }), _) => {
            ("nvfp4", Coding::Nvfp4Static { scale_amax })
        }
        (Step::Nf4 { .. }, _) => ("nf4", Coding::Nf4),
        (Step::Round(Format::Mx(_)), bits) => {
            return unsupported(format!("MX with num_bits {bits} cannot be packed"));
        }
        (Step::Round(Format::Int(_)), NumBits::Int(4)) => {
            return unsupported("INT4 without static blocks cannot be packed".into());
        }
        (Step::Round(Format::Int(_)), bits) => {
            return unsupported(format!("num_bits {bits} cannot be packed"));
        }
    })
}

/// The parts of a weight, as the reference shapes them.
fn parts(
    quantizer: &Quantizer,
    name: &str,
    coding: Coding,
    prepared: &Prepared,
    shape: &Shape,
) -> Result<Vec<PartSpec>> {
    let dims = shape.dims();
    let blocks = prepared.blocks.grid().num_blocks();
    let part = |name, dtype, shape| PartSpec { name, dtype, shape };
    let last_axis = || blocked_last_axis(quantizer, name, shape);
    let with_last = |last: usize| {
        let mut shape = dims.to_vec();
        shape.pop();
        shape.push(last);
        shape
    };
    let column = || vec![blocks, 1];
    let scalar = |name| part(name, PartType::F32, Vec::new());
    let mut parts = Vec::with_capacity(4);
    if coding.elements().high_nibble_first().is_some() {
        let (n, _) = last_axis()?;
        if !n.is_multiple_of(2) {
            return Err(Error::Unsupported(format!(
                "`{name}`: its last axis has {n} elements; 4-bit packing needs an even number"
            )));
        }
        let shape = match coding {
            Coding::Nf4 => vec![shape.count() / 2],
            _ => with_last(n / 2),
        };
        parts.push(part("weight", PartType::UInt8, shape));
    } else {
        let dtype = match coding {
            Coding::Int8(_) => PartType::Int8,
            _ => PartType::E4m3,
        };
        parts.push(part("weight", dtype, dims.to_vec()));
    }
    match coding {
        Coding::Int4(_) => parts.push(part("scale", PartType::F32, column())),
        Coding::Int8(_) | Coding::E4m3 => {
            let shape = match blocks {
                1 => Vec::new(),
                _ => grid_shape(quantizer, prepared, shape),
            };
            parts.push(part("scale", PartType::F32, shape));
        }
        Coding::MxE2m1 => parts.push(part("scale", PartType::UInt8, column())),
        Coding::MxE4m3 => {
            let (n, b) = last_axis()?;
            parts.push(part("scale", PartType::UInt8, with_last(n.div_ceil(b))));
        }
        Coding::Nvfp4 { .. } | Coding::Nvfp4Static { .. } => {
            let (n, b) = last_axis()?;
            parts.push(part("scale", PartType::E4m3, with_last(n.div_ceil(b))));
            parts.push(scalar("double_scale"));
        }
        Coding::Nf4 => {
            let group = scale_group(quantizer);
            let groups = blocks.div_ceil(group);
            parts.push(part("scale", PartType::Int8, vec![groups, group]));
            parts.push(part("double_scale", PartType::F32, vec![groups]));
            parts.push(scalar("scale_zeros"));
        }
    }
    Ok(parts)
}

/// Extent and block of the last axis, which must be the only one in blocks.
fn blocked_last_axis(quantizer: &Quantizer, name: &str, shape: &Shape) -> Result<(usize, usize)> {
    let rank = shape.dims().len();
    let blocks = quantizer.attributes.block_sizes.as_ref();
    match (blocks.map(|b| &b.blocks[..]), shape.dims().last()) {
        (Some(&[(axis, Some(size))]), Some(&n)) if axis == -1 || axis == rank as i64 - 1 => {
            Ok((n, usize::try_from(size).unwrap_or(usize::MAX)))
        }
        _ => Err(Error::Unsupported(format!(
            "`{name}`: this format can only be packed in blocks along the last axis"
        ))),
    }
}

/// Number of scales along each axis.
fn grid_shape(quantizer: &Quantizer, prepared: &Prepared, shape: &Shape) -> Vec<usize> {
    match &quantizer.attributes.block_sizes {
        Some(sizes) if !sizes.spans_whole_dimensions() => {
            let mut counts = shape.dims().to_vec();
            let rank = counts.len() as i64;
            for &(axis, size) in &sizes.blocks {
                let axis = if axis < 0 { axis + rank } else { axis } as usize;
                let size = size.map_or(usize::MAX, |b| usize::try_from(b).unwrap_or(usize::MAX));
                counts[axis] = counts[axis].div_ceil(size);
            }
            counts
        }
        _ => prepared.blocks.amax_shape().to_vec(),
    }
}

/// How many scales of NF4 share a multiplier.
fn scale_group(quantizer: &Quantizer) -> usize {
    match quantizer.kind() {
        Some(Kind::Nf4 { group }) => group,
        _ => 1,
    }
}

/// The one amax of a tensor, calibrated or constant.
pub(super) fn one_amax(quantizer: &Quantizer) -> Option<f32> {
    if quantizer.attributes.use_constant_amax {
        return Some(super::quantizer::CONSTANT_AMAX);
    }
    match quantizer.amax.as_ref()?.values() {
        [one] => Some(*one),
        _ => None,
    }
}

/// The amax that unpacking needs: the quantizer's own where that is the same.
fn kept(quantizer: &Quantizer, amax: Vec<f32>) -> Amax {
    match &quantizer.amax {
        Some(own) if own.values() == amax => own.clone(),
        _ => {
            let count = amax.len();
            Amax::new(amax, &[count])
        }
    }
}

/// `amax / 127`; a block of zeros has codes of zero and any scale: 1.
fn int8_scale(grid: IntGrid, amax: f32) -> f32 {
    if amax <= AMAX_EPSILON {
        1.0
    } else {
        amax / grid.max
    }
}

/// `amax / 448`, where a tiny amax acts as 1, as in fake quantization.
fn fp8_scale(amax: f32) -> f32 {
    let amax = if amax <= AMAX_EPSILON { 1.0 } else { amax };
    amax / e4m3::MAX
}

/// What a unit of a static NVFP4 block's scale is worth: `amax / (6 * 448)`, 256 with four-over-six.
fn static_unit(quantizer: &Quantizer, amax: &[f32], scale_amax: f32) -> f32 {
    let largest = match quantizer.kind() {
        Some(Kind::Nvfp4Static { largest_scale }) => largest_scale,
        _ => e4m3::MAX,
    };
    let tensor = quantizer
        .global_amax
        .unwrap_or_else(|| absmax::largest(amax));
    if scale_amax <= AMAX_EPSILON {
        1.0 / e4m3::MAX
    } else {
        tensor / (nvfp4::ELEMENT_MAX * largest)
    }
}
