//! The configuration language: JSON text in, validated types out.
//!
//! `quantize` reads the whole configuration, with `entry` for the two shapes of `quant_cfg`,
//! `attributes` (with `num_bits`, `block_sizes`, `bias_rotate`) for what an entry says about a
//! quantizer, `pattern` for which quantizers it means, and `algorithm` (with the table in
//! `algorithm_fields`, and `field_values`) for the calibration. `presets` holds the named
//! configurations. `support` knows which valid configurations this version cannot carry out yet.
//! `expression` compiles regular expressions; `path` and `read` make the messages.

mod algorithm;
mod algorithm_fields;
mod attributes;
mod bias_rotate;
mod block_sizes;
mod compress;
mod entry;
mod expression;
mod field_values;
mod num_bits;
mod path;
mod pattern;
pub mod presets;
mod quantize;
mod read;
pub mod support;
#[cfg(test)]
mod tests;

pub use algorithm::{Algorithm, Method};
pub use attributes::{Attributes, Calibrator, HighPrecisionDtype, QuantType};
pub use bias_rotate::{Bias, BiasMethod, Rotate, RotateMode};
pub use block_sizes::BlockSizes;
pub use compress::CompressConfig;
pub use entry::{Cfg, Entry};
pub(crate) use expression::expression;
pub use num_bits::{Axis, NumBits};
pub use path::JsonPath;
pub use pattern::Pattern;
pub use quantize::{QuantizeConfig, Shape};
pub(crate) use read::hint;
