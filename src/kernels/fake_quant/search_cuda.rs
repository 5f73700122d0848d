//! The search for amax values on the GPU: the same choices and errors as on the CPU.

use std::sync::Arc;

use super::search::{Best, Candidates};
use super::{Format, search};
use crate::kernels::cuda::{
    DeviceBuffer, Elements, FormatParams, Gpu, GpuError, GridParams, launch,
};
use crate::kernels::grid::Grid;
use crate::kernels::pieces::PIECE;
use crate::tensor::TensorView;

/// Elements of a block that a warp holds at most, `kHeld` of `search.cu`.
const HELD: usize = 512;
/// Elements that are summed in float32, `kStretch`.
const STRETCH: usize = 128;
/// Sums of the last stretch of a part, beyond one, `kTail`.
const TAIL: usize = 3;
/// Warps of a thread block.
const WARPS: u64 = 8;
/// Bytes of sums that long blocks take at once, unless one candidate needs more.
const SUMS: usize = 64 << 20;
/// What stands for no candidate.
const NONE: u32 = u32::MAX;

/// `Candidates` of `search.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Params {
    amax: u64,
    values: u64,
    count: u32,
    likely: u32,
}

/// The best candidate for every block; waits for the stream.
pub(super) fn run(
    gpu: &Arc<Gpu>,
    x: &TensorView,
    grid: &Grid,
    candidates: Candidates<'_>,
    format: Format,
) -> Result<Vec<Best>, GpuError> {
    let blocks = grid.num_blocks();
    if x.count() == 0 || candidates.count() == 0 {
        return Ok(vec![Best::NONE; blocks]);
    }
    let (amax, values, likely) = match candidates {
        Candidates::Multiples { amax, factors } => (amax, factors, search::likely_factor(factors)),
        Candidates::Values(values) => (&[][..], values, 0),
    };
    let (amax, values_there) = (
        DeviceBuffer::holding(gpu, amax)?,
        DeviceBuffer::holding(gpu, values)?,
    );
    let params = Params {
        amax: amax.address(),
        values: values_there.address(),
        count: values.len() as u32,
        likely: likely as u32,
    };
    let found = Found::new(gpu, blocks)?;
    if grid.longest_block() <= HELD {
        short(gpu, x, grid, params, format, &found);
        return found.read(blocks);
    }
    let long = Long::new(gpu, x, grid, format, params.count)?;
    let mut best = vec![Best::NONE; blocks];
    for first in (0..params.count).step_by(long.at_once as usize) {
        let some = Params {
            values: params.values + u64::from(first) * size_of::<f32>() as u64,
            count: long.at_once.min(params.count - first),
            ..params
        };
        long.sum(some, &found)?;
        for (best, found) in best.iter_mut().zip(found.read(blocks)?) {
            if let Some(candidate) = found.candidate {
                best.offer((first + candidate) as usize, found.error);
            }
        }
    }
    Ok(best)
}

/// The search in blocks that a warp holds: puts work on the stream, and waits for nothing.
fn short(gpu: &Gpu, x: &TensorView, grid: &Grid, params: Params, format: Format, found: &Found) {
    let name = match format {
        Format::Int(_) => "search_blocks_int",
        Format::E4m3 => "search_blocks_e4m3",
        Format::Nvfp4Static { .. } => "search_blocks_nvfp4_static",
        Format::Mx(_) | Format::Nvfp4 { .. } => panic!("{format:?} finds its own scales"),
    };
    let count = grid.num_blocks() as u64;
    // SAFETY: the kernel of that signature; the grid is that of the tensor, and there is room for every block.
    unsafe {
        launch!(gpu, name, (gpu.blocks_for(count.div_ceil(WARPS)), 1);
            Elements::from(x), GridParams::from(grid), count, params, FormatParams::of(format),
            found.errors.address(), found.chosen.address());
    }
}

/// The search over given amax values in blocks of up to 512 elements, everything in device memory: what a benchmark
/// measures without the copy of the results.
pub struct Prepared<'a> {
    gpu: &'a Gpu,
    x: TensorView,
    grid: &'a Grid,
    format: Format,
    params: Params,
    found: Found,
    _values: DeviceBuffer,
}

impl<'a> Prepared<'a> {
    /// Copies the values to the GPU that `x` lies on, and makes room for the results.
    pub fn new(
        gpu: &'a Arc<Gpu>,
        x: TensorView,
        grid: &'a Grid,
        values: &[f32],
        format: Format,
    ) -> Result<Self, GpuError> {
        assert!(grid.longest_block() <= HELD, "longer blocks go in parts");
        let there = DeviceBuffer::holding(gpu, values)?;
        let params = Params {
            amax: 0,
            values: there.address(),
            count: values.len() as u32,
            likely: 0,
        };
        Ok(Self {
            gpu,
            x,
            grid,
            format,
            params,
            found: Found::new(gpu, grid.num_blocks())?,
            _values: there,
        })
    }

