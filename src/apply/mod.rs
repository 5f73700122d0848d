//! Puts the result of a calibration to work on the host's tensors.

mod fold_weight;

pub use fold_weight::fold_weight;
