//! A histogram that goes on in device memory: kernels decide about its range, by the rules of [`Histogram`] and to the
//! same bits, so that no tap waits.

use std::sync::Arc;

use super::{Histogram, first_edges, next_edges};
use crate::error::{Error, Result};
use crate::kernels::absmax;
use crate::kernels::cuda::{DeviceBuffer, Gpu};
use crate::kernels::histogram::cuda::{self, State};
use crate::model::negative;
use crate::tensor::TensorView;

/// What a GPU counts.
pub(in crate::observe) struct OnGpu {
    num_bins: usize,
    state: DeviceBuffer,
    counts: DeviceBuffer,
}

impl OnGpu {
    /// Goes on from a histogram. Errors when there is no device memory for it.
    pub fn new(gpu: &Arc<Gpu>, from: &Histogram) -> Result<Self> {
        let on_gpu = Self {
            num_bins: from.num_bins,
            state: DeviceBuffer::new(gpu, size_of::<State>())?,
            counts: DeviceBuffer::new(gpu, cuda::COUNTS_BYTES)?,
        };
        on_gpu.counts.fill(0)?;
        on_gpu.counts.write(&from.counts)?;
        on_gpu.state.write(&[State {
            bins: from.counts.len() as u32,
            edges: cuda::EDGES_KEPT,
            last_edge: from.last_edge(),
            width: from.edges.get(1).copied().unwrap_or(0.0),
            ..State::default()
        }])?;
        Ok(on_gpu)
    }

    /// Counts a batch: puts work on the stream, and waits for nothing.
    pub fn collect(&self, gpu: &Gpu, x: &TensorView, unsigned: bool) {
        let (state, counts) = (self.state.address(), self.counts.address());
        cuda::collect(gpu, x, self.num_bins, unsigned, state, counts);
    }

    /// Brings what was counted to the histogram that it went on from: waits for the stream. Errors when a batch had
    /// NaN or infinity, or a negative value where none may be, and then changes nothing.
    pub fn fetch(self, name: &str, into: &mut Histogram) -> Result<()> {
        let mut state = [State::default()];
        self.state.read(&mut state)?;
        let [state] = state;
        if state.flaws & absmax::cuda::NEGATIVE != 0 {
            return Err(negative(name));
        }
        if state.flaws != 0 {
            return Err(Error::Numeric(format!(
                "`{name}`: NaN or Inf in a tensor on the GPU; a histogram needs finite values"
            )));
        }
        let bins = state.bins as usize;
        let mut counts = vec![0; bins];
        self.counts.read(&mut counts)?;
        into.counts = counts;
        match state.edges {
            cuda::EDGES_KEPT => {}
            cuda::EDGES_ZEROS => into.edges = vec![0.0; 2],
            cuda::EDGES_FIRST => into.edges = first_edges(state.reached, bins),
            cuda::EDGES_NEXT => into.edges = next_edges(state.reached, state.width, bins),
            other => return Err(Error::Internal(format!("`{name}`: edges of kind {other}"))),
        }
        debug_assert_eq!(into.last_edge(), state.last_edge, "the kernels' last edge");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cuda::testing::{self, Host};
    use crate::kernels::{Isa, Machine};
    use crate::observe::HistogramStatistic;
    use crate::tensor::DType;
    use proptest::prelude::*;

    fn statistic(num_bins: usize, unsigned: bool) -> HistogramStatistic {
        let empty = Histogram::new(num_bins).expect("a valid number");
        HistogramStatistic::new("q.input", unsigned, empty)
    }

    /// Batches on the CPU, and on the GPU those that `on_gpu` says.
    fn assert_equal(
        gpu: &Machine,
        num_bins: usize,
        batches: &[Vec<f32>],
        on_gpu: impl Fn(usize) -> bool,
    ) {
        let cpu = Machine::new(1, Isa::scalar()).expect("one thread");
        let (want, got) = (statistic(num_bins, false), statistic(num_bins, false));
        for (i, batch) in batches.iter().enumerate() {
            let mut host = Host::of(DType::F32, &[batch.len()], batch);
            want.observe(&cpu, &host.view()).expect("finite");
            match on_gpu(i) {
                true => {
                    let there = testing::OnGpu::copy_of(gpu, &host.view(), 4 * (i % 5));
                    got.observe(gpu, &there.view()).expect("a tap");
                }
                false => got.observe(&cpu, &host.view()).expect("finite"),
            }
        }
        got.settle().expect("finite");
        testing::assert_no_failure(gpu);
        want.with(|want| got.with(|got| assert!(got == want, "{got:?}, expected {want:?}")));
    }

    #[test]
    fn the_range_grows_as_on_the_host() {
        let Some(gpu) = testing::machine() else {
            return;
        };
        let batches: [&[&[f32]]; 12] = [
            &[],
            &[&[], &[0.0, -1.0, 4.0], &[2.5], &[-5.5, 0.0], &[]],
            &[&[0.0, -0.0], &[0.0], &[2.0], &[0.0]],
            &[&[0.0; 5], &[0.0; 2]],
            &[&[1e-6, 5e-7], &[1e3], &[f32::MAX], &[7.0]],
            &[&[f32::from_bits(1), 0.0], &[f32::MAX, 1.0]],
            &[&[1e-44], &[1e-40], &[1e-30]],
            &[&[f32::MAX], &[f32::MIN]],
            &[&[f32::MIN_POSITIVE], &[f32::MIN_POSITIVE * 3.3]],
            &[&[1.0], &[1.0f32.next_up()], &[1.0f32.next_up().next_up()]],
            &[&[0.1], &[0.3], &[0.7], &[0.90001], &[1.1]],
            &[&[1e-30], &[0.7], &[0.9], &[1e10], &[3.4e38]],
        ];
        for batches in batches {
            let batches: Vec<Vec<f32>> = batches.iter().map(|batch| batch.to_vec()).collect();
            for num_bins in [2, 3, 4, 2048, 65536] {
                assert_equal(&gpu, num_bins, &batches, |_| true);
                assert_equal(&gpu, num_bins, &batches, |i| i % 2 == 0);
                assert_equal(&gpu, num_bins, &batches, |i| i % 2 == 1);
            }
        }
    }

    #[test]
    fn the_last_edge_is_that_of_the_host() {
        let Some(gpu) = testing::machine() else {
            return;
        };
        let mut state = 99u32;
        let mut noise = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 16_777_216.0
        };
        for i in 0..400 {
            let (first, bins) = (0.5 + noise(), 2 + i % 29);
            let width = first / bins as f32;
            // Just at an edge, where rounding decides, or somewhere between two.
            let edge = bins as f32 + (noise() * 40.0).floor();
            let next = match i % 3 {
                0 => edge * width,
                1 => (edge * width).next_up(),
                _ => (edge + noise()) * width,
            };
            let batches = [vec![first], vec![next, next - width, edge * width]];
            assert_equal(&gpu, bins, &batches, |_| true);
        }
    }

