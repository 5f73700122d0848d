//! What an algorithm says it needs, before anything runs.

use crate::config::Algorithm as AlgorithmConfig;
use crate::error::Result;
use crate::model::{Layer, Model, Slot};
use crate::observe::{AbsMax, InputNeeds};

/// A statistic of one quantizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotNeeds {
    /// None.
    Nothing,
    /// The largest magnitudes, at the quantizer's granularity.
    AbsMax,
    /// A histogram of the magnitudes.
    Histogram {
        /// Bins of the first batch.
        num_bins: usize,
    },
}

/// What is known of an algorithm before its statistics are.
pub trait Planned {
    /// The algorithm and its fields.
    fn config(&self) -> &AlgorithmConfig;

    /// Errors when it does not fit a quantizer's format, before anything runs.
    fn check(&self, _: &Model) -> Result<()> {
        Ok(())
    }

    /// Which statistics it needs of a quantizer that is not treated with its layer.
    fn slot_needs(&self, slot: &Slot) -> SlotNeeds;

    /// Which statistics it needs of what enters a layer, whose quantizers of input and weight are then
    /// treated together. None: they are treated one by one. Errors when the algorithm does not fit the
    /// layer's formats.
    fn input_needs(&self, _: &Layer) -> Result<Option<InputNeeds>> {
        Ok(None)
    }

    /// Bytes of memory that treating a weight alone takes, on so many threads.
    fn weight_bytes(&self, slot: &Slot, threads: usize) -> u64 {
        AbsMax::weight_bytes(slot, threads)
    }

    /// Bytes of memory that finding an amax from a histogram takes.
    fn histogram_bytes(&self) -> u64 {
        0
    }

    /// Bytes of memory that treating a layer takes beside its statistics, on so many threads.
    fn workspace_bytes(&self, _: &Layer, _threads: usize) -> u64 {
        0
    }
}
