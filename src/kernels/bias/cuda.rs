//! The bias of an affine quantizer on the GPU: the bits of the CPU.

use std::sync::Arc;

use super::{Center, Spread};
use crate::kernels::cuda::{
    DeviceBuffer, Gpu, GpuError, GridParams, Plain, by_dtype, launch, tiles,
};
use crate::kernels::grid::Grid;
use crate::kernels::tree_sum;
use crate::tensor::TensorView;

/// Bytes that a chunk of a block takes in the workspace, `SpreadPart` of `bias.cu`.
const PART_BYTES: usize = 16;

/// Work of a thread block: a chunk or a block for each of its warps.
const WARPS: u64 = 8;

impl Plain for Spread {}

/// Where mean and extremes go in device memory. An address of 0: they are not wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SpreadAt {
    /// A [`Spread`] for each block, of so many `batches` before this one.
    pub spread: u64,
    /// 0: what is there is written over.
    pub batches: f32,
    /// A float32 for each block, the `center` of its spread after this batch.
    pub bias: u64,
    /// Which number is the bias.
    pub center: Center,
    /// Room of [`workspace_bytes`].
    pub workspace: u64,
}

/// Bytes of device memory that it takes to find mean and extremes.
pub(crate) fn workspace_bytes(grid: &Grid) -> usize {
    grid.num_blocks() * chunks(grid) * PART_BYTES
}

fn chunks(grid: &Grid) -> usize {
    grid.longest_block().div_ceil(tree_sum::CHUNK)
}

/// Finds mean and extremes of the blocks of `x`: puts work on the stream, and waits for nothing.
pub(crate) fn find(gpu: &Gpu, x: &TensorView, grid: &Grid, at: SpreadAt) {
    assert_eq!(grid.count(), x.count(), "grid of another shape");
    if x.count() == 0 {
        return;
    }
    let (params, blocks, chunks) = (
        GridParams::from(grid),
        grid.num_blocks() as u64,
        chunks(grid) as u64,
    );
    let middle = u32::from(at.center == Center::Middle);
    let parts = gpu.blocks_for((blocks * chunks).div_ceil(WARPS));
    // SAFETY: the kernels of these signatures; the grid is that of the tensor, the workspace has room for every chunk of
    // every block, and what is wanted for every block.
    unsafe {
        launch!(gpu, by_dtype!("spread_parts", x), (parts, 1);
            x.address(), params, blocks, chunks, at.workspace);
        launch!(gpu, "spread_join", (gpu.blocks_for(blocks.div_ceil(WARPS)), 1);
            params, blocks, chunks, at.workspace, at.batches, at.spread, middle, at.bias);
    }
}

/// Mean and extremes in host memory: waits for the stream. Zeros when it fails, which the GPU keeps.
pub(super) fn fetched(gpu: &Arc<Gpu>, x: &TensorView, grid: &Grid) -> Vec<Spread> {
    let mut found = vec![Spread::default(); grid.num_blocks()];
    let fetch = || -> Result<(), GpuError> {
        let spread = DeviceBuffer::new(gpu, size_of_val(&found[..]))?;
        let workspace = DeviceBuffer::new(gpu, workspace_bytes(grid))?;
        let at = SpreadAt {
            spread: spread.address(),
            batches: 0.0,
            bias: 0,
            center: Center::Mean,
            workspace: workspace.address(),
        };
        find(gpu, x, grid, at);
        spread.read(&mut found)
    };
    let fetched = { fetch }();
    gpu.note(fetched);
    found
}

/// With a bias of the host's: copies it first.
pub(super) fn shift(
    gpu: &Arc<Gpu>,
    x: &TensorView,
    out: &TensorView,
    grid: &Grid,
    bias: &[f32],
    sign: f32,
) {
    let done = DeviceBuffer::holding(gpu, bias).map(|values| {
        shift_resident(gpu, x, out, grid, values.address(), sign);
    });
    gpu.note(done);
}

