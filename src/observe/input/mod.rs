//! What algorithms want to know of the activations that enter a layer: magnitudes of the channels, and
//! how the channels move together.

mod on_gpu;
mod summed;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::gate::tokens;
use crate::error::{Error, Result};
use crate::kernels::gram::Gram;
use crate::kernels::load_rows::{self, Rows};
use crate::kernels::{Machine, absmax, channel_stats, gram};
use crate::model::not_finite;
use crate::tensor::{DType, TensorView};
use on_gpu::OnGpu;
use summed::Summed;

/// Rows that are gathered before they go into a Gram matrix: enough for a matrix product to run at its
/// speed, and always the same rows together, however the host cuts a batch into taps.
const STAGE_ROWS: usize = 512;

/// Rows that are gathered for the blocks.
const BLOCK_ROWS: usize = 128;

/// Which statistics of an input are collected. The magnitudes of the channels always are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct InputNeeds {
    /// The mean magnitude of each channel.
    pub mean_abs: bool,
    /// The whole Gram matrix of the channels.
    pub gram: bool,
    /// Its blocks along the diagonal.
    pub blocks: Option<BlockNeeds>,
}

/// Blocks along the diagonal of a Gram matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockNeeds {
    /// Channels in a block; the last one may have fewer.
    pub block: usize,
    /// Of a batch with more tokens than this, every (tokens / max_tokens)-th goes in.
    pub max_tokens: usize,
}

impl BlockNeeds {
    /// Floats that the blocks of so many channels take.
    pub fn len(&self, channels: usize) -> usize {
        channels.div_ceil(self.block) * self.block * self.block
    }

    /// Distance between the tokens of a batch that are taken.
    fn step(&self, tokens: usize) -> usize {
        (tokens / self.max_tokens).max(1)
    }
}

impl InputNeeds {
    /// Bytes that the statistics of so many channels take.
    pub fn size_bytes(&self, channels: usize) -> u64 {
        let floats = |count: usize| (count * size_of::<f32>()) as u64;
        let doubles = |count: usize| (count * size_of::<f64>()) as u64;
        let mut bytes = floats(channels) + doubles(2 * channels);
        if self.gram {
            bytes += floats(channels * channels) + floats(STAGE_ROWS * channels);
        }
        if let Some(blocks) = self.blocks {
            bytes += floats(blocks.len(channels)) + floats(BLOCK_ROWS * channels);
        }
        bytes
    }

    /// Bytes of device memory that the statistics of a GPU have beside that, for taps to work in.
    pub fn device_workspace_bytes(&self, channels: usize) -> u64 {
        match self.mean_abs {
            true => channel_stats::cuda::workspace_bytes(channels) as u64,
            false => 0,
        }
    }

    /// Bytes that a tap takes while it observes so many channels.
    pub fn transient_bytes(&self, channels: usize, threads: usize) -> u64 {
        let mut bytes = channel_stats::workspace_bytes(channels, self.mean_abs);
        if self.gram {
            bytes = bytes.max(gram::workspace_bytes(threads, STAGE_ROWS, channels));
        }
        if self.blocks.is_some() {
            bytes = bytes.max(gram::blocks_workspace_bytes(threads));
        }
        (bytes + channels * size_of::<f32>()) as u64
    }
}

/// Running statistics of one activation.
pub struct InputStatistics {
    /// Of the tap, for messages.
    name: String,
    channels: usize,
    needs: InputNeeds,
    running: Box<Mutex<Running>>,
    summary: OnceLock<Arc<InputSummary>>,
}

#[derive(Default)]
struct Running {
    /// Whether a tensor was float16, which has the least range.
    has_f16: bool,
    tokens: u64,
    batches: u64,
    channel_max: Vec<f32>,
    /// Sums of one batch.
    batch_sums: Vec<f64>,
    /// Sum over batches of the mean magnitudes.
    means: Vec<f64>,
    /// Rows that wait for the Gram matrix, each divided by the square root of its batch's tokens.
    stage: Vec<f32>,
    staged: usize,
    gram: Summed,
    /// Rows that wait for the blocks.
    block_stage: Vec<f32>,
    blocks: Summed,
    /// What a GPU has seen, and is not fetched yet.
    on_gpu: Option<Box<OnGpu>>,
}

