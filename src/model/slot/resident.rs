//! The numbers of a slot's quantizers in device memory, where taps on the GPU read them.
//!
//! They are written when a verb has changed them, at the same addresses as before wherever they are as many: a graph
//! that was captured goes on with the new ones. A tap puts kernels on the stream and does nothing else, so that it can
//! be captured itself.

use std::sync::{Arc, PoisonError};

use super::launch::Places;
use super::refresh::Refresh;
use super::{Slot, quantization};
use crate::error::{Error, Result};
use crate::kernels::absmax::cuda as flaws;
use crate::kernels::cuda::{DeviceBuffer, Gpu};
use crate::kernels::{channel_scale, hadamard};
use crate::model::quantizer::{Quantizer, SlotState};
use crate::tensor::TensorView;

/// What a slot keeps on the GPU.
pub(super) struct Resident {
    pub state: Arc<SlotState>,
    pub members: Vec<Member>,
    /// A u32: what kernels found wrong since it was last read.
    pub flaws: Arc<DeviceBuffer>,
    /// Whether a kernel may have written there.
    pub is_touched: bool,
    /// Whether the amax values here are newer than those of the state.
    pub ahead: Ahead,
    /// Memory that was outgrown: a graph that was captured before may still read it.
    pub retired: Vec<Arc<DeviceBuffer>>,
}

/// Whether numbers in device memory are newer than the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ahead {
    /// They are not.
    No,
    /// They were written once.
    Once,
    /// A captured graph writes them whenever it runs.
    Always,
}

/// The numbers of one quantizer. Empty where it has none.
pub(super) struct Member {
    pub amax: Arc<DeviceBuffer>,
    pub tensor_amax: Arc<DeviceBuffer>,
    pub pre_quant_scale: Arc<DeviceBuffer>,
    pub bias: Arc<DeviceBuffer>,
    /// Room for amax values of its own, and what follows from them.
    pub scratch: Arc<DeviceBuffer>,
    /// Room for a bias of each tensor's own.
    pub own_bias: Arc<DeviceBuffer>,
}

impl Slot {
    /// Finds memory for the present numbers on the GPU, and writes nothing yet; None when they are there, or nobody
    /// needs them, as those of a packed weight: `wanted` is whether tensors on the GPU are expected to pass.
    pub(crate) fn prepare_refresh(&self, gpu: &Arc<Gpu>, wanted: bool) -> Result<Option<Refresh>> {
        let state = self.state();
        let resident = self.resident.lock().unwrap_or_else(PoisonError::into_inner);
        let before = resident.as_ref();
        if self.packed().is_some()
            || before.is_none() && !wanted
            || before.is_some_and(|before| Arc::ptr_eq(&before.state, &state))
        {
            return Ok(None);
        }
        Refresh::new(gpu, &state, before).map(Some)
    }

    /// Writes them, in the order of the stream.
    pub(crate) fn finish_refresh(&self, refresh: Refresh) -> Result<()> {
        let mut resident = self.resident.lock().unwrap_or_else(PoisonError::into_inner);
        *resident = Some(refresh.written()?);
        Ok(())
    }

    /// Gives back what a weight was quantized with, once it is packed.
    pub(crate) fn forget_when_packed(&self) {
        if self.packed().is_some() {
            *self.resident.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// Fake-quantizes a tensor on the GPU with numbers that lie there.
    pub(super) fn quantize_resident(
        &self,
        gpu: &Arc<Gpu>,
        state: &Arc<SlotState>,
        member: Option<usize>,
        x: &TensorView,
        out: &TensorView,
    ) -> Result<()> {
        // Held while kernels are launched: two taps at once would share room for amax values.
        let mut resident = self.resident.lock().unwrap_or_else(PoisonError::into_inner);
        let resident = Self::written(&mut resident, gpu, state)?;
        resident.is_touched = true;
        self.launch_members(gpu, resident, member, false, x, out)
    }

    /// What a slot keeps, with the numbers of a state.
    pub(super) fn written<'a>(
        resident: &'a mut Option<Resident>,
        gpu: &Arc<Gpu>,
        state: &Arc<SlotState>,
    ) -> Result<&'a mut Resident> {
        let is_present = |resident: &Resident| Arc::ptr_eq(&resident.state, state);
        let present = match resident.take() {
            Some(present) if is_present(&present) => present,
            before => match Refresh::new(gpu, state, before.as_ref()).and_then(Refresh::written) {
                Ok(written) => written,
                Err(error) => {
                    *resident = before;
                    return Err(error);
                }
            },
        };
        Ok(resident.insert(present))
    }

