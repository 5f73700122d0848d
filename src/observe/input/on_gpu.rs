//! The statistics of an input in device memory: taps put work on the stream, and wait for nothing.

use std::sync::Arc;

use super::{BLOCK_ROWS, BlockNeeds, InputNeeds, Running, STAGE_ROWS};
use crate::error::{Error, Result};
use crate::kernels::absmax;
use crate::kernels::channel_stats::cuda as channel_stats;
use crate::kernels::cuda::{DeviceBuffer, Gpu};
use crate::kernels::gram::cuda as gram;
use crate::kernels::load_rows::{self, Rows};
use crate::tensor::TensorView;

/// What a GPU has seen since it was last fetched. Buffers of what is not asked for are empty.
pub(super) struct OnGpu {
    gpu: Arc<Gpu>,
    channels: usize,
    needs: InputNeeds,
    channel_max: DeviceBuffer,
    /// Room for the sums of chunks.
    workspace: DeviceBuffer,
    /// Float64 sums of one batch: zero between batches.
    batch_sums: DeviceBuffer,
    /// Float64 sums over batches of the mean magnitudes.
    means: DeviceBuffer,
    stage: DeviceBuffer,
    /// Rows that wait in the stage.
    staged: usize,
    gram: DeviceBuffer,
    block_stage: DeviceBuffer,
    blocks: DeviceBuffer,
}

impl OnGpu {
    /// Nothing seen yet. Errors when there is no device memory for it.
    pub fn new(gpu: &Arc<Gpu>, channels: usize, needs: InputNeeds) -> Result<Self> {
        let bytes = |is_wanted: bool, bytes: usize| {
            DeviceBuffer::new(gpu, if is_wanted { bytes } else { 0 })
        };
        let floats = |count: usize| count * size_of::<f32>();
        let doubles = channels * size_of::<f64>();
        let (mean, has_blocks) = (needs.mean_abs, needs.blocks.is_some());
        let of_blocks = needs.blocks.map_or(0, |blocks| blocks.len(channels));
        let statistics = Self {
            channel_max: bytes(true, floats(channels))?,
            workspace: bytes(mean, channel_stats::workspace_bytes(channels))?,
            batch_sums: bytes(mean, doubles)?,
            means: bytes(mean, doubles)?,
            stage: bytes(needs.gram, floats(STAGE_ROWS * channels))?,
            staged: 0,
            gram: bytes(needs.gram, floats(channels * channels))?,
            block_stage: bytes(has_blocks, floats(BLOCK_ROWS * channels))?,
            blocks: bytes(has_blocks, floats(of_blocks))?,
            gpu: Arc::clone(gpu),
            channels,
            needs,
        };
        for summed in [
            &statistics.channel_max,
            &statistics.batch_sums,
            &statistics.means,
            &statistics.gram,
            &statistics.blocks,
        ] {
            summed.fill(0)?;
        }
        if needs.gram {
            gram::prepare(gpu, STAGE_ROWS, channels);
        }
        Ok(statistics)
    }

    /// Adds a batch of `count` rows, at least one.
    pub fn add(&mut self, x: &TensorView, count: usize) {
        let (gpu, channels) = (Arc::clone(&self.gpu), self.channels);
        let (sums, means) = (self.batch_sums.address(), self.means.address());
        let wanted = self.needs.mean_abs.then(|| channel_stats::Sums {
            sums,
            workspace: self.workspace.address(),
        });
        channel_stats::raise_and_add(&gpu, x, channels, self.channel_max.address(), wanted);
        if self.needs.mean_abs {
            channel_stats::add_means(&gpu, sums, count, channels, means);
        }
        if self.needs.gram {
            self.add_to_gram(x, count);
        }
        if let Some(blocks) = self.needs.blocks {
            self.add_to_blocks(x, count, blocks);
        }
    }

