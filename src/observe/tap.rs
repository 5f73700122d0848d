//! What hangs in a slot while a calibration observes: the gate and the statistic behind it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::gate::{Gate, tokens};
use super::histogram::OnGpu;
use super::{AbsMax, Histogram, InputStatistics, Sample};
use crate::error::Result;
use crate::kernels::cuda::Gpu;
use crate::kernels::{Machine, absmax};
use crate::model::{Observer, negative, not_finite};
use crate::tensor::TensorView;

/// A statistic of one activation.
pub enum Statistic {
    /// Only the tokens are counted.
    Count,
    /// The largest magnitudes.
    AbsMax(AbsMax),
    /// A histogram of the magnitudes.
    Histogram(HistogramStatistic),
    /// Of a layer's input, channel by channel.
    Input(InputStatistics),
}

impl Statistic {
    /// No tensor comes any more: fetches what was seen on a GPU.
    pub fn settle(&self) -> Result<()> {
        match self {
            Self::AbsMax(absmax) => absmax.settle(),
            Self::Histogram(histogram) => histogram.settle(),
            Self::Input(input) => input.settle(),
            Self::Count => Ok(()),
        }
    }
}

/// A histogram that taps fill.
pub struct HistogramStatistic {
    name: String,
    unsigned: bool,
    histogram: Mutex<Histogram>,
    /// What goes on in device memory, from the histogram on.
    on_gpu: Mutex<Option<OnGpu>>,
}

impl HistogramStatistic {
    /// An empty one. `unsigned`: negative values are refused.
    pub fn new(name: &str, unsigned: bool, histogram: Histogram) -> Self {
        Self {
            name: name.to_owned(),
            unsigned,
            histogram: Mutex::new(histogram),
            on_gpu: Mutex::default(),
        }
    }

    /// Counts a tensor.
    pub(super) fn observe(&self, machine: &Machine, x: &TensorView) -> Result<()> {
        if let Some(gpu) = machine.gpu_of(x) {
            return self.observe_on_gpu(gpu, x);
        }
        // The range depends on the order of the batches.
        self.settle()?;
        if self.unsigned && absmax::any_negative(machine, x) {
            return Err(negative(&self.name));
        }
        let collected = self.lock().collect(machine, x);
        collected.map_err(|found| not_finite(&self.name, x, found))
    }

    /// Counts where the tensor is: nothing is waited for.
    fn observe_on_gpu(&self, gpu: &Arc<Gpu>, x: &TensorView) -> Result<()> {
        if x.count() == 0 {
            return Ok(());
        }
        let mut on_gpu = self.on_gpu.lock().unwrap_or_else(PoisonError::into_inner);
        let on_gpu = match &mut *on_gpu {
            Some(on_gpu) => on_gpu,
            none => none.insert(OnGpu::new(gpu, &self.lock())?),
        };
        on_gpu.collect(gpu, x, self.unsigned);
        Ok(())
    }

    /// Fetches what was counted on a GPU: waits for its stream. Errors with what cannot be calibrated to.
    pub fn settle(&self) -> Result<()> {
        let mut on_gpu = self.on_gpu.lock().unwrap_or_else(PoisonError::into_inner);
        match on_gpu.take() {
            Some(on_gpu) => on_gpu.fetch(&self.name, &mut self.lock()),
            None => Ok(()),
        }
    }

    /// Looks at what was collected, once it is settled.
    pub fn with<T>(&self, look: impl FnOnce(&Histogram) -> T) -> T {
        look(&self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Histogram> {
        self.histogram
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The observer in one slot.
pub struct Tap {
    /// Whoever observes the same activation.
    pub gate: Arc<Gate>,
    /// Position of this slot at the gate.
    pub place: usize,
    /// What is collected.
    pub statistic: Arc<Statistic>,
    /// Some of the tokens.
    pub sample: Arc<Sample>,
}

impl Observer for Tap {
    fn observe(&self, machine: &Machine, member: Option<usize>, x: &TensorView) -> Result<()> {
        if !self.gate.hears(self.place, tokens(x.shape())) {
            return Ok(());
        }
        match &*self.statistic {
            Statistic::Count => return Ok(()),
            Statistic::AbsMax(absmax) => absmax.observe(machine, member, x)?,
            Statistic::Histogram(histogram) => histogram.observe(machine, x)?,
            Statistic::Input(input) => input.observe(machine, x)?,
        }
        match member {
            None => self.sample.add(machine, x),
            Some(_) => Ok(()),
        }
    }
}
