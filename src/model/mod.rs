//! The registry: the host's layers, their quantizers, and what a tap does with a tensor.
//!
//! A [`Model`] is what registrations and verbs work on, one at a time. A [`Slot`] is one quantizer as
//! the host knows it by name; its state is an immutable value that verbs replace, so that a failed
//! verb puts the old one back and a tap never waits for a verb.

mod amax;
mod attributes;
mod bias;
mod bias_on_gpu;
mod configure;
mod context;
mod convolution;
mod fake_quant_once;
mod granularity;
mod layer;
mod layer_groups;
mod layout;
mod packed;
mod packed_on_gpu;
mod packing;
mod quantization;
mod quantizer;
mod registry;
mod rotation;
mod select;
mod slot;
mod snapshot;
mod summary;

pub use amax::Amax;
pub use bias::{RunningBias, granularity as bias_granularity};
pub use bias_on_gpu::BiasOnGpu;
pub use context::{Context, ContextSettings, LogLevel, LogSink, Progress, ProgressSink};
pub use convolution::Convolution;
pub use fake_quant_once::fake_quant_once;
pub use granularity::Granularity;
pub use layer::{GradientObserver, Layer, LayerForward, LayerKind, LayerSpec, Norm};
pub use packed::{PackedWeight, Part, PartType};
pub use packing::{Allocate, allocate_own};
pub use quantization::{amax_granularity, apply as apply_quantizer, negative, not_finite};
pub use quantizer::{
    BeforeBalance, CalibrationRecord, ErrorOf, Kind, QuantizationError, Quantizer, SlotState,
};
pub use registry::{CalibrationOptions, Mode, Model, Shared};
pub use select::{Selector, Target};
pub(crate) use slot::Rounding;
pub use slot::{Observer, Role, Scales, Slot};
pub use snapshot::Snapshot;
pub use summary::SummaryFormat;
