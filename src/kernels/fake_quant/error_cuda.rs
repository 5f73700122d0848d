//! The squared error of fake quantization on the GPU.

use std::sync::Arc;

use super::{Format, MxFormat};
use crate::kernels::absmax::cuda as absmax;
use crate::kernels::cuda::{
    DeviceBuffer, Elements, FormatParams, Gpu, GpuError, GridParams, launch, tiles,
};
use crate::kernels::difference;
use crate::kernels::grid::Grid;
use crate::tensor::TensorView;

/// The sums under given amax values; waits for the stream.
pub(super) fn run(
    gpu: &Arc<Gpu>,
    x: &TensorView,
    grid: &Grid,
    amax: &[f32],
    format: Format,
) -> Result<(f64, f64), GpuError> {
    let values = DeviceBuffer::holding(gpu, amax)?;
    under(gpu, x, grid, &values, format)
}

/// The sums with every block under its own amax; waits for the stream.
///
/// Formats that find their own scales leave a NaN out of their amax. Here it is not, but a sum with a NaN in it is NaN
/// either way.
pub(super) fn run_dynamic(
    gpu: &Arc<Gpu>,
    x: &TensorView,
    grid: &Grid,
    format: Format,
) -> Result<(f64, f64), GpuError> {
    let values = DeviceBuffer::zeroed(gpu, grid.num_blocks() * size_of::<f32>())?;
    absmax::raise(gpu, x, grid, values.address());
    under(gpu, x, grid, &values, format)
}

fn under(
    gpu: &Arc<Gpu>,
    x: &TensorView,
    grid: &Grid,
    amax: &DeviceBuffer,
    format: Format,
) -> Result<(f64, f64), GpuError> {
    assert_eq!(grid.count(), x.count(), "grid of another shape");
    if x.count() == 0 {
        return Ok((0.0, 0.0));
    }
    let tiles = tiles(grid);
    let sums = difference::Sums::new(gpu, tiles)?;
    // SAFETY: the kernel of that signature; the grid is that of the tensor, amax has a value for each block, and there
    // is room for the sums of each tile.
    unsafe {
        launch!(gpu, kernel(format), (gpu.blocks_for(tiles), 1);
            Elements::from(x), GridParams::from(grid), tiles, amax.address(), FormatParams::of(format),
            sums.address());
    }
    sums.total(gpu)
}

fn kernel(format: Format) -> &'static str {
    match format {
        Format::Int(_) => "squared_error_int",
        Format::E4m3 => "squared_error_e4m3",
        Format::Nvfp4 { .. } => "squared_error_nvfp4",
        Format::Nvfp4Static { .. } => "squared_error_nvfp4_static",
        Format::Mx(MxFormat::E4m3) => "squared_error_mx_e4m3",
        Format::Mx(MxFormat::E5m2) => "squared_error_mx_e5m2",
        Format::Mx(MxFormat::E3m2) => "squared_error_mx_e3m2",
        Format::Mx(MxFormat::E2m3) => "squared_error_mx_e2m3",
        Format::Mx(MxFormat::E2m1) => "squared_error_mx_e2m1",
        Format::Mx(MxFormat::E1m2) => "squared_error_mx_e1m2",
        Format::Mx(MxFormat::Int8) => "squared_error_mx_int8",
    }
}
