//! The largest magnitudes seen, at the granularity of a quantizer; kept over calls and calibrations.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::{Bias, QuantType};
use crate::error::{Error, Result};
use crate::kernels::bias::shift;
use crate::kernels::cuda::{DeviceBuffer, Gpu};
use crate::kernels::{Machine, absmax};
use crate::model::{
    Amax, BiasOnGpu, Quantizer, RunningBias, Slot, SlotState, amax_granularity, bias_granularity,
    negative, not_finite,
};
use crate::tensor::TensorView;

/// Running maxima of the members of a slot, and the bias of affine ones.
pub struct AbsMax {
    name: String,
    members: Vec<Member>,
}

struct Member {
    quantizer: Arc<Quantizer>,
    /// None when this member needs no data.
    collected: Option<Mutex<Collected>>,
    /// What it has seen on a GPU.
    on_gpu: Mutex<Option<OnGpu>>,
    /// The bias it has seen there, of an affine one.
    bias_on_gpu: Mutex<Option<BiasOnGpu>>,
}

/// What a member has collected.
#[derive(Debug, Clone, Default)]
pub struct Collected {
    /// Its amax; None when it saw nothing.
    pub amax: Option<Amax>,
    /// The bias of an affine one.
    pub bias: Option<RunningBias>,
}

/// Maxima in device memory.
struct OnGpu {
    /// Of the amax.
    shape: Vec<usize>,
    maxima: DeviceBuffer,
    flaws: DeviceBuffer,
}

