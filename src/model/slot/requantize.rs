//! A new weight in place of the old one, as training sends it again and again: what the quantized layer uses of it, with
//! the scales kept or found anew.
//!
//! On a GPU this only puts work on the stream. Scales that were found anew lie in device memory, where taps and captured
//! graphs read them; the host's numbers follow when it next looks at them.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, PoisonError};

use super::resident::{Ahead, Member};
use super::{Slot, quantization};
use crate::error::{Error, Result};
use crate::kernels::cuda::Gpu;
use crate::kernels::{Machine, absmax};
use crate::model::amax::Amax;
use crate::model::granularity::Granularity;
use crate::model::quantizer::{Kind, Quantizer};
use crate::model::{Mode, SlotState};
use crate::tensor::TensorView;

/// What becomes of the scales when a layer gets another weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scales {
    /// They stay as calibrated.
    Keep,
    /// They follow from the largest magnitudes of the new weight, and stay so.
    Refresh,
}

/// A new weight, and where what the layer uses of it goes.
#[derive(Clone, Copy)]
pub(in crate::model) struct NewWeight<'a> {
    pub weight: &'a TensorView,
    pub out: &'a TensorView,
    /// The weight has the scale of a tensor in common with those of other layers: one of them cannot change it.
    pub shares_scale: bool,
}

impl Slot {
    /// Writes what the quantized layer uses of `weight`, which takes the place of the `registered` one.
    pub(in crate::model) fn requantize_into(
        &self,
        registered: &TensorView,
        new: NewWeight<'_>,
        scales: Scales,
    ) -> Result<()> {
        let NewWeight { weight, out, .. } = new;
        self.check_requantizable(registered, weight, out)?;
        if weight.count() == 0 {
            return Ok(());
        }
        let machine = self.shared.context().machine();
        for tensor in [weight, out] {
            machine
                .check_place(tensor)
                .map_err(|error| error.of(&self.name))?;
        }
        match scales {
            Scales::Keep => self.quantize(machine, None, weight, out)?,
            Scales::Refresh => self.refresh(machine, new)?,
        }
        Ok(machine
            .take_failure()
            .map_err(|error| error.of(&self.name))?)
    }

    fn check_requantizable(
        &self,
        registered: &TensorView,
        weight: &TensorView,
        out: &TensorView,
    ) -> Result<()> {
        let name = &self.name;
        let invalid = |text: String| Err(Error::InvalidArgument(format!("`{name}`: {text}")));
        let refused = |text: &str| Err(Error::State(format!("`{name}`: {text}")));
        match self.shared.mode() {
            Mode::Registered => {
                return refused("the model is not quantized yet; call mq_quantize() first");
            }
            Mode::Calibrating => {
                return refused("its model is being calibrated; requantize when that is done");
            }
            Mode::Quantized => {}
        }
        let state = self.state();
        if self.packed().is_some() {
            return refused("its weight is compressed, and cannot be requantized");
        }
        if state.members().iter().any(|q| q.is_folded) {
            return refused(
                "its weight is folded: its quantizer is off, and would leave the new one as it is",
            );
        }
        if weight.dtype() != registered.dtype() || weight.shape() != registered.shape() {
            return invalid(format!(
                "weight is {} {:?}, expected {} {:?} as registered",
                weight.dtype(),
                weight.shape(),
                registered.dtype(),
                registered.shape()
            ));
        }
        if weight.device() != registered.device() {
            return invalid(format!(
                "weight is on {}, expected {} as registered",
                weight.device(),
                registered.device()
            ));
        }
        weight.check_out(out).or_else(invalid)
    }

