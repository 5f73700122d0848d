//! Fake quantization to NF4 on the GPU: the bits of the CPU.

use std::sync::Arc;

use crate::kernels::cuda::{DeviceBuffer, Gpu, GpuError, GridParams, THREADS, by_dtype, launch};
use crate::kernels::grid::Grid;
use crate::kernels::tree_sum;
use crate::tensor::TensorView;

use super::cuda::OF_A_BLOCK;

/// Where the numbers of the blocks lie in device memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Nf4At {
    /// One float32 for each block.
    pub amax: u64,
    /// Room for one float32 for each block: the scales, which follow from the amax values.
    pub scales: u64,
    /// Room of [`sums_bytes`], aligned to 8.
    pub sums: u64,
}

/// Bytes of device memory for the sums of the amax values of so many blocks.
pub(crate) fn sums_bytes(blocks: usize) -> usize {
    blocks.div_ceil(tree_sum::CHUNK) * size_of::<f64>()
}

/// Fake-quantizes `x` to NF4 into `out`, scales in groups of `group` blocks: puts work on the stream, and waits for
/// nothing.
pub(crate) fn run_resident(
    gpu: &Gpu,
    x: &TensorView,
    out: &TensorView,
    grid: &Grid,
    group: usize,
    at: Nf4At,
) {
    x.assert_out(out);
    assert_eq!(grid.count(), x.count(), "grid of another shape");
    let count = x.count() as u64;
    if count == 0 {
        return;
    }
    find_scales(gpu, grid.num_blocks(), group, at);
    // SAFETY: the kernel of that signature; both tensors have the grid's elements, and there are an amax and a scale for
    // each block.
    unsafe {
        launch!(gpu, by_dtype!("fake_nf4", x), (gpu.blocks_for(count.div_ceil(OF_A_BLOCK)), 1);
            x.address(), out.address(), GridParams::from(grid), count, at.amax, at.scales);
    }
}

/// The scales of so many blocks, at least one, from their amax values.
fn find_scales(gpu: &Gpu, blocks: usize, group: usize, at: Nf4At) {
    let group = group.max(1);
    let (chunks, groups) = (
        blocks.div_ceil(tree_sum::CHUNK) as u64,
        blocks.div_ceil(group),
    );
    let warps = u64::from(THREADS / 32);
    // SAFETY: the kernels of these signatures; there is an amax and room for a scale for each block, and for the sum of
    // every chunk.
    unsafe {
        launch!(gpu, "nf4_sums", (gpu.blocks_for(chunks.div_ceil(warps)), 1);
            at.amax, blocks as u64, chunks, at.sums);
        launch!(gpu, "nf4_scales", (gpu.blocks_for(groups as u64), 1);
            at.amax, blocks as u64, group as u64, chunks, at.sums, at.scales);
    }
}

/// Under amax values of the host's, one for each block: copies them first.
pub(super) fn run(
    gpu: &Arc<Gpu>,
    x: &TensorView,
    out: &TensorView,
    grid: &Grid,
    amax: &[f32],
    group: usize,
) -> Result<(), GpuError> {
    let there = DeviceBuffer::holding(gpu, amax)?;
    let scales = DeviceBuffer::new(gpu, there.len())?;
    let sums = DeviceBuffer::new(gpu, sums_bytes(amax.len()))?;
    let at = Nf4At {
        amax: there.address(),
        scales: scales.address(),
        sums: sums.address(),
    };
    run_resident(gpu, x, out, grid, group, at);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cuda::testing::{self, Host, OnGpu};
    use crate::kernels::pack::{Nf4Scales, Scaling, fake_nf4};
    use crate::kernels::{Isa, Machine, absmax};
    use crate::tensor::{DType, Shape};

    fn assert_scales(machine: &Machine, amax: &[f32], group: usize) {
        let gpu = machine.gpu().expect("a GPU");
        let scales = Nf4Scales::new(amax, group);
        let scaling = Scaling::of_nf4(&scales, amax.len());
        let want: Vec<f32> = (0..amax.len()).map(|i| scaling.of(i)).collect();
        let there = DeviceBuffer::holding(gpu, amax).expect("memory");
        let room = |bytes| DeviceBuffer::new(gpu, bytes).expect("memory");
        let (scales, sums) = (room(there.len()), room(sums_bytes(amax.len())));
        let at = Nf4At {
            amax: there.address(),
            scales: scales.address(),
            sums: sums.address(),
        };
        find_scales(gpu, amax.len(), group, at);
        let mut got = vec![0.0; amax.len()];
        scales.read(&mut got).expect("a copy");
        testing::assert_same(&got, &want, &format!("{} in groups of {group}", amax.len()));
    }

    #[test]
    fn scales_have_the_bits_of_the_cpu() {
        let Some(gpu) = testing::machine() else {
            return;
        };
        for (blocks, group) in [
            (1, 1),
            (1, 256),
            (5, 3),
            (256, 256),
            (257, 256),
            (1000, 7),
            (4097, 300),
            (33 * 4096 + 5, 256),
        ] {
            let values: Vec<f32> = (0..blocks)
                .map(|i| ((i * 7919) % 1009) as f32 * 3.1e-3)
                .collect();
            assert_scales(&gpu, &values, group);
        }
        testing::assert_no_failure(&gpu);
    }

    #[test]
    fn scales_that_are_alike_zero_or_far_apart_are_those_of_the_cpu() {
        let Some(gpu) = testing::machine() else {
            return;
        };
        for amax in [
            &[2.0; 4][..],
            &[0.0; 5],
            &[1e-45, 0.0, 1e-40],
            &[3e38, 1e-38, 0.0, 2.0],
            &[f32::NAN, 1.0, 2.0],
            &[f32::INFINITY, 1.0],
        ] {
            assert_scales(&gpu, amax, 4);
            assert_scales(&gpu, amax, 2);
        }
        testing::assert_no_failure(&gpu);
    }

    /// Tensors that blocks divide and do not, in place and apart, at any alignment.
    #[test]
    fn elements_have_the_bits_of_the_cpu() {
        let Some(gpu) = testing::machine() else {
            return;
        };
        let cpu = Machine::new(2, Isa::best(None)).expect("threads");
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for (shape, blocks, group, offset) in [
                ([3, 64], [1, 16], 4, 0),
                ([5, 100], [1, 64], 256, 1),
                ([7, 33], [1, 7], 3, 3),
                ([1, 1], [1, 64], 1, 2),
                ([40, 24], [16, 8], 2, 0),
                ([12, 5], [12, 1], 5, 1),
            ] {
                let what = format!("{dtype} {shape:?} {blocks:?}");
                let grid = Grid::new(&Shape::new(&shape).expect("small"), &blocks);
                let (mut host, mut out) =
                    (Host::noise(dtype, &shape, 5), Host::noise(dtype, &shape, 1));
                let mut amax = vec![0.0; grid.num_blocks()];
                absmax::run(&cpu, &host.view(), &grid, &mut amax);
                let there = OnGpu::copy_of(&gpu, &host.view(), offset * dtype.size());
                let apart = OnGpu::copy_of(&gpu, &out.view(), 2 * offset * dtype.size());
                fake_nf4(&cpu, &host.view(), &out.view(), &grid, &amax, group);
                fake_nf4(&gpu, &there.view(), &apart.view(), &grid, &amax, group);
                fake_nf4(&gpu, &there.view(), &there.view(), &grid, &amax, group);
                for got in [apart, there] {
                    testing::assert_same(&got.values(), &out.view().to_f32(), &what);
                }
            }
        }
        testing::assert_no_failure(&gpu);
    }
}