    /// As `Running::add_to_gram`.
    fn add_to_gram(&mut self, x: &TensorView, count: usize) {
        let factor = 1.0 / (count as f32).sqrt();
        let mut first = 0;
        while first < count {
            let rows = (STAGE_ROWS - self.staged).min(count - first);
            let part = Rows {
                first,
                step: 1,
                count: rows,
                channels: self.channels,
            };
            let offset = self.staged * self.channels * size_of::<f32>();
            let place = self.stage.address() + offset as u64;
            load_rows::into_device(&self.gpu, x, part, factor, place);
            (first, self.staged) = (first + rows, self.staged + rows);
            if self.staged == STAGE_ROWS {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        let (rows, matrix) = (self.stage.address(), self.gram.address());
        gram::accumulate(&self.gpu, rows, self.staged, self.channels, matrix);
        self.staged = 0;
    }

    /// As `Running::add_to_blocks`.
    fn add_to_blocks(&self, x: &TensorView, count: usize, needs: BlockNeeds) {
        let step = needs.step(count);
        let sampled = count.div_ceil(step);
        let factor = 1.0 / (sampled as f32).sqrt();
        for done in (0..sampled).step_by(BLOCK_ROWS) {
            let part = Rows {
                first: done * step,
                step,
                count: BLOCK_ROWS.min(sampled - done),
                channels: self.channels,
            };
            let (rows, blocks) = (self.block_stage.address(), self.blocks.address());
            load_rows::into_device(&self.gpu, x, part, factor, rows);
            gram::accumulate_blocks(
                &self.gpu,
                rows,
                part.count,
                self.channels,
                needs.block,
                blocks,
            );
        }
    }

    /// Adds all of it to what there is; matrices that nothing else was added to stay where they are. Waits for the stream.
    /// Errors when a value was NaN or infinite.
    pub fn fetch(mut self, name: &str, into: &mut Running) -> Result<()> {
        self.flush();
        let mut highest = vec![0.0; self.channels];
        self.channel_max.read(&mut highest)?;
        if !absmax::largest(&highest).is_finite() {
            return Err(Error::Numeric(format!(
                "`{name}`: NaN or Inf in a tensor on the GPU; statistics of a layer's input need finite values"
            )));
        }
        for (highest, found) in into.channel_max.iter_mut().zip(&highest) {
            *highest = highest.max(*found);
        }
        if self.needs.mean_abs {
            let mut means = vec![0.0; self.channels];
            self.means.read(&mut means)?;
            for (mean, found) in into.means.iter_mut().zip(&means) {
                *mean += found;
            }
        }
        if self.needs.gram {
            into.gram.add(self.gram)?;
        }
        if self.needs.blocks.is_some() {
            into.blocks.add(self.blocks)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{InputStatistics, InputSummary};
    use super::*;
    use crate::kernels::cuda::testing::{self, Host};
    use crate::kernels::gram::{Gram, max_rel_err};
    use crate::kernels::{Isa, Machine};
    use crate::tensor::DType;

    const ALL: InputNeeds = InputNeeds {
        mean_abs: true,
        gram: true,
        blocks: Some(BlockNeeds {
            block: 16,
            max_tokens: 64,
        }),
    };

    /// What is collected of batches of so many tokens, the `on_gpu` ones in device memory.
    fn collected(
        gpu: &Machine,
        needs: InputNeeds,
        channels: usize,
        batches: &[(usize, DType)],
        on_gpu: impl Fn(usize) -> bool,
    ) -> Arc<InputSummary> {
        let statistics = InputStatistics::new("q.input", channels, needs).expect("memory");
        let cpu = Machine::new(1, Isa::scalar()).expect("one thread");
        for (i, (count, dtype)) in batches.iter().enumerate() {
            let mut host = Host::noise(*dtype, &[1, *count, channels], i as u32 + 9);
            match on_gpu(i) {
                true => {
                    let there = testing::OnGpu::copy_of(gpu, &host.view(), 4);
                    statistics.observe(gpu, &there.view()).expect("a tap");
                }
                false => statistics.observe(&cpu, &host.view()).expect("a tap"),
            }
        }
        statistics.settle().expect("finite");
        testing::assert_no_failure(gpu);
        statistics.summary(&cpu)
    }

    const BATCHES: [(usize, DType); 6] = [
        (3, DType::F32),
        (0, DType::F32),
        (700, DType::F16),
        (1, DType::BF16),
        (500, DType::BF16),
        (130, DType::F16),
    ];

    fn assert_close(got: &[f32], want: &[f32], channels: usize) {
        assert_eq!(got.len(), want.len());
        // Five batches, each of them in parts; an entry is at most the mean of the diagonal's.
        let bound = 5.0 * 2.0 * max_rel_err(1400) * 5.0;
        let is_whole = got.len() == channels * channels;
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            // What is below the diagonal of a whole matrix is not told.
            let is_below = is_whole && i % channels < i / channels;
            let error = (f64::from(*got) - f64::from(*want)).abs();
            assert!(is_below || error <= bound, "{i}: {got} {want}");
        }
    }

    fn entries(gram: &Gram) -> &[f32] {
        gram.on_host().expect("a copy")
    }

    #[test]
    fn statistics_are_those_of_the_host() {
        let Some(gpu) = testing::machine() else {
            return;
        };
        for channels in [1, 40, 70] {
            let want = collected(&gpu, ALL, channels, &BATCHES, |_| false);
            for part in [7, 2, 3] {
                let got = collected(&gpu, ALL, channels, &BATCHES, |i| {
                    part == 7 || i % part == 0
                });
                assert_eq!((got.tokens, got.batches), (want.tokens, want.batches));
                assert_eq!(got.has_f16, want.has_f16);
                assert_eq!(got.channel_max, want.channel_max);
                let there = gpu.gpu().expect("a GPU");
                for matrix in [&got.gram, &got.blocks] {
                    assert_eq!(matrix.on(there).is_some(), part == 7, "fetched or not");
                }
                if part == 7 {
                    assert_eq!(got.mean_abs, want.mean_abs);
                } else {
                    // Added up in another order, in float64.
                    for (got, want) in got.mean_abs.iter().zip(&want.mean_abs) {
                        assert!((got - want).abs() <= f32::EPSILON * want);
                    }
                }
                assert_close(entries(&got.gram), entries(&want.gram), channels);
                assert_close(entries(&got.blocks), entries(&want.blocks), channels);
                let again = collected(&gpu, ALL, channels, &BATCHES, |i| {
                    part == 7 || i % part == 0
                });
                let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(entries(&again.gram)), bits(entries(&got.gram)));
                assert_eq!(bits(entries(&again.blocks)), bits(entries(&got.blocks)));
            }
        }
    }

    #[test]
    fn what_was_settled_is_added_to() {
        let Some(gpu) = testing::machine() else {
            return;
        };
        let (channels, cpu) = (40, Machine::new(1, Isa::scalar()).expect("one thread"));
        let want = collected(&gpu, ALL, channels, &BATCHES, |_| false);
        // Bit i: batch i is on the GPU. Alone there, on both sides, and from one to the other.
        for places in [0b111111, 0b110101, 0b000111, 0b111000] {
            let statistics = InputStatistics::new("q.input", channels, ALL).expect("memory");
            for (i, (count, dtype)) in BATCHES.iter().enumerate() {
                let mut host = Host::noise(*dtype, &[1, *count, channels], i as u32 + 9);
                let there = testing::OnGpu::copy_of(&gpu, &host.view(), 4);
                match places >> i & 1 {
                    1 => statistics.observe(&gpu, &there.view()).expect("a tap"),
                    _ => statistics.observe(&cpu, &host.view()).expect("a tap"),
                }
                statistics.settle().expect("finite");
            }
            let got = statistics.summary(&cpu);
            assert_close(entries(&got.gram), entries(&want.gram), channels);
            assert_close(entries(&got.blocks), entries(&want.blocks), channels);
            assert_eq!(
                (got.tokens, &got.channel_max),
                (want.tokens, &want.channel_max)
            );
        }
        testing::assert_no_failure(&gpu);
    }

    #[test]
    fn only_what_is_asked_for_is_collected() {
        let Some(gpu) = testing::machine() else {
            return;
        };
        let got = collected(&gpu, InputNeeds::default(), 24, &BATCHES, |_| true);
        assert_eq!(got.channel_max.len(), 24);
        assert!(got.mean_abs.is_empty() && got.gram.is_empty() && got.blocks.is_empty());
        let nothing = collected(&gpu, ALL, 24, &[], |_| true);
        assert!(nothing.tokens == 0 && nothing.channel_max.is_empty());
    }

    #[test]
    fn what_is_not_finite_is_an_error_that_names_the_tap() {
        let Some(gpu) = testing::machine() else {
            return;
        };
        for wrong in [f32::NAN, f32::NEG_INFINITY] {
            let statistics = InputStatistics::new("q.input", 20, ALL).expect("memory");
            let mut values = vec![1.0; 60];
            values[33] = wrong;
            let mut host = Host::of(DType::F16, &[3, 20], &values);
            let there = testing::OnGpu::copy_of(&gpu, &host.view(), 0);
            // The tap does not wait to find out.
            statistics.observe(&gpu, &there.view()).expect("a tap");
            let error = statistics.settle().expect_err("not finite");
            assert!(matches!(&error, Error::Numeric(text) if text.contains("`q.input`")));
            statistics.settle().expect("told once");
        }
        testing::assert_no_failure(&gpu);
    }
}
