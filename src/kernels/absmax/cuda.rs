//! The largest magnitudes on the GPU.

use std::sync::Arc;

use crate::kernels::cuda::{DeviceBuffer, Gpu, GpuError, GridParams, by_dtype, launch, tiles};
use crate::kernels::grid::Grid;
use crate::tensor::TensorView;

/// Blocks up to this length have a group of lanes, longer ones go by tiles.
const SHORT: usize = 512;

/// Bytes of a vector, which a lane takes at once.
pub(crate) const VECTOR: usize = 16;

/// Lanes that a block has, each with a vector, where rows are whole blocks and `addresses` (of all tensors, by `or`) allow
/// it: a power of two, 32 at most.
pub(crate) fn lanes_of_vectors(
    x: &TensorView,
    addresses: u64,
    columns: usize,
    block: usize,
) -> Option<u32> {
    let bytes = block * x.dtype().size();
    let lanes = bytes / VECTOR;
    let fits = bytes.is_multiple_of(VECTOR)
        && lanes.is_power_of_two()
        && lanes <= 32
        && columns.is_multiple_of(block)
        && addresses.is_multiple_of(VECTOR as u64);
    fits.then_some(lanes as u32)
}

/// An element is below zero. (Bit 0: one is NaN or infinite.)
pub(crate) const NEGATIVE: u32 = 2;

/// Raises the values at `amax`, one float32 for each block of the grid, to the largest magnitudes of `x`: NaN is larger
/// than everything. Puts work on the stream, and waits for nothing.
pub(crate) fn raise(gpu: &Gpu, x: &TensorView, grid: &Grid, amax: u64) {
    assert_eq!(grid.count(), x.count(), "grid of another shape");
    if x.count() == 0 {
        return;
    }
    let (columns, block) = grid.row();
    let rows = grid.rows();
    let (address, params) = (x.address(), GridParams::from(grid));
    if let Some(lanes) = lanes_of_vectors(x, x.address(), columns, block) {
        let vectors = (x.size_bytes() / VECTOR) as u64;
        // SAFETY: the kernel of that signature; the tensor is whole vectors, the caller's amax fits its grid.
        unsafe {
            launch!(gpu, by_dtype!("absmax_vectors", x), (gpu.blocks_for(vectors.div_ceil(256)), 1);
                address, params, vectors, lanes, amax);
        }
        return;
    }
    match block {
        1 => {
            let lanes = VECTOR / x.dtype().size();
            let is_whole = columns.is_multiple_of(lanes) && address.is_multiple_of(VECTOR as u64);
            let (name, lanes) = match is_whole {
                true => (by_dtype!("absmax_column_vectors", x), lanes),
                false => (by_dtype!("absmax_columns", x), 1),
            };
            let across = columns.div_ceil(32 * lanes) as u64;
            // Chunks of some rows for each warp, so that the maxima that are joined are few beside the elements.
            let most = (rows as u64).div_ceil(64).min(65535);
            let chunks = u64::from(gpu.resident_blocks(u64::MAX)).div_ceil(across);
            let per_chunk = (rows as u64).div_ceil(chunks.clamp(1, most));
            let chunks = (rows as u64).div_ceil(per_chunk);
            // SAFETY: the kernel of that signature; the grid is that of the tensor, the caller's amax fits it.
            unsafe {
                launch!(gpu, name, (across as u32, chunks as u32);
                    address, params, rows as u64, per_chunk, amax);
            }
        }
        2..=SHORT => {
            let lanes = block.next_power_of_two().min(32) as u32;
            let blocks = (rows * columns.div_ceil(block)) as u64;
            let groups = gpu.blocks_for(blocks.div_ceil(u64::from(256 / lanes)));
            // SAFETY: as above.
            unsafe {
                launch!(gpu, by_dtype!("absmax_blocks", x), (groups, 1);
                    address, params, blocks, lanes, amax);
            }
        }
        _ => {
            let tiles = tiles(grid);
            // SAFETY: as above.
            unsafe {
                launch!(gpu, by_dtype!("absmax_tiles", x), (gpu.resident_blocks(tiles), 1);
                    address, params, tiles, amax);
            }
        }
    }
}