    /// Puts the search on the stream.
    pub fn run(&self) {
        short(
            self.gpu,
            &self.x,
            self.grid,
            self.params,
            self.format,
            &self.found,
        );
    }
}

/// Where kernels write what they found.
struct Found {
    errors: DeviceBuffer,
    chosen: DeviceBuffer,
}

impl Found {
    fn new(gpu: &Arc<Gpu>, blocks: usize) -> Result<Self, GpuError> {
        Ok(Self {
            errors: DeviceBuffer::new(gpu, blocks * size_of::<f64>())?,
            chosen: DeviceBuffer::new(gpu, blocks * size_of::<u32>())?,
        })
    }

    fn read(&self, blocks: usize) -> Result<Vec<Best>, GpuError> {
        let (mut errors, mut chosen) = (vec![0f64; blocks], vec![0u32; blocks]);
        self.errors.read(&mut errors)?;
        self.chosen.read(&mut chosen)?;
        let best = errors.iter().zip(&chosen).map(|(error, chosen)| Best {
            candidate: (*chosen != NONE).then_some(*chosen),
            error: *error,
        });
        Ok(best.collect())
    }
}

/// A tensor in blocks that no warp holds: a sum for every stretch and candidate, then those of parts and blocks.
struct Long<'a> {
    gpu: &'a Gpu,
    x: &'a TensorView,
    grid: &'a Grid,
    format: Format,
    parts: usize,
    stretches: usize,
    /// Candidates that there is room for.
    at_once: u32,
    sums: DeviceBuffer,
    totals: DeviceBuffer,
}

impl<'a> Long<'a> {
    fn new(
        gpu: &'a Arc<Gpu>,
        x: &'a TensorView,
        grid: &'a Grid,
        format: Format,
        candidates: u32,
    ) -> Result<Self, GpuError> {
        let longest = grid.longest_block();
        let (parts, stretches) = (
            longest.div_ceil(PIECE),
            longest.min(PIECE).div_ceil(STRETCH),
        );
        let all_parts = grid.num_blocks() * parts;
        let of_one = all_parts * (stretches + TAIL) * size_of::<f32>();
        let at_once = (SUMS / of_one).clamp(1, candidates as usize);
        Ok(Self {
            gpu,
            x,
            grid,
            format,
            parts,
            stretches,
            at_once: at_once as u32,
            sums: DeviceBuffer::new(gpu, at_once * of_one)?,
            totals: DeviceBuffer::new(gpu, at_once * all_parts * size_of::<f64>())?,
        })
    }

    fn sum(&self, params: Params, found: &Found) -> Result<(), GpuError> {
        let (gpu, x) = (self.gpu, self.x);
        let name = match self.format {
            Format::Int(_) => "search_stretches_int",
            Format::E4m3 => "search_stretches_e4m3",
            Format::Nvfp4Static { .. } => "search_stretches_nvfp4_static",
            Format::Mx(_) | Format::Nvfp4 { .. } => {
                panic!("{:?} finds its own scales", self.format)
            }
        };
        let (blocks, parts) = (self.grid.num_blocks() as u64, self.parts as u64);
        let stretches = self.stretches as u64;
        let (work, slots) = (blocks * parts * stretches, stretches + TAIL as u64);
        let (all_parts, candidates) = (blocks * parts, u64::from(params.count));
        self.sums.fill(0)?;
        // SAFETY: the kernels of those signatures; the grid is that of the tensor, and there is room for a sum of every
        // slot, part and block under each of the candidates.
        unsafe {
            launch!(gpu, name, (gpu.blocks_for(work.div_ceil(WARPS)), 1);
                Elements::from(x), GridParams::from(self.grid), work, parts, stretches, params,
                FormatParams::of(self.format), self.sums.address());
            launch!(gpu, "search_parts", (gpu.blocks_for((all_parts * candidates).div_ceil(256)), 1);
                self.sums.address(), all_parts, slots, candidates, self.totals.address());
            launch!(gpu, "search_best", (gpu.blocks_for(blocks.div_ceil(WARPS)), 1);
                self.totals.address(), blocks, parts, params.count, found.errors.address(),
                found.chosen.address());
        }
        Ok(())
    }
}
