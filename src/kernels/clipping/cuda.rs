//! The search for the least ratios on the GPU. *Reducing*: the same bytes every run, errors within
//! [`super::max_rel_err`]; the choice is that of the CPU wherever errors are further apart than that.

use std::sync::Arc;

use crate::kernels::cuda::{DeviceBuffer, Elements, FormatParams, Gpu, GpuError, THREADS, launch};
use crate::kernels::fake_quant::Format;
use crate::kernels::gram::Gram;
use crate::tensor::TensorView;

/// Candidates of a thread block, `kCandidates` of the kernel.
const CANDIDATES: usize = 64;

/// Bytes of errors that are held at a time, unless one row has more.
const ERRORS: usize = 64 << 20;

/// `ClippedColumns` of the kernel.
#[repr(C)]
#[derive(Clone, Copy)]
struct Columns {
    channels: u64,
    block: u64,
    grams: u64,
    factors: u64,
}

/// `Ratios` of the kernel.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ratios {
    amax: u64,
    values: u64,
    count: u32,
}

/// What is searched for.
pub(crate) struct Problem<'a> {
    /// Blocks of the columns.
    pub gram: &'a Gram,
    /// Of the columns: the Gram matrix is that of activations before they were multiplied with these.
    pub factors: Option<&'a [f32]>,
    /// Int or E4M3.
    pub format: Format,
    /// The amax of every block of every row, `[rows, blocks]`.
    pub amax: &'a [f32],
    /// What they are multiplied with; not empty.
    pub ratios: &'a [f32],
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Clipped {
    /// Of the first of the least ratios.
    pub amax: Vec<f32>,
    /// Squared errors: under the last ratio, the least; and of a weight of nothing.
    pub plain: f64,
    pub best: f64,
    pub energy: f64,
}

/// A search for all rows of a weight, in memory that is found once: some rows at a time.
pub(crate) struct Search {
    gpu: Arc<Gpu>,
    format: Format,
    rows: usize,
    rows_at_once: usize,
    columns: Columns,
    /// Floats of `amax` and `ratios`; the first are written over by what was found.
    amax: DeviceBuffer,
    ratios: DeviceBuffer,
    candidates: usize,
    /// `[blocks, rows_at_once, ratios + 1]`.
    errors: DeviceBuffer,
    /// Of thread blocks three each, and behind them the totals.
    sums: DeviceBuffer,
    _factors: DeviceBuffer,
    _gram: Option<DeviceBuffer>,
}

impl Search {
    /// Finds the memory. Errors when there is none.
    pub fn new(gpu: &Arc<Gpu>, problem: &Problem<'_>) -> Result<Self, GpuError> {
        Self::with_errors(gpu, problem, ERRORS)
    }

    /// With room for so many bytes of errors, or those of one row.
    pub(super) fn with_errors(
        gpu: &Arc<Gpu>,
        problem: &Problem<'_>,
        most: usize,
    ) -> Result<Self, GpuError> {
        let Problem { gram, ratios, .. } = *problem;
        let (channels, block) = (gram.n(), gram.block());
        assert!(block > 0 && !ratios.is_empty(), "something to search");
        let blocks = channels.div_ceil(block);
        let rows = problem.amax.len() / blocks;
        assert_eq!(problem.amax.len(), rows * blocks, "amax values");
        let of_row = blocks * (ratios.len() + 1) * size_of::<f64>();
        let rows_at_once = (most / of_row).clamp(1, rows.max(1));
        let copied = match gram.on(gpu) {
            Some(_) => None,
            None => Some(DeviceBuffer::holding(gpu, gram.on_host()?)?),
        };
        let factors = problem.factors.unwrap_or_default();
        assert!(problem.factors.is_none() || factors.len() == channels);
        let factors = DeviceBuffer::holding(gpu, factors)?;
        let thread_blocks = thread_blocks(rows_at_once * blocks) as usize;
        let sums = (3 * thread_blocks + 3) * size_of::<f64>();
        Ok(Self {
            format: problem.format,
            rows,
            rows_at_once,
            columns: Columns {
                channels: channels as u64,
                block: block as u64,
                grams: match &copied {
                    Some(copied) => copied.address(),
                    None => gram.on(gpu).unwrap_or(0),
                },
                factors: factors.address(),
            },
            amax: DeviceBuffer::holding(gpu, problem.amax)?,
            ratios: DeviceBuffer::holding(gpu, ratios)?,
            candidates: ratios.len(),
            errors: DeviceBuffer::new(gpu, rows_at_once * of_row)?,
            sums: DeviceBuffer::zeroed(gpu, sums)?,
            _factors: factors,
            _gram: copied,
            gpu: Arc::clone(gpu),
        })
    }

