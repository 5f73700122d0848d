//! One quantizer as the host knows it by name, and what happens to a tensor that passes it.

mod first_failure;
mod launch;
mod refresh;
mod requantize;
mod resident;
mod rounding;
mod scratch;
mod weight;

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde_json::Value;

use super::packed::PackedWeight;
use super::quantization;
use super::quantizer::{Quantizer, SlotState};
use super::registry::{Mode, Shared};
use super::rotation;
use crate::error::{Error, Result};
use crate::kernels::{Machine, channel_scale, copy, hadamard};
use crate::tensor::TensorView;
pub(in crate::model) use first_failure::FirstFailure;
pub(super) use requantize::NewWeight;
pub use requantize::Scales;
use resident::Resident;
pub(crate) use rounding::Rounding;
use scratch::Scratch;

/// What passes a quantizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A layer's input.
    Input,
    /// A layer's output.
    Output,
    /// A layer's weight.
    Weight,
    /// Whatever the host passes: a quantizer of its own.
    Host,
}

/// Receives what passes a slot during a calibration pass.
pub trait Observer: Send + Sync {
    /// Sees `x`, which is finite memory of the host or a scaled copy of it; `member` is set when only
    /// that member of a sequential quantizer was asked for. Called from any thread.
    fn observe(&self, machine: &Machine, member: Option<usize>, x: &TensorView) -> Result<()>;
}

/// One quantizer of the model.
pub struct Slot {
    name: String,
    role: Role,
    class_name: Option<String>,
    /// An embedding's input holds indices: it can never be quantized.
    locked: bool,
    weight: Option<TensorView>,
    channels: Option<usize>,
    shared: Arc<Shared>,
    state: RwLock<Arc<SlotState>>,
    observer: RwLock<Option<Arc<dyn Observer>>>,
    /// Its numbers on the GPU, once tensors there pass it.
    resident: Mutex<Option<Resident>>,
}

/// What a slot is made of.
pub(super) struct SlotSpec {
    pub name: String,
    pub role: Role,
    pub class_name: Option<String>,
    pub locked: bool,
    pub weight: Option<TensorView>,
    /// Extent of the last axis of what passes it, where that is known.
    pub channels: Option<usize>,
    pub quantizer: Quantizer,
}

impl Slot {
    pub(super) fn new(spec: SlotSpec, shared: Arc<Shared>) -> Self {
        Self {
            name: spec.name,
            role: spec.role,
            class_name: spec.class_name,
            locked: spec.locked,
            weight: spec.weight,
            channels: spec.channels,
            shared,
            state: RwLock::new(Arc::new(SlotState::Single(Arc::new(spec.quantizer)))),
            observer: RwLock::default(),
            resident: Mutex::default(),
        }
    }

    /// The dotted name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Name of the layer it belongs to; its own, of a quantizer of the host's.
    pub fn owner(&self) -> &str {
        match self.role {
            Role::Host => &self.name,
            _ => self.name.rsplit_once('.').map_or("", |(layer, _)| layer),
        }
    }

