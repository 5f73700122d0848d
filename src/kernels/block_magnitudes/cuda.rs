//! The same on a GPU: the amax of the blocks, sums of chunks of rows, then their means.

use std::sync::Arc;

use super::CHUNK;
use crate::kernels::absmax;
use crate::kernels::cuda::{DeviceBuffer, Gpu, GpuError, THREADS, by_dtype, launch};
use crate::kernels::grid::Grid;
use crate::tensor::TensorView;

/// As [`super::means`] for a weight with elements: waits for the stream.
pub(super) fn means(gpu: &Arc<Gpu>, weight: &TensorView, block: usize) -> Vec<f32> {
    let mut means = vec![0.0; weight.shape().dims()[1]];
    let found = find(gpu, weight, block, &mut means);
    if found.is_err() {
        means.fill(0.0);
    }
    gpu.note(found);
    means
}

fn find(
    gpu: &Arc<Gpu>,
    weight: &TensorView,
    block: usize,
    means: &mut [f32],
) -> Result<(), GpuError> {
    let (rows, channels) = (weight.shape().dims()[0], means.len());
    let grid = Grid::new(weight.shape(), &[1, block]);
    let amax = DeviceBuffer::zeroed(gpu, grid.num_blocks() * size_of::<f32>())?;
    absmax::cuda::raise(gpu, weight, &grid, amax.address());
    let chunks = rows.div_ceil(CHUNK);
    let sums = DeviceBuffer::new(gpu, chunks * channels * size_of::<f64>())?;
    let found = DeviceBuffer::new(gpu, size_of_val(means))?;
    let across = channels.div_ceil(THREADS as usize) as u32;
    let tiny = weight.dtype().tiny();
    let [rows, channels, block, many] = [rows, channels, block, chunks].map(|count| count as u64);
    // SAFETY: the kernels of those signatures; the weight has rows and channels, the amax a value for each block, and
    // there is room for a sum of every chunk and a mean of every channel.
    unsafe {
        launch!(gpu, by_dtype!("block_magnitudes", weight), (across, chunks as u32);
            weight.address(), rows, channels, block, amax.address(), tiny, sums.address());
        launch!(gpu, by_dtype!("block_magnitudes_mean", weight), (across, 1);
            sums.address(), many, channels, rows, found.address());
    }
    found.read(means)
}

#[cfg(test)]
mod tests {
    use crate::kernels::block_magnitudes::means;
    use crate::kernels::cuda::testing::{self, Host, OnGpu};
    use crate::kernels::{Isa, Machine};
    use crate::tensor::DType;

    #[test]
    fn means_are_those_of_the_cpu() {
        let Some(machine) = testing::machine() else {
            return;
        };
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for (rows, channels, block) in [
                (1, 1, 1),
                (3, 70, 16),
                (600, 40, 40),
                (5, 300, 128),
                (7, 8, 1),
            ] {
                let mut host = Host::noise(dtype, &[rows, channels], 5);
                let there = OnGpu::copy_of(&machine, &host.view(), 2 * dtype.size());
                let got = means(&machine, &there.view(), block);
                let threads = [1, 3].map(|threads| {
                    let machine = Machine::new(threads, Isa::scalar()).expect("threads");
                    means(&machine, &host.view(), block)
                });
                assert_eq!(threads[0], threads[1]);
                testing::assert_same(
                    &got,
                    &threads[0],
                    &format!("{dtype} {rows} x {channels} / {block}"),
                );
            }
        }
        testing::assert_no_failure(&machine);
    }
}
