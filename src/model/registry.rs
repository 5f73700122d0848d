//! The model: layers and quantizers by name, and the mode its taps work in.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::SeqCst};

use super::amax::{self, Amax};
use super::context::Context;
use super::layer::{Layer, LayerSpec, check_name};
use super::quantization::amax_granularity;
use super::quantizer::{Quantizer, SlotState};
use super::slot::{FirstFailure, Role, Slot, SlotSpec};
use crate::config::Attributes;
use crate::error::{Error, Result};
use crate::tensor::TensorView;

/// What taps do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Copy: nothing was quantized yet.
    Registered,
    /// Observe, and pass on unchanged but for a pre_quant_scale.
    Calibrating,
    /// Fake-quantize.
    Quantized,
}

/// What taps share with the model: no lock, taps must never wait for a verb.
pub struct Shared {
    context: Arc<Context>,
    mode: AtomicU8,
    poisoned: AtomicBool,
    /// The host wants the running verb to stop.
    cancelled: Arc<AtomicBool>,
    failure: FirstFailure,
    /// A verb wants to know of failures of taps that quantize.
    heeds_failures: AtomicBool,
    /// Counts the changes between plain and sequential quantizers.
    structure: AtomicUsize,
    /// Whether taps have found scales anew in device memory that the host's numbers lag behind.
    pub(super) is_ahead: AtomicBool,
}

impl Shared {
    /// CPU and log.
    pub fn context(&self) -> &Context {
        &self.context
    }

    pub(super) fn mode(&self) -> Mode {
        match self.mode.load(SeqCst) {
            0 => Mode::Registered,
            1 => Mode::Calibrating,
            _ => Mode::Quantized,
        }
    }

    /// Makes the model, and its taps, refuse further work.
    pub fn poison(&self) {
        self.poisoned.store(true, SeqCst);
        self.note_failure(&Error::Poisoned);
    }

    pub(super) fn check_usable(&self) -> Result<()> {
        match self.poisoned.load(SeqCst) {
            true => Err(Error::Poisoned),
            false => Ok(()),
        }
    }

    /// Stops the verb that is running, if any; from any thread.
    pub fn cancel(&self) {
        self.cancelled.store(true, SeqCst);
    }

    /// A verb begins: what was said before does not concern it.
    pub(crate) fn clear_cancel(&self) {
        self.cancelled.store(false, SeqCst);
    }

    /// Errors when the host has called for a stop.
    pub(crate) fn check_cancelled(&self) -> Result<()> {
        match self.is_cancelled() {
            true => Err(Error::Cancelled),
            false => Ok(()),
        }
    }

    /// Whether the host has called for a stop.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(SeqCst)
    }

    pub(super) fn note_new_structure(&self) {
        self.structure.fetch_add(1, SeqCst);
    }

    pub(super) fn note_failure(&self, error: &Error) {
        if self.mode() == Mode::Calibrating || self.heeds_failures.load(SeqCst) {
            self.failure.note(error);
        }
    }
}

/// The host's model: what registrations and verbs work on.
pub struct Model {
    shared: Arc<Shared>,
    layers: Vec<Arc<Layer>>,
    slots: Vec<Arc<Slot>>,
    layer_by_name: HashMap<String, usize>,
    slot_by_name: HashMap<String, usize>,
    listing: Listing,
    options: CalibrationOptions,
}

/// How calibrations of a model work, beside their algorithm.
#[derive(Debug, Clone, Default)]
pub struct CalibrationOptions {
    /// A layer that fewer tokens reach is refused; 0 refuses none.
    pub min_tokens: u64,
    /// File that keeps what is done, so that a calibration that was killed goes on from there.
    pub resume_file: Option<std::path::PathBuf>,
}

/// Every quantizer by position, as of one structure: asking for all of them one by one must not take
/// the square of their number.
#[derive(Default)]
struct Listing {
    structure: Option<(usize, usize)>,
    quantizers: Vec<(Arc<Slot>, Option<usize>)>,
}

impl Model {
    /// An empty model.
    pub fn new(context: Arc<Context>) -> Self {
        Self::stopped_by(context, Arc::default())
    }