    /// Finds the scales anew, stores them, and quantizes under them.
    fn refresh(&self, machine: &Machine, new: NewWeight<'_>) -> Result<()> {
        let NewWeight { weight, out, .. } = new;
        let state = self.state();
        if let Some(i) = state.members().iter().position(|q| q.collects_bias()) {
            let member = matches!(*state, SlotState::Sequential(_)).then_some(i);
            return Err(Error::Unsupported(format!(
                "`{}`: the scales of an affine quantizer (bias) cannot be refreshed; calibrate it, or keep them",
                self.member_name(member)
            )));
        }
        if let Some(gpu) = machine.gpu_of(weight) {
            return self.refresh_resident(gpu, &state, new);
        }
        let seen = match state.members().first().filter(|q| q.changes_input()) {
            Some(first) => self.change_input(machine, first, weight, out)?,
            None => *weight,
        };
        let mut members = Vec::with_capacity(state.members().len());
        for q in state.members() {
            members.push(match self.refreshed_amax(machine, q, &seen)? {
                Some(amax) => {
                    let largest = absmax::largest(amax.values());
                    let tensor = q.global_amax.map(|shared| match new.shares_scale {
                        true => shared,
                        false => largest,
                    });
                    Arc::new(with_amax(q, amax, tensor))
                }
                None => Arc::clone(q),
            });
        }
        let mut members = members.into_iter();
        let next = Arc::new(state.map(|q| members.next().unwrap_or_else(|| Arc::clone(q))));
        self.replace(Arc::clone(&next));
        self.quantize_members(machine, next.members(), true, &seen, out)
    }

    /// The amax that a quantizer is calibrated to by this weight as it sees it; None when it keeps none.
    fn refreshed_amax(
        &self,
        machine: &Machine,
        q: &Quantizer,
        seen: &TensorView,
    ) -> Result<Option<Amax>> {
        if !follows_the_weight(q) {
            return Ok(None);
        }
        let blocks = self.blocks_of_amax(q, seen)?;
        let mut values = vec![0.0; blocks.grid().num_blocks()];
        absmax::run(machine, seen, blocks.grid(), &mut values);
        machine
            .take_failure()
            .map_err(|error| error.of(&self.name))?;
        if q.attributes.unsigned && absmax::any_negative(machine, seen) {
            return Err(quantization::negative(&self.name));
        }
        if !absmax::largest(&values).is_finite() {
            let found = absmax::not_finite(machine, seen).unwrap_or((0, f32::NAN));
            return Err(quantization::not_finite(&self.name, seen, found));
        }
        Ok(Some(Amax::new(values, blocks.amax_shape())))
    }

    fn blocks_of_amax(&self, q: &Quantizer, seen: &TensorView) -> Result<Granularity> {
        quantization::amax_granularity(q, seen.shape())
            .map_err(|text| Error::State(format!("`{}`: {text}", self.name)))
    }

    /// The same with everything in device memory: nothing is waited for.
    fn refresh_resident(
        &self,
        gpu: &Arc<Gpu>,
        state: &Arc<SlotState>,
        new: NewWeight<'_>,
    ) -> Result<()> {
        let NewWeight { weight, out, .. } = new;
        let mut resident = self.resident.lock().unwrap_or_else(PoisonError::into_inner);
        let resident = Self::written(&mut resident, gpu, state)?;
        resident.is_touched = true;
        let mut seen = *weight;
        if let (Some(first), Some(member)) = (state.members().first(), resident.members.first()) {
            seen = self.change_input_resident(gpu, first, member, weight, out)?;
        }
        let flaws = resident.flaws.address();
        // What a captured graph does is done again without us.
        let is_captured = gpu.is_capturing()?;
        for (q, member) in state.members().iter().zip(&resident.members) {
            if follows_the_weight(q) {
                let blocks = self.blocks_of_amax(q, &seen)?;
                self.raise_scales(gpu, q, (member, &blocks), (&seen, new.shares_scale), flaws)?;
                resident.ahead = match is_captured {
                    true => Ahead::Always,
                    false => resident.ahead.max(Ahead::Once),
                };
            }
        }
        if resident.ahead > Ahead::No {
            self.shared.is_ahead.store(true, SeqCst);
        }
        self.launch_members(gpu, resident, None, true, &seen, out)
    }

