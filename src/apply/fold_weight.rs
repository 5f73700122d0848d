//! Writes fake-quantized weights over the host's.

use crate::error::{Error, Result};
use crate::model::{Layer, Model};

/// Folds every enabled weight quantizer into its weight and switches it off.
///
/// Everything that can fail is tried before the first weight is written, and what taps on a GPU have left to be reported
/// is reported before.
pub fn fold_weight(model: &mut Model, keep_attributes: bool) -> Result<()> {
    model.check_quantized()?;
    check_shared_memory(model)?;
    model.synchronize()?;
    let folds = || {
        model
            .layers()
            .iter()
            .filter_map(|layer| layer.weight_slot())
    };
    for slot in folds() {
        model.with_failures(slot.check_fold())?;
    }
    for slot in folds() {
        slot.fold(keep_attributes)?;
    }
    Ok(())
}

/// Refuses to write to a weight that another layer reads too (tied embeddings): each of them has a
/// quantizer of its own, and one memory cannot hold what both would see.
fn check_shared_memory(model: &Model) -> Result<()> {
    let mut ranges: Vec<(usize, usize, &Layer)> = Vec::new();
    for layer in model.layers() {
        if let Some(weight) = layer.weight_slot().and_then(|slot| slot.weight()) {
            let start = weight.address() as usize;
            ranges.push((start, start + weight.size_bytes(), layer));
        }
    }
    ranges.sort_by_key(|(start, ..)| *start);
    let mut widest: Option<(usize, &Layer)> = None;
    for (start, end, layer) in ranges {
        if let Some((widest_end, other)) = widest
            && start < widest_end
            && (is_folded(layer) || is_folded(other))
        {
            return Err(Error::State(format!(
                "the weights of `{}` and `{}` share memory, and folding one changes the other; take copies from mq_layer_weight() instead, or disable both weight quantizers",
                other.name(),
                layer.name()
            )));
        }
        if widest.is_none_or(|(widest_end, _)| end > widest_end) {
            widest = Some((end, layer));
        }
    }
    Ok(())
}

fn is_folded(layer: &Layer) -> bool {
    layer.weight_slot().is_some_and(|slot| slot.folds())
}
