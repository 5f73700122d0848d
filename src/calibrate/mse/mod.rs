//! `mse`: weights get the amax of least squared error, everything else its largest magnitude.

mod search;

use std::sync::Arc;

pub use search::{Fields, Found, search};

use super::algorithm::{Algorithm, Run};
use super::max;
use crate::config::Algorithm as AlgorithmConfig;
use crate::error::Result;
use crate::model::{CalibrationRecord, ErrorOf, QuantizationError, Quantizer, Slot, SlotState};
use crate::observe::AbsMax;
use crate::plan::{Planned, SlotNeeds};

/// The algorithm.
pub(super) struct Mse {
    pub config: AlgorithmConfig,
}

impl Planned for Mse {
    fn config(&self) -> &AlgorithmConfig {
        &self.config
    }

    fn slot_needs(&self, slot: &Slot) -> SlotNeeds {
        max::needs(slot)
    }

    fn weight_bytes(&self, slot: &Slot, threads: usize) -> u64 {
        let candidates = Fields::of(&self.config).multipliers();
        let candidates = candidates.map_or(0, |multipliers| multipliers.len());
        AbsMax::weight_bytes(slot, threads) + search::workspace_bytes(slot, candidates, threads)
    }

    fn check(&self, _: &crate::model::Model) -> Result<()> {
        Fields::of(&self.config).multipliers().map(|_| ())
    }
}

impl Algorithm for Mse {
    fn as_planned(&self) -> &dyn Planned {
        self
    }

    /// Searched when the scales that weights share are known; they stay as they are.
    fn refine_weight(&self, run: &Run, slot: &Slot) -> Result<Option<SlotState>> {
        let SlotState::Single(q) = &*slot.state() else {
            return Ok(None);
        };
        let fields = Fields::of(&self.config);
        let mut found = None;
        slot.with_seen_weight(|weight| {
            found = search(run.machine, q, slot.name(), weight, &fields)?;
            Ok(())
        })?;
        Ok(found.map(|found| {
            let relative = |error: f64| error / found.energy;
            let error = (found.energy > 0.0).then(|| QuantizationError {
                of: ErrorOf::Tensor,
                before: relative(found.before),
                after: relative(found.after),
            });
            let record = CalibrationRecord {
                error,
                ..q.record.as_deref().cloned().unwrap_or_default()
            };
            SlotState::Single(Arc::new(Quantizer {
                amax: Some(found.amax),
                record: Some(Arc::new(record)),
                ..(**q).clone()
            }))
        }))
    }
}