    /// Writes the largest magnitudes over the amax of a quantizer, and what follows from them.
    fn raise_scales(
        &self,
        gpu: &Gpu,
        q: &Quantizer,
        (member, blocks): (&Member, &Granularity),
        (seen, shares_scale): (&TensorView, bool),
        flaws: u64,
    ) -> Result<()> {
        let (amax, count) = (member.amax.address(), blocks.grid().num_blocks());
        if member.amax.len() != count * size_of::<f32>() {
            return Err(Error::State(format!(
                "`{}`: its amax has {} values, but a weight of shape {:?} needs {count}; calibrate it first",
                self.name,
                member.amax.len() / size_of::<f32>(),
                seen.shape()
            )));
        }
        gpu.fill(amax, 0, member.amax.len());
        absmax::cuda::raise(gpu, seen, blocks.grid(), amax);
        absmax::cuda::check_amax(gpu, amax, count, flaws);
        let tensor = member.tensor_amax.address();
        match q.kind() {
            Some(Kind::Nvfp4Dynamic) => gpu.copy(amax, tensor, size_of::<f32>()),
            Some(Kind::Nvfp4Static { .. }) if !shares_scale => {
                gpu.fill(tensor, 0, size_of::<f32>());
                absmax::cuda::raise_to_largest(gpu, amax, count, tensor);
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes over scales that were found anew in device memory: waits for the stream. Returns whether a captured graph
    /// may change them again.
    pub(crate) fn fetch_refreshed(&self) -> Result<bool> {
        let mut resident = self.resident.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(resident) = resident.as_mut().filter(|r| r.ahead > Ahead::No) else {
            return Ok(false);
        };
        let state = self.state();
        let mut members = Vec::with_capacity(state.members().len());
        for (q, member) in state.members().iter().zip(&resident.members) {
            let old = q.amax.as_ref().filter(|_| follows_the_weight(q));
            let Some(old) = old.filter(|_| Arc::ptr_eq(&resident.state, &state)) else {
                members.push(Arc::clone(q));
                continue;
            };
            let mut values = vec![0.0; old.values().len()];
            member.amax.read(&mut values)?;
            if !absmax::largest(&values).is_finite() {
                return Err(Error::Numeric(format!(
                    "`{}`: NaN or Inf in the weight that its scales were refreshed from; refresh them from a finite one",
                    self.name
                )));
            }
            let mut tensor = q.global_amax;
            if let (Some(tensor), Some(Kind::Nvfp4Static { .. })) = (&mut tensor, q.kind()) {
                member.tensor_amax.read(std::slice::from_mut(tensor))?;
            }
            members.push(match values == old.values() && tensor == q.global_amax {
                true => Arc::clone(q),
                false => Arc::new(with_amax(q, Amax::new(values, old.shape()), tensor)),
            });
        }
        let is_new = |(new, old): (&Arc<Quantizer>, _)| !Arc::ptr_eq(new, old);
        if members.iter().zip(state.members()).any(is_new) {
            let mut members = members.into_iter();
            let next = Arc::new(state.map(|q| members.next().unwrap_or_else(|| Arc::clone(q))));
            // They are there already.
            resident.state = Arc::clone(&next);
            self.replace(next);
        }
        if resident.ahead == Ahead::Once {
            resident.ahead = Ahead::No;
        }
        Ok(resident.ahead == Ahead::Always)
    }
}

/// Whether an amax is kept that the weight decides.
fn follows_the_weight(q: &Quantizer) -> bool {
    q.is_calibrated_by_data() && q.amax.is_some()
}

/// The same quantizer as if it had been calibrated to this.
fn with_amax(q: &Quantizer, amax: Amax, global_amax: Option<f32>) -> Quantizer {
    Quantizer {
        global_amax,
        collected: Some(amax.clone()),
        amax: Some(amax),
        record: q.record_without_error(),
        ..q.clone()
    }
}
