//! Sums of squares of the channels on the GPU: chunks of rows, then the chunks, all in float64. With more than a chunk
//! of rows the last bits may differ from the CPU's, which has no chunks; they are the same on every GPU.

use std::sync::Arc;

use crate::kernels::cuda::{DeviceBuffer, Gpu, GpuError, THREADS, by_dtype, launch};
use crate::tensor::TensorView;

/// Rows of a chunk.
const CHUNK: usize = 256;

/// Sums of chunks that are held at a time, unless a few chunks are more.
const WORKING: usize = 1 << 17;

/// Memory to work in, which only grows.
#[derive(Default)]
pub(crate) struct Room(Option<DeviceBuffer>);

impl Room {
    /// `sums[i] += weight * Σ_t (a[t, i] - factors[i] * b[t, i])²` for float64 sums of so many channels at an address, as
    /// [`super::run`] has it; the factors lie at an address too, 0 for none. Waits for nothing.
    pub fn add(
        &mut self,
        gpu: &Arc<Gpu>,
        a: &TensorView,
        b: Option<(&TensorView, u64)>,
        weight: f64,
        (sums, channels): (u64, usize),
    ) -> Result<(), GpuError> {
        if a.count() == 0 || channels == 0 {
            return Ok(());
        }
        assert!(a.count().is_multiple_of(channels), "rows of {channels}");
        if let Some((b, _)) = b {
            assert!(
                a.dtype() == b.dtype() && a.shape() == b.shape(),
                "two alike"
            );
        }
        let squares = self.find(gpu, a, b, channels)?;
        let bands = channels.div_ceil(THREADS as usize) as u32;
        // SAFETY: the kernel of that signature; squares and sums are one for each channel.
        unsafe {
            launch!(gpu, "channel_squares_weigh", (bands, 1); squares, weight, channels as u64, sums);
        }
        Ok(())
    }

    /// The sums of the squares, of two that are alike and not empty: their address, until the next call.
    fn find(
        &mut self,
        gpu: &Arc<Gpu>,
        a: &TensorView,
        b: Option<(&TensorView, u64)>,
        channels: usize,
    ) -> Result<u64, GpuError> {
        let rows = a.count() / channels;
        let in_work = (WORKING / channels).clamp(16, 1024);
        let bands = channels.div_ceil(THREADS as usize) as u32;
        let of_totals = channels * size_of::<f64>();
        let bytes = (in_work + 1) * of_totals;
        let fits = |buffer: &DeviceBuffer| buffer.len() >= bytes;
        let buffer = match self.0.take().filter(fits) {
            Some(buffer) => buffer,
            None => DeviceBuffer::new(gpu, bytes)?,
        };
        let totals = self.0.insert(buffer).address();
        let partial = totals + of_totals as u64;
        let factors = b.map_or(0, |(_, factors)| factors);
        gpu.fill(totals, 0, of_totals);
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
                    of_a, of_b, factors, here as u64, channels as u64, partial);
                launch!(gpu, "channel_squares_add", (bands, 1);
                    partial, chunks, channels as u64, totals);
            }
        }
        Ok(totals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::channel_squares;
    use crate::kernels::cuda::testing::{self, Host, OnGpu};
    use crate::kernels::{Isa, Machine};
    use crate::tensor::DType;

    #[test]
    fn sums_are_those_of_the_cpu_in_another_order() {
        let Some(machine) = testing::machine() else {
            return;
        };
        let (gpu, mut room) = (machine.gpu().expect("a GPU"), Room::default());
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
                let on_gpu = OnGpu::copy_of(&machine, &a.view(), place * dtype.size());
                let other = OnGpu::copy_of(&machine, &b.view(), 2 * dtype.size());
                let factors: Vec<f32> = (0..channels).map(|i| 0.5 + i as f32 * 0.01).collect();
                for case in 0..3 {
                    let factors = (case == 2).then_some(&factors[..]);
                    let (b, other) = (b.view(), other.view());
                    let mut want = vec![0.25; channels];
                    let of = (case > 0).then_some((&b, factors));
                    channel_squares::run(&cpu, &a.view(), of, 1.5, &mut want);
                    let far_factors = DeviceBuffer::holding(gpu, factors.unwrap_or_default());
                    let far_factors = far_factors.expect("memory");
                    let mut found = || {
                        let mut sums = vec![0.25; channels];
                        let there = DeviceBuffer::holding(gpu, &sums).expect("memory");
                        let of = (case > 0).then_some((&other, far_factors.address()));
                        let to = (there.address(), channels);
                        room.add(gpu, &on_gpu.view(), of, 1.5, to).expect("memory");
                        there.read(&mut sums).expect("a copy");
                        sums
                    };
                    let got = found();
                    assert_eq!(got, found(), "the same every time");
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
        testing::assert_no_failure(&machine);
    }
}
