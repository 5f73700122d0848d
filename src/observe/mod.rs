//! Statistics, fed by the taps: each a file, mergeable in a fixed order, with bounded memory.

mod absmax;
mod gate;
mod histogram;
mod input;
mod sample;
mod sample_on_gpu;
mod tap;

pub use absmax::{AbsMax, Collected};
pub use gate::{Gate, tokens};
pub use histogram::Histogram;
pub use input::{BlockNeeds, InputNeeds, InputStatistics, InputSummary};
pub use sample::Sample;
pub use tap::{HistogramStatistic, Statistic, Tap};
