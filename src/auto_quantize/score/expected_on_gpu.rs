//! Scores from statistics of a layer whose weight lies on a GPU: computed there, from the Gram matrix that was collected
//! there, and nothing but the scores comes back.

use std::sync::Arc;

use super::expected::Expected;
use super::work::Values;
use crate::error::{Error, Result};
use crate::kernels::cuda::{DeviceBuffer, Gpu};
use crate::kernels::quadratic::rows_cuda::{Changed, RowScores};
use crate::model::Layer;
use crate::tensor::TensorView;

/// Floats of the changes of a band of rows: 64 MiB, unless one tile of rows is more.
const BAND: usize = 16 << 20;

/// Rows of a tile: bands are whole ones.
const TILE_ROWS: usize = 128;

impl Expected<'_> {
    /// As [`Self::scores`], for a token. Waits for the stream once.
    pub(super) fn on_gpu(
        &self,
        gpu: &Arc<Gpu>,
        candidates: &[Arc<Layer>],
        weight: &TensorView,
        work: &mut Values,
    ) -> Result<Vec<f64>> {
        let (outputs, inputs) = (weight.shape().dims()[0], weight.shape().dims()[1]);
        let band = (BAND / inputs / TILE_ROWS).max(1) * TILE_ROWS;
        let band = band.min(outputs);
        let scores = RowScores::new(gpu, &self.input.gram, band)?;
        let totals = DeviceBuffer::zeroed(gpu, candidates.len() * size_of::<f64>())?;
        let weights: Vec<f64> = match self.weighted {
            true => (0..outputs).map(|output| self.weight(output)).collect(),
            false => Vec::new(),
        };
        let weights = DeviceBuffer::holding(gpu, &weights)?;
        let changed = work.like(self.machine, weight)?;
        for (format, candidate) in candidates.iter().enumerate() {
            candidate.weight_into(changed)?;
            let factors = candidate.input_slot().pre_quant_scale();
            if let Some(factors) = &factors {
                scores.set_factors(factors)?;
            }
            let errors = self.errors(format).map_or(&[][..], Vec::as_slice);
            let errors = DeviceBuffer::holding(gpu, errors)?;
            let total = totals.address() + (format * size_of::<f64>()) as u64;
            for first in (0..outputs).step_by(band) {
                let count = band.min(outputs - first);
                let rows = |of: &TensorView| of.rows(first, count).map_err(Error::Internal);
                let of_rows = Changed {
                    weight: &rows(&changed)?,
                    scaled: factors.is_some(),
                    errors: errors.address(),
                    weights: match weights.is_empty() {
                        true => 0,
                        false => weights.address() + (first * size_of::<f64>()) as u64,
                    },
                };
                scores.add(of_rows, &rows(weight)?, total);
            }
        }
        let mut found = vec![0.0f64; candidates.len()];
        totals.read(&mut found)?;
        gpu.take_failure()?;
        Ok(found)
    }
}
