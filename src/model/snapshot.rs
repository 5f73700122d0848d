//! A model as it was before a verb, to go back to when the verb fails.

use std::sync::Arc;

use super::quantizer::SlotState;
use super::registry::{Mode, Model};
use super::slot::Role;
use crate::error::{Error, Result};
use crate::tensor::Device;

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
    /// A verb has done its work: reports what the GPU found wrong meanwhile, and writes the new numbers where taps there
    /// read them. Memory for all of them is found before the first is written.
    pub(crate) fn refresh_gpu(&self) -> Result<()> {
        let machine = self.context().machine();
        let Some(gpu) = machine.gpu() else {
            return Ok(());
        };
        machine.take_failure()?;
        self.slots().iter().try_for_each(|slot| slot.take_flaws())?;
        let mut ready = Vec::new();
        for layer in self.layers() {
            let weight = layer.spec().weight;
            let is_there = weight.is_some_and(|weight| weight.device() != Device::Cpu);
            for slot in layer.slots() {
                if let Some(refresh) = slot.prepare_refresh(gpu, is_there)? {
                    ready.push((slot, refresh));
                }
            }
        }
        for slot in self.slots().iter().filter(|slot| slot.role() == Role::Host) {
            if let Some(refresh) = slot.prepare_refresh(gpu, false)? {
                ready.push((slot, refresh));
            }
        }
        for (slot, refresh) in ready {
            slot.finish_refresh(refresh)?;
        }
        self.slots()
            .iter()
            .for_each(|slot| slot.forget_when_packed());
        Ok(())
    }

    /// Waits for the GPU, and reports what it found wrong since it was last asked.
    pub fn synchronize(&self) -> Result<()> {
        let machine = self.context().machine();
        if let Some(gpu) = machine.gpu() {
            gpu.synchronize()?;
            machine.take_failure()?;
            self.slots().iter().try_for_each(|slot| slot.take_flaws())?;
        }
        Ok(())
    }

    /// The outcome of a verb that is no transaction: what the GPU noted meanwhile is its failure, and nobody else's.
    pub(crate) fn with_failures<T>(&self, outcome: Result<T>) -> Result<T> {
        let failure = self.context().machine().take_failure();
        outcome.and_then(|found| Ok(failure.map(|()| found)?))
    }

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
        let outcome = verb(self).and_then(|found| self.refresh_gpu().map(|()| found));
        let context = self.context();
        if let Some(notice) = context.machine().gpu().and_then(|gpu| gpu.take_notice()) {
            context.info(&notice);
        }
        let Err(error) = outcome else {
            return outcome;
        };
        self.restore(before);
        // What went wrong on the GPU came first, and what was found afterwards is not to be trusted.
        let failure = self.context().machine().take_failure();
        Err(failure.map_or_else(Error::from, |()| error))
    }
}
