//! The error of a quantizer of activations, on some of the tokens that passed.

use std::sync::Arc;

use super::algorithm::Run;
use crate::kernels::{channel_scale, difference};
use crate::model::{
    Amax, CalibrationRecord, ErrorOf, QuantizationError, Quantizer, Role, Slot, SlotState,
    apply_quantizer,
};
use crate::tensor::TensorView;

/// The tokens, as they came: before any factor that the calibration found.
pub(super) struct SampleError<'a> {
    pub run: &'a Run<'a>,
    /// `[count, channels]`.
    pub rows: Arc<Vec<f32>>,
    pub channels: usize,
}

impl SampleError<'_> {
    /// `state`, which a calibration gave to `slot`, with a note of its error, where it has none and it can be
    /// measured: formats whose amax depends on the shape of what passes cannot.
    pub(super) fn noted(&mut self, slot: &Slot, state: SlotState) -> SlotState {
        let SlotState::Single(q) = &state else {
            return state;
        };
        let is_noted = q
            .record
            .as_ref()
            .is_some_and(|record| record.error.is_some());
        if slot.role() == Role::Weight || is_noted || !q.enabled || self.rows.is_empty() {
            return state;
        }
        let Some(error) = self.error(slot, q) else {
            return state;
        };
        SlotState::Single(Arc::new(Quantizer {
            record: Some(Arc::new(CalibrationRecord {
                error: Some(error),
                ..CalibrationRecord::default()
            })),
            ..(**q).clone()
        }))
    }

    fn error(&mut self, slot: &Slot, q: &Quantizer) -> Option<QuantizationError> {
        // What passed the tap was multiplied with the factors that the slot had before.
        let had = slot.state().members().first()?.pre_quant_scale.clone();
        let factors = match (&q.pre_quant_scale, &had) {
            (Some(now), None) => Some(now.to_vec()),
            (Some(now), Some(had)) => Some(now.iter().zip(&**had).map(|(n, h)| n / h).collect()),
            (None, _) => None,
        };
        let still = Quantizer {
            pre_quant_scale: None,
            ..q.clone()
        };
        let after = self.measure(slot, &still, factors.as_deref())?;
        let before = match (&q.channel_amax, factors) {
            (Some(channels), Some(_)) => {
                let largest = channels.iter().copied().fold(0.0, f32::max);
                let plain = Quantizer {
                    amax: q.amax.as_ref().map(|_| Amax::new(vec![largest], &[])),
                    ..still
                };
                self.measure(slot, &plain, None)?
            }
            _ => after,
        };
        Some(QuantizationError {
            of: ErrorOf::Tensor,
            before,
            after,
        })
    }

    /// The relative squared error of the sample times `factors`.
    fn measure(&mut self, slot: &Slot, q: &Quantizer, factors: Option<&[f32]>) -> Option<f64> {
        let machine = self.run.machine;
        let shape = [self.rows.len() / self.channels, self.channels];
        let mut scaled = self.rows.to_vec();
        let mut rounded = vec![0.0; scaled.len()];
        let x = TensorView::over(&mut scaled, &shape).ok()?;
        let out = TensorView::over(&mut rounded, &shape).ok()?;
        if let Some(factors) = factors.filter(|factors| factors.len() == self.channels) {
            channel_scale::run(machine, &x, factors, &x);
        }
        apply_quantizer(machine, q, slot.name(), &x, &out).ok()?;
        let (error, energy) = difference::squared(machine, &out, &x);
        (energy > 0.0).then_some(error / energy)
    }
}