    fn stopped_by(context: Arc<Context>, cancelled: Arc<AtomicBool>) -> Self {
        Self {
            shared: Arc::new(Shared {
                context,
                mode: AtomicU8::new(Mode::Registered as u8),
                poisoned: AtomicBool::new(false),
                cancelled,
                failure: FirstFailure::default(),
                heeds_failures: AtomicBool::new(false),
                structure: AtomicUsize::new(0),
                is_ahead: AtomicBool::new(false),
            }),
            listing: Listing::default(),
            options: CalibrationOptions::default(),
            layers: Vec::new(),
            slots: Vec::new(),
            layer_by_name: HashMap::new(),
            slot_by_name: HashMap::new(),
        }
    }

    /// The same layers and quantizers in their present states, for trying something out: taps of this model do not
    /// see what happens to it. What stops a verb of this model stops one of its shadow.
    pub fn shadow(&self) -> Result<Self> {
        let context = Arc::clone(&self.shared.context);
        let mut shadow = Self::stopped_by(context, Arc::clone(&self.shared.cancelled));
        let mut layers = self.layers.iter().peekable();
        for slot in &self.slots {
            // The slots of a layer come one after the other, that of its input first.
            match layers.next_if(|layer| Arc::ptr_eq(layer.input_slot(), slot)) {
                Some(layer) => shadow.add_layer(layer.spec().clone()).map(|_| ())?,
                None if slot.role() == Role::Host => {
                    shadow.add_quantizer(slot.name(), slot.class_name())?;
                }
                None => {}
            }
        }
        for (slot, present) in shadow.slots.iter().zip(&self.slots) {
            slot.replace(present.state());
        }
        shadow.set_mode(self.mode());
        shadow.options = self.options.clone();
        Ok(shadow)
    }

    /// CPU and log.
    pub fn context(&self) -> &Context {
        self.shared.context()
    }

    /// What outlives a verb that panics.
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// How its calibrations work.
    pub fn calibration_options(&self) -> &CalibrationOptions {
        &self.options
    }

    /// Changes how its calibrations work.
    pub fn set_calibration_options(&mut self, options: CalibrationOptions) {
        self.options = options;
    }

    /// Refuses a model that met an internal error.
    pub fn check_usable(&self) -> Result<()> {
        self.shared.check_usable()
    }

