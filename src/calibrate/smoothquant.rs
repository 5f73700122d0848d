//! `smoothquant`: activations whose channels differ much are balanced against the weight's columns, so that
//! one INT8 scale serves both. Xiao et al. 2022; `pre_quant_scale` is the reciprocal of the paper's factor.

use std::sync::Arc;

use super::algorithm::{Algorithm, Run, States};
use super::balance::{self, Balance};
use super::max;
use crate::config::{Algorithm as AlgorithmConfig, Axis, NumBits};
use crate::error::{Error, Result};
use crate::kernels::{Grid, absmax};
use crate::model::{Layer, Model, Quantizer, Slot, SlotState};
use crate::observe::{InputNeeds, InputSummary};
use crate::plan::{Planned, SlotNeeds};
use crate::tensor::TensorView;

/// Factors stay within this range.
const RANGE: (f32, f32) = (1e-4, 1e4);
/// A factor below this is as good as zero: the column of the weight is, and nothing is to be balanced.
const NEGLIGIBLE: f32 = 1.0 / (1u64 << 31) as f32;

/// The algorithm.
pub(super) struct SmoothQuant {
    pub config: AlgorithmConfig,
}

impl Planned for SmoothQuant {
    fn config(&self) -> &AlgorithmConfig {
        &self.config
    }

    fn slot_needs(&self, slot: &Slot) -> SlotNeeds {
        max::needs(slot)
    }

    fn input_needs(&self, layer: &Layer) -> Result<Option<InputNeeds>> {
        if !is_target(layer) {
            return Ok(None);
        }
        if layer.input_slot().channels() == Some(1) {
            return Err(Error::Config(format!(
                "Error: `{}` has only one channel to smooth; exclude it from smoothquant",
                layer.name()
            )));
        }
        Ok(Some(InputNeeds::default()))
    }

    fn workspace_bytes(&self, layer: &Layer, _: usize) -> u64 {
        let weight = layer.weight_slot().and_then(|slot| slot.weight().copied());
        // The scaled weight, the magnitudes of its columns, the factors.
        weight.map_or(0, |weight| {
            (weight.size_bytes() + 16 * weight.shape().dims()[1]) as u64
        })
    }
}

impl Algorithm for SmoothQuant {
    fn as_planned(&self) -> &dyn Planned {
        self
    }

    fn prepare(&self, model: &Model) {
        balance::undo(model, |layer| {
            self.config.concerns(layer.name()) && balance::fits(layer)
        });
    }

    fn announce(&self, model: &Model) {
        let layers = model.layers().iter();
        for layer in
            layers.filter(|layer| self.config.concerns(layer.name()) && balance::fits(layer))
        {
            if !is_target(layer) && layer.input_slot().state().is_enabled() {
                model.context().warn(&format!(
                    "Only int8 smoothing is supported, skip `{}`",
                    layer.name()
                ));
            }
        }
    }

    fn needs_forward(&self) -> bool {
        true
    }

    fn solve_layer(&self, run: &Run, layer: &Arc<Layer>, input: &InputSummary) -> Result<States> {
        let name = layer.name();
        let Some(slot) = layer.weight_slot() else {
            return Ok(States::new());
        };
        if input.tokens == 0 {
            run.context
                .warn(&format!("`{name}` is not calibrated, skip smoothing"));
            let unseen = Balance {
                factors: None,
                channel_max: &[],
            };
            return balance::states(run.machine, layer, &unseen);
        }
        let mut factors = Vec::new();
        slot.with_seen_weight(|weight| {
            factors = self.factors(run, weight, &input.channel_max);
            Ok(())
        })?;
        balance::check_factors(name, &factors)?;
        if !input.holds(factors.iter().copied()) {
            return Err(Error::Numeric(format!(
                "`{name}`: its input times its smoothing factors leaves the range of float16; exclude it from \
                 smoothquant"
            )));
        }
        let found = Balance {
            factors: Some(&factors),
            channel_max: &input.channel_max,
        };
        balance::states(run.machine, layer, &found)
    }
}

impl SmoothQuant {
    fn factors(&self, run: &Run, weight: &TensorView, activations: &[f32]) -> Vec<f32> {
        let alpha = self.config.number("alpha") as f32;
        let dtype = weight.dtype();
        let mut columns = vec![0.0; activations.len()];
        let rows = weight.shape().dims()[0];
        let grid = Grid::new(weight.shape(), &[rows, 1]);
        absmax::run(run.machine, weight, &grid, &mut columns);
        let factor = |(w, a): (&f32, &f32)| dtype.round(w.powf(1.0 - alpha)) / a.powf(alpha);
        let mut factors: Vec<f32> = columns.iter().zip(activations).map(factor).collect();
        // Where a column of the weight is zero, the channels that carry nothing are left as they are.
        if factors.iter().any(|s| *s <= NEGLIGIBLE) {
            for (s, a) in factors.iter_mut().zip(activations) {
                if *a <= NEGLIGIBLE {
                    *s = 1.0;
                }
            }
        }
        for s in &mut factors {
            // 0 / 0: neither the channel nor the column has anything.
            *s = if s.is_nan() {
                1.0
            } else {
                s.clamp(RANGE.0, RANGE.1)
            };
        }
        factors
    }
}

/// A linear layer with INT8 weight and input, the input with one amax (or one for each channel).
fn is_target(layer: &Layer) -> bool {
    let int8 = |state: &SlotState| match state {
        SlotState::Single(q) => q.enabled && q.attributes.num_bits == NumBits::Int(8) && in_amax(q),
        SlotState::Sequential(_) => false,
    };
    let input = layer.input_slot().state();
    let by_tensor = |q: &Arc<Quantizer>| {
        let axis = &q.attributes.axis;
        q.attributes.block_sizes.is_none()
            && matches!(axis, None | Some(Axis::One(-1)))
            && q.is_calibrated_by_data()
    };
    balance::fits(layer)
        && layer.weight_slot().is_some_and(|slot| int8(&slot.state()))
        && int8(&input)
        && input.members().iter().all(by_tensor)
}

/// An integer with an amax, not MXINT8.
fn in_amax(q: &Quantizer) -> bool {
    matches!(q.kind(), Some(crate::model::Kind::Amax(_)))
}
