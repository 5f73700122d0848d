//! Puts the result of a calibration to work on the host's tensors.

mod compress;
mod fold_pre_quant_scale;
mod fold_weight;

pub use compress::compress;
pub use fold_pre_quant_scale::fold_pre_quant_scale;
pub use fold_weight::fold_weight;
