//! The largest magnitudes seen, at the granularity of a quantizer; kept over calls and calibrations.

use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::kernels::{Cpu, absmax};
use crate::model::{Amax, Observer, Quantizer, Slot, amax_granularity, not_finite};
use crate::tensor::TensorView;

/// Running maxima of the members of a slot.
pub struct AbsMax {
    name: String,
    members: Vec<Member>,
}

struct Member {
    quantizer: Arc<Quantizer>,
    /// None when this member needs no data.
    collected: Option<Mutex<Option<Amax>>>,
}

impl AbsMax {
    /// An observer of `slot`, going on from what its quantizers have collected; None when no member
    /// needs data.
    pub fn new(slot: &Slot) -> Option<Arc<Self>> {
        let state = slot.state();
        if !state.members().iter().any(|q| q.is_calibrated_by_data()) {
            return None;
        }
        let members = state.members().iter().map(|quantizer| Member {
            collected: quantizer
                .is_calibrated_by_data()
                .then(|| Mutex::new(quantizer.collected.clone())),
            quantizer: Arc::clone(quantizer),
        });
        Some(Arc::new(Self {
            name: slot.name().to_owned(),
            members: members.collect(),
        }))
    }

    /// What the members have collected; None for one that saw nothing or needs nothing.
    pub fn collected(&self) -> Vec<Option<Amax>> {
        let lock =
            |m: &Mutex<Option<Amax>>| m.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.members
            .iter()
            .map(|member| member.collected.as_ref().and_then(lock))
            .collect()
    }

    fn local(&self, cpu: &Cpu, quantizer: &Quantizer, x: &TensorView) -> Result<Amax> {
        let granularity = amax_granularity(quantizer, x.shape())
            .map_err(|text| Error::State(format!("`{}`: {text}", self.name)))?;
        let mut values = vec![0.0; granularity.grid().num_blocks()];
        absmax::run(cpu, x, granularity.grid(), &mut values);
        if !absmax::largest(&values).is_finite() {
            let found = absmax::not_finite(cpu, x).unwrap_or((0, f32::NAN));
            return Err(not_finite(&self.name, x, found));
        }
        Ok(Amax::new(values, granularity.amax_shape()))
    }
}

impl Observer for AbsMax {
    fn observe(&self, cpu: &Cpu, member: Option<usize>, x: &TensorView) -> Result<()> {
        for (i, observed) in self.members.iter().enumerate() {
            let Some(collected) = &observed.collected else {
                continue;
            };
            if member.is_some_and(|member| member != i) {
                continue;
            }
            let local = self.local(cpu, &observed.quantizer, x)?;
            // Only the merge is under the lock; maxima are exact in any order.
            let mut collected = collected.lock().unwrap_or_else(PoisonError::into_inner);
            let merged = match &*collected {
                None => local,
                Some(before) => before.max(&local).map_err(|error| match error {
                    Error::State(text) => Error::State(format!("`{}`: {text}", self.name)),
                    other => other,
                })?,
            };
            *collected = Some(merged);
        }
        Ok(())
    }
}