/// `out = x + sign * bias` with a bias in device memory, one float32 for each block: puts work on the stream and does
/// nothing else.
pub(crate) fn shift_resident(
    gpu: &Gpu,
    x: &TensorView,
    out: &TensorView,
    grid: &Grid,
    bias: u64,
    sign: f32,
) {
    x.assert_out(out);
    if x.count() == 0 {
        return;
    }
    let tiles = tiles(grid);
    // SAFETY: the kernel of that signature; both tensors have the grid's elements, and there is a bias for each block.
    unsafe {
        launch!(gpu, by_dtype!("shift", x), (gpu.blocks_for(tiles), 1);
            x.address(), out.address(), GridParams::from(grid), tiles, bias, sign);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::bias::{shift, spread};
    use crate::kernels::cuda::testing::{self, Host, OnGpu};
    use crate::kernels::{Isa, Machine};
    use crate::tensor::{DType, Shape};

    const SHAPE: [usize; 3] = [3, 7, 1300];
    const BLOCKS: [[usize; 3]; 8] = [
        [3, 7, 1300],
        [1, 7, 1300],
        [1, 1, 1300],
        [3, 7, 1],
        [1, 7, 1],
        [2, 5, 100],
        [1, 1, 16],
        [1, 1, 1],
    ];

    fn grid(shape: &[usize], blocks: &[usize]) -> Grid {
        Grid::new(&Shape::new(shape).expect("small"), blocks)
    }

    /// Bits, but for what is left of a NaN.
    fn assert_alike(got: &[Spread], want: &[Spread], what: &dyn std::fmt::Display) {
        let flat = |all: &[Spread]| -> Vec<f32> {
            all.iter().flat_map(|s| [s.mean, s.min, s.max]).collect()
        };
        testing::assert_same(&flat(got), &flat(want), what);
    }

    #[test]
    fn a_bias_is_taken_off_and_added_as_on_the_cpu() {
        let Some(gpu) = testing::machine() else {
            return;
        };
        let cpu = Machine::new(1, Isa::best(None)).expect("a thread");
        let mut values: Vec<f32> = (0..3 * 7 * 1300)
            .map(|i| ((i * 53) % 997) as f32 / 31.0 - 15.0)
            .collect();
        values[5] = f32::NAN;
        values[6] = f32::INFINITY;
        for blocks in BLOCKS {
            let grid = grid(&SHAPE, &blocks);
            let bias: Vec<f32> = (0..grid.num_blocks())
                .map(|i| 0.1 * i as f32 - 1.7)
                .collect();
            for sign in [-1.0, 1.0] {
                let mut want = values.clone();
                let want = TensorView::over(&mut want, &SHAPE).expect("room");
                let there = OnGpu::copy_of(&gpu, &want, 4);
                let apart = OnGpu::copy_of(&gpu, &want, 0);
                shift(&cpu, &want, &want, &grid, &bias, sign);
                shift(&gpu, &there.view(), &apart.view(), &grid, &bias, sign);
                shift(&gpu, &there.view(), &there.view(), &grid, &bias, sign);
                for got in [apart, there] {
                    testing::assert_same(&got.values(), &want.to_f32(), &format!("{blocks:?}"));
                }
            }
        }
        testing::assert_no_failure(&gpu);
    }

    #[test]
    fn means_and_extremes_have_the_bits_of_the_cpu() {
        let Some(gpu) = testing::machine() else {
            return;
        };
        let cpu = Machine::new(2, Isa::best(None)).expect("threads");
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for (blocks, offset) in BLOCKS.iter().zip([0, 1, 2, 3].iter().cycle()) {
                let what = format!("{dtype} {blocks:?}");
                let grid = grid(&SHAPE, blocks);
                let mut host = Host::noise(dtype, &SHAPE, 9);
                let there = OnGpu::copy_of(&gpu, &host.view(), offset * dtype.size());
                let want = spread(&cpu, &host.view(), &grid);
                assert_alike(&spread(&gpu, &there.view(), &grid), &want, &what);
            }
        }
        testing::assert_no_failure(&gpu);
    }

    /// Sums of more chunks than a warp has lanes, and a last one that is cut short.
    #[test]
    fn long_blocks_are_summed_as_on_the_cpu() {
        let Some(gpu) = testing::machine() else {
            return;
        };
        let cpu = Machine::new(2, Isa::best(None)).expect("threads");
        for (shape, blocks) in [
            ([1, 40 * 4096 + 17], [1, usize::MAX]),
            ([9001, 3], [9001, 1]),
            ([4096, 2], [4096, 1]),
        ] {
            let grid = grid(&shape, &blocks);
            let mut host = Host::noise(DType::BF16, &shape, 5);
            let there = OnGpu::copy_of(&gpu, &host.view(), 2);
            let want = spread(&cpu, &host.view(), &grid);
            assert_alike(
                &spread(&gpu, &there.view(), &grid),
                &want,
                &format!("{shape:?}"),
            );
        }
        testing::assert_no_failure(&gpu);
    }

    #[test]
    fn zeros_infinities_and_nan_are_those_of_the_cpu() {
        let Some(gpu) = testing::machine() else {
            return;
        };
        let cpu = Machine::new(1, Isa::best(None)).expect("a thread");
        let mut values = [
            [0.0, -0.0],
            [-0.0, -0.0],
            [f32::NAN, 2.0],
            [f32::NAN, f32::NAN],
            [f32::INFINITY, 1.0],
        ]
        .as_flattened()
        .to_vec();
        let x = TensorView::over(&mut values, &[5, 2]).expect("room");
        let there = OnGpu::copy_of(&gpu, &x, 0);
        let grid = grid(&[5, 2], &[1, 2]);
        let want = spread(&cpu, &x, &grid);
        assert_alike(&spread(&gpu, &there.view(), &grid), &want, &"edges");
        testing::assert_no_failure(&gpu);
    }

    #[test]
    fn batches_are_joined_as_on_the_cpu() {
        let Some(gpu) = testing::machine() else {
            return;
        };
        let cpu = Machine::new(1, Isa::best(None)).expect("a thread");
        let device = gpu.gpu().expect("a GPU");
        let grid = grid(&[50, 33], &[50, 1]);
        let room = |bytes: usize| DeviceBuffer::new(device, bytes).expect("memory");
        let (kept, workspace) = (room(33 * size_of::<Spread>()), room(workspace_bytes(&grid)));
        let biases = [room(33 * 4), room(33 * 4)];
        let mut want: Vec<Spread> = Vec::new();
        for batch in 0..4u8 {
            let mut host = Host::noise(DType::F16, &[50, 33], u32::from(batch) + 1);
            let there = OnGpu::copy_of(&gpu, &host.view(), 0);
            let next = spread(&cpu, &host.view(), &grid);
            let batches = f32::from(batch);
            want = match batch {
                0 => next,
                _ => want
                    .iter()
                    .zip(next)
                    .map(|(w, n)| w.joined(batches, n))
                    .collect(),
            };
            // The last one writes both kinds of bias; the spread is the same again.
            for (bias, center) in biases.iter().zip([Center::Mean, Center::Middle]) {
                let before: Vec<Spread> = {
                    let mut all = vec![want[0]; 33];
                    kept.read(&mut all).expect("a copy");
                    all
                };
                let at = SpreadAt {
                    spread: kept.address(),
                    batches,
                    bias: bias.address(),
                    center,
                    workspace: workspace.address(),
                };
                find(device, &there.view(), &grid, at);
                if center == Center::Mean {
                    kept.write(&before).expect("a copy");
                }
            }
        }
        let mut got = vec![want[0]; 33];
        kept.read(&mut got).expect("a copy");
        assert_alike(&got, &want, &"joined");
        for (bias, of) in biases.iter().zip([|s: &Spread| s.mean, Spread::middle]) {
            let mut got = vec![0.0; 33];
            bias.read(&mut got).expect("a copy");
            testing::assert_same(&got, &want.iter().map(of).collect::<Vec<f32>>(), &"bias");
        }
        testing::assert_no_failure(&gpu);
    }
}
