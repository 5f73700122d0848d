//! What hangs in a slot while a calibration observes: the gate and the statistic behind it.

use std::sync::{Arc, Mutex, PoisonError};

use super::gate::{Gate, tokens};
use super::{AbsMax, Histogram, InputStatistics, Sample};
use crate::error::Result;
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
            Self::Count | Self::Histogram(_) | Self::Input(_) => Ok(()),
        }
    }
}

/// A histogram that taps fill.
pub struct HistogramStatistic {
    name: String,
    unsigned: bool,
    histogram: Mutex<Histogram>,
}

impl HistogramStatistic {
    /// An empty one. `unsigned`: negative values are refused.
    pub fn new(name: &str, unsigned: bool, histogram: Histogram) -> Self {
        Self {
            name: name.to_owned(),
            unsigned,
            histogram: Mutex::new(histogram),
        }
    }

    fn observe(&self, machine: &Machine, x: &TensorView) -> Result<()> {
        if self.unsigned && absmax::any_negative(machine, x) {
            return Err(negative(&self.name));
        }
        let mut histogram = self
            .histogram
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let collected = histogram.collect(machine, x);
        collected.map_err(|found| not_finite(&self.name, x, found))
    }

    /// Looks at what was collected.
    pub fn with<T>(&self, look: impl FnOnce(&Histogram) -> T) -> T {
        look(
            &self
                .histogram
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
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
        if member.is_none() {
            self.sample.add(machine, x);
        }
        Ok(())
    }
}