/// What was collected.
#[derive(Debug, Default)]
pub struct InputSummary {
    /// Tokens seen.
    pub tokens: u64,
    /// Taps that had tokens.
    pub batches: u64,
    /// Whether a tensor was float16, which has the least range.
    pub has_f16: bool,
    /// Largest magnitude of each channel; empty when no token passed.
    pub channel_max: Vec<f32>,
    /// Mean over the batches of the mean magnitude of each channel; empty if not asked for.
    pub mean_abs: Vec<f32>,
    /// `[channels, channels]`, sum over batches of xᵀx / tokens, valid on and above the diagonal; empty if
    /// not asked for.
    pub gram: Gram,
    /// Blocks along the diagonal of the same, of the sampled tokens; empty if not asked for.
    pub blocks: Gram,
}

impl InputSummary {
    /// Whether the activation can be multiplied with these factors and stay in the range of its type.
    pub fn holds(&self, mut factors: impl Iterator<Item = f32>) -> bool {
        let dtype = if self.has_f16 { DType::F16 } else { DType::F32 };
        let mut channels = self.channel_max.iter();
        channels.all(|max| {
            factors
                .next()
                .is_some_and(|p| dtype.round(max * p).is_finite())
        })
    }
}

impl InputStatistics {
    /// Nothing seen yet. Errors when there is no memory for it.
    pub fn new(name: &str, channels: usize, needs: InputNeeds) -> Result<Self> {
        let running = Running {
            channel_max: zeros(channels)?,
            batch_sums: vec![0.0; channels],
            means: vec![0.0; channels],
            gram: Summed::new(channels, if needs.gram { channels } else { 0 }),
            blocks: Summed::new(channels, needs.blocks.map_or(0, |blocks| blocks.block)),
            ..Running::default()
        };
        Ok(Self {
            name: name.to_owned(),
            channels,
            needs,
            running: Box::new(Mutex::new(running)),
            summary: OnceLock::new(),
        })
    }

    /// Adds a batch: `x` is `[..., channels]`. Taps that come at once are taken one after the other. What is in device
    /// memory is counted there, without waiting; [`Self::settle`] fetches it.
    pub fn observe(&self, machine: &Machine, x: &TensorView) -> Result<()> {
        if x.shape().dims().last() != Some(&self.channels) {
            return Err(Error::InvalidArgument(format!(
                "`{}`: a tensor of shape {:?}, expected [..., {}]",
                self.name,
                x.shape(),
                self.channels
            )));
        }
        let count = tokens(x.shape()) as usize;
        if count == 0 {
            return Ok(());
        }
        let running = &mut *self.lock();
        if let Some(gpu) = machine.gpu_of(x) {
            let on_gpu = match &mut running.on_gpu {
                Some(on_gpu) => on_gpu,
                none => none.insert(Box::new(OnGpu::new(gpu, self.channels, self.needs)?)),
            };
            on_gpu.add(x, count);
            running.note(x, count);
            return Ok(());
        }
        let sums = self.needs.mean_abs.then_some(&mut running.batch_sums[..]);
        let mut batch_max = vec![0.0; self.channels];
        channel_stats::run(machine, x, self.channels, Some(&mut batch_max), sums);
        if !absmax::largest(&batch_max).is_finite() {
            let found = absmax::not_finite(machine, x).unwrap_or((0, f32::NAN));
            return Err(not_finite(&self.name, x, found));
        }
        for (highest, value) in running.channel_max.iter_mut().zip(&batch_max) {
            *highest = highest.max(*value);
        }
        running.note(x, count);
        if self.needs.mean_abs {
            for (mean, sum) in running.means.iter_mut().zip(&running.batch_sums) {
                *mean += sum / count as f64;
            }
        }
        if self.needs.gram {
            running.add_to_gram(machine, x, count, self.channels)?;
        }
        if let Some(blocks) = self.needs.blocks {
            running.add_to_blocks(machine, x, count, self.channels, blocks)?;
        }
        Ok(())
    }

