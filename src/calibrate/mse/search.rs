//! `mse`: the amax of a weight quantizer is that of several candidates which leaves the least squared
//! error, block by block; the first of equals.
//!
//! As in the reference, the candidates need not include the amax that was there: with the default
//! multipliers a block may end a little worse than before.

use crate::config::Algorithm as AlgorithmConfig;
use crate::error::{Error, Result};
use crate::format::{e4m3, nvfp4};
use crate::kernels::fake_quant::{
    self, Candidates, Format, search as search_blocks, squared_error, squared_error_dynamic,
};
use crate::kernels::{Grid, Machine, absmax};
use crate::model::{Amax, Granularity, Kind, Quantizer, Slot};
use crate::tensor::TensorView;

/// Most multipliers: beyond, a step size is a mistake.
const MAX_MULTIPLIERS: f64 = 65_536.0;

/// Multipliers of four-over-six: a block ends at 6, or at 4.
const FOUR_OVER_SIX: [f32; 2] = [1.0, 1.5];

/// What the algorithm's fields say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fields {
    /// How far apart multipliers are; the even spacing that fits the ends is a little less.
    pub step_size: f64,
    /// The first multiplier.
    pub start_multiplier: f64,
    /// The last multiplier.
    pub stop_multiplier: f64,
    /// Whether every E4M3 scale is tried on static NVFP4 blocks, and nothing is searched elsewhere.
    pub fp8_scale_sweep: bool,
}

impl Fields {
    /// The fields of an algorithm that has them; the configuration has checked their ranges.
    pub fn of(config: &AlgorithmConfig) -> Self {
        let number = |field: &str, default| {
            let value = config.fields.get(field);
            value.and_then(|value| value.as_f64()).unwrap_or(default)
        };
        Self {
            step_size: number("step_size", 0.1),
            start_multiplier: number("start_multiplier", 0.25),
            stop_multiplier: number("stop_multiplier", 4.0),
            fp8_scale_sweep: config.flag("fp8_scale_sweep"),
        }
    }

    /// Evenly spaced from start to stop, rounded as the reference's are (torch.linspace in float32 on a CPU
    /// with fused multiply-add): from both ends to the middle.
    pub fn multipliers(&self) -> Result<Vec<f32>> {
        let count = ((self.stop_multiplier - self.start_multiplier) / self.step_size).ceil() + 1.0;
        if !(1.0..=MAX_MULTIPLIERS).contains(&count) {
            return Err(Error::Config(format!(
                "{} to {} in steps of {} are {count} multipliers, expected 1 to {MAX_MULTIPLIERS}",
                self.start_multiplier, self.stop_multiplier, self.step_size
            )));
        }
        let (start, stop) = (self.start_multiplier as f32, self.stop_multiplier as f32);
        if !(start.is_normal() && stop.is_normal()) {
            return Err(Error::Config(format!(
                "multipliers from {} to {}, expected numbers that float32 holds",
                self.start_multiplier, self.stop_multiplier
            )));
        }
        let count = count as usize;
        if count == 1 {
            return Ok(vec![start]);
        }
        let step = (stop - start) / (count - 1) as f32;
        let at = |i: usize| match i < count / 2 {
            true => step.mul_add(i as f32, start),
            false => (-step).mul_add((count - 1 - i) as f32, stop),
        };
        Ok((0..count).map(at).collect())
    }
}

/// What a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The new amax, of the old one's shape.
    pub amax: Amax,
    /// Squared error of the weight under the old amax.
    pub before: f64,
    /// Squared error under the new one.
    pub after: f64,
    /// The weight squared: what the errors are a share of.
    pub energy: f64,
}

/// Bytes that [`search`] takes at most for the weight of a slot, with so many candidates.
pub(super) fn workspace_bytes(slot: &Slot, candidates: usize, threads: usize) -> u64 {
    let state = slot.state();
    let (Some(weight), Some(q)) = (slot.weight(), state.members().first()) else {
        return 0;
    };
    let Ok(blocks) = Granularity::new(&q.attributes, weight.shape()) else {
        return 0;
    };
    let grid = blocks.grid();
    let candidates = candidates.max(every_scale(1.0).len());
    let kernel = fake_quant::search_workspace_bytes(grid, candidates, threads);
    // The new amax values, and their shared copy.
    kernel + (2 * grid.num_blocks() * size_of::<f32>()) as u64
}

