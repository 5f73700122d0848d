//! `awq_clip` of a weight on a GPU: every ratio of every block is tried and chosen there, and the amax values come back.

use std::sync::Arc;

use super::clip::{Clipping, Found};
use super::losses_on_gpu::check_energy;
use super::output_error;
use super::target::Target;
use crate::error::{Error, Result};
use crate::kernels::absmax;
use crate::kernels::clipping::cuda::{Problem, Search};
use crate::kernels::cuda::Gpu;
use crate::model::{Kind, negative};
use crate::tensor::TensorView;

/// Bytes that clipping takes of both memories.
pub(super) fn bytes(target: &Target, block: usize, ratios: &[f32]) -> u64 {
    let (rows, channels) = (target.rows(), target.channels());
    let there = Search::bytes(rows, channels, block, ratios.len());
    // The amax values, the copies that come back, and the weight under the factors of its input.
    let here = 3 * rows * channels.div_ceil(block) * size_of::<f32>();
    (there + here + target.weight().size_bytes()) as u64
}

impl Clipping<'_> {
    /// One amax for each block, each with an error of its own.
    pub(super) fn blocks_on_gpu(&self, gpu: &Arc<Gpu>, weight: &TensorView) -> Result<Found> {
        let name = self.target.slot.name();
        let quantizer = &self.target.quantizer;
        let Some(Kind::Amax(format)) = quantizer.kind() else {
            return Err(Error::Internal(format!("`{name}`: no amax to clip")));
        };
        if quantizer.attributes.unsigned && absmax::any_negative(self.run.machine, weight) {
            return Err(negative(name));
        }
        let problem = Problem {
            gram: &self.input.blocks,
            factors: self.factors.as_deref(),
            format,
            amax: self.highest,
            ratios: self.ratios,
        };
        let search = Search::new(gpu, &problem).map_err(|error| error.of(name))?;
        for (first, count) in search.parts() {
            self.run.shared.check_cancelled()?;
            let rows = weight.rows(first, count).map_err(Error::Internal)?;
            search.add((first, count), &rows);
        }
        let found = search.finish().map_err(|error| error.of(name))?;
        gpu.take_failure().map_err(|error| error.of(name))?;
        check_energy(name, found.energy)?;
        let error = output_error(found.plain, found.best, found.energy);
        Ok((found.amax, error))
    }
}
