//! The numbers of a slot's quantizers in device memory, where taps on the GPU read them.
//!
//! They are written when a verb has changed them, at the same addresses as before wherever they are as many: a graph
//! that was captured goes on with the new ones. A tap puts kernels on the stream and does nothing else, so that it can
//! be captured itself.

use std::sync::{Arc, PoisonError};

use super::refresh::Refresh;
use super::{Slot, quantization};
use crate::error::{Error, Result};
use crate::kernels::absmax::{self, cuda as flaws};
use crate::kernels::bias::cuda::{self as biases, SpreadAt, shift_resident};
use crate::kernels::cuda::{DeviceBuffer, Gpu};
use crate::kernels::fake_quant::Format;
use crate::kernels::fake_quant::cuda::{Resident as Addresses, needs_scratch, run_resident};
use crate::kernels::{channel_scale, hadamard};
use crate::model::granularity::Granularity;
use crate::model::quantizer::{Kind, Quantizer, SlotState};
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
    /// Room for amax values of its own.
    pub scratch: Arc<DeviceBuffer>,
}

/// The numbers of a quantizer, the slot's flaws, and where memory goes that was outgrown.
type Places<'a> = (
    &'a mut Member,
    &'a DeviceBuffer,
    &'a mut Vec<Arc<DeviceBuffer>>,
);

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

    /// Fake-quantizes a tensor on the GPU. None: there is a quantizer among the members that is not done with numbers
    /// in device memory; nothing was done.
    pub(super) fn quantize_resident(
        &self,
        gpu: &Arc<Gpu>,
        state: &Arc<SlotState>,
        member: Option<usize>,
        x: &TensorView,
        out: &TensorView,
    ) -> Result<Option<()>> {
        let chosen = |i: usize| member.is_none_or(|member| member == i);
        let mut members = state.members().iter().enumerate();
        if members.any(|(i, q)| chosen(i) && !is_supported(q)) {
            return Ok(None);
        }
        // Held while kernels are launched: two taps at once would share room for amax values.
        let mut resident = self.resident.lock().unwrap_or_else(PoisonError::into_inner);
        let resident = Self::written(&mut resident, gpu, state)?;
        resident.is_touched = true;
        self.launch_members(gpu, resident, member, false, x, out)?;
        Ok(Some(()))
    }

    /// What a slot keeps, with the numbers of a state.
    fn written<'a>(
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

    /// The same; None when not all of its quantizers are done with numbers in device memory.
    pub(super) fn present<'a>(
        resident: &'a mut Option<Resident>,
        gpu: &Arc<Gpu>,
        state: &Arc<SlotState>,
    ) -> Result<Option<&'a mut Resident>> {
        match state.members().iter().all(|q| is_supported(q)) {
            true => Self::written(resident, gpu, state).map(Some),
            false => Ok(None),
        }
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
                    let places = (&mut *member, &*resident.flaws, &mut resident.retired);
                    self.launch_affine(gpu, quantizer, places, &from, out)?;
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

    /// Takes the bias off, if there is one, quantizes, and adds it again.
    fn launch_affine(
        &self,
        gpu: &Arc<Gpu>,
        quantizer: &Quantizer,
        places: Places<'_>,
        x: &TensorView,
        out: &TensorView,
    ) -> Result<()> {
        let Some((bias, Some(value))) = quantizer.applied_bias() else {
            return self.launch(gpu, quantizer, places, x, out);
        };
        let blocks = quantization::bias_blocks(bias, value, &self.name, x)?;
        let at = places.0.bias.address();
        shift_resident(gpu, x, out, blocks.grid(), at, -1.0);
        self.launch(gpu, quantizer, places, out, out)?;
        shift_resident(gpu, out, out, blocks.grid(), at, 1.0);
        Ok(())
    }

    fn launch(
        &self,
        gpu: &Arc<Gpu>,
        quantizer: &Quantizer,
        (member, flaws, retired): Places<'_>,
        x: &TensorView,
        out: &TensorView,
    ) -> Result<()> {
        if quantizer.attributes.unsigned {
            flaws::find_flaws(gpu, x, flaws::NEGATIVE, flaws.address());
        }
        let found = quantization::amax_values(quantizer).map(<[f32]>::len);
        let fitting = quantization::fits_shape(quantizer, &self.name, x, found)?;
        let mut at = Addresses {
            flaws: flaws.address(),
            ..Addresses::default()
        };
        let per_tensor = Granularity::per_tensor(x.shape());
        let (format, blocks) = match quantizer.kind() {
            Some(Kind::Amax(format)) => {
                at.amax = member.amax.address();
                let blocks = match quantization::is_constant(quantizer) {
                    true => per_tensor,
                    false => fitting,
                };
                (format, blocks)
            }
            // MX has a definition for everything: nothing is a flaw.
            Some(Kind::Mx(format)) => {
                at.flaws = 0;
                (Format::Mx(format), fitting)
            }
            Some(Kind::Nvfp4Dynamic) => {
                at.tensor_amax = member.tensor_amax.address();
                if found.is_none() {
                    at.tensor_amax = member.room(gpu, 1, retired)?;
                    gpu.fill(at.tensor_amax, 0, size_of::<f32>());
                    absmax::cuda::raise(gpu, x, per_tensor.grid(), at.tensor_amax);
                    flaws::check_amax(gpu, at.tensor_amax, 1, at.flaws);
                }
                (Format::Nvfp4 { global_scale: 0.0 }, fitting)
            }
            Some(Kind::Nvfp4Static { largest_scale }) => {
                (at.amax, at.tensor_amax) = (member.amax.address(), member.tensor_amax.address());
                at.largest_scale = largest_scale;
                (Format::Nvfp4Static { scale_amax: 0.0 }, fitting)
            }
            Some(Kind::Nf4 { .. }) | None => {
                return Err(Error::Internal(format!("`{}`: no format", self.name)));
            }
        };
        let grid = blocks.grid();
        if at.amax == 0 && needs_scratch(grid, format) {
            at.scratch = member.room(gpu, grid.num_blocks(), retired)?;
            gpu.fill(at.scratch, 0, grid.num_blocks() * size_of::<f32>());
        }
        run_resident(gpu, x, out, grid, format, at);
        Ok(())
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
        match found[0] & flaws::NEGATIVE != 0 {
            true => Err(quantization::negative(&self.name)),
            false => Err(Error::Numeric(format!(
                "`{}`: NaN or Inf in a tensor on the GPU, whose dynamic amax they would be",
                self.name
            ))),
        }
    }
}

