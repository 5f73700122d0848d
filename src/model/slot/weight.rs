//! A weight and its quantizer: what the tap of the weight gives, and folding.

use std::sync::Arc;

use super::{Scratch, Slot, quantization};
use crate::error::{Error, Result};
use crate::kernels::cuda::{Gpu, GpuError};
use crate::kernels::{Machine, absmax, copy, difference, fingerprint};
use crate::model::{Mode, SlotState};
use crate::tensor::TensorView;

impl Slot {
    /// Writes the weight as the quantized layer uses it.
    pub(in crate::model) fn weight_into(
        &self,
        weight: &TensorView,
        out: &TensorView,
    ) -> Result<()> {
        if let Some(packed) = self.packed() {
            if out.device() != weight.device() {
                return Err(Error::InvalidArgument(format!(
                    "`{}`: out is on {}, expected {} as the packed weight",
                    self.name,
                    out.device(),
                    weight.device()
                )));
            }
            let machine = self.shared.context().machine();
            let of_this = |error: GpuError| error.of(&self.name);
            machine.check_place(out).map_err(of_this)?;
            packed.unpack(machine, &self.name, out)?;
            return Ok(machine.take_failure().map_err(of_this)?);
        }
        weight
            .check_out(out)
            .map_err(|text| Error::InvalidArgument(format!("`{}`: {text}", self.name)))?;
        let machine = self.shared.context().machine();
        machine
            .check_place(out)
            .map_err(|error| error.of(&self.name))?;
        self.written_weight(machine, weight, out)?;
        Ok(machine
            .take_failure()
            .map_err(|error| error.of(&self.name))?)
    }

    fn written_weight(
        &self,
        machine: &Machine,
        weight: &TensorView,
        out: &TensorView,
    ) -> Result<()> {
        match self.shared.mode() {
            Mode::Quantized => self.quantize(machine, None, weight, out),
            // What its input's quantizer does to the input, this one takes back.
            Mode::Calibrating => self.pass_unquantized(machine, weight, out),
            Mode::Registered => {
                copy::run(machine, weight, out);
                Ok(())
            }
        }
    }

    fn pass_unquantized(
        &self,
        machine: &Machine,
        weight: &TensorView,
        out: &TensorView,
    ) -> Result<()> {
        let state = self.state();
        let Some(first) = state.members().first().filter(|q| q.changes_input()) else {
            copy::run(machine, weight, out);
            return Ok(());
        };
        self.change_input(machine, first, weight, out)?;
        let mut back = state.members().iter().filter(|q| q.rotates_back());
        back.try_for_each(|q| self.rotate(machine, q, out, out))
    }

    /// Calls `look` with the weight as the quantizer sees it: after its pre_quant_scale and rotation.
    pub(crate) fn with_seen_weight(
        &self,
        look: impl FnOnce(&TensorView) -> Result<()>,
    ) -> Result<()> {
        self.with_weight_seen_by(&self.state(), look)
    }

    /// The same for a state that the slot may get.
    pub(crate) fn with_weight_seen_by(
        &self,
        state: &SlotState,
        look: impl FnOnce(&TensorView) -> Result<()>,
    ) -> Result<()> {
        match self.weight() {
            Some(weight) => self.with_values_seen_by(weight, state, look),
            None => Ok(()),
        }
    }

    /// The same for other values that the weight may get.
    pub(crate) fn with_values_seen_by(
        &self,
        weight: &TensorView,
        state: &SlotState,
        look: impl FnOnce(&TensorView) -> Result<()>,
    ) -> Result<()> {
        match state
            .members()
            .first()
            .filter(|first| first.changes_input())
        {
            None => look(weight),
            Some(first) => {
                let mut scratch = Scratch::default();
                let machine = self.shared.context().machine();
                let target = scratch.like(machine, weight)?;
                look(&self.change_input(machine, first, weight, &target)?)
            }
        }
    }