/// Searches a better amax for a quantizer that was calibrated by max, on the weight as it sees it; `name`
/// goes into messages. None where nothing is searched: the quantizer keeps what it has.
///
/// A member of a sequential quantizer is not to be asked for.
pub fn search(
    machine: &Machine,
    quantizer: &Quantizer,
    name: &str,
    weight: &TensorView,
    fields: &Fields,
) -> Result<Option<Found>> {
    let (Some(amax), Some(kind)) = (&quantizer.amax, quantizer.kind()) else {
        return Ok(None);
    };
    // The search would have to take a bias off and add it again.
    let is_plain = quantizer.is_calibrated_by_data() && quantizer.attributes.bias.is_none();
    if !is_plain || weight.count() == 0 {
        return Ok(None);
    }
    let blocks = Granularity::new(&quantizer.attributes, weight.shape())
        .map_err(|text| Error::State(format!("`{name}`: {text}")))?;
    let grid = blocks.grid();
    let expected = match kind {
        Kind::Nvfp4Dynamic => 1,
        _ => grid.num_blocks(),
    };
    if amax.values().len() != expected {
        return Err(Error::State(format!(
            "`{name}`: its amax has {} values, but a weight of shape {:?} needs {expected}; calibrate it first",
            amax.values().len(),
            weight.shape()
        )));
    }
    let job = Job {
        machine,
        weight,
        grid,
        amax,
    };
    let tensor = quantizer
        .global_amax
        .unwrap_or_else(|| absmax::largest(amax.values()));
    match kind {
        Kind::Nvfp4Static { largest_scale } => {
            let format = Format::Nvfp4Static {
                scale_amax: nvfp4::scale_amax(tensor, largest_scale),
            };
            if largest_scale == nvfp4::FOUR_OVER_SIX_MAX_SCALE {
                Ok(Some(job.multiples(&FOUR_OVER_SIX, format)))
            } else if fields.fp8_scale_sweep {
                Ok(Some(job.values(&every_scale(tensor), format)))
            } else {
                Ok(Some(job.multiples(&fields.multipliers()?, format)))
            }
        }
        _ if fields.fp8_scale_sweep => Ok(None),
        Kind::Amax(format) => Ok(Some(job.multiples(&fields.multipliers()?, format))),
        Kind::Nvfp4Dynamic => Ok(Some(job.of_tensor(&fields.multipliers()?))),
        Kind::Mx(_) | Kind::Nf4 { .. } => Ok(None),
    }
}

/// The amax under which a block has each of the positive E4M3 scales, ascending.
fn every_scale(tensor: f32) -> Vec<f32> {
    // Code 0 is zero, 0x7f NaN.
    let values = (1..0x7f).map(e4m3::decode);
    values.map(|value| value / e4m3::MAX * tensor).collect()
}

struct Job<'a> {
    machine: &'a Machine,
    weight: &'a TensorView,
    grid: &'a Grid,
    amax: &'a Amax,
}

impl Job<'_> {
    fn multiples(&self, factors: &[f32], format: Format) -> Found {
        let amax = self.amax.values();
        let candidates = Candidates::Multiples { amax, factors };
        self.found(candidates, format, |block, i| amax[block] * factors[i])
    }

    fn values(&self, values: &[f32], format: Format) -> Found {
        // Zeros are zeros under every scale.
        let value = |block: usize, i: usize| match self.amax.values()[block] > 0.0 {
            true => values[i],
            false => 0.0,
        };
        self.found(Candidates::Values(values), format, value)
    }

    fn found(
        &self,
        candidates: Candidates<'_>,
        format: Format,
        value: impl Fn(usize, usize) -> f32,
    ) -> Found {
        let (machine, weight, grid) = (self.machine, self.weight, self.grid);
        let old = self.amax.values();
        let best = search_blocks(machine, weight, grid, candidates, format);
        let new = best.iter().enumerate().map(|(block, best)| {
            // Without a finite error there is nothing to go by.
            let found = best.candidate.map(|i| value(block, i as usize));
            // What is rounded up to an amax beyond the range of the weight's type would become infinite.
            let held = |amax: &f32| weight.dtype().round(*amax).is_finite();
            found.filter(held).unwrap_or(old[block])
        });
        let new: Vec<f32> = new.collect();
        let (before, energy) = squared_error(machine, weight, grid, old, format);
        let (after, _) = squared_error(machine, weight, grid, &new, format);
        Found {
            amax: Amax::new(new, self.amax.shape()),
            before,
            after,
            energy,
        }
    }

    /// One amax over blocks that find their scales under it: a pass over the weight for each candidate.
    fn of_tensor(&self, factors: &[f32]) -> Found {
        let error = |amax: f32| {
            let global_scale = nvfp4::global_scale(amax);
            let format = Format::Nvfp4 { global_scale };
            squared_error_dynamic(self.machine, self.weight, self.grid, format)
        };
        let old = absmax::largest(self.amax.values());
        let (before, energy) = error(old);
        let mut best = (old, f64::INFINITY);
        for factor in factors {
            let (found, _) = error(old * factor);
            if found < best.1 {
                best = (old * factor, found);
            }
        }
        Found {
            amax: Amax::new(vec![best.0], self.amax.shape()),
            before,
            after: if best.1.is_finite() { best.1 } else { before },
            energy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multipliers_are_evenly_spaced_between_the_ends() {
        let fields = Fields::of(&AlgorithmConfig::parse_text("mse").expect("valid")[0]);
        let multipliers = fields.multipliers().expect("39 of them");
        assert_eq!(multipliers.len(), 39);
        assert_eq!((multipliers[0], multipliers[38]), (0.25, 4.0));
        assert!(multipliers.is_sorted());
        let one = Fields {
            stop_multiplier: 0.25,
            ..fields
        };
        assert_eq!(one.multipliers(), Ok(vec![0.25]));
    }

    #[test]
    fn too_many_or_no_multipliers_are_refused() {
        let fields = |step_size, stop_multiplier| Fields {
            step_size,
            start_multiplier: 1.0,
            stop_multiplier,
            fp8_scale_sweep: false,
        };
        assert!(matches!(
            fields(1e-9, 2.0).multipliers(),
            Err(Error::Config(_))
        ));
        assert!(matches!(
            fields(0.1, 0.5).multipliers(),
            Err(Error::Config(_))
        ));
        assert!(matches!(
            fields(1e300, 1e300).multipliers(),
            Err(Error::Config(_))
        ));
    }

    #[test]
    fn a_sweep_tries_every_positive_scale() {
        let values = every_scale(448.0);
        assert_eq!(values.len(), 126);
        assert_eq!((values[0], values[125]), (1.0 / 512.0, 448.0));
        assert!(values.is_sorted());
    }
}
