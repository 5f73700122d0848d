//! The amax of a quantizer: values and the shape the reference gives them.

use std::sync::Arc;

use crate::error::{Error, Result};

/// Largest magnitudes, one for each block; immutable, cheap to share.
#[derive(Debug, Clone, PartialEq)]
pub struct Amax {
    values: Arc<[f32]>,
    shape: Arc<[usize]>,
}

impl Amax {
    /// Values in row-major order. A single one is a scalar, whatever shape it comes with.
    pub fn new(values: Vec<f32>, shape: &[usize]) -> Self {
        let shape = if values.len() == 1 { &[][..] } else { shape };
        Self {
            values: values.into(),
            shape: shape.into(),
        }
    }

    /// The values, in the units of the tensor.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Extents, as the reference stores them.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The larger of both, value by value. Errors when the shapes differ: the tensor's has changed.
    pub fn max(&self, other: &Self) -> Result<Self> {
        if self.shape != other.shape {
            return Err(Error::State(format!(
                "amax shape changed from {:?} to {:?}: a quantizer with these axes needs tensors of one shape",
                self.shape, other.shape
            )));
        }
        let larger = |(a, b): (&f32, &f32)| a.max(*b);
        let values = self.values.iter().zip(&*other.values).map(larger).collect();
        Ok(Self {
            values,
            shape: Arc::clone(&self.shape),
        })
    }

    /// Checks that every value can be a scale; `name` goes into the message.
    pub fn check(&self, name: &str) -> Result<()> {
        check_values(&self.values, name)
    }
}

/// Checks that every value is finite and not negative.
pub fn check_values(values: &[f32], name: &str) -> Result<()> {
    match values.iter().position(|v| !(v.is_finite() && *v >= 0.0)) {
        None => Ok(()),
        Some(i) => Err(Error::Numeric(format!(
            "amax of `{name}`: value {} at position {i}, expected finite values that are not negative{}",
            values[i],
            if values[i] < 0.0 {
                " (Negative values in amax)"
            } else {
                ""
            }
        ))),
    }
}