impl OnGpu {
    fn new(gpu: &Arc<Gpu>, shape: &[usize], blocks: usize) -> Result<Self> {
        Ok(Self {
            shape: shape.to_vec(),
            maxima: DeviceBuffer::zeroed(gpu, blocks * size_of::<f32>())?,
            flaws: DeviceBuffer::zeroed(gpu, size_of::<u32>())?,
        })
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AbsMax {
    /// An observer of `slot`, going on from what its quantizers have collected; None when no member
    /// needs data.
    pub fn new(slot: &Slot) -> Option<Self> {
        Self::of(slot.name(), &slot.state())
    }

    /// The same for a state that a slot of that name may get.
    pub fn of(name: &str, state: &SlotState) -> Option<Self> {
        let needs = |q: &Quantizer| q.is_calibrated_by_data() || q.collects_bias();
        if !state.members().iter().any(|q| needs(q)) {
            return None;
        }
        let members = state.members().iter().map(|quantizer| Member {
            collected: needs(quantizer).then(|| {
                Mutex::new(Collected {
                    amax: quantizer.collected.clone(),
                    bias: quantizer.collected_bias.clone(),
                })
            }),
            quantizer: Arc::clone(quantizer),
            on_gpu: Mutex::default(),
            bias_on_gpu: Mutex::default(),
        });
        Some(Self {
            name: name.to_owned(),
            members: members.collect(),
        })
    }

    /// What the members have collected; empty for one that needs nothing.
    pub fn collected(&self) -> Vec<Collected> {
        let of = |member: &Member| member.collected.as_ref().map(|c| lock(c).clone());
        let members = self.members.iter();
        members
            .map(|member| of(member).unwrap_or_default())
            .collect()
    }

    /// Adds a batch to an affine member: first the bias, then the amax of what is left without it.
    fn observe_affine(
        &self,
        machine: &Machine,
        quantizer: &Quantizer,
        bias: &Bias,
        collected: &mut Collected,
        x: &TensorView,
    ) -> Result<()> {
        let invalid = |text| Error::State(format!("`{}`: {text}", self.name));
        if let Some(found) = absmax::not_finite(machine, x) {
            return Err(not_finite(&self.name, x, found));
        }
        let mut running = match bias.quant_type {
            QuantType::Static => collected.bias.clone().unwrap_or_default(),
            QuantType::Dynamic => RunningBias::default(),
        };
        running.add(machine, bias, x).map_err(invalid)?;
        if quantizer.is_calibrated_by_data() && x.count() > 0 {
            let blocks = bias_granularity(bias, x.shape()).map_err(invalid)?;
            let mut memory = vec![0.0; x.size_bytes().div_ceil(size_of::<f32>())];
            let left = x.with_data(&mut memory).map_err(Error::Internal)?;
            shift(
                machine,
                x,
                &left,
                blocks.grid(),
                running.value(bias).values(),
                -1.0,
            );
            self.merge(collected, self.local(machine, quantizer, &left)?)?;
        }
        collected.bias = Some(running);
        Ok(())
    }

    fn merge(&self, collected: &mut Collected, local: Amax) -> Result<()> {
        let merged = match &collected.amax {
            None => local,
            Some(before) => before.max(&local).map_err(|error| match error {
                Error::State(text) => Error::State(format!("`{}`: {text}", self.name)),
                other => other,
            })?,
        };
        collected.amax = Some(merged);
        Ok(())
    }

    fn local(&self, machine: &Machine, quantizer: &Quantizer, x: &TensorView) -> Result<Amax> {
        let granularity = amax_granularity(quantizer, x.shape())
            .map_err(|text| Error::State(format!("`{}`: {text}", self.name)))?;
        let mut values = vec![0.0; granularity.grid().num_blocks()];
        absmax::run(machine, x, granularity.grid(), &mut values);
        if quantizer.attributes.unsigned && absmax::any_negative(machine, x) {
            return Err(negative(&self.name));
        }
        if !absmax::largest(&values).is_finite() {
            let found = absmax::not_finite(machine, x).unwrap_or((0, f32::NAN));
            return Err(not_finite(&self.name, x, found));
        }
        Ok(Amax::new(values, granularity.amax_shape()))
    }
}

impl AbsMax {
    /// Raises maxima in device memory, which [`Self::settle`] fetches: nothing is waited for.
    fn observe_on_gpu(&self, gpu: &Arc<Gpu>, member: &Member, x: &TensorView) -> Result<()> {
        let quantizer = &*member.quantizer;
        let granularity = amax_granularity(quantizer, x.shape())
            .map_err(|text| Error::State(format!("`{}`: {text}", self.name)))?;
        let mut on_gpu = lock(&member.on_gpu);
        let shape = granularity.amax_shape();
        if on_gpu.as_ref().is_none_or(|seen| seen.shape != shape) {
            // The first tensor, or one of another shape, which the merge will refuse.
            self.fetch(member, on_gpu.take())?;
            *on_gpu = Some(OnGpu::new(gpu, shape, granularity.grid().num_blocks())?);
        }
        if let Some(seen) = on_gpu.as_ref() {
            absmax::cuda::raise(gpu, x, granularity.grid(), seen.maxima.address());
            if quantizer.attributes.unsigned {
                absmax::cuda::find_flaws(gpu, x, absmax::cuda::NEGATIVE, seen.flaws.address());
            }
        }
        Ok(())
    }

    /// The same for an affine member: first the bias, then the amax of what is left without it.
    fn observe_affine_on_gpu(
        &self,
        gpu: &Arc<Gpu>,
        member: &Member,
        bias: &Bias,
        x: &TensorView,
    ) -> Result<()> {
        let mut on_gpu = lock(&member.bias_on_gpu);
        let running = match &mut *on_gpu {
            Some(running) => running,
            none => {
                let before = member.collected.as_ref().and_then(|c| lock(c).bias.clone());
                none.insert(BiasOnGpu::new(gpu, before.unwrap_or_default())?)
            }
        };
        let left = running.add(bias, &self.name, x)?;
        match member.quantizer.is_calibrated_by_data() {
            true => self.observe_on_gpu(gpu, member, &left),
            false => Ok(()),
        }
    }

    /// Fetches what was seen on a GPU: waits for its stream. Errors with what cannot be a scale.
    pub fn settle(&self) -> Result<()> {
        let mut members = self.members.iter();
        members.try_for_each(|member| self.settle_member(member))
    }

    fn settle_member(&self, member: &Member) -> Result<()> {
        let seen = lock(&member.on_gpu).take();
        self.fetch(member, seen)?;
        let bias = lock(&member.bias_on_gpu).take();
        if let (Some(bias), Some(collected)) = (bias, &member.collected) {
            lock(collected).bias = Some(bias.fetched(&self.name)?);
        }
        Ok(())
    }

    fn fetch(&self, member: &Member, seen: Option<OnGpu>) -> Result<()> {
        let (Some(seen), Some(collected)) = (seen, &member.collected) else {
            return Ok(());
        };
        let mut values = vec![0.0; seen.maxima.len() / size_of::<f32>()];
        let mut flaws = [0u32];
        seen.maxima.read(&mut values)?;
        seen.flaws.read(&mut flaws)?;
        if flaws[0] & absmax::cuda::NEGATIVE != 0 {
            return Err(negative(&self.name));
        }
        if !absmax::largest(&values).is_finite() {
            return Err(Error::Numeric(format!(
                "`{}`: NaN or Inf in a tensor on the GPU; a scale needs finite values",
                self.name
            )));
        }
        let mut collected = lock(collected);
        self.merge(&mut collected, Amax::new(values, &seen.shape))
    }

    /// Bytes that calibrating the weight of `slot` to its largest magnitudes takes.
    pub fn weight_bytes(slot: &Slot, threads: usize) -> u64 {
        let Some(weight) = slot.weight() else {
            return 0;
        };
        let (state, floats) = (slot.state(), weight.count());
        let mut bytes = 0;
        for q in state.members() {
            let blocks = amax_granularity(q, weight.shape());
            // Values, their shared copy, those they are merged with, and the result.
            bytes += 4 * blocks.map_or(0, |blocks| blocks.grid().num_blocks());
            if q.changes_input() {
                bytes += floats;
            }
            if q.attributes.bias.is_some() {
                // What is left without the bias, and its sums.
                bytes += 5 * floats;
            }
        }
        let columns = weight.shape().dims().last().copied().unwrap_or(1);
        ((bytes + threads * columns) * size_of::<f32>()) as u64
    }

    /// Adds a tensor; `member` is set when only that member of a sequential quantizer was asked for. From
    /// any thread.
    pub fn observe(&self, machine: &Machine, member: Option<usize>, x: &TensorView) -> Result<()> {
        for (i, observed) in self.members.iter().enumerate() {
            let Some(collected) = &observed.collected else {
                continue;
            };
            if member.is_some_and(|member| member != i) {
                continue;
            }
            let quantizer = &*observed.quantizer;
            match (&quantizer.attributes.bias, machine.gpu_of(x)) {
                (Some(bias), Some(gpu)) if x.count() > 0 => {
                    self.observe_affine_on_gpu(gpu, observed, bias, x)?;
                }
                (Some(bias), _) => {
                    // A running mean depends on the order of its batches: one after the other.
                    self.settle_member(observed)?;
                    self.observe_affine(machine, quantizer, bias, &mut lock(collected), x)?;
                }
                (None, Some(gpu)) => self.observe_on_gpu(gpu, observed, x)?,
                (None, None) => {
                    let local = self.local(machine, quantizer, x)?;
                    // Only the merge is under the lock; maxima are exact in any order.
                    self.merge(&mut lock(collected), local)?;
                }
            }
        }
        Ok(())
    }
}
