//! A weight as low-bit codes with their scales, in place of the host's tensor.

use std::fmt;
use std::sync::Arc;

use serde_json::{Value, json};

use super::amax::Amax;
use super::packed_on_gpu::There;
use super::quantization;
use super::quantizer::Quantizer;
use crate::error::{Error, Result};
use crate::format::int::IntGrid;
use crate::kernels::pack::{self, Elements, Memory, Scaling};
use crate::kernels::{Grid, Machine};
use crate::tensor::{DType, Shape, TensorView};

/// Element type of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartType {
    /// Signed bytes.
    Int8,
    /// Bytes: pairs of 4-bit codes, or exponents.
    UInt8,
    /// FP8 E4M3.
    E4m3,
    /// IEEE binary32.
    F32,
}

impl PartType {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::Int8 | Self::UInt8 | Self::E4m3 => 1,
            Self::F32 => 4,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::UInt8 => "uint8",
            Self::E4m3 => "float8_e4m3fn",
            Self::F32 => "float32",
        }
    }
}

/// One tensor of a packed weight.
pub struct Part {
    /// "weight", "scale", "double_scale" or "scale_zeros".
    pub name: &'static str,
    /// Element type.
    pub dtype: PartType,
    /// Extents, as the reference gives them.
    pub shape: Vec<i64>,
    /// The elements.
    pub memory: Memory,
}

/// Where the scale of a block comes from when codes become values. Integers and FP8 use the amax
/// itself, as fake quantization does: the scale of the documented layout differs in its last bit.
pub(super) enum Scales {
    /// The part "scale", as what is divided by.
    Divisors,
    /// The amax of integers.
    OfInt(IntGrid, Amax),
    /// The amax of E4M3 values.
    OfE4m3(Amax),
    /// The part "scale" as exponents.
    Exponents,
    /// The part "scale" as E4M3 values of this unit.
    Nvfp4(f32),
    /// The parts "scale", "double_scale" and "scale_zeros".
    Nf4,
}

/// A packed weight. Immutable.
pub struct PackedWeight {
    pub(super) format: &'static str,
    pub(super) dtype: DType,
    pub(super) shape: Shape,
    pub(super) grid: Grid,
    pub(super) elements: Elements,
    pub(super) scales: Scales,
    /// What fake-quantizes the unpacked values again: the second member of a sequential quantizer.
    pub(super) then: Option<Arc<Quantizer>>,
    /// What unpacks it on the GPU that its parts lie on.
    pub(super) there: Option<There>,
    /// The codes first.
    pub(super) parts: Vec<Part>,
}

impl PackedWeight {
    /// Name of the format.
    pub fn format(&self) -> &'static str {
        self.format
    }

    /// The parts, the codes first.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The part of that name.
    pub fn part(&self, name: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.name == name)
    }

    /// Bytes of all parts.
    pub fn size_bytes(&self) -> usize {
        self.parts.iter().map(|part| part.memory.len()).sum()
    }

    /// Writes the values to `out`; `name` goes into messages.
    pub(super) fn unpack(&self, machine: &Machine, name: &str, out: &TensorView) -> Result<()> {
        if out.dtype() != self.dtype || *out.shape() != self.shape {
            return Err(Error::InvalidArgument(format!(
                "`{name}`: out is {} {:?}, expected {} {:?}",
                out.dtype(),
                out.shape(),
                self.dtype,
                self.shape
            )));
        }
        if out.count() == 0 {
            return Ok(());
        }
        if let Some(there) = &self.there {
            there.unpack(self, out);
            return Ok(());
        }
        let codes = self.parts[0].memory.bytes();
        let scaling = self.scaling();
        pack::decode(machine, codes, &self.grid, self.elements, scaling, out);
        match &self.then {
            Some(quantizer) => quantization::apply(machine, quantizer, name, out, out),
            None => Ok(()),
        }
    }

    /// The scales of its blocks, which are in host memory.
    pub(super) fn scaling(&self) -> Scaling<'_> {
        let memory = |i: usize| &self.parts[i].memory;
        match &self.scales {
            Scales::Divisors => Scaling::Divisors(memory(1).floats()),
            Scales::OfInt(grid, amax) => Scaling::OfInt(*grid, amax.values()),
            Scales::OfE4m3(amax) => Scaling::OfE4m3(amax.values()),
            Scales::Exponents => Scaling::Exponents(memory(1).bytes()),
            Scales::Nvfp4(unit) => Scaling::Nvfp4(memory(1).bytes(), *unit),
            Scales::Nf4 => Scaling::Nf4 {
                codes: memory(1).bytes(),
                multipliers: memory(2).floats(),
                zero: memory(3).floats()[0],
                blocks: self.grid.num_blocks(),
            },
        }
    }

    /// Format, sizes and parts.
    pub(super) fn to_json(&self) -> Value {
        let parts = self.parts.iter().map(|part| {
            json!({
                "name": part.name,
                "dtype": part.dtype.name(),
                "shape": part.shape,
                "size_bytes": part.memory.len(),
            })
        });
        json!({
            "format": self.format,
            "size_bytes": self.size_bytes(),
            "parts": parts.collect::<Vec<_>>(),
        })
    }
}

/// The same weight, not an equal one.
impl PartialEq for PackedWeight {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl fmt::Debug for PackedWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.format, self.shape)
    }
}
