//! What kernels are told of a grid and a format: the structs of `grid.cuh` and `formats.cuh`.

use crate::format::minifloat::{E1M2, E2M1, E2M3, E3M2, E4M3, E5M2};
use crate::format::mx::{self, MxElement};
use crate::kernels::fake_quant::{Format, MxFormat};
use crate::kernels::grid::Grid;
use crate::tensor::{DType, MAX_RANK, TensorView};

/// Elements of a tile, `kTile` of `grid.cuh`.
pub(crate) const TILE: usize = 8192;

/// Extent and block of the merged dimensions.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct GridParams {
    extent: [u64; MAX_RANK],
    block: [u64; MAX_RANK],
    rank: i32,
}

impl From<&Grid> for GridParams {
    fn from(grid: &Grid) -> Self {
        let mut params = Self {
            extent: [1; MAX_RANK],
            block: [1; MAX_RANK],
            rank: grid.dims().len() as i32,
        };
        for (i, (extent, block)) in grid.dims().iter().enumerate() {
            (params.extent[i], params.block[i]) = (*extent as u64, *block as u64);
        }
        params
    }
}

/// `Elements` of `mq.cuh`: those of a tensor, whose type the kernel looks up.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Elements {
    at: u64,
    kind: u32,
}

impl Elements {
    /// Those of a type at an address.
    pub fn at(address: u64, dtype: DType) -> Self {
        Self {
            at: address,
            kind: match dtype {
                DType::F32 => 32,
                DType::F16 => 16,
                DType::BF16 => 17,
            },
        }
    }
}

impl From<&TensorView> for Elements {
    fn from(x: &TensorView) -> Self {
        Self::at(x.address(), x.dtype())
    }
}

/// How many tiles a grid is cut into.
pub(crate) fn tiles(grid: &Grid) -> u64 {
    (grid.rows() * grid.row().0.div_ceil(TILE)) as u64
}

/// What a format is made with.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct FormatParams {
    max: f32,
    min: f32,
    /// What NVFP4 takes from the amax of the tensor, unless that lies at `tensor_amax`.
    of_tensor: f32,
    /// Address of the amax of the tensor; 0 for none.
    tensor_amax: u64,
}

impl FormatParams {
    /// Those of a format that the host knows everything of.
    pub fn of(format: Format) -> Self {
        let (max, min, of_tensor) = match format {
            Format::Int(grid) => (grid.max, grid.min, 0.0),
            Format::E4m3 => (0.0, 0.0, 0.0),
            Format::Mx(format) => (largest(format), 0.0, 0.0),
            Format::Nvfp4 { global_scale } => (0.0, 0.0, global_scale),
            Format::Nvfp4Static { scale_amax } => (0.0, 0.0, scale_amax),
        };
        Self {
            max,
            min,
            of_tensor,
            tensor_amax: 0,
        }
    }

    /// The same where the amax of the tensor lies in device memory. `largest_scale` is that of static NVFP4.
    pub fn with_tensor_amax(self, address: u64, largest_scale: f32) -> Self {
        Self {
            max: if largest_scale > 0.0 {
                largest_scale
            } else {
                self.max
            },
            tensor_amax: address,
            ..self
        }
    }
}

fn largest(format: MxFormat) -> f32 {
    match format {
        MxFormat::E4m3 => E4M3.max(),
        MxFormat::E5m2 => E5M2.max(),
        MxFormat::E3m2 => E3M2.max(),
        MxFormat::E2m3 => E2M3.max(),
        MxFormat::E2m1 => E2M1.max(),
        MxFormat::E1m2 => E1M2.max(),
        MxFormat::Int8 => mx::Int8.max(),
    }
}
