//! Fake quantization on the GPU.

use std::sync::Arc;

use super::{Format, MxFormat};
use crate::kernels::absmax::cuda as absmax;
use crate::kernels::cuda::{
    DeviceBuffer, FormatParams, Gpu, GpuError, GridParams, by_dtype, launch, tiles,
};
use crate::kernels::grid::Grid;
use crate::tensor::TensorView;

/// Blocks within rows up to this length have a warp, longer ones a thread block.
const SHORT: usize = 1024;

/// Longer ones still are too much for one thread block: their amax is found first, by many.
const LONGEST: usize = 32 << 10;

/// Where the amax values of a quantizer lie in device memory. An address of 0: nowhere.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Resident {
    /// One float32 for each block; 0: every block's own.
    pub amax: u64,
    /// One float32, that of the whole tensor, where the format has a scale for it; 0: the format holds it.
    pub tensor_amax: u64,
    /// The largest scale of a block, of static NVFP4 with a `tensor_amax`.
    pub largest_scale: f32,
    /// Room for one float32 for each block, for formats whose blocks do not lie within rows.
    pub scratch: u64,
    /// A u32 that gets bit 0 when an amax is no scale.
    pub flaws: u64,
}

/// Fake-quantizes `x` into `out`, with everything in device memory: puts work on the stream, allocates nothing and
/// waits for nothing.
pub(crate) fn run_resident(
    gpu: &Gpu,
    x: &TensorView,
    out: &TensorView,
    grid: &Grid,
    format: Format,
    at: Resident,
) {
    x.assert_out(out);
    assert_eq!(grid.count(), x.count(), "grid of another shape");
    if x.count() == 0 {
        return;
    }
    let mut params = FormatParams::of(format);
    if at.tensor_amax != 0 {
        params = params.with_tensor_amax(at.tensor_amax, at.largest_scale);
    }
    match at.amax {
        0 => dynamic(gpu, x, out, grid, format, params, at),
        _ => given(
            gpu,
            x,
            out,
            grid,
            format,
            params,
            Resident { flaws: 0, ..at },
        ),
    }
}

/// Whether blocks find their amax without room for it.
pub(crate) fn needs_scratch(grid: &Grid, format: Format) -> bool {
    match format {
        // Their blocks lie within rows, and there is no kernel that is given their amax.
        Format::Mx(_) | Format::Nvfp4 { .. } => false,
        // They usually have an amax: there is no kernel that finds it.
        Format::Nvfp4Static { .. } => true,
        Format::Int(_) | Format::E4m3 => {
            let block = grid.row().1;
            !grid.blocks_stay_in_rows() || block == 1 || block > LONGEST
        }
    }
}

/// Under the values at `at.amax`; one that is no scale sets bit 0 at `at.flaws`, unless that is 0.
fn given(
    gpu: &Gpu,
    x: &TensorView,
    out: &TensorView,
    grid: &Grid,
    format: Format,
    params: FormatParams,
    at: Resident,
) {
    let name = match format {
        Format::Int(_) => by_dtype!("fake_quant_given_int", x),
        Format::E4m3 => by_dtype!("fake_quant_given_e4m3", x),
        Format::Nvfp4Static { .. } => by_dtype!("fake_quant_given_nvfp4_static", x),
        Format::Mx(_) | Format::Nvfp4 { .. } => {
            unreachable!("{format:?} finds its own scales")
        }
    };
    let tiles = tiles(grid);
    // SAFETY: the kernel of that signature; both tensors have the grid's elements, and amax a value for each block.
    unsafe {
        launch!(gpu, name, (gpu.blocks_for(tiles), 1);
            x.address(), out.address(), GridParams::from(grid), tiles, at.amax, params, at.flaws);
    }
}

