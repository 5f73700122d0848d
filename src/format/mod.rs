//! The number formats: what values a format holds and how a float32 is rounded to them.
//!
//! Nothing here knows of tensors. Every function is branch-free, so that loops over it vectorize.

pub mod e2m1;
pub mod e4m3;
pub mod half;
pub mod int;
pub mod minifloat;
pub mod mx;
pub mod nf4;
pub mod nvfp4;