impl Member {
    /// Room for so many amax values: what there is, or more.
    fn room(
        &mut self,
        gpu: &Arc<Gpu>,
        values: usize,
        retired: &mut Vec<Arc<DeviceBuffer>>,
    ) -> Result<u64> {
        let bytes = values * size_of::<f32>();
        if self.scratch.len() < bytes {
            let larger = Arc::new(DeviceBuffer::new(gpu, bytes)?);
            retired.push(std::mem::replace(&mut self.scratch, larger));
        }
        Ok(self.scratch.address())
    }
}

/// Whether everything it needs are numbers that lie in device memory.
fn is_supported(q: &Quantizer) -> bool {
    let rounds = match q.kind() {
        Some(Kind::Amax(_) | Kind::Mx(_) | Kind::Nvfp4Dynamic) => true,
        // One constant amax for all blocks is made into many by the general way.
        Some(Kind::Nvfp4Static { .. }) => q.amax.is_some() && !quantization::is_constant(q),
        Some(Kind::Nf4 { .. }) | None => false,
    };
    // A bias that is each tensor's own is found on the host.
    let has_its_bias = q.applied_bias().is_none_or(|(_, value)| value.is_some());
    !q.enabled || rounds && has_its_bias
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::quantizer::CONSTANT_AMAX;

    #[test]
    fn the_constant_amax_is_a_number_like_others() {
        let attributes = crate::model::attributes::parse_cfg(
            r#"{"num_bits": [4, 3], "use_constant_amax": true}"#,
        );
        let Ok(crate::config::Cfg::One(attributes)) = attributes else {
            panic!("valid attributes");
        };
        let q = Quantizer::new(*attributes);
        assert_eq!(quantization::amax_values(&q), Some(&[CONSTANT_AMAX][..]));
        assert!(is_supported(&q));
    }
}
