//! Sums of squares of the channels on the GPU: chunks of rows, then the chunks, all in float64. With more than a chunk
//! of rows the last bits may differ from the CPU's, which has no chunks; they are the same on every GPU.

use std::sync::Arc;

use crate::kernels::cuda::{DeviceBuffer, Gpu, GpuError, THREADS, by_dtype, launch};
use crate::tensor::TensorView;

/// Rows of a chunk.
const CHUNK: usize = 256;

/// Sums of chunks that are held at a time, unless a few chunks are more.
const WORKING: usize = 1 << 17;

/// As [`super::run`] for tensors that are alike and not empty: waits for the stream. Nothing is added when it fails,
/// which the GPU keeps.
pub(super) fn run(
    gpu: &Arc<Gpu>,
    a: &TensorView,
    b: Option<(&TensorView, Option<&[f32]>)>,
    weight: f64,
    sums: &mut [f64],
) {
    let mut squares = vec![0.0; sums.len()];
    let found = find(gpu, a, b, &mut squares);
    if found.is_ok() {
        for (sum, square) in sums.iter_mut().zip(squares) {
            *sum += weight * square;
        }
    }
    gpu.note(found);
}

fn find(
    gpu: &Arc<Gpu>,
    a: &TensorView,
    b: Option<(&TensorView, Option<&[f32]>)>,
    squares: &mut [f64],
) -> Result<(), GpuError> {
    let channels = squares.len();
    let rows = a.count() / channels;
    let in_work = (WORKING / channels).clamp(16, 1024);
    let bands = channels.div_ceil(THREADS as usize) as u32;
    let factors = b.and_then(|(_, factors)| factors).unwrap_or_default();
    let multiplied = DeviceBuffer::holding(gpu, factors)?;
    let totals = DeviceBuffer::zeroed(gpu, size_of_val(squares))?;
    let partial = DeviceBuffer::new(gpu, in_work * channels * size_of::<f64>())?;
    for first in (0..rows).step_by(in_work * CHUNK) {
        let here = (in_work * CHUNK).min(rows - first);
        let chunks = here.div_ceil(CHUNK) as u64;
        let offset = (first * channels * a.dtype().size()) as u64;
        let (of_a, of_b) = (
            a.address() + offset,
            b.map_or(0u64, |(b, _)| b.address() + offset),
        );
        // SAFETY: the kernels of these signatures; the rows lie in both tensors, which are alike, factors and totals
        // are one for each channel, and there is room for so many chunks.
        unsafe {
            launch!(gpu, by_dtype!("channel_squares", a), (bands, chunks as u32);
                of_a, of_b, multiplied.address(), here as u64, channels as u64, partial.address());
            launch!(gpu, "channel_squares_add", (bands, 1);
                partial.address(), chunks, channels as u64, totals.address());
        }
    }
    totals.read(squares)
}

#[cfg(test)]
mod tests {
    use crate::kernels::channel_squares;
    use crate::kernels::cuda::testing::{self, Host, OnGpu};
    use crate::kernels::{Isa, Machine};
    use crate::tensor::{DType, TensorView};

    #[test]
    fn sums_are_those_of_the_cpu_in_another_order() {
        let Some(gpu) = testing::machine() else {
            return;
        };
        let cpu = Machine::new(1, Isa::scalar()).expect("one thread");
        for (rows, channels, place) in [
            (0, 3, 0),
            (1, 1, 1),
            (256, 33, 0),
            (600, 40, 3),
            (4, 1100, 0),
            (16 * 256 + 9, 3, 0),
        ] {
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                let mut a = Host::noise(dtype, &[rows, channels], 3);
                let mut b = Host::noise(dtype, &[rows, channels], 4);
                let on_gpu = OnGpu::copy_of(&gpu, &a.view(), place * dtype.size());
                let other = OnGpu::copy_of(&gpu, &b.view(), 2 * dtype.size());
                let factors: Vec<f32> = (0..channels).map(|i| 0.5 + i as f32 * 0.01).collect();
                for case in 0..3 {
                    let factors = (case == 2).then_some(&factors[..]);
                    let (b, other) = (b.view(), other.view());
                    let of = |machine: &Machine, a: &TensorView, b: &TensorView| {
                        let mut sums = vec![0.25; channels];
                        let b = (case > 0).then_some((b, factors));
                        channel_squares::run(machine, a, b, 1.5, &mut sums);
                        sums
                    };
                    let want = of(&cpu, &a.view(), &b);
                    let got = of(&gpu, &on_gpu.view(), &other);
                    assert_eq!(got, of(&gpu, &on_gpu.view(), &other), "the same every time");
                    for (got, want) in got.iter().zip(&want) {
                        // Two sums of positive float64, each within an epsilon for each row.
                        let bound = 2.0 * rows as f64 * f64::EPSILON;
                        assert!(
                            (got - want).abs() <= bound * want,
                            "{dtype} {rows} {got} {want}"
                        );
                        assert!(rows > 256 || got == want, "{dtype} {rows} {got} {want}");
                    }
                }
            }
        }
        testing::assert_no_failure(&gpu);
    }
}
