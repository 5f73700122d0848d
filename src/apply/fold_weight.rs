//! Writes fake-quantized weights over the host's.

use crate::error::Result;
use crate::model::Model;

/// Folds every enabled weight quantizer into its weight and switches it off.
///
/// Everything that can fail is tried before the first weight is written.
pub fn fold_weight(model: &mut Model, keep_attributes: bool) -> Result<()> {
    model.check_quantized()?;
    let folds = || {
        model
            .layers()
            .iter()
            .filter_map(|layer| layer.weight_slot())
    };
    for slot in folds() {
        slot.check_fold()?;
    }
    for slot in folds() {
        slot.fold(keep_attributes)?;
    }
    Ok(())
}