    /// Takes over scales that taps have found anew in device memory, before anybody looks at the host's: waits for the
    /// stream when there are any.
    pub fn fetch_refreshed_scales(&self) -> Result<()> {
        if !self.shared.is_ahead.swap(false, SeqCst) {
            return Ok(());
        }
        for slot in &self.slots {
            match slot.fetch_refreshed() {
                Ok(false) => {}
                Ok(true) => self.shared.is_ahead.store(true, SeqCst),
                Err(error) => {
                    self.shared.is_ahead.store(true, SeqCst);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// What taps do now.
    pub fn mode(&self) -> Mode {
        self.shared.mode()
    }

    pub(crate) fn set_mode(&self, mode: Mode) {
        self.shared.mode.store(mode as u8, SeqCst);
    }

    /// Whether the first failure of a tap is remembered also while taps quantize. Those from before are forgotten.
    pub(crate) fn heed_failures(&self, heed: bool) {
        if heed {
            self.take_failure();
        }
        self.shared.heeds_failures.store(heed, SeqCst);
    }

    /// The outcome of a pass of the host's: what went wrong in a tap says more than the callback's return value.
    pub(crate) fn failure_or(&self, outcome: Result<()>) -> Result<()> {
        self.take_failure().map_or(outcome, Err)
    }

    /// The first failure of a tap since the last call.
    pub(crate) fn take_failure(&self) -> Option<Error> {
        self.shared.failure.take()
    }

    /// Refuses verbs that need quantizers in place.
    pub(crate) fn check_quantized(&self) -> Result<()> {
        match self.mode() {
            Mode::Registered => Err(Error::State(
                "the model is not quantized yet; call mq_quantize() first".into(),
            )),
            _ => Ok(()),
        }
    }

    /// Registers a layer with its quantizers.
    pub fn add_layer(&mut self, spec: LayerSpec) -> Result<Arc<Layer>> {
        spec.check()?;
        self.check_registration(&spec.name)?;
        let machine = self.context().machine();
        for tensor in spec.tensors() {
            machine
                .check_place(tensor)
                .map_err(|error| error.of(&spec.name))?;
        }
        let layer = Arc::new(Layer::new(spec, &self.shared)?);
        if let Some(taken) = layer
            .slots()
            .find(|slot| self.slot_by_name.contains_key(slot.name()))
        {
            return Err(Error::AlreadyExists(format!(
                "quantizer `{}`",
                taken.name()
            )));
        }
        for slot in layer.slots() {
            self.slot_by_name
                .insert(slot.name().to_owned(), self.slots.len());
            self.slots.push(Arc::clone(slot));
        }
        self.layer_by_name
            .insert(layer.name().to_owned(), self.layers.len());
        self.layers.push(Arc::clone(&layer));
        Ok(layer)
    }

    /// Registers a quantizer of the host's own.
    pub fn add_quantizer(&mut self, name: &str, class_name: Option<&str>) -> Result<Arc<Slot>> {
        check_name(name)?;
        self.check_registration(name)?;
        let spec = SlotSpec {
            name: name.to_owned(),
            role: Role::Host,
            class_name: class_name.map(str::to_owned),
            locked: false,
            weight: None,
            channels: None,
            quantizer: Quantizer::new(Attributes::default()),
        };
        let slot = Arc::new(Slot::new(spec, Arc::clone(&self.shared)));
        self.slot_by_name.insert(name.to_owned(), self.slots.len());
        self.slots.push(Arc::clone(&slot));
        Ok(slot)
    }

    fn check_registration(&self, name: &str) -> Result<()> {
        if self.mode() != Mode::Registered {
            return Err(Error::State(format!(
                "`{name}`: register everything before mq_quantize()"
            )));
        }
        if self.layer_by_name.contains_key(name) {
            return Err(Error::AlreadyExists(format!("layer `{name}`")));
        }
        if self.slot_by_name.contains_key(name) {
            return Err(Error::AlreadyExists(format!("quantizer `{name}`")));
        }
        Ok(())
    }

    /// The layers in registration order.
    pub fn layers(&self) -> &[Arc<Layer>] {
        &self.layers
    }

    /// The slots in registration order.
    pub fn slots(&self) -> &[Arc<Slot>] {
        &self.slots
    }

    /// Every quantizer in registration order; members of sequential ones one by one.
    pub fn quantizers(&self) -> impl Iterator<Item = (Arc<Slot>, Option<usize>)> {
        self.slots.iter().flat_map(|slot| {
            let members = match &*slot.state() {
                SlotState::Single(_) => vec![None],
                SlotState::Sequential(members) => (0..members.len()).map(Some).collect(),
            };
            members.into_iter().map(|member| (Arc::clone(slot), member))
        })
    }

    /// Every quantizer in registration order, by position.
    pub fn listed_quantizers(&mut self) -> &[(Arc<Slot>, Option<usize>)] {
        let structure = (self.slots.len(), self.shared.structure.load(SeqCst));
        if self.listing.structure != Some(structure) {
            self.listing = Listing {
                structure: Some(structure),
                quantizers: self.quantizers().collect(),
            };
        }
        &self.listing.quantizers
    }

    /// The layer of that name.
    pub fn find_layer(&self, name: &str) -> Result<Arc<Layer>> {
        match self.layer_by_name.get(name) {
            Some(&i) => Ok(Arc::clone(&self.layers[i])),
            None => Err(Error::NotFound(format!("layer `{name}`"))),
        }
    }

    /// The quantizer of that name; `<slot>.0` is a member of a sequential one.
    pub fn find_quantizer(&self, name: &str) -> Result<(Arc<Slot>, Option<usize>)> {
        if let Some(&i) = self.slot_by_name.get(name) {
            return Ok((Arc::clone(&self.slots[i]), None));
        }
        let member = name.rsplit_once('.').and_then(|(slot, member)| {
            let slot = &self.slots[*self.slot_by_name.get(slot)?];
            let member: usize = member.parse().ok()?;
            slot.members(Some(member)).ok()?;
            Some((Arc::clone(slot), Some(member)))
        });
        member.ok_or_else(|| Error::NotFound(format!("quantizer `{name}`")))
    }

    /// Sets the amax of one quantizer.
    pub fn set_amax(&mut self, slot: &Slot, member: Option<usize>, amax: TensorView) -> Result<()> {
        self.check_quantized()?;
        slot.check_not_packed()?;
        let one = slot.one(member)?;
        let name = slot.member_name(member);
        if !one.keeps_amax() {
            return Err(Error::State(format!(
                "`{name}` is dynamic or has a constant amax; change its attributes first"
            )));
        }
        let machine = self.context().machine();
        machine
            .check_place(&amax)
            .map_err(|error| error.of(&name))?;
        let values = amax.host_values().map_err(Error::InvalidArgument)?;
        amax::check_values(&values, &name)?;
        let given = Amax::new(values, amax.shape().dims());
        let expected = match (slot.weight(), &one.amax) {
            (Some(weight), _) => {
                let granularity = amax_granularity(&one, weight.shape())
                    .map_err(|text| Error::State(format!("`{name}`: {text}")))?;
                let count = granularity.grid().num_blocks();
                Some(Amax::new(vec![0.0; count], granularity.amax_shape()))
            }
            (None, Some(amax)) => Some(amax.clone()),
            // One value for a whole tensor, whatever its shape will be.
            (None, None) if one.has_one_amax() => Some(Amax::new(vec![0.0], &[])),
            (None, None) => None,
        };
        if let Some(expected) = expected
            && expected.shape() != given.shape()
        {
            return Err(Error::InvalidArgument(format!(
                "`{name}`: amax of shape {:?}, expected {:?}",
                given.shape(),
                expected.shape()
            )));
        }
        if given.values().is_empty() {
            return Err(Error::InvalidArgument(format!(
                "`{name}`: amax without values"
            )));
        }
        self.change(slot, member, |q| Quantizer {
            has_static_block_scale: slot.role() == Role::Weight && q.has_static_blocks(),
            amax: Some(given.clone()),
            record: q.record_without_error(),
            ..q.clone()
        });
        Ok(())
    }

    /// Sets or removes the pre_quant_scale of one quantizer.
    pub fn set_pre_quant_scale(
        &mut self,
        slot: &Slot,
        member: Option<usize>,
        scale: Option<TensorView>,
    ) -> Result<()> {
        self.check_quantized()?;
        slot.check_not_packed()?;
        let name = slot.member_name(member);
        let member = match (&*slot.state(), member) {
            (SlotState::Sequential(_), None) => Some(0),
            (SlotState::Sequential(_), Some(1..)) => {
                return Err(Error::State(format!(
                    "`{name}`: a sequential quantizer scales before its first member, `{}.0`",
                    slot.name()
                )));
            }
            _ => member,
        };
        slot.one(member)?;
        let scale: Option<Arc<[f32]>> = match scale {
            None => None,
            Some(scale) => {
                let machine = self.context().machine();
                machine
                    .check_place(&scale)
                    .map_err(|error| error.of(&name))?;
                let values = scale.host_values().map_err(Error::InvalidArgument)?;
                if scale.shape().dims().len() != 1 || values.is_empty() {
                    return Err(Error::InvalidArgument(format!(
                        "`{name}`: pre_quant_scale of shape {:?}, expected [channels]",
                        scale.shape()
                    )));
                }
                if let Some(i) = values.iter().position(|v| !(v.is_finite() && *v > 0.0)) {
                    return Err(Error::Numeric(format!(
                        "`{name}`: pre_quant_scale should be positive and finite, found {} at {i}",
                        values[i]
                    )));
                }
                if let Some(channels) = slot.channels().filter(|n| *n != values.len()) {
                    return Err(Error::InvalidArgument(format!(
                        "`{name}`: pre_quant_scale of {} channels, expected {channels}",
                        values.len()
                    )));
                }
                Some(values.into())
            }
        };
        self.change(slot, member, |q| Quantizer {
            pre_quant_scale: scale.clone(),
            ..q.clone()
        });
        Ok(())
    }

    /// Replaces the quantizer, or the members of it, that a target means.
    pub(super) fn change(
        &self,
        slot: &Slot,
        member: Option<usize>,
        change: impl Fn(&Quantizer) -> Quantizer,
    ) {
        let mut index = 0;
        let state = slot.state().map(|q| {
            let hit = member.is_none_or(|member| member == index);
            index += 1;
            match hit {
                true => Arc::new(change(q)),
                false => Arc::clone(q),
            }
        });
        slot.replace(Arc::new(state));
    }
}
