//! The error of every quantizer: as its calibration measured it, else of its weight.

use crate::error::Result;
use crate::kernels::absmax;
use crate::model::{ErrorOf, Model, QuantizationError, Role, Slot, not_finite};

/// One for each slot, in order; None where there is nothing to measure it on.
pub(super) fn measure(model: &Model) -> Result<Vec<Option<QuantizationError>>> {
    let slots = model.slots().iter();
    slots.map(|slot| of(model, slot)).collect()
}

fn of(model: &Model, slot: &Slot) -> Result<Option<QuantizationError>> {
    let state = slot.state();
    let machine = model.context().machine();
    if let Some(weight) = slot.weight().filter(|_| state.is_enabled())
        && let Some(found) = absmax::not_finite(machine, weight)
    {
        return Err(not_finite(slot.name(), weight, found));
    }
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