    /// Fetches what a GPU has seen: waits for its stream. Errors when a value was NaN or infinite.
    pub fn settle(&self) -> Result<()> {
        let running = &mut *self.lock();
        match running.on_gpu.take() {
            Some(on_gpu) => on_gpu.fetch(&self.name, running),
            None => Ok(()),
        }
    }

    /// What was collected, once nothing more comes and all is settled: whoever asks gets the same.
    pub fn summary(&self, machine: &Machine) -> Arc<InputSummary> {
        Arc::clone(self.summary.get_or_init(|| Arc::new(self.finish(machine))))
    }

    fn finish(&self, machine: &Machine) -> InputSummary {
        let mut running = std::mem::take(&mut *self.lock());
        running
            .flush(machine, self.channels)
            .expect("the first staged row has begun a sum in host memory");
        let batches = running.batches.max(1) as f64;
        let mean = |sum: &f64| (sum / batches) as f32;
        InputSummary {
            tokens: running.tokens,
            batches: running.batches,
            has_f16: running.has_f16,
            // A largest magnitude of zero is something else than none.
            channel_max: match running.tokens {
                0 => Vec::new(),
                _ => running.channel_max,
            },
            mean_abs: match self.needs.mean_abs {
                true => running.means.iter().map(mean).collect(),
                false => Vec::new(),
            },
            gram: running.gram.into_gram(),
            blocks: running.blocks.into_gram(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// Counts a batch.
    fn note(&mut self, x: &TensorView, count: usize) {
        self.has_f16 |= x.dtype() == DType::F16;
        self.tokens += count as u64;
        self.batches += 1;
    }

    /// The loss of a layer is the mean over a batch, and batches count alike: a row weighs one over the
    /// tokens of its batch, so it goes in divided by the root of that.
    fn add_to_gram(
        &mut self,
        machine: &Machine,
        x: &TensorView,
        count: usize,
        channels: usize,
    ) -> Result<()> {
        // Now, for the end of the pass cannot fail.
        self.gram.on_host()?;
        if self.stage.is_empty() {
            self.stage = zeros(STAGE_ROWS * channels)?;
        }
        let factor = 1.0 / (count as f32).sqrt();
        let mut first = 0;
        while first < count {
            let rows = (STAGE_ROWS - self.staged).min(count - first);
            let place = &mut self.stage[self.staged * channels..][..rows * channels];
            let part = Rows {
                first,
                step: 1,
                count: rows,
                channels,
            };
            load_rows::run(machine, x, part, factor, place);
            (first, self.staged) = (first + rows, self.staged + rows);
            if self.staged == STAGE_ROWS {
                self.flush(machine, channels)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self, machine: &Machine, channels: usize) -> Result<()> {
        if self.staged > 0 {
            let rows = &self.stage[..self.staged * channels];
            gram::accumulate(machine, rows, channels, self.gram.on_host()?);
            self.staged = 0;
        }
        Ok(())
    }

    fn add_to_blocks(
        &mut self,
        machine: &Machine,
        x: &TensorView,
        count: usize,
        channels: usize,
        needs: BlockNeeds,
    ) -> Result<()> {
        if self.block_stage.is_empty() {
            self.block_stage = zeros(BLOCK_ROWS * channels)?;
        }
        let blocks = self.blocks.on_host()?;
        let step = needs.step(count);
        let sampled = count.div_ceil(step);
        let factor = 1.0 / (sampled as f32).sqrt();
        let mut done = 0;
        while done < sampled {
            let rows = BLOCK_ROWS.min(sampled - done);
            let place = &mut self.block_stage[..rows * channels];
            let part = Rows {
                first: done * step,
                step,
                count: rows,
                channels,
            };
            load_rows::run(machine, x, part, factor, place);
            gram::accumulate_blocks(machine, place, channels, needs.block, blocks);
            done += rows;
        }
        Ok(())
    }
}

/// Zeroed floats, or an error instead of the end of the process.
fn zeros(count: usize) -> Result<Vec<f32>> {
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|e| {
        let bytes = count * size_of::<f32>();
        Error::OutOfMemory(format!("{bytes} bytes for the statistics of a layer: {e}"))
    })?;
    values.resize(count, 0.0);
    Ok(values)
}
