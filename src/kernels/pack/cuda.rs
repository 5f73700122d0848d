//! Packing on the GPU: the codes of the CPU.

use std::sync::Arc;

use super::codes::{Coding, Elements, Scaling};
use crate::kernels::cuda::{
    DeviceBuffer, FormatParams, Gpu, GpuError, GridParams, by_dtype, launch,
};
use crate::kernels::fake_quant::{Format, MxFormat};
use crate::kernels::grid::Grid;
use crate::tensor::TensorView;

/// Elements of a thread block.
pub(super) const OF_A_BLOCK: u64 = 256 * 8;

/// Puts the codes of `x` into device memory, under amax values that lie there: one float32 for each block. Puts work on
/// the stream, and waits for nothing.
pub(super) fn encode_resident(
    gpu: &Gpu,
    x: &TensorView,
    grid: &Grid,
    amax: u64,
    coding: Coding,
    codes: u64,
) {
    let count = x.count() as u64;
    if count == 0 {
        return;
    }
    // SAFETY: the kernel of that signature; the grid is that of the tensor, amax has a value for each block, and there
    // is room for the codes.
    unsafe {
        launch!(gpu, encoder(coding, x), (gpu.blocks_for(count.div_ceil(OF_A_BLOCK)), 1);
            x.address(), GridParams::from(grid), count, amax, params(coding), codes);
    }
}

/// Where the scales lie that codes in device memory are decoded with: [`Scaling`] there.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ScalesAt {
    /// A float32 for each block, which integers are divided by and others multiplied with.
    Floats(u64),
    /// Exponents plus 127, a byte for each block.
    Exponents(u64),
    /// E4M3 codes, a byte for each block, and what one of their units is worth.
    Nvfp4(u64, f32),
    /// Integers around a mean.
    Nf4 {
        /// A byte for each block.
        codes: u64,
        /// A float32 for every so many blocks.
        multipliers: u64,
        /// How many those are.
        group: usize,
        /// One float32, the mean.
        zero: u64,
    },
}

/// `ScaleParts` of `pack.cu`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ScaleParts {
    at: u64,
    multipliers: u64,
    zero: u64,
    group: u64,
    unit: f32,
}

impl From<ScalesAt> for ScaleParts {
    fn from(scales: ScalesAt) -> Self {
        let of = |at| Self {
            at,
            ..Self::default()
        };
        match scales {
            ScalesAt::Floats(at) | ScalesAt::Exponents(at) => of(at),
            ScalesAt::Nvfp4(at, unit) => Self { unit, ..of(at) },
            ScalesAt::Nf4 {
                codes,
                multipliers,
                group,
                zero,
            } => Self {
                multipliers,
                zero,
                group: group as u64,
                ..of(codes)
            },
        }
    }
}

/// Puts the values of codes in device memory into `out`, under the scales of their blocks. Puts work on the stream, and
/// waits for nothing.
pub(crate) fn decode_resident(
    gpu: &Gpu,
    codes: u64,
    grid: &Grid,
    elements: Elements,
    scales: ScalesAt,
    out: &TensorView,
) {
    let name = match (elements, scales) {
        (Elements::Int8, _) => by_dtype!("decode_int8", out),
        (Elements::Int4, _) => by_dtype!("decode_int4", out),
        (Elements::E4m3, ScalesAt::Exponents(_)) => by_dtype!("decode_mx_e4m3", out),
        (Elements::E4m3, _) => by_dtype!("decode_e4m3", out),
        (Elements::E2m1, ScalesAt::Exponents(_)) => by_dtype!("decode_mx_e2m1", out),
        (Elements::E2m1, _) => by_dtype!("decode_nvfp4", out),
        (Elements::Nf4, _) => by_dtype!("decode_nf4", out),
    };
    let count = out.count() as u64;
    if count == 0 {
        return;
    }
    // SAFETY: the kernel of that signature; the grid is that of the tensor, there are codes for its elements and a
    // scale for each block.
    unsafe {
        launch!(gpu, name, (gpu.blocks_for(count.div_ceil(OF_A_BLOCK)), 1);
            codes, GridParams::from(grid), count, ScaleParts::from(scales), out.address());
    }
}

