//! Histograms on the GPU.

use std::mem::offset_of;
use std::sync::Arc;

use crate::kernels::Grid;
use crate::kernels::absmax;
use crate::kernels::cuda::{DeviceBuffer, Gpu, GpuError, Plain, by_dtype, launch};
use crate::tensor::TensorView;

use super::MAX_BINS;

/// A running histogram but for its counts: `HistogramState` of `histogram.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct State {
    /// Bins at present; 0 before the first batch.
    pub bins: u32,
    /// How its edges came to be: one of the constants below.
    pub edges: u32,
    /// The end of the range; 0 as long as nothing but zeros came.
    pub last_edge: f32,
    /// The second edge.
    pub width: f32,
    /// The largest magnitude that the edges were made for.
    pub reached: f32,
    /// Of a batch that waits to be counted: bits of its largest magnitude.
    pub batch_max: u32,
    /// Bits of [`absmax::cuda`]: what is wrong with the batches.
    pub flaws: u32,
    /// Whether that batch is left out.
    pub is_skipped: u32,
}

impl Plain for State {}

/// The edges are those that the host has.
pub(crate) const EDGES_KEPT: u32 = 0;
/// One bin from 0 to 0.
pub(crate) const EDGES_ZEROS: u32 = 1;
/// Those of the first batch.
pub(crate) const EDGES_FIRST: u32 = 2;
/// Those of a range that has grown.
pub(crate) const EDGES_NEXT: u32 = 3;

/// Bytes of the counts of a running histogram: one for each bin that there can be, and one for what is in none.
pub(crate) const COUNTS_BYTES: usize = (MAX_BINS + 1) * size_of::<u64>();

/// Elements that are worth a thread block, which has to empty its counts.
const PER_BLOCK: u64 = 1 << 14;

/// Adds a batch to a running histogram in device memory, whose range grows where it must: `state` is a [`State`],
/// `counts` have [`COUNTS_BYTES`]. A batch with NaN or infinity is left out, and noted as a flaw; with `unsigned`,
/// negative values are a flaw too. Puts work on the stream, and waits for nothing.
pub(crate) fn collect(
    gpu: &Gpu,
    x: &TensorView,
    num_bins: usize,
    unsigned: bool,
    state: u64,
    counts: u64,
) {
    if x.count() == 0 {
        return;
    }
    let flaws = state + offset_of!(State, flaws) as u64;
    let batch_max = state + offset_of!(State, batch_max) as u64;
    if unsigned {
        absmax::cuda::find_flaws(gpu, x, absmax::cuda::NEGATIVE, flaws);
    }
    let whole = Grid::new(x.shape(), x.shape().dims());
    absmax::cuda::raise(gpu, x, &whole, batch_max);
    let n = x.count() as u64;
    // SAFETY: the kernels of these signatures; state and counts are as the caller promises.
    unsafe {
        launch!(gpu, "histogram_reach", (1, 1); state, num_bins as u32, counts);
        launch!(gpu, by_dtype!("histogram_collect", x), (gpu.blocks_for(n.div_ceil(PER_BLOCK)), 1);
            x.address(), n, state, counts);
    }
}

/// Adds to counts in host memory: waits for the stream. Nothing is added when it fails, which the GPU keeps.
pub(super) fn run(gpu: &Arc<Gpu>, x: &TensorView, last_edge: f32, counts: &mut [u64]) -> u64 {
    let mut found = vec![0u64; counts.len() + 1];
    let count = |found: &mut [u64]| -> Result<(), GpuError> {
        let there = DeviceBuffer::zeroed(gpu, size_of_val(found))?;
        let (n, bins) = (x.count() as u64, counts.len() as u32);
        // SAFETY: the kernel of that signature; there is a count for each bin and one more.
        unsafe {
            launch!(gpu, by_dtype!("histogram", x), (gpu.blocks_for(n.div_ceil(PER_BLOCK)), 1);
                x.address(), n, last_edge, bins, there.address());
        }
        there.read(found)
    };
    let counted = count(&mut found);
    if counted.is_err() {
        gpu.note(counted);
        return 0;
    }
    for (count, found) in counts.iter_mut().zip(&found) {
        *count += found;
    }
    found[counts.len()]
}

#[cfg(test)]
mod tests {
    use crate::kernels::cuda::testing::{self, Host, OnGpu};
    use crate::kernels::histogram::{self, MAX_BINS};
    use crate::kernels::{Isa, Machine};
    use crate::tensor::DType;

    /// On both, twice on the GPU.
    fn check(gpu: &Machine, mut host: Host, offset: usize, last_edge: f32, bins: usize) {
        let cpu = Machine::new(1, Isa::scalar()).expect("one thread");
        let there = OnGpu::copy_of(gpu, &host.view(), offset);
        let mut want = vec![3; bins];
        let outside = histogram::run(&cpu, &host.view(), last_edge, &mut want);
        for _ in 0..2 {
            let mut got = vec![3; bins];
            let beyond = histogram::run(gpu, &there.view(), last_edge, &mut got);
            assert_eq!(beyond, outside, "{bins} {last_edge:e}");
            assert!(got == want, "{bins} {last_edge:e}");
        }
        testing::assert_no_failure(gpu);
    }

    #[test]
    fn every_dtype_place_and_number_of_bins_counts_as_on_the_cpu() {
        let Some(gpu) = testing::machine() else {
            return;
        };
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for (count, bins) in [
                (0, 3),
                (1, 1),
                (63, 2),
                (257, 2048),
                (40_001, 2048),
                // More than are counted in shared memory.
                (5000, 8191),
                (5000, 8192),
                (5000, MAX_BINS),
            ] {
                for place in [0, 1, 3] {
                    let host = Host::noise(dtype, &[count], bins as u32);
                    check(&gpu, host, place * dtype.size(), 0.7, bins);
                }
            }
        }
    }

    #[test]
    fn edges_and_special_values_have_their_places() {
        let Some(gpu) = testing::machine() else {
            return;
        };
        for last_edge in [4.0, f32::MAX, f32::MIN_POSITIVE, 1e20, 1.3] {
            for bins in [1, 4, 2048] {
                let mut values = testing::EDGES.to_vec();
                values.extend([
                    last_edge,
                    last_edge.next_up(),
                    -last_edge,
                    last_edge.next_down(),
                ]);
                values.extend((0..=bins).map(|i| last_edge * (i as f32 / bins as f32)));
                let host = Host::of(DType::F32, &[values.len()], &values);
                check(&gpu, host, 0, last_edge, bins);
            }
        }
    }
}
