//! mq: post-training quantization as a C library.
//!
//! The map of the house, in the order in which a call travels. Imports point downward only.
//!
//! | module | job |
//! |---|---|
//! | [`ffi`] | the C boundary: guard, handles, one file for each group of exported functions |
//! | [`apply`] | puts results to work: `fold_weight`, `compress` |
//! | [`auto_quantize`] | the format of every layer, searched |
//! | [`check`] | whether what a calibration left can be deployed |
//! | [`calibrate`] | one file for each algorithm: statistics in, quantizer parameters out |
//! | [`plan`] | what an algorithm needs: which statistics, in which pass |
//! | [`observe`] | statistics, fed by the taps |
//! | [`model`] | the registry: layers, quantizers, names; what a tap does |
//! | [`config`] | JSON to typed configuration: presets, patterns, messages |
//! | [`kernels`] | operations over tensors, on threads and instruction sets |
//! | [`tensor`] | the borrowed tensor |
//! | [`mod@format`] | the number formats: limits and rounding |
//! | [`error`] | the one error type |
//!
//! `unsafe` lives in [`ffi`], [`kernels`] and [`tensor`] alone.

pub mod apply;
pub mod auto_quantize;
pub mod calibrate;
pub mod check;
pub mod config;
pub mod error;
pub mod ffi;
pub mod format;
pub mod kernels;
pub mod model;
pub mod observe;
pub mod plan;
pub mod tensor;
