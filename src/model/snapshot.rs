//! A model as it was before a verb, to go back to when the verb fails.

use std::sync::Arc;

use super::quantizer::SlotState;
use super::registry::{Mode, Model};
use crate::error::Result;

/// Mode and quantizers of a model. Cheap: quantizers are shared, not copied.
pub struct Snapshot {
    mode: Mode,
    states: Vec<Arc<SlotState>>,
}

impl Snapshot {
    /// Its quantizers, in the order of the model's slots.
    pub(crate) fn states(&self) -> &[Arc<SlotState>] {
        &self.states
    }
}

impl Model {
    /// The model as it is now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            mode: self.mode(),
            states: self.slots().iter().map(|slot| slot.state()).collect(),
        }
    }

    /// Goes back to a snapshot of this model, taken since the last registration.
    pub fn restore(&self, snapshot: Snapshot) {
        for (slot, state) in self.slots().iter().zip(snapshot.states) {
            slot.replace(state);
            slot.set_observer(None);
        }
        for layer in self.layers() {
            layer.set_gradient_observer(None);
        }
        self.set_mode(snapshot.mode);
    }

    /// Runs a verb; when it fails, the quantizers and the mode are those from before.
    pub fn transaction<T>(&mut self, verb: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let before = self.snapshot();
        let outcome = verb(self);
        if outcome.is_err() {
            self.restore(before);
        }
        outcome
    }
}