    #[test]
    fn storage_types_are_counted_as_on_the_host() {
        let Some(gpu) = testing::machine() else {
            return;
        };
        let cpu = Machine::new(1, Isa::scalar()).expect("one thread");
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let (want, got) = (statistic(2048, false), statistic(2048, false));
            for i in 1..6 {
                let mut host = Host::noise(dtype, &[3, 7 * i * i, 11], i as u32);
                want.observe(&cpu, &host.view()).expect("finite");
                let there = testing::OnGpu::copy_of(&gpu, &host.view(), 2 * dtype.size());
                got.observe(&gpu, &there.view()).expect("a tap");
            }
            got.settle().expect("finite");
            want.with(|want| got.with(|got| assert!(got == want, "{dtype}")));
        }
        testing::assert_no_failure(&gpu);
    }

    #[test]
    fn what_cannot_be_calibrated_to_is_told_at_the_end() {
        let Some(gpu) = testing::machine() else {
            return;
        };
        for (wrong, unsigned, text) in [
            (f32::NAN, false, "NaN or Inf"),
            (f32::NEG_INFINITY, false, "NaN or Inf"),
            (-0.5, true, "q.input"),
        ] {
            let seen = statistic(16, unsigned);
            for values in [[1.0, 2.0, 3.0], [0.5, wrong, 9.0], [1.0, 1.0, 4.0]] {
                let mut host = Host::of(DType::BF16, &[3], &values);
                let there = testing::OnGpu::copy_of(&gpu, &host.view(), 0);
                seen.observe(&gpu, &there.view()).expect("a tap");
            }
            let error = seen.settle().expect_err("a flaw").to_string();
            assert!(
                error.contains(text) && error.contains("`q.input`"),
                "{error}"
            );
            assert_eq!(seen.with(Histogram::total), 0);
        }
        testing::assert_no_failure(&gpu);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn any_batches_count_the_same(
            batches in prop::collection::vec(prop::collection::vec(0u32..0x7f80_0000, 0..5), 1..6),
            close in prop::collection::vec(0.1f32..9.0, 1..6),
            num_bins in 2usize..300,
        ) {
            let Some(gpu) = testing::machine() else {
                return Ok(());
            };
            let any = |batch: &Vec<u32>| batch.iter().map(|bits| f32::from_bits(*bits)).collect();
            let batches: Vec<Vec<f32>> = batches.iter().map(any).collect();
            assert_equal(&gpu, num_bins, &batches, |_| true);
            let close: Vec<Vec<f32>> = close.iter().map(|x| vec![*x]).collect();
            assert_equal(&gpu, num_bins, &close, |_| true);
        }
    }
}
