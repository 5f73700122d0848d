//! Magnitudes of the channels on the GPU.

use std::sync::Arc;

use super::{CHUNK, in_work};
use crate::kernels::cuda::{DeviceBuffer, Gpu, GpuError, THREADS, by_dtype, launch};
use crate::tensor::TensorView;

/// Where sums go in device memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sums {
    /// One float64 for each channel, added to.
    pub sums: u64,
    /// Room of [`workspace_bytes`].
    pub workspace: u64,
}

/// Bytes of device memory that sums need while they are taken.
pub(crate) fn workspace_bytes(channels: usize) -> usize {
    in_work(channels) * channels * size_of::<f32>()
}

/// Raises the float32 values at `amax`, one for each channel of `x`, to the largest magnitudes (0: they are not wanted),
/// and adds the sums of magnitudes. Puts work on the stream, and waits for nothing.
pub(crate) fn raise_and_add(
    gpu: &Gpu,
    x: &TensorView,
    channels: usize,
    amax: u64,
    sums: Option<Sums>,
) {
    if x.count() == 0 {
        return;
    }
    assert!(x.count().is_multiple_of(channels), "rows of {channels}");
    let (rows, rows_in_work) = (x.count() / channels, in_work(channels) * CHUNK);
    let workspace = sums.map_or(0u64, |sums| sums.workspace);
    for first in (0..rows).step_by(rows_in_work) {
        let here = rows_in_work.min(rows - first);
        let chunks = here.div_ceil(CHUNK) as u64;
        let from = x.address() + (first * channels * x.dtype().size()) as u64;
        // SAFETY: the kernels of these signatures; the rows lie in the tensor, the caller's values are one for each
        // channel, and the workspace has room for so many chunks.
        unsafe {
            launch!(gpu, by_dtype!("channel_stats", x), (bands(channels), chunks as u32);
                from, here as u64, channels as u64, amax, workspace);
            if let Some(Sums { sums, workspace }) = sums {
                launch!(gpu, "channel_stats_add", (bands(channels), 1);
                    workspace, chunks, channels as u64, sums);
            }
        }
    }
}

/// Adds to the float64 values at `means` the `sums` of a batch of so many rows, each divided by that, and makes the sums
/// zero.
pub(crate) fn add_means(gpu: &Gpu, sums: u64, rows: usize, channels: usize, means: u64) {
    // SAFETY: the kernel of that signature; both have a value for each channel.
    unsafe {
        launch!(gpu, "channel_stats_mean", (bands(channels), 1);
            sums, rows as f64, channels as u64, means);
    }
}

/// Thread blocks that have a thread for every channel.
fn bands(channels: usize) -> u32 {
    channels.div_ceil(THREADS as usize) as u32
}

/// The results in host memory: waits for the stream. They stay as they are when it fails, which the GPU keeps.
pub(super) fn run(
    gpu: &Arc<Gpu>,
    x: &TensorView,
    channels: usize,
    amax: Option<&mut [f32]>,
    sums: Option<&mut [f64]>,
) {
    let find = || -> Result<(), GpuError> {
        let wanted = |is_wanted: bool, bytes: usize| {
            DeviceBuffer::zeroed(gpu, if is_wanted { bytes } else { 0 })
        };
        let highest = wanted(amax.is_some(), channels * size_of::<f32>())?;
        let totals = wanted(sums.is_some(), channels * size_of::<f64>())?;
        let workspace = wanted(sums.is_some(), workspace_bytes(channels))?;
        let at = sums.is_some().then(|| Sums {
            sums: totals.address(),
            workspace: workspace.address(),
        });
        raise_and_add(gpu, x, channels, highest.address(), at);
        if let Some(amax) = amax {
            highest.read(amax)?;
        }
        match sums {
            Some(sums) => totals.read(sums),
            None => Ok(()),
        }
    };
    gpu.note(find());
}

#[cfg(test)]
mod tests {
    use crate::kernels::channel_stats;
    use crate::kernels::cuda::testing::{self, Host, OnGpu};
    use crate::kernels::{Isa, Machine};
    use crate::tensor::DType;

    #[test]
    fn both_results_have_the_bits_of_the_cpu() {
        let Some(gpu) = testing::machine() else {
            return;
        };
        let cpu = Machine::new(1, Isa::scalar()).expect("one thread");
        for (rows, channels, offset) in [
            (0, 5, 0),
            (1, 1, 4),
            (255, 16, 0),
            (257, 33, 2),
            (1300, 40, 0),
            (20, 1100, 6),
            (16 * 256 + 3, 4, 0),
        ] {
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                let mut host = Host::noise(dtype, &[rows, channels], 7);
                let offset = offset / 2 * dtype.size();
                let there = OnGpu::copy_of(&gpu, &host.view(), offset);
                let of = |machine: &Machine, x| {
                    let (mut amax, mut sums) = (vec![9.0; channels], vec![9.0; channels]);
                    channel_stats::run(machine, x, channels, Some(&mut amax), Some(&mut sums));
                    let mut alone = vec![9.0; channels];
                    channel_stats::abs_sums(machine, x, channels, &mut alone);
                    assert_eq!(alone, sums);
                    (amax, sums)
                };
                let (want, got) = (of(&cpu, &host.view()), of(&gpu, &there.view()));
                assert_eq!(got, want, "{dtype} {rows} {channels}");
            }
        }
        testing::assert_no_failure(&gpu);
    }

    #[test]
    fn a_tensor_of_many_chunks_goes_through_one_workspace() {
        let Some(gpu) = testing::machine() else {
            return;
        };
        let cpu = Machine::new(2, Isa::best(None)).expect("threads");
        let (rows, channels) = (17 * 256 + 5, 20_000);
        let mut host = Host::noise(DType::BF16, &[rows, channels], 3);
        let there = OnGpu::copy_of(&gpu, &host.view(), 0);
        let (mut want, mut got) = (vec![0.0; channels], vec![0.0; channels]);
        channel_stats::abs_sums(&cpu, &host.view(), channels, &mut want);
        channel_stats::abs_sums(&gpu, &there.view(), channels, &mut got);
        assert!(got == want);
        testing::assert_no_failure(&gpu);
    }

    #[test]
    fn not_a_number_wins_in_its_channel_only() {
        let Some(gpu) = testing::machine() else {
            return;
        };
        let (rows, channels) = (600, 20);
        let mut values = vec![1.0f32; rows * channels];
        values[300 * channels + 4] = f32::NAN;
        values[301 * channels + 4] = f32::INFINITY;
        values[599 * channels + 19] = f32::NEG_INFINITY;
        let mut host = Host::of(DType::F32, &[rows, channels], &values);
        let there = OnGpu::copy_of(&gpu, &host.view(), 0);
        let (mut amax, mut sums) = (vec![0.0; channels], vec![0.0; channels]);
        let x = there.view();
        channel_stats::run(&gpu, &x, channels, Some(&mut amax), Some(&mut sums));
        assert!(amax[4].is_nan() && sums[4].is_nan());
        assert!(amax[19] == f32::INFINITY && sums[19] == f64::INFINITY);
        assert!(amax[5] == 1.0 && sums[5] == 600.0);
        testing::assert_no_failure(&gpu);
    }
}
