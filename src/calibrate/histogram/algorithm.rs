//! The algorithm `histogram`: a histogram of every activation that has one amax for the whole tensor. All
//! other quantizers, weights among them, are calibrated to their largest magnitude.

use std::sync::Arc;

use super::super::algorithm::{Algorithm, Run};
use super::super::max;
use super::{Bins, Levels, Method, Search, amax};
use crate::config::{Algorithm as AlgorithmConfig, Calibrator, NumBits};
use crate::error::{Error, Result};
use crate::format::e4m3;
use crate::format::int::IntGrid;
use crate::kernels::fake_quant::Format;
use crate::model::{
    Amax, CalibrationRecord, ErrorOf, Kind, Model, QuantizationError, Quantizer, Role, Slot,
    SlotState, not_finite,
};
use crate::observe::{AbsMax, Histogram};
use crate::plan::{Planned, SlotNeeds};

/// The algorithm.
pub(in crate::calibrate) struct HistogramAmax {
    pub config: AlgorithmConfig,
}

impl Planned for HistogramAmax {
    fn config(&self) -> &AlgorithmConfig {
        &self.config
    }

    fn slot_needs(&self, slot: &Slot) -> SlotNeeds {
        match levels(slot) {
            Some(_) => SlotNeeds::Histogram {
                num_bins: self.config.count("num_bins"),
            },
            None => max::needs(slot),
        }
    }

    fn weight_bytes(&self, slot: &Slot, threads: usize) -> u64 {
        let max = AbsMax::weight_bytes(slot, threads);
        match levels(slot) {
            None => max,
            Some(_) => {
                let collecting = Histogram::transient_bytes(threads);
                // A copy of the weight as its quantizer sees it is among those of max.
                max + Histogram::most_bytes() + collecting.max(self.histogram_bytes())
            }
        }
    }

    fn histogram_bytes(&self) -> u64 {
        super::workspace_bytes() as u64
    }

    fn check(&self, model: &Model) -> Result<()> {
        Histogram::new(self.config.count("num_bins"))
            .map_err(|text| Error::Config(format!("algorithm.num_bins: {text}")))?;
        let is_entropy = self.config.choice("amax_method") == "entropy";
        for slot in model
            .slots()
            .iter()
            .filter(|slot| self.config.concerns(slot.owner()))
        {
            let state = slot.state();
            let asks =
                |q: &Arc<Quantizer>| q.enabled && q.attributes.calibrator == Calibrator::Histogram;
            let levels = levels(slot);
            if levels.is_none() && state.members().iter().any(asks) {
                return Err(Error::Config(format!(
                    "`{}`: Calibrator histogram collection only supports per tensor scaling of integers and FP8, static \
                     and without a bias",
                    slot.name()
                )));
            }
            if is_entropy && levels == Some(Levels::E4m3) {
                return Err(Error::Config(format!(
                    "`{}`: entropy is defined for integers, not for FP8; set amax_method to mse or percentile",
                    slot.name()
                )));
            }
        }
        Ok(())
    }
}

impl Algorithm for HistogramAmax {
    fn as_planned(&self) -> &dyn Planned {
        self
    }

    fn solve_weight(&self, run: &Run, slot: &Slot) -> Result<Option<SlotState>> {
        let Some(_) = levels(slot) else {
            return max::weight(run.machine, slot, &slot.state());
        };
        let invalid = |text: String| Error::Config(format!("`{}`: {text}", slot.name()));
        let mut histogram = Histogram::new(self.config.count("num_bins")).map_err(invalid)?;
        slot.with_seen_weight(|weight| {
            let collected = histogram.collect(run.machine, weight);
            collected.map_err(|found| not_finite(slot.name(), weight, found))
        })?;
        self.solve_histogram(run, slot, &histogram)
    }

    fn solve_histogram(
        &self,
        run: &Run,
        slot: &Slot,
        histogram: &Histogram,
    ) -> Result<Option<SlotState>> {
        let Some(levels) = levels(slot) else {
            return Ok(None);
        };
        let invalid = |text: String| Error::Config(format!("`{}`: {text}", slot.name()));
        let bins = Bins::of(histogram).map_err(invalid)?;
        let method = self.method().map_err(invalid)?;
        let Some(amax) = amax(run.machine, &bins, &method, levels).map_err(invalid)? else {
            return Ok(None);
        };
        let error = error_of(&bins, levels, amax);
        let state = slot.state().map(|q| {
            let record = CalibrationRecord {
                error,
                ..CalibrationRecord::default()
            };
            Arc::new(Quantizer {
                amax: Some(Amax::new(vec![amax], &[])),
                record: Some(Arc::new(record)),
                // A histogram has no maximum that another calibration could go on from.
                collected: None,
                ..(**q).clone()
            })
        });
        Ok(Some(state))
    }
}

impl HistogramAmax {
    fn method(&self) -> std::result::Result<Method, String> {
        let search = Search {
            stride: self.config.count("stride"),
            start_bin: self.config.count("start_bin"),
        };
        let percentile = self.config.number("percentile");
        Method::new(self.config.choice("amax_method"), search, percentile)
    }
}

/// What a quantizer rounds to, if it is one that a histogram is for: an activation with one amax, or a weight
/// whose attributes ask for it.
fn levels(slot: &Slot) -> Option<Levels> {
    let state = slot.state();
    let SlotState::Single(q) = &*state else {
        return None;
    };
    let a = &q.attributes;
    let asked = slot.role() != Role::Weight || a.calibrator == Calibrator::Histogram;
    let one_amax = a.axis.is_none() && a.block_sizes.is_none() && a.bias.is_none();
    if !(asked && one_amax && q.is_calibrated_by_data()) {
        return None;
    }
    match (q.kind()?, a.num_bits) {
        (Kind::Amax(Format::Int(_)), NumBits::Int(num_bits)) => Some(Levels::Int {
            num_bits,
            unsigned: a.unsigned,
        }),
        (Kind::Amax(Format::E4m3), _) => Some(Levels::E4m3),
        _ => None,
    }
}

/// The relative squared error of what was seen, with the largest magnitude as amax and with the chosen one.
fn error_of(bins: &Bins, levels: Levels, amax: f32) -> Option<QuantizationError> {
    let highest = bins.highest()?;
    let (mut before, mut after, mut energy) = (0.0, 0.0, 0.0);
    for (bin, count) in bins
        .counts
        .iter()
        .enumerate()
        .filter(|(_, count)| **count > 0)
    {
        let (centre, count) = (bins.centre(bin), *count as f64);
        let error = |amax: f32| f64::from(fake_quant(levels, centre, amax) - centre).powi(2);
        before += count * error(highest);
        after += count * error(amax);
        energy += count * f64::from(centre).powi(2);
    }
    (energy > 0.0).then(|| QuantizationError {
        of: ErrorOf::Tensor,
        before: before / energy,
        after: after / energy,
    })
}

fn fake_quant(levels: Levels, x: f32, amax: f32) -> f32 {
    match levels {
        Levels::Int { num_bits, unsigned } => {
            let grid = IntGrid::new(num_bits, unsigned, false);
            grid.fake_quant(x, grid.scale(amax))
        }
        Levels::E4m3 => e4m3::fake_quant(x, e4m3::scale(amax)),
    }
}
