//! Statistics: what a tensor leaves behind when it passes a tap during calibration.

mod absmax;

pub use absmax::{AbsMax, Collected};
