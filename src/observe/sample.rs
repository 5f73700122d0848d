//! A few of the tokens that passed, to measure the error of a quantizer on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::gate::tokens;
use super::sample_on_gpu::OnGpu;
use crate::error::Result;
use crate::kernels::Machine;
use crate::kernels::load_rows::{self, Rows};
use crate::tensor::TensorView;

/// Most tokens that are kept.
pub(super) const MOST: usize = 64;

/// Every `stride`-th token, `stride` the least power of two for which they are few enough. So which ones
/// they are depends on how many passed, not on how a batch was cut into taps.
///
/// Those of a tensor on a GPU are kept there until [`Self::settle`].
#[derive(Default)]
pub struct Sample(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    channels: usize,
    seen: u64,
    stride: u64,
    /// Shared with whoever measures on it, when nothing more comes.
    rows: Arc<Vec<f32>>,
    /// Where the rows are instead, while tensors of a GPU come.
    on_gpu: Option<OnGpu>,
    /// A tensor with another last axis came: there is no sample of such.
    mixed: bool,
}

impl Sample {
    /// Bytes that the sample of so many channels takes.
    pub fn size_bytes(channels: usize) -> u64 {
        (MOST * channels * size_of::<f32>()) as u64
    }

    /// Takes from a tensor what belongs to the sample. On a GPU nothing is waited for, unless tensors in host memory come
    /// between.
    pub fn add(&self, machine: &Machine, x: &TensorView) -> Result<()> {
        let channels = x.shape().dims().last().copied().unwrap_or(1);
        let count = tokens(x.shape());
        if count == 0 || channels == 0 {
            return Ok(());
        }
        let mut kept = self.lock();
        if kept.seen == 0 {
            (kept.channels, kept.stride) = (channels, 1);
        }
        if kept.mixed || kept.channels != channels {
            *kept = Kept {
                mixed: true,
                seen: 1,
                ..Kept::default()
            };
            return Ok(());
        }
        match (machine.gpu_of(x), &kept.on_gpu) {
            (Some(gpu), None) => {
                kept.on_gpu = Some(OnGpu::holding(gpu, &kept.rows, channels)?);
                kept.rows = Arc::default();
            }
            (None, Some(_)) => kept.settle()?,
            _ => {}
        }
        kept.add(machine, x, count);
        Ok(())
    }

    /// No tensor comes any more: fetches what is kept on a GPU. Waits for its stream.
    pub fn settle(&self) -> Result<()> {
        self.lock().settle()
    }

    /// The rows, `[count, channels]`, and the number of channels, once it is settled.
    pub fn rows(&self) -> (Arc<Vec<f32>>, usize) {
        let kept = self.lock();
        (Arc::clone(&kept.rows), kept.channels)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn add(&mut self, machine: &Machine, x: &TensorView, count: u64) {
        let total = self.seen + count;
        while total.div_ceil(self.stride) > MOST as u64 {
            self.halve();
        }
        let first = self.seen.next_multiple_of(self.stride);
        self.seen = total;
        if first >= total {
            return;
        }
        let rows = Rows {
            first: (first - (total - count)) as usize,
            step: self.stride as usize,
            count: (total - first).div_ceil(self.stride) as usize,
            channels: self.channels,
        };
        if let Some(on_gpu) = &mut self.on_gpu {
            return on_gpu.add(x, rows);
        }
        let kept = Arc::make_mut(&mut self.rows);
        let start = kept.len();
        kept.reserve_exact(MOST * rows.channels - start);
        kept.resize(start + rows.count * rows.channels, 0.0);
        load_rows::run(machine, x, rows, 1.0, &mut kept[start..]);
    }

    /// Keeps every second row.
    fn halve(&mut self) {
        self.stride *= 2;
        if let Some(on_gpu) = &mut self.on_gpu {
            return on_gpu.halve();
        }
        let channels = self.channels;
        let kept = Arc::make_mut(&mut self.rows);
        let rows = kept.len() / channels;
        for row in (0..rows).step_by(2) {
            kept.copy_within(row * channels..(row + 1) * channels, row / 2 * channels);
        }
        kept.truncate(rows.div_ceil(2) * channels);
    }

    fn settle(&mut self) -> Result<()> {
        if let Some(on_gpu) = self.on_gpu.take() {
            self.rows = Arc::new(on_gpu.fetched()?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;
    use crate::kernels::cuda::testing::{self, Host, OnGpu};
    use crate::tensor::DType;
    use proptest::prelude::*;

    fn sampled(cuts: &[usize]) -> Vec<f32> {
        let machine = Machine::new(1, Isa::scalar()).expect("one thread");
        let sample = Sample::default();
        let mut next = 0.0;
        for &count in cuts {
            let mut rows: Vec<f32> = Vec::new();
            for _ in 0..count {
                rows.extend([next, -next]);
                next += 1.0;
            }
            let x = TensorView::over(&mut rows, &[count, 2]).expect("valid");
            sample.add(&machine, &x).expect("in host memory");
        }
        let (rows, _) = sample.rows();
        assert!(rows.chunks(2).all(|row| row[0] == -row[1]));
        rows.chunks(2).map(|row| row[0]).collect()
    }

    #[test]
    fn few_tokens_are_all_kept_and_many_thinned() {
        assert_eq!(sampled(&[3]), [0.0, 1.0, 2.0]);
        let many = sampled(&[1000]);
        assert_eq!(many.len(), 63);
        assert_eq!(&many[..3], [0.0, 16.0, 32.0]);
    }

    /// Tensors of a GPU, of the host, and of both by turns: rows that nobody can tell apart.
    #[test]
    fn a_gpu_keeps_the_same_rows() {
        let Some(machine) = testing::machine() else {
            return;
        };
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for (i, cuts) in [
                &[3][..],
                &[64, 1],
                &[1000],
                &[1, 70, 2, 300, 0, 9],
                &[40, 40, 40, 40],
            ]
            .iter()
            .enumerate()
            {
                let samples: [Sample; 3] = Default::default();
                for (place, count) in cuts.iter().enumerate() {
                    let mut host = Host::noise(dtype, &[*count, 3], place as u32 + 1);
                    let x = host.view();
                    let there = OnGpu::copy_of(&machine, &x, (i + place) % 3 * dtype.size());
                    let by_turns = if place % 2 == 0 { there.view() } else { x };
                    for (sample, x) in samples.iter().zip([x, there.view(), by_turns]) {
                        sample.add(&machine, &x).expect("room");
                    }
                }
                samples
                    .iter()
                    .for_each(|sample| sample.settle().expect("a copy"));
                let [want, got, turns] = samples.each_ref().map(Sample::rows);
                assert!(!want.0.is_empty());
                assert_eq!(got, want, "{dtype} {cuts:?}");
                assert_eq!(turns, want, "{dtype} {cuts:?}");
            }
        }
        testing::assert_no_failure(&machine);
    }

    proptest! {
        #[test]
        fn the_cut_into_taps_does_not_matter(cuts in prop::collection::vec(0usize..90, 1..12)) {
            let total: usize = cuts.iter().sum();
            prop_assert_eq!(sampled(&cuts), sampled(&[total]));
        }
    }
}