    /// What a quantizer does before anything else, also when it is off; returns where the result is.
    pub(super) fn change_input_resident(
        &self,
        gpu: &Gpu,
        quantizer: &Quantizer,
        member: &Member,
        x: &TensorView,
        out: &TensorView,
    ) -> Result<TensorView> {
        let mut from = *x;
        if let Some(factors) = &quantizer.pre_quant_scale {
            self.check_channels(&from, factors)?;
            channel_scale::run_resident(gpu, &from, out, member.pre_quant_scale.address());
            from = *out;
        }
        if quantizer.attributes.rotate.enable {
            self.rotate_resident(gpu, quantizer, &from, out)?;
            from = *out;
        }
        Ok(from)
    }

    /// Puts the members, or one of them, on the stream; `is_changed`: the first has changed its input already.
    pub(super) fn launch_members(
        &self,
        gpu: &Arc<Gpu>,
        resident: &mut Resident,
        member: Option<usize>,
        is_changed: bool,
        x: &TensorView,
        out: &TensorView,
    ) -> Result<()> {
        let chosen = |i: usize| member.is_none_or(|member| member == i);
        let state = Arc::clone(&resident.state);
        let mut from = *x;
        let all = state
            .members()
            .iter()
            .zip(&mut resident.members)
            .enumerate();
        for (i, (quantizer, member)) in all.filter(|(i, _)| chosen(*i)) {
            if i > 0 || !is_changed {
                from = self.change_input_resident(gpu, quantizer, member, &from, out)?;
            }
            match quantizer.enabled {
                true => {
                    let flaws = resident.flaws.address();
                    let mut places = Places::new(gpu, member, flaws, &mut resident.retired);
                    self.launch_affine(quantizer, &mut places, &from, out)?;
                }
                false if from.address() != out.address() => {
                    gpu.copy(from.address(), out.address(), from.size_bytes());
                }
                false => {}
            }
            if quantizer.rotates_back() {
                self.rotate_resident(gpu, quantizer, out, out)?;
            }
            from = *out;
        }
        Ok(())
    }

    fn rotate_resident(
        &self,
        gpu: &Gpu,
        q: &Quantizer,
        x: &TensorView,
        out: &TensorView,
    ) -> Result<()> {
        let group = self.rotated_group(q, x)?;
        let rotated = hadamard::run_resident(gpu, x, out, group);
        Ok(rotated.map_err(|error| error.of(&self.name))?)
    }

    /// What kernels found wrong since this was last asked, as an error that names the quantizer: waits for the stream.
    pub(crate) fn take_flaws(&self) -> Result<()> {
        let mut resident = self.resident.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(resident) = resident.as_mut().filter(|resident| resident.is_touched) else {
            return Ok(());
        };
        let mut found = [0u32];
        resident.flaws.read(&mut found)?;
        resident.is_touched = false;
        if found[0] == 0 {
            return Ok(());
        }
        resident.flaws.fill(0)?;
        Err(self.flaw(found[0]))
    }

    /// What a word of flaws, which is not 0, says.
    pub(super) fn flaw(&self, found: u32) -> Error {
        match found & flaws::NEGATIVE != 0 {
            true => quantization::negative(&self.name),
            false => Error::Numeric(format!(
                "`{}`: NaN or Inf in a tensor on the GPU, whose dynamic amax they would be",
                self.name
            )),
        }
    }
}