fn dynamic(
    gpu: &Gpu,
    x: &TensorView,
    out: &TensorView,
    grid: &Grid,
    format: Format,
    params: FormatParams,
    at: Resident,
) {
    let ((columns, block), rows) = (grid.row(), grid.rows());
    if needs_scratch(grid, format) {
        assert!(at.scratch != 0, "room for the amax of blocks");
        absmax::raise(gpu, x, grid, at.scratch);
        let found = Resident {
            amax: at.scratch,
            ..at
        };
        given(gpu, x, out, grid, format, params, found);
        return;
    }
    let blocks = (rows * columns.div_ceil(block)) as u64;
    let (from, to) = (x.address(), out.address());
    if block > SHORT {
        let name = match format {
            Format::Int(_) => by_dtype!("fake_quant_long_int", x),
            Format::E4m3 => by_dtype!("fake_quant_long_e4m3", x),
            _ => unreachable!("{format:?} has short blocks"),
        };
        // SAFETY: the kernel of that signature; both tensors have the grid's elements.
        unsafe {
            launch!(gpu, name, (gpu.blocks_for(blocks), 1);
                from, to, GridParams::from(grid), blocks, params, at.flaws);
        }
        return;
    }
    let kernels = kernels_of(format, x);
    let lanes = absmax::lanes_of_vectors(x, from | to, columns, block);
    // SAFETY: the kernels of that signature; both tensors have the grid's elements.
    unsafe {
        if let Some(lanes) = lanes {
            let vectors = (x.size_bytes() / absmax::VECTOR) as u64;
            launch!(gpu, kernels.vectors, (gpu.blocks_for(vectors.div_ceil(256)), 1);
                from, to, vectors, lanes, params, at.flaws);
        } else {
            launch!(gpu, kernels.warps, (gpu.blocks_for(blocks.div_ceil(8)), 1);
                from, to, GridParams::from(grid), blocks, params, at.flaws);
        }
    }
}

struct DynamicKernels {
    vectors: &'static str,
    warps: &'static str,
}

macro_rules! dynamic {
    ($vectors:literal, $warps:literal, $x:expr) => {
        DynamicKernels {
            vectors: by_dtype!($vectors, $x),
            warps: by_dtype!($warps, $x),
        }
    };
}

fn kernels_of(format: Format, x: &TensorView) -> DynamicKernels {
    match format {
        Format::Int(_) => dynamic!("fake_quant_vectors_int", "fake_quant_warps_int", x),
        Format::E4m3 => dynamic!("fake_quant_vectors_e4m3", "fake_quant_warps_e4m3", x),
        Format::Nvfp4 { .. } => dynamic!("fake_quant_vectors_nvfp4", "fake_quant_warps_nvfp4", x),
        Format::Nvfp4Static { .. } => unreachable!("static blocks are given their amax"),
        Format::Mx(MxFormat::E4m3) => {
            dynamic!("fake_quant_vectors_mx_e4m3", "fake_quant_warps_mx_e4m3", x)
        }
        Format::Mx(MxFormat::E5m2) => {
            dynamic!("fake_quant_vectors_mx_e5m2", "fake_quant_warps_mx_e5m2", x)
        }
        Format::Mx(MxFormat::E3m2) => {
            dynamic!("fake_quant_vectors_mx_e3m2", "fake_quant_warps_mx_e3m2", x)
        }
        Format::Mx(MxFormat::E2m3) => {
            dynamic!("fake_quant_vectors_mx_e2m3", "fake_quant_warps_mx_e2m3", x)
        }
        Format::Mx(MxFormat::E2m1) => {
            dynamic!("fake_quant_vectors_mx_e2m1", "fake_quant_warps_mx_e2m1", x)
        }
        Format::Mx(MxFormat::E1m2) => {
            dynamic!("fake_quant_vectors_mx_e1m2", "fake_quant_warps_mx_e1m2", x)
        }
        Format::Mx(MxFormat::Int8) => {
            dynamic!("fake_quant_vectors_mx_int8", "fake_quant_warps_mx_int8", x)
        }
    }
}

/// Under amax values that the host has: copies them first.
pub(super) fn run(
    gpu: &Arc<Gpu>,
    x: &TensorView,
    out: &TensorView,
    grid: &Grid,
    amax: &[f32],
    format: Format,
) {
    let done = DeviceBuffer::holding(gpu, amax).map(|values| {
        let at = Resident {
            amax: values.address(),
            ..Resident::default()
        };
        run_resident(gpu, x, out, grid, format, at);
    });
    gpu.note(done);
}

/// Every block under its own amax; returns infinity when one of them is no scale, else 0: waits for the stream.
pub(super) fn run_dynamic(
    gpu: &Arc<Gpu>,
    x: &TensorView,
    out: &TensorView,
    grid: &Grid,
    format: Format,
) -> f32 {
    let quantize = || -> Result<f32, GpuError> {
        let scratch = match needs_scratch(grid, format) {
            true => grid.num_blocks() * size_of::<f32>(),
            false => 0,
        };
        let (scratch, flaws) = (
            DeviceBuffer::zeroed(gpu, scratch)?,
            DeviceBuffer::zeroed(gpu, 4)?,
        );
        let at = Resident {
            scratch: scratch.address(),
            flaws: flaws.address(),
            ..Resident::default()
        };
        run_resident(gpu, x, out, grid, format, at);
        let mut found = [0u32];
        flaws.read(&mut found)?;
        Ok(if found[0] == 0 { 0.0 } else { f32::INFINITY })
    };
    quantize().unwrap_or_else(|error| {
        gpu.note(Err(error));
        0.0
    })
}
