//! AWQ: `awq_lite` (scales), `awq_clip` (clipped blocks), `awq_full` (both). Lin et al. 2023.
//!
//! The reference replays every layer for each candidate. Here one pass collects Gram matrices, in which the
//! error of any candidate weight is a quadratic form: for `y = x Wᵀ` and a weight that is off by Δ, the
//! squared error over the calibration tokens is `tr(Δ G Δᵀ)`, `G = Σ xᵀx`.

mod by_rows;
mod candidates;
mod clip;
mod clip_on_gpu;
mod lite;
mod losses;
mod losses_on_gpu;
mod target;

use std::sync::Arc;

use super::algorithm::{Algorithm, Run, States};
use super::balance::{self, Balance};
use super::max;
use crate::config::{Algorithm as AlgorithmConfig, Method};
use crate::error::Result;
use crate::model::{
    CalibrationRecord, ErrorOf, Layer, Model, QuantizationError, Quantizer, Slot, SlotState,
};
use crate::observe::{BlockNeeds, InputNeeds, InputSummary};
use crate::plan::{Planned, SlotNeeds};
use crate::tensor::Device;
use target::Target;

/// The algorithm, in one of its three forms.
pub(super) struct Awq {
    pub config: AlgorithmConfig,
}

impl Awq {
    fn scales(&self) -> bool {
        self.config.method != Method::AwqClip
    }

    fn clips(&self) -> bool {
        self.config.method != Method::AwqLite
    }
}

impl Planned for Awq {
    fn config(&self) -> &AlgorithmConfig {
        &self.config
    }

    fn check(&self, _: &Model) -> Result<()> {
        candidates::check(&self.config, self.scales(), self.clips())
    }

    fn slot_needs(&self, slot: &Slot) -> SlotNeeds {
        max::needs(slot)
    }

    fn input_needs(&self, layer: &Layer) -> Result<Option<InputNeeds>> {
        let Some(target) = Target::find(layer)? else {
            return Ok(None);
        };
        let mut needs = InputNeeds {
            mean_abs: self.scales(),
            gram: self.scales(),
            blocks: None,
        };
        if self.clips() {
            match target.clip_block() {
                Some(block) => {
                    needs.blocks = Some(BlockNeeds {
                        block,
                        max_tokens: self.config.count("max_tokens_per_batch"),
                    });
                }
                None => needs.gram |= target.clips_as_a_whole(),
            }
        }
        Ok(Some(needs))
    }

    fn workspace_bytes(&self, layer: &Layer, threads: usize) -> u64 {
        match Target::find(layer) {
            Ok(Some(target)) => {
                let is_here = target.weight().device() == Device::Cpu;
                let clips_whole = self.clips() && target.clips_as_a_whole();
                let copies_gram = is_here && self.scales() && clips_whole;
                let gram = match copies_gram {
                    true => target.channels().pow(2) * size_of::<f32>(),
                    false => 0,
                };
                losses::workspace_bytes(&target, self.candidates(), threads) + gram as u64
            }
            _ => 0,
        }
    }
}

impl Algorithm for Awq {
    fn as_planned(&self) -> &dyn Planned {
        self
    }

    fn prepare(&self, model: &Model) {
        // Clipping alone works on the weight as an earlier algorithm has balanced it.
        if self.scales() {
            balance::undo(model, |layer| {
                self.config.concerns(layer.name()) && balance::fits(layer)
            });
        }
    }

    fn needs_forward(&self) -> bool {
        true
    }

    fn solve_layer(&self, run: &Run, layer: &Arc<Layer>, input: &InputSummary) -> Result<States> {
        let Some(target) = Target::find(layer)? else {
            return Ok(States::new());
        };
        let (factors, scales_error) = self.factors(run, &target, input)?;
        let found = Balance {
            factors: factors.as_deref(),
            channel_max: &input.channel_max,
        };
        let mut states = balance::states(run.machine, layer, &found)?;
        let Some((_, weight)) = states.last_mut() else {
            return Ok(states);
        };
        let mut error = scales_error;
        if self.clips() && input.tokens > 0 {
            let ratios = candidates::clip_ratios(&self.config);
            let clipped = clip::run(run, &target, weight, factors.as_deref(), input, &ratios)?;
            if let Some((state, clip_error)) = clipped {
                *weight = state;
                error = combined(error, clip_error);
            }
        }
        *weight = with_error(weight, error);
        Ok(states)
    }
}

impl Awq {
    /// The most weights whose errors are held at a time.
    fn candidates(&self) -> usize {
        let scales = match self.scales() {
            // The plain weight is one more.
            true => candidates::alphas(self.config.number("alpha_step")).len() + 1,
            false => 0,
        };
        let ratios = match self.clips() {
            true => candidates::clip_ratios(&self.config).len(),
            false => 0,
        };
        scales.max(ratios)
    }

    /// The factors of the input, 1 / scale. A layer without tokens keeps its weight as it is, with factors of
    /// one: an expert that is never routed to must not stop the others.
    fn factors(
        &self,
        run: &Run,
        target: &Target,
        input: &InputSummary,
    ) -> Result<(Option<Vec<f32>>, Option<QuantizationError>)> {
        let name = &target.name;
        if input.tokens == 0 {
            run.context.warn(&format!(
                "{}: `{name}` saw no tokens; its weight is calibrated alone{}",
                self.config.method,
                if self.scales() {
                    ", with a pre_quant_scale of one"
                } else {
                    ""
                }
            ));
            let ones = vec![1.0; target.channels()];
            return Ok((self.scales().then_some(ones), None));
        }
        if !self.scales() {
            return Ok((None, None));
        }
        let alphas = candidates::alphas(self.config.number("alpha_step"));
        let best = lite::search(run, target, input, &alphas)?;
        balance::check_factors(name, &best.factors)?;
        Ok((Some(best.factors), best.error))
    }
}

/// The error of what two steps did one after the other; the second begins where the first ended.
fn combined(
    first: Option<QuantizationError>,
    second: Option<QuantizationError>,
) -> Option<QuantizationError> {
    match (first, second) {
        // Clipping looks at blocks, whose errors are not those of the output: only their ratio carries over.
        (Some(first), Some(second)) if second.before > 0.0 => Some(QuantizationError {
            after: first.after * (second.after / second.before),
            ..first
        }),
        (first, second) => first.or(second),
    }
}

fn with_error(state: &SlotState, error: Option<QuantizationError>) -> SlotState {
    let mut first = true;
    state.map(|q| match std::mem::replace(&mut first, false) {
        true => Arc::new(Quantizer {
            record: Some(Arc::new(CalibrationRecord {
                error,
                ..CalibrationRecord::default()
            })),
            ..(**q).clone()
        }),
        false => Arc::clone(q),
    })
}

/// A relative error of a layer's output.
fn output_error(before: f64, after: f64, energy: f64) -> Option<QuantizationError> {
    (energy > 0.0).then(|| QuantizationError {
        of: ErrorOf::Output,
        before: before / energy,
        after: after / energy,
    })
}
