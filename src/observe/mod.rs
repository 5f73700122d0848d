//! Statistics: what a tensor leaves behind when it passes a tap during calibration.

mod absmax;
mod histogram;

pub use absmax::{AbsMax, Collected};
pub use histogram::Histogram;
