//! Puts packed weights in the place of the host's.

use crate::config::CompressConfig;
use crate::error::{Error, Result};
use crate::model::{Allocate, Model, Slot};

/// Packs the weights that `config` selects and whose quantizer is enabled; returns how many. On failure
/// the model is as before.
///
/// A quantizer that the configuration says nothing about is packed when its attributes ask for it
/// (`fake_quant` is false).
pub fn compress(
    model: &mut Model,
    config: &CompressConfig,
    allow_none: bool,
    allocate: Allocate<'_>,
) -> Result<usize> {
    let selected = |slot: &Slot| {
        let asks = || slot.packed().is_none() && slot.wants_packing();
        config.packs(slot.name()).unwrap_or_else(asks)
    };
    let count = model.transaction(|model| model.pack(selected, allocate))?;
    if count == 0 && !allow_none {
        return Err(Error::NotFound(
            "the configuration selects no enabled weight quantizer; pass MQ_ALLOW_NO_MATCH if that is fine".into(),
        ));
    }
    Ok(count)
}
