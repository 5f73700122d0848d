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

/// Puts the values of codes in device memory into `out`, under scales that lie there: one float32 for each block. Puts
/// work on the stream, and waits for nothing.
pub(crate) fn decode_resident(
    gpu: &Gpu,
    codes: u64,
    grid: &Grid,
    elements: Elements,
    scales: u64,
    out: &TensorView,
) {
    let name = match elements {
        Elements::Int8 => by_dtype!("decode_int8", out),
        Elements::Int4 => by_dtype!("decode_int4", out),
        Elements::E4m3 => by_dtype!("decode_e4m3", out),
        Elements::E2m1 => by_dtype!("decode_e2m1", out),
        Elements::Nf4 => by_dtype!("decode_nf4", out),
    };
    let count = out.count() as u64;
    if count == 0 {
        return;
    }
    // SAFETY: the kernel of that signature; the grid is that of the tensor, there are codes for its elements and a
    // scale for each block.
    unsafe {
        launch!(gpu, name, (gpu.blocks_for(count.div_ceil(OF_A_BLOCK)), 1);
            codes, GridParams::from(grid), count, scales, out.address());
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

/// The scales that codes are decoded with, in device memory: one float32 for each block.
pub(crate) fn scales_there(gpu: &Arc<Gpu>, scaling: Scaling<'_>) -> Result<DeviceBuffer, GpuError> {
    on_gpu(gpu, &each(scaling))
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
    let scales = scales_there(gpu, scaling)?;
    decode_resident(gpu, there.address(), grid, elements, scales.address(), out);
    Ok(())
}

/// The scales of all blocks.
fn each(scaling: Scaling<'_>) -> Vec<f32> {
    (0..scaling.len()).map(|block| scaling.of(block)).collect()
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
