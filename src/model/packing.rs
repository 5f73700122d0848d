//! Packs weights: the verb over a model, all or nothing.

use std::sync::Arc;

use super::layout::Layout;
use super::packed::{PackedWeight, Part};
use super::quantization::not_finite;
use super::quantizer::{Quantizer, SlotState};
use super::registry::Model;
use super::slot::{Role, Slot};
use crate::error::{Error, Result};
use crate::kernels::cuda::Gpu;
use crate::kernels::pack::Memory;
use crate::kernels::{Machine, absmax};
use crate::tensor::TensorView;

/// Gives memory for a part of a layer: layer, part, bytes (at least 1), and the GPU that it is to lie on; None: host
/// memory.
pub type Allocate<'a> = &'a mut dyn FnMut(&str, &str, usize, Option<&Arc<Gpu>>) -> Result<Memory>;

impl Model {
    /// Packs the selected weights whose quantizer is enabled, those without elements left out; returns
    /// how many. Everything is packed into fresh memory before the first layer is switched over.
    pub fn pack(
        &mut self,
        selected: impl Fn(&Slot) -> bool,
        allocate: Allocate<'_>,
    ) -> Result<usize> {
        self.check_quantized()?;
        let mut slots = Vec::new();
        for layer in self.layers() {
            let Some(slot) = layer.weight_slot().filter(|slot| selected(slot)) else {
                continue;
            };
            slot.check_not_packed()?;
            let has_elements = slot.weight().is_some_and(|weight| weight.count() > 0);
            if slot.state().is_enabled() && has_elements {
                slots.push((layer.name(), slot));
            }
        }
        let machine = self.context().machine();
        // What can be refused without touching a weight is, before memory is asked for.
        for (_, slot) in &slots {
            let state = slot.state();
            if let Some(weight) = slot.weight() {
                layout(machine, slot, &state, weight)?;
            }
        }
        let mut packed = Vec::with_capacity(slots.len());
        for (layer, slot) in slots {
            packed.push((Arc::clone(slot), pack(machine, layer, slot, allocate)?));
        }
        if let Some(gpu) = packed.iter().find_map(|(_, state)| gpu_of(state)) {
            // The host may give weights back from now on, which kernels read until here.
            gpu.synchronize()?;
            machine.take_failure()?;
        }
        let count = packed.len();
        for (slot, state) in packed {
            slot.replace(Arc::new(state));
        }
        Ok(count)
    }
}

impl Model {
    /// Refuses `fake_quant` false where there is no weight to pack.
    pub(super) fn check_packable(&self) -> Result<()> {
        let asks = |slot: &&Arc<Slot>| {
            let state = slot.state();
            slot.role() != Role::Weight && state.members().iter().any(|q| !q.attributes.fake_quant)
        };
        match self.slots().iter().find(asks) {
            None => Ok(()),
            Some(slot) => Err(Error::Unsupported(format!(
                "`{}`: fake_quant false is for weight quantizers",
                slot.name()
            ))),
        }
    }
}

/// The GPU that a weight was packed on.
fn gpu_of(state: &SlotState) -> Option<&Arc<Gpu>> {
    let packed = state.members().first()?.packed.as_ref()?;
    packed.parts().first()?.memory.gpu()
}

/// Memory of mq's own.
pub fn allocate_own(
    layer: &str,
    part: &str,
    size: usize,
    gpu: Option<&Arc<Gpu>>,
) -> Result<Memory> {
    match gpu {
        None => in_host_memory(part, size),
        Some(gpu) => Memory::new_on(gpu, size)
            .map_err(|error| error.of(&format!("{part} of packed {layer}")).into()),
    }
}

fn in_host_memory(part: &str, size: usize) -> Result<Memory> {
    Memory::new(size).map_err(|text| Error::OutOfMemory(format!("packed {part}: {text}")))
}

/// The members that quantize: one, or INT4 and the FP8 after it.
fn members<'s>(
    slot: &Slot,
    state: &'s SlotState,
) -> Result<(&'s Arc<Quantizer>, Option<&'s Arc<Quantizer>>)> {
    let name = slot.name();
    let unsupported =
        |text: &str| Error::Unsupported(format!("`{name}`: cannot be packed with {text}"));
    let all = state.members();
    if all.iter().any(|q| q.rotates_back()) {
        return Err(unsupported("rotate_back"));
    }
    if all.iter().any(|q| q.enabled && q.attributes.bias.is_some()) {
        return Err(unsupported("a bias"));
    }
    if all.iter().skip(1).any(|q| q.changes_input()) {
        return Err(unsupported(
            "a pre_quant_scale or rotation on another member than the first",
        ));
    }
    let enabled: Vec<&Arc<Quantizer>> = all.iter().filter(|q| q.enabled).collect();
    match enabled[..] {
        [one] => Ok((one, None)),
        [first, second] => Ok((first, Some(second))),
        _ => Err(unsupported("more than two enabled members")),
    }
}

fn layout<'q>(
    machine: &Machine,
    slot: &Slot,
    state: &'q SlotState,
    weight: &TensorView,
) -> Result<Layout<'q>> {
    let (first, second) = members(slot, state)?;
    let layout = Layout::new(machine, first, slot.name(), weight)?;
    match second {
        None => Ok(layout),
        Some(second) => layout.followed_by(second, slot.name()),
    }
}

/// The state of a slot after its weight was packed.
fn pack(machine: &Machine, layer: &str, slot: &Slot, allocate: Allocate<'_>) -> Result<SlotState> {
    let state = slot.state();
    let mut packed = None;
    slot.with_seen_weight(|weight| {
        packed = Some(Arc::new(pack_tensor(
            machine, layer, slot, &state, weight, allocate,
        )?));
        Ok(())
    })?;
    let packed =
        packed.ok_or_else(|| Error::Internal(format!("`{}` has no weight", slot.name())))?;
    let mut first = true;
    Ok(state.map(|quantizer| {
        let mut quantizer = (**quantizer).clone();
        if quantizer.enabled {
            quantizer.attributes.fake_quant = false;
        }
        quantizer.packed = std::mem::take(&mut first).then(|| Arc::clone(&packed));
        Arc::new(quantizer)
    }))
}

/// The packed form of a weight as its quantizer sees it.
fn pack_tensor(
    machine: &Machine,
    layer: &str,
    slot: &Slot,
    state: &SlotState,
    weight: &TensorView,
    allocate: Allocate<'_>,
) -> Result<PackedWeight> {
    if let Some(found) = absmax::not_finite(machine, weight) {
        return Err(not_finite(slot.name(), weight, found));
    }
    let layout = layout(machine, slot, state, weight)?;
    let gpu = machine.gpu_of(weight);
    let mut parts = Vec::with_capacity(layout.parts().len());
    // Scales are worked out in host memory, wherever they end.
    let mut there = Vec::new();
    for (i, spec) in layout.parts().iter().enumerate() {
        let size = spec.size_bytes();
        let mut memory = allocate(layer, spec.name, size, gpu)?;
        if i > 0 && gpu.is_some() {
            let here = in_host_memory(spec.name, size)?;
            there.push(std::mem::replace(&mut memory, here));
        }
        parts.push(Part {
            name: spec.name,
            dtype: spec.dtype,
            shape: spec.shape.iter().map(|n| *n as i64).collect(),
            memory,
        });
    }
    let packed = layout.fill(machine, weight, parts);
    let packed = match gpu {
        None => packed,
        Some(gpu) => packed.and_then(|packed| packed.on_gpu(gpu, there)),
    };
    Ok(packed.map_err(|error| error.of(slot.name()))?)
}
