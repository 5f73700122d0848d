//! The error of every quantizer: as its calibration measured it, else of its weight.

use crate::error::Result;
use crate::model::{ErrorOf, Model, QuantizationError, Role, Slot};

/// One for each slot, in order; None where there is nothing to measure it on.
pub(super) fn measure(model: &Model) -> Result<Vec<Option<QuantizationError>>> {
    model.slots().iter().map(|slot| of(slot)).collect()
}

fn of(slot: &Slot) -> Result<Option<QuantizationError>> {
    let state = slot.state();
    let records = state.members().iter().filter_map(|q| q.record.as_ref());
    if let Some(error) = records.filter_map(|record| record.error).next() {
        return Ok(Some(error));
    }
    if slot.role() != Role::Weight || !state.is_enabled() {
        return Ok(None);
    }
    let measured = slot.weight_error()?;
    Ok(measured.map(|error| QuantizationError {
        of: ErrorOf::Tensor,
        before: error,
        after: error,
    }))
}