    /// The rows that [`Self::add`] takes at a time: the first of them and how many, one after the other.
    pub fn parts(&self) -> impl Iterator<Item = (usize, usize)> {
        let (rows, at_once) = (self.rows, self.rows_at_once);
        let firsts = (0..rows).step_by(at_once);
        firsts.map(move |first| (first, at_once.min(rows - first)))
    }

    /// Searches in one of the parts, `w` the rows of the weight. Waits for nothing.
    pub fn add(&self, (first, count): (usize, usize), w: &TensorView) {
        let blocks = self.columns.channels.div_ceil(self.columns.block) as usize;
        assert!(first + count <= self.rows && count <= self.rows_at_once);
        assert_eq!(w.count(), count * self.columns.channels as usize, "rows");
        if w.count() == 0 {
            return;
        }
        let amax = self.amax.address() + (first * blocks * size_of::<f32>()) as u64;
        let ratios = Ratios {
            amax,
            values: self.ratios.address(),
            count: self.candidates as u32,
        };
        let tiles = (count * (self.candidates + 1)).div_ceil(CANDIDATES) * blocks;
        let own = thread_blocks(count * blocks);
        let total = |which: u64| {
            let behind = (self.sums.len() - 3 * size_of::<f64>()) as u64;
            self.sums.address() + behind + which * size_of::<f64>() as u64
        };
        // SAFETY: the kernels of those signatures; the weight has the rows (asserted), the buffers room for their amax
        // values, errors and sums, and the Gram matrix a block for each block of columns.
        unsafe {
            launch!(self.gpu, self.kernel(), (tiles as u32, 1);
                Elements::from(w), count as u64, self.columns, ratios, FormatParams::of(self.format),
                self.errors.address());
            launch!(self.gpu, "clipped_best", (own, 1);
                self.errors.address(), count as u64, blocks as u64, ratios.values, ratios.count, amax,
                self.sums.address());
            for which in 0..3 {
                let of_blocks = u64::from(own) * size_of::<f64>() as u64;
                launch!(self.gpu, "sum_of_tiles", (1, 1);
                    self.sums.address() + which * of_blocks, u64::from(own), total(which));
            }
        }
    }

    fn kernel(&self) -> &'static str {
        match (self.format, self.columns.block) {
            (Format::Int(_), ..=64) => "clipped_errors_int_64",
            (Format::Int(_), ..=128) => "clipped_errors_int_128",
            (Format::Int(_), _) => "clipped_errors_int_long",
            (Format::E4m3, ..=64) => "clipped_errors_e4m3_64",
            (Format::E4m3, ..=128) => "clipped_errors_e4m3_128",
            (Format::E4m3, _) => "clipped_errors_e4m3_long",
            (Format::Mx(_) | Format::Nvfp4 { .. } | Format::Nvfp4Static { .. }, _) => {
                unreachable!("{:?} has no amax to clip", self.format)
            }
        }
    }

    /// The errors of the last part: waits for the stream.
    #[cfg(test)]
    pub(super) fn errors(&self, count: usize) -> Vec<f64> {
        let mut errors = vec![0.0; count];
        self.errors.read(&mut errors).expect("a copy");
        errors
    }

    /// What was found in all parts: waits for the stream.
    pub fn finish(self) -> Result<Clipped, GpuError> {
        let mut amax = vec![0.0; self.amax.len() / size_of::<f32>()];
        self.amax.read(&mut amax)?;
        let mut totals = [0.0f64; 3];
        let behind = (self.sums.len() - size_of_val(&totals)) as u64;
        self.gpu
            .read_from(self.sums.address() + behind, &mut totals)?;
        let [plain, best, energy] = totals;
        Ok(Clipped {
            amax,
            plain,
            best,
            energy,
        })
    }
}

/// Thread blocks that have a thread for each block of a weight.
fn thread_blocks(blocks: usize) -> u32 {
    blocks.div_ceil(THREADS as usize) as u32
}