/// Raises the float32 at `largest` to the largest of so many float32 at `values`.
pub(crate) fn raise_to_largest(gpu: &Gpu, values: u64, count: usize, largest: u64) {
    if count == 0 {
        return;
    }
    let grid = Grid::of_one_block(count);
    let tiles = tiles(&grid);
    // SAFETY: the kernel of that signature, and as many values as the grid has elements.
    unsafe {
        launch!(gpu, "absmax_tiles_f32", (gpu.resident_blocks(tiles), 1);
            values, GridParams::from(&grid), tiles, largest);
    }
}

/// Writes the float32 at `amax` to each of so many places from `to` on: one amax for all blocks as one for each.
pub(crate) fn repeat(gpu: &Gpu, amax: u64, to: u64, count: usize) {
    let count = count as u64;
    // SAFETY: the kernel of that signature; the caller has room for so many values.
    unsafe {
        launch!(gpu, "repeat_amax", (gpu.blocks_for(count.div_ceil(1024)), 1); amax, to, count);
    }
}

/// The largest magnitudes in host memory: waits for the stream. Zeros when it fails, which the GPU keeps.
pub(super) fn run(gpu: &Arc<Gpu>, x: &TensorView, grid: &Grid, amax: &mut [f32]) {
    let found = DeviceBuffer::zeroed(gpu, size_of_val(amax)).and_then(|values| {
        raise(gpu, x, grid, values.address());
        values.read(amax)
    });
    if found.is_err() {
        amax.fill(0.0);
    }
    gpu.note(found);
}

/// Sets at `flaws`, a u32, those bits of `wanted` that hold for an element of `x`.
pub(crate) fn find_flaws(gpu: &Gpu, x: &TensorView, wanted: u32, flaws: u64) {
    let count = x.count() as u64;
    // SAFETY: the kernel of that signature, and as many elements as there are.
    unsafe {
        launch!(gpu, by_dtype!("find_flaws", x), (gpu.blocks_for(count.div_ceil(2048)), 1);
            x.address(), count, wanted, flaws);
    }
}

/// Sets a bit at `flaws` when one of the float32 values at `amax` is no scale.
pub(crate) fn check_amax(gpu: &Gpu, amax: u64, count: usize, flaws: u64) {
    let count = count as u64;
    // SAFETY: the kernel of that signature, and as many values as there are.
    unsafe {
        launch!(gpu, "check_amax", (gpu.blocks_for(count.div_ceil(1024)), 1); amax, count, flaws);
    }
}

/// Whether an element is below zero: waits for the stream.
pub(super) fn any_negative(gpu: &Arc<Gpu>, x: &TensorView) -> bool {
    let mut found = [0u32];
    let searched = DeviceBuffer::zeroed(gpu, 4).and_then(|flaws| {
        find_flaws(gpu, x, NEGATIVE, flaws.address());
        flaws.read(&mut found)
    });
    gpu.note(searched);
    found[0] & NEGATIVE != 0
}

/// The first element that is NaN or infinite: waits for the stream.
pub(super) fn not_finite(gpu: &Arc<Gpu>, x: &TensorView) -> Option<(usize, f32)> {
    let find = || -> Result<Option<(usize, f32)>, GpuError> {
        let mut first = [u64::MAX];
        let place = DeviceBuffer::new(gpu, 8)?;
        place.fill(0xff)?;
        note_not_finite(gpu, x, place.address());
        place.read(&mut first)?;
        if first[0] == u64::MAX {
            return Ok(None);
        }
        let position = first[0] as usize;
        Ok(Some((position, element(gpu, x, position)?)))
    };
    match find() {
        Ok(found) => found,
        Err(error) => {
            gpu.note(Err(error));
            None
        }
    }
}

/// Notes the position of the first element that is NaN or infinite, if it is before the u64 at an address, which begins
/// as the largest one. Puts work on the stream, and waits for nothing.
pub(crate) fn note_not_finite(gpu: &Gpu, x: &TensorView, first: u64) {
    let count = x.count() as u64;
    // SAFETY: the kernel of that signature, and as many elements as there are; a place for the position (contract).
    unsafe {
        launch!(gpu, by_dtype!("find_not_finite", x), (gpu.blocks_for(count.div_ceil(2048)), 1);
            x.address(), count, first);
    }
}

/// One element, read back.
fn element(gpu: &Gpu, x: &TensorView, position: usize) -> Result<f32, GpuError> {
    let size = x.dtype().size();
    let mut bytes = [0u8; 4];
    gpu.read_from(x.address() + (position * size) as u64, &mut bytes[..size])?;
    Ok(x.dtype().load_from(bytes))
}
