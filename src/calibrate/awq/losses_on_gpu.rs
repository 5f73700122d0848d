//! The errors of candidate weights under one Gram matrix, of a weight on a GPU: a band of rows at a time is scaled,
//! rounded and measured there, in memory that is found before, and nothing but the sums comes back.

use std::sync::Arc;

use super::losses::Search;
use super::target::{Reach, Target};
use crate::error::{Error, Result};
use crate::kernels::channel_scale;
use crate::kernels::cuda::{DeviceBuffer, Gpu};
use crate::kernels::quadratic::cuda::Form;
use crate::model::Rounding;
use crate::tensor::TensorView;

/// Floats of a band: 64 MiB of changes.
const BAND: usize = 16 << 20;

/// Rows of a band: whole groups of rows that share an amax.
fn rows_per_band(target: &Target) -> usize {
    let (rows, channels) = (target.rows(), target.channels());
    let group = match target.reach {
        Reach::Rows(group) => group.min(rows.max(1)),
        Reach::Tensor | Reach::Columns => 1,
    };
    let most = (BAND / channels.max(1) / group).max(1) * group;
    most.min(rows)
}

/// Bytes of device memory that errors take.
pub(super) fn bytes(target: &Target, gpu: &Gpu) -> usize {
    let (rows, channels) = (rows_per_band(target), target.channels());
    let blocks = target.rows() * channels.div_ceil(target.block());
    // The amax values, and room for those that a tensor finds for itself; the factors.
    let floats = 2 * blocks + channels;
    let rounded = rows * channels * target.weight().dtype().size();
    Form::bytes(gpu, channels, rows) + rounded + floats * size_of::<f32>()
}

/// Errors when what a layer gives is too large, squared, for the float32 products of a GPU: then no error can be told
/// from another.
pub(super) fn check_energy(name: &str, energy: f64) -> Result<()> {
    match energy.is_finite() {
        true => Ok(()),
        false => Err(Error::Numeric(format!(
            "`{name}`: the squares of its outputs are beyond the range of float32, in which a GPU sums them up; scale its \
             weight or its activations, or calibrate it in host memory"
        ))),
    }
}

impl Search<'_> {
    /// Every candidate's error, and that of a weight of nothing.
    pub(super) fn all_on_gpu(&self, gpu: &Arc<Gpu>) -> Result<(Vec<f64>, f64)> {
        let (rows, channels) = (self.target.rows(), self.target.channels());
        let per_band = rows_per_band(self.target);
        let form = Form::new(gpu, self.gram, self.factors, per_band)?;
        let band = |first: usize| {
            let count = per_band.min(rows - first);
            self.seen.rows(first, count).map_err(Error::Internal)
        };
        let bytes = per_band * channels * self.seen.dtype().size();
        let rounded = DeviceBuffer::new(gpu, bytes)?;
        let scale = DeviceBuffer::new(gpu, channels * size_of::<f32>())?;
        let mut rounding = Rounding::new(gpu, &self.target.slot, self.target.quantizer_with(None))?;
        let firsts = || (0..rows).step_by(per_band.max(1));
        form.clear();
        for first in firsts() {
            form.add(None, false, &band(first)?);
        }
        let energy = form.sum()?;
        check_energy(&self.target.name, energy)?;
        let mut errors = Vec::with_capacity(self.candidates.len());
        for candidate in self.candidates {
            self.run.shared.check_cancelled()?;
            if let Some(inverse) = &candidate.inverse {
                form.set_inverse(inverse)?;
            }
            if let Some(factors) = &candidate.scale {
                scale.write(factors)?;
            }
            rounding.set(self.target.quantizer_with(candidate.amax.clone()))?;
            form.clear();
            for first in firsts() {
                let plain: TensorView = band(first)?;
                let place = plain.at_address(rounded.address());
                let from = match &candidate.scale {
                    Some(_) => {
                        channel_scale::run_resident(gpu, &plain, &place, scale.address());
                        &place
                    }
                    None => &plain,
                };
                rounding.run(from, &place)?;
                form.add(Some(&place), candidate.inverse.is_some(), &plain);
            }
            errors.push(form.sum()?);
        }
        rounding.check()?;
        gpu.take_failure()?;
        Ok((errors, energy))
    }
}