    /// The last part of the name: `weight_quantizer`.
    pub fn bare_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }

    /// The dotted name of the slot or of one of its members.
    pub fn member_name(&self, member: Option<usize>) -> String {
        match member {
            None => self.name.clone(),
            Some(i) => format!("{}.{i}", self.name),
        }
    }

    /// What passes it.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Class of the module it sits in.
    pub fn class_name(&self) -> Option<&str> {
        self.class_name.as_deref()
    }

    /// Whether it can never be enabled.
    pub fn is_locked(&self) -> bool {
        self.locked
    }

    /// The weight, of a weight quantizer; None once it is packed, for the host may have freed it.
    pub fn weight(&self) -> Option<&TensorView> {
        self.weight.as_ref().filter(|_| self.packed().is_none())
    }

    /// The packed weight that took the place of the host's.
    pub fn packed(&self) -> Option<Arc<PackedWeight>> {
        self.state().members().first()?.packed.clone()
    }

    /// Whether its attributes ask for codes instead of fake quantization.
    pub fn wants_packing(&self) -> bool {
        let state = self.state();
        let mut members = state.members().iter();
        members.any(|q| q.enabled && !q.attributes.fake_quant)
    }

    /// Refuses to change what a packed weight was packed with.
    pub(crate) fn check_not_packed(&self) -> Result<()> {
        match self.packed() {
            None => Ok(()),
            Some(_) => Err(Error::State(format!(
                "`{}`: its weight is compressed; its quantizer cannot be changed any more",
                self.name
            ))),
        }
    }

    /// Extent of the last axis of what passes it, where that is known.
    pub fn channels(&self) -> Option<usize> {
        self.channels
    }

    /// What it holds now.
    pub fn state(&self) -> Arc<SlotState> {
        // The lock only guards the swap of one pointer: nobody can panic while holding it.
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn replace(&self, state: Arc<SlotState>) {
        let mut current = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if current.members().len() != state.members().len()
            || matches!(**current, SlotState::Single(_)) != matches!(*state, SlotState::Single(_))
        {
            self.shared.note_new_structure();
        }
        *current = state;
    }

    pub(crate) fn set_observer(&self, observer: Option<Arc<dyn Observer>>) {
        *self
            .observer
            .write()
            .unwrap_or_else(PoisonError::into_inner) = observer;
    }

    fn observer(&self) -> Option<Arc<dyn Observer>> {
        self.observer
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Makes the model refuse further work.
    pub fn poison(&self) {
        self.shared.poison();
    }

    /// The member a handle means, or all of them.
    pub fn members(&self, member: Option<usize>) -> Result<Vec<Arc<Quantizer>>> {
        let state = self.state();
        match (member, &*state) {
            (None, state) => Ok(state.members().to_vec()),
            (Some(i), SlotState::Sequential(members)) if i < members.len() => {
                Ok(vec![Arc::clone(&members[i])])
            }
            (Some(i), _) => Err(Error::State(format!(
                "`{}.{i}` is gone: `{}` is no longer a sequential quantizer with that member",
                self.name, self.name
            ))),
        }
    }

    /// What a tensor is multiplied with before anything else, by channel.
    pub(crate) fn pre_quant_scale(&self) -> Option<Arc<[f32]>> {
        let state = self.state();
        let first = state.members().first();
        first.and_then(|quantizer| quantizer.pre_quant_scale.clone())
    }

    /// The one quantizer a handle means.
    pub fn one(&self, member: Option<usize>) -> Result<Arc<Quantizer>> {
        let mut members = self.members(member)?;
        match (members.len(), members.pop()) {
            (1, Some(one)) => Ok(one),
            (count, _) => Err(Error::State(format!(
                "`{}` is a sequential quantizer; name one of its {count} members: `{}.0`, ...",
                self.name, self.name
            ))),
        }
    }

    /// Attributes of the member a handle means: an object, or a list for a sequential quantizer.
    pub fn attributes_json(&self, member: Option<usize>) -> Result<Value> {
        let members = self.members(member)?;
        let mut all = members.iter().map(|q| q.attributes.to_json());
        let sequential = member.is_none() && matches!(*self.state(), SlotState::Sequential(_));
        Ok(match (sequential, members.len()) {
            (false, 1) => all.next().unwrap_or(Value::Null),
            _ => Value::Array(all.collect()),
        })
    }

    /// A tensor on its way: observed while calibrating, fake-quantized once quantized, else copied.
    pub fn forward(
        &self,
        member: Option<usize>,
        x: TensorView,
        out: Option<TensorView>,
    ) -> Result<()> {
        let outcome = self.pass(member, x, out);
        // During calibration the verb must fail even if the host ignores this status.
        outcome.inspect_err(|error| self.note_failure(error))
    }

    /// Remembers why a tap failed, when a calibration is running.
    pub fn note_failure(&self, error: &Error) {
        self.shared.note_failure(error);
    }

    fn pass(&self, member: Option<usize>, x: TensorView, out: Option<TensorView>) -> Result<()> {
        self.shared.check_usable()?;
        self.check_member(member)?;
        self.check_shape(&x)?;
        if let Some(out) = &out {
            x.check_out(out)
                .map_err(|text| Error::InvalidArgument(format!("`{}`: {text}", self.name)))?;
        }
        if x.count() == 0 {
            return Ok(());
        }
        let machine = self.shared.context().machine();
        machine
            .check_place(&x)
            .map_err(|error| error.of(&self.name))?;
        // In place there is nothing more to ask the driver.
        if let Some(out) = out.filter(|out| out.address() != x.address()) {
            machine
                .check_place(&out)
                .map_err(|error| error.of(&self.name))?;
        }
        self.work(machine, member, x, out)?;
        Ok(machine
            .take_failure()
            .map_err(|error| error.of(&self.name))?)
    }

    fn work(
        &self,
        machine: &Machine,
        member: Option<usize>,
        x: TensorView,
        out: Option<TensorView>,
    ) -> Result<()> {
        match self.shared.mode() {
            Mode::Registered => {
                if let Some(out) = &out {
                    copy::run(machine, &x, out);
                }
                Ok(())
            }
            Mode::Calibrating => {
                self.shared.check_cancelled()?;
                self.calibrate(machine, member, &x, out.as_ref())
            }
            Mode::Quantized => match &out {
                Some(out) => self.quantize(machine, member, &x, out),
                None => Ok(()),
            },
        }
    }

    /// Refuses the handle of a member that is gone; allocates nothing.
    fn check_member(&self, member: Option<usize>) -> Result<()> {
        // The usual tap means the whole slot, and need not look at its state for that.
        let Some(i) = member else {
            return Ok(());
        };
        match &*self.state() {
            SlotState::Sequential(members) if i < members.len() => Ok(()),
            _ => self.members(member).map(|_| ()),
        }
    }

    /// Refuses what cannot be the layer's.
    fn check_shape(&self, x: &TensorView) -> Result<()> {
        match self.channels {
            Some(channels) if x.shape().dims().last() != Some(&channels) => {
                Err(Error::InvalidArgument(format!(
                    "`{}`: a tensor of shape {:?}, expected [..., {channels}]",
                    self.name,
                    x.shape()
                )))
            }
            _ => Ok(()),
        }
    }

    fn calibrate(
        &self,
        machine: &Machine,
        member: Option<usize>,
        x: &TensorView,
        out: Option<&TensorView>,
    ) -> Result<()> {
        let members = self.members(member)?;
        let mut scratch = Scratch::default();
        let mut seen = *x;
        if let Some(first) = members.first().filter(|q| q.changes_input()) {
            let target = match out {
                Some(out) => *out,
                None => scratch.like(machine, x)?,
            };
            seen = self.change_input(machine, first, x, &target)?;
        }
        if let Some(observer) = self.observer() {
            observer.observe(machine, member, &seen)?;
        }
        if let Some(out) = out {
            copy::run(machine, &seen, out);
            for quantizer in members.iter().filter(|q| q.rotates_back()) {
                self.rotate(machine, quantizer, out, out)?;
            }
        }
        Ok(())
    }

    /// What a quantizer does before anything else, also when it is off: the pre_quant_scale, then the
    /// rotation. Returns where the result is: in `x` itself when there is nothing to do, else in `out`.
    fn change_input(
        &self,
        machine: &Machine,
        quantizer: &Quantizer,
        x: &TensorView,
        out: &TensorView,
    ) -> Result<TensorView> {
        let mut from = *x;
        if let Some(scale) = &quantizer.pre_quant_scale {
            self.check_channels(&from, scale)?;
            channel_scale::run(machine, &from, scale, out);
            from = *out;
        }
        if quantizer.attributes.rotate.enable {
            self.rotate(machine, quantizer, &from, out)?;
            from = *out;
        }
        Ok(from)
    }

    fn rotate(
        &self,
        machine: &Machine,
        q: &Quantizer,
        x: &TensorView,
        out: &TensorView,
    ) -> Result<()> {
        hadamard::run(machine, x, out, self.rotated_group(q, x)?);
        Ok(())
    }

    /// Size of the groups that are rotated.
    fn rotated_group(&self, q: &Quantizer, x: &TensorView) -> Result<usize> {
        rotation::group(&q.attributes.rotate, x.shape())
            .map_err(|text| Error::State(format!("`{}`: {text}", self.name)))
    }

    /// Fake-quantizes `x` into `out`, member by member.
    pub(super) fn quantize(
        &self,
        machine: &Machine,
        member: Option<usize>,
        x: &TensorView,
        out: &TensorView,
    ) -> Result<()> {
        let state = self.state();
        let members = match member {
            None => state.members(),
            Some(i) => match state.members().get(i) {
                Some(one) if matches!(*state, SlotState::Sequential(_)) => {
                    std::slice::from_ref(one)
                }
                _ => return self.members(member).map(|_| ()),
            },
        };
        if let Some(gpu) = machine.gpu_of(x) {
            return self.quantize_resident(gpu, &state, member, x, out);
        }
        self.quantize_members(machine, members, false, x, out)
    }

    /// The same for given members; `is_changed`: the first has changed its input already.
    fn quantize_members(
        &self,
        machine: &Machine,
        members: &[Arc<Quantizer>],
        is_changed: bool,
        x: &TensorView,
        out: &TensorView,
    ) -> Result<()> {
        let mut from = *x;
        for (i, quantizer) in members.iter().enumerate() {
            if i > 0 || !is_changed {
                from = self.change_input(machine, quantizer, &from, out)?;
            }
            if quantizer.enabled {
                quantization::apply(machine, quantizer, &self.name, &from, out)?;
            } else {
                copy::run(machine, &from, out);
            }
            if quantizer.rotates_back() {
                self.rotate(machine, quantizer, out, out)?;
            }
            from = *out;
        }
        Ok(())
    }

    fn check_channels(&self, x: &TensorView, scale: &[f32]) -> Result<()> {
        match x.shape().dims().last() {
            Some(&channels) if channels == scale.len() => Ok(()),
            _ => Err(Error::State(format!(
                "`{}`: its pre_quant_scale has {} channels, which does not fit a tensor of shape {:?}",
                self.name,
                scale.len(),
                x.shape()
            ))),
        }
    }
}