    /// Calls `work` with a copy of the weight that may be written to.
    pub(crate) fn with_copy_of_weight<T>(
        &self,
        work: impl FnOnce(&TensorView) -> Result<T>,
    ) -> Result<Option<T>> {
        let Some(weight) = self.weight() else {
            return Ok(None);
        };
        let machine = self.shared.context().machine();
        let mut scratch = Scratch::default();
        let values = scratch.like(machine, weight)?;
        copy::run(machine, weight, &values);
        work(&values).map(Some)
    }

    /// The GPU that the weight lies on; None: it is in host memory, or packed.
    pub(crate) fn weight_gpu(&self) -> Option<&Arc<Gpu>> {
        let machine = self.shared.context().machine();
        machine.gpu_of(self.weight()?)
    }

    /// What tells the weight's bytes from others; None for a packed one.
    pub(crate) fn weight_fingerprint(&self) -> Option<u64> {
        let machine = self.shared.context().machine();
        let weight = self.weight()?;
        Some(fingerprint::of_tensor(machine, weight))
    }

    /// Whether folding would write to the weight.
    pub(crate) fn folds(&self) -> bool {
        let state = self.state();
        state.is_enabled() || state.members().iter().any(|q| q.changes_input())
    }

    /// Tries what folding the weight would do, without writing anything of the host's.
    pub(crate) fn check_fold(&self) -> Result<()> {
        let state = self.state();
        let changes = state.members().iter().any(|q| q.changes_input());
        if !changes && !state.is_enabled() {
            return Ok(());
        }
        let machine = self.shared.context().machine();
        self.with_seen_weight(|weight| {
            if let Some(found) = absmax::not_finite(machine, weight) {
                return Err(quantization::not_finite(&self.name, weight, found));
            }
            let mut enabled = state.members().iter().filter(|q| q.enabled);
            enabled.try_for_each(|q| quantization::check(machine, q, &self.name, weight))
        })?;
        let Some(weight) = self.weight().filter(|_| self.weight_gpu().is_some()) else {
            return Ok(());
        };
        // On a GPU once for nothing: so the memory that it takes is there when the weight is written.
        let mut scratch = Scratch::default();
        let out = scratch.like(machine, weight)?;
        self.quantize(machine, None, weight, &out)?;
        self.take_flaws()
    }

    /// Writes the weight as the quantized layer uses it over the host's, and switches the quantizer
    /// off. One that is off, and scales nothing, leaves the weight alone.
    pub(crate) fn fold(&self, keep_attributes: bool) -> Result<()> {
        let state = self.state();
        let changes = state.members().iter().any(|q| q.changes_input());
        let weight = self.weight().copied();
        let Some(weight) = weight.filter(|_| changes || state.is_enabled()) else {
            return Ok(());
        };
        let machine = self.shared.context().machine();
        self.quantize(machine, None, &weight, &weight)?;
        // A weight that no kernel wrote to keeps its quantizer: the verb can be called again.
        machine
            .take_failure()
            .map_err(|error| error.of(&self.name))?;
        self.replace(Arc::new(state.map(|q| Arc::new(q.folded(keep_attributes)))));
        Ok(())
    }

    /// `|Q(w) - w|^2 / |w|^2` of the weight as the quantizer sees it; None for a weight that is packed, or all
    /// zero.
    pub(crate) fn weight_error(&self) -> Result<Option<f64>> {
        let mut measured = None;
        let machine = self.shared.context().machine();
        let state = self.state();
        self.with_seen_weight(|weight| {
            let mut scratch = Scratch::default();
            let rounded = scratch.like(machine, weight)?;
            let mut from = *weight;
            for q in state.members().iter().filter(|q| q.enabled) {
                quantization::apply(machine, q, &self.name, &from, &rounded)?;
                from = rounded;
            }
            let (error, energy) = difference::squared(machine, &from, weight);
            measured = (energy > 0.0).then_some(error / energy);
            Ok(())
        })?;
        Ok(measured)
    }
}
