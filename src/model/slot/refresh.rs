//! Memory on the GPU for the numbers of a slot: what is there stays where it is, so that captured graphs go on with it.

use std::sync::Arc;

use super::quantization;
use super::resident::{Ahead, Member, Resident};
use crate::error::Result;
use crate::kernels::absmax;
use crate::kernels::cuda::{DeviceBuffer, Gpu};
use crate::model::amax::Amax;
use crate::model::quantizer::{Kind, Quantizer, SlotState};

/// Numbers that are to be written, with the memory for them.
pub(crate) struct Refresh {
    next: Resident,
    /// What goes where.
    values: Vec<(Arc<DeviceBuffer>, Vec<f32>)>,
    is_new: bool,
}

impl Refresh {
    pub(super) fn new(
        gpu: &Arc<Gpu>,
        state: &Arc<SlotState>,
        before: Option<&Resident>,
    ) -> Result<Self> {
        let mut values = Vec::new();
        let mut members = Vec::new();
        let mut retired = before.map_or(Vec::new(), |before| before.retired.clone());
        let room = |old: Option<&Arc<DeviceBuffer>>, least: usize| match old {
            Some(old) if old.len() >= least => Ok(Arc::clone(old)),
            _ => DeviceBuffer::new(gpu, least).map(Arc::new),
        };
        for (i, q) in state.members().iter().enumerate() {
            let old = before.and_then(|before| before.members.get(i));
            let mut place = |own: Option<&[f32]>, old: Option<&Arc<DeviceBuffer>>| {
                let own = own.unwrap_or_default();
                let buffer = match old.filter(|old| old.len() == size_of_val(own)) {
                    Some(old) => Arc::clone(old),
                    None => {
                        retired.extend(old.filter(|old| !old.is_empty()).cloned());
                        Arc::new(DeviceBuffer::new(gpu, size_of_val(own))?)
                    }
                };
                values.push((Arc::clone(&buffer), own.to_vec()));
                Result::Ok(buffer)
            };
            let tensor = tensor_amax(q).map(|amax| [amax]);
            members.push(Member {
                amax: place(quantization::amax_values(q), old.map(|old| &old.amax))?,
                tensor_amax: place(
                    tensor.as_ref().map(|one| &one[..]),
                    old.map(|old| &old.tensor_amax),
                )?,
                pre_quant_scale: place(
                    q.pre_quant_scale.as_deref(),
                    old.map(|old| &old.pre_quant_scale),
                )?,
                bias: place(
                    q.applied_bias()
                        .and_then(|(_, value)| value)
                        .map(Amax::values),
                    old.map(|old| &old.bias),
                )?,
                scratch: room(old.map(|old| &old.scratch), least_room(q))?,
                own_bias: room(old.map(|old| &old.own_bias), 0)?,
            });
        }
        let flaws = match before {
            Some(before) => Arc::clone(&before.flaws),
            None => Arc::new(DeviceBuffer::new(gpu, size_of::<u32>())?),
        };
        Ok(Self {
            next: Resident {
                state: Arc::clone(state),
                members,
                flaws,
                is_touched: before.is_some_and(|before| before.is_touched),
                // What was found there is written over; but a graph goes on.
                ahead: match before.map(|before| before.ahead) {
                    Some(Ahead::Always) => Ahead::Always,
                    _ => Ahead::No,
                },
                retired,
            },
            values,
            is_new: before.is_none(),
        })
    }

    pub(super) fn written(self) -> Result<Resident> {
        if self.is_new {
            self.next.flaws.fill(0)?;
        }
        for (buffer, values) in &self.values {
            buffer.write(values)?;
        }
        Ok(self.next)
    }
}

/// Bytes for what a tap works out of any tensor: the amax of all of it. So it can be captured without one before it.
fn least_room(q: &Quantizer) -> usize {
    let finds_its_own = q.enabled && quantization::amax_values(q).is_none();
    match q.kind() {
        Some(Kind::Amax(_) | Kind::Nvfp4Dynamic) if finds_its_own => size_of::<f32>(),
        _ => 0,
    }
}

/// The amax of the tensor, where the format has a scale for it and it is known.
pub(super) fn tensor_amax(q: &Quantizer) -> Option<f32> {
    match q.kind()? {
        Kind::Nvfp4Dynamic => quantization::amax_values(q).map(absmax::largest),
        Kind::Nvfp4Static { .. } => {
            let own = quantization::amax_values(q).map(absmax::largest);
            q.global_amax.or(own)
        }
        _ => None,
    }
}