/// Codes in device memory, under amax values of the host's.
pub(super) fn encode_there(
    gpu: &Arc<Gpu>,
    x: &TensorView,
    grid: &Grid,
    amax: &[f32],
    coding: Coding,
    codes: u64,
) -> Result<(), GpuError> {
    let amax = on_gpu(gpu, amax)?;
    encode_resident(gpu, x, grid, amax.address(), coding, codes);
    Ok(())
}

/// The scales of the host's as float32, in device memory: one for each block.
pub(crate) fn scales_there(gpu: &Arc<Gpu>, scaling: Scaling<'_>) -> Result<DeviceBuffer, GpuError> {
    let scales: Vec<f32> = (0..scaling.len()).map(|block| scaling.of(block)).collect();
    on_gpu(gpu, &scales)
}

/// Codes in host memory; waits for the stream.
pub(super) fn encode(
    gpu: &Arc<Gpu>,
    x: &TensorView,
    grid: &Grid,
    amax: &[f32],
    coding: Coding,
    codes: &mut [u8],
) -> Result<(), GpuError> {
    let there = DeviceBuffer::new(gpu, codes.len())?;
    encode_there(gpu, x, grid, amax, coding, there.address())?;
    there.read(codes)
}

/// The values of codes in host memory.
pub(super) fn decode(
    gpu: &Arc<Gpu>,
    codes: &[u8],
    grid: &Grid,
    elements: Elements,
    scaling: Scaling<'_>,
    out: &TensorView,
) -> Result<(), GpuError> {
    let there = DeviceBuffer::holding(gpu, codes)?;
    let scales = match scaling {
        Scaling::Exponents(codes) | Scaling::Nvfp4(codes, _) | Scaling::Nf4 { codes, .. } => {
            DeviceBuffer::holding(gpu, codes)?
        }
        _ => scales_there(gpu, scaling)?,
    };
    let (multipliers, zero) = match scaling {
        Scaling::Nf4 {
            multipliers, zero, ..
        } => (on_gpu(gpu, multipliers)?, on_gpu(gpu, &[zero])?),
        _ => (DeviceBuffer::new(gpu, 0)?, DeviceBuffer::new(gpu, 0)?),
    };
    let at = match scaling {
        Scaling::Exponents(_) => ScalesAt::Exponents(scales.address()),
        Scaling::Nvfp4(_, unit) => ScalesAt::Nvfp4(scales.address(), unit),
        Scaling::Nf4 { .. } => ScalesAt::Nf4 {
            codes: scales.address(),
            multipliers: multipliers.address(),
            group: scaling.group(),
            zero: zero.address(),
        },
        _ => ScalesAt::Floats(scales.address()),
    };
    decode_resident(gpu, there.address(), grid, elements, at, out);
    Ok(())
}

fn on_gpu(gpu: &Arc<Gpu>, values: &[f32]) -> Result<DeviceBuffer, GpuError> {
    DeviceBuffer::holding(gpu, values)
}

fn params(coding: Coding) -> FormatParams {
    FormatParams::of(match coding {
        Coding::Int8(grid) | Coding::Int4(grid) => Format::Int(grid),
        Coding::E4m3 | Coding::Nf4 => Format::E4m3,
        Coding::MxE4m3 => Format::Mx(MxFormat::E4m3),
        Coding::MxE2m1 => Format::Mx(MxFormat::E2m1),
        Coding::Nvfp4 { global_scale } => Format::Nvfp4 { global_scale },
        Coding::Nvfp4Static { scale_amax } => Format::Nvfp4Static { scale_amax },
    })
}

fn encoder(coding: Coding, x: &TensorView) -> &'static str {
    match coding {
        Coding::Int8(_) => by_dtype!("encode_int8", x),
        Coding::Int4(_) => by_dtype!("encode_int4", x),
        Coding::E4m3 => by_dtype!("encode_e4m3", x),
        Coding::MxE4m3 => by_dtype!("encode_mx_e4m3", x),
        Coding::MxE2m1 => by_dtype!("encode_mx_e2m1", x),
        Coding::Nvfp4 { .. } => by_dtype!("encode_nvfp4", x),
        Coding::Nvfp4Static { .. } => by_dtype!("encode_nvfp4_static", x),
        Coding::Nf4 => by_dtype!("encode_nf4", x),
    }
}
