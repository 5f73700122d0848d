//! Keeps what entered the layers in a forward until the gradients of their outputs come.
//!
//! Layers that read the same activation (`shared_input_group`) keep it once. What does not fit the memory limit is
//! put off: the step is run again for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::kernels::cuda::{DeviceBuffer, Gpu};
use crate::kernels::{Machine, copy};
use crate::model::Observer;
use crate::tensor::TensorView;

/// A copy of an activation.
pub(super) struct Kept {
    /// That of `view`.
    _memory: Memory,
    /// What entered the layer, in its own type.
    pub view: TensorView,
}

/// Where a copy lies: where the activation does.
enum Memory {
    Host(Vec<f32>),
    Device(DeviceBuffer),
}

/// One activation, and the layers that read it.
pub(super) struct Activation {
    /// Name of its first reader, for messages.
    name: String,
    store: Arc<Store>,
    calls: Mutex<Calls>,
}

#[derive(Default)]
struct Calls {
    state: State,
    /// Each time the first reader was called.
    kept: Vec<Arc<Kept>>,
    /// How often each reader was called.
    seen: Vec<usize>,
    /// For each reader, what waits for a gradient.
    waiting: Vec<Vec<Arc<Kept>>>,
    own: Own,
}

/// What one activation takes of the memory: a layer that is used twice in a step keeps two tensors, which no other run
/// of the step could take apart.
#[derive(Default)]
struct Own {
    bytes: u64,
    /// The most that one of its readers needs beside, once its gradient comes.
    workspace: u64,
}

/// How far a step has come with an activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum State {
    /// Kept in this run of the step.
    #[default]
    Active,
    /// Did not fit: waits for another run.
    PutOff,
    /// Every gradient came, in an earlier run.
    Done,
}

/// What a run of a step brought for an activation.
pub(super) enum Ended {
    /// Whether each reader was called, and whether what it was called with got its gradients.
    Now(Vec<(bool, bool)>),
    /// Nothing: what gradients came before it was put off will come again.
    PutOff,
    /// Its gradients came in an earlier run.
    Before,
}

/// Memory for activations.
pub(super) struct Store {
    limit: u64,
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    bytes: u64,
    /// The most that a layer needs beside, once its gradient comes.
    workspace: u64,
    /// Memory of earlier steps.
    free: Vec<Vec<f32>>,
    /// The same on a GPU.
    free_there: Vec<DeviceBuffer>,
}

impl Store {
    /// A store of at most so many bytes, with the work of scoring.
    pub fn new(limit: u64) -> Self {
        Self {
            limit,
            used: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a tensor of an activation that holds `own` already. False: not now. Errors when it never fits.
    fn reserve(&self, x: &TensorView, own: &mut Own, name: &str) -> Result<bool> {
        let mut used = self.lock();
        let bytes = x.size_bytes() as u64;
        let is_alone = used.bytes == own.bytes;
        let work = match is_alone {
            true => own.workspace,
            false => used.workspace.max(own.workspace),
        };
        if used.bytes + bytes + work > self.limit {
            return match is_alone {
                true => Err(Error::OutOfMemory(format!(
                    "`{name}` needs {} bytes to be scored on a batch of shape {:?}, but the context's memory_limit_bytes \
                     is {}; set it to that or more, or bring smaller batches",
                    own.bytes + bytes + own.workspace,
                    x.shape(),
                    self.limit
                ))),
                false => Ok(false),
            };
        }
        used.bytes += bytes;
        used.workspace = work;
        own.bytes += bytes;
        Ok(true)
    }

    /// A copy of a tensor, once there is room for it.
    fn keep(&self, machine: &Machine, x: &TensorView, name: &str) -> Result<Kept> {
        let (memory, view) = match machine.gpu_of(x) {
            Some(gpu) => {
                let memory = self.device_memory(gpu, x.size_bytes())?;
                let view = x.at_address(memory.address());
                (Memory::Device(memory), view)
            }
            None => {
                let mut memory = self.host_memory(x, name)?;
                let view = x.with_data(&mut memory).map_err(Error::Internal)?;
                (Memory::Host(memory), view)
            }
        };
        copy::run(machine, x, &view);
        Ok(Kept {
            _memory: memory,
            view,
        })
    }

    /// Allocated in the first step alone, where those that follow are like it.
    fn device_memory(&self, gpu: &Arc<Gpu>, bytes: usize) -> Result<DeviceBuffer> {
        let mut used = self.lock();
        let fits = used.free_there.iter().position(|free| free.len() == bytes);
        let free = fits.map(|at| used.free_there.swap_remove(at));
        drop(used);
        match free {
            Some(free) => Ok(free),
            None => Ok(DeviceBuffer::new(gpu, bytes)?),
        }
    }

    fn host_memory(&self, x: &TensorView, name: &str) -> Result<Vec<f32>> {
        let floats = x.size_bytes().div_ceil(size_of::<f32>());
        let mut used = self.lock();
        let fits = used.free.iter().position(|free| free.len() == floats);
        let free = fits.map(|at| used.free.swap_remove(at));
        drop(used);
        if let Some(free) = free {
            return Ok(free);
        }
        let mut memory = Vec::new();
        memory.try_reserve_exact(floats).map_err(|e| {
            let bytes = x.size_bytes();
            Error::OutOfMemory(format!("{bytes} bytes for an activation of `{name}`: {e}"))
        })?;
        memory.resize(floats, 0.0);
        Ok(memory)
    }

    fn give_back(&self, kept: Vec<Arc<Kept>>) {
        let mut used = self.lock();
        for kept in kept {
            used.bytes -= kept.view.size_bytes() as u64;
            // Somebody who is still scoring it frees it himself.
            match Arc::into_inner(kept).map(|kept| kept._memory) {
                Some(Memory::Host(memory)) => used.free.push(memory),
                Some(Memory::Device(memory)) => used.free_there.push(memory),
                None => {}
            }
        }
    }

    /// Frees memory that no activation of the last run was of use for.
    pub fn trim(&self) {
        let used = &mut *self.lock();
        used.free.clear();
        used.free_there.clear();
    }
}

impl Activation {
    /// The activation of so many readers.
    pub fn new(name: &str, readers: usize, store: &Arc<Store>) -> Self {
        Self {
            name: name.to_owned(),
            store: Arc::clone(store),
            calls: Mutex::new(Calls {
                seen: vec![0; readers],
                waiting: vec![Vec::new(); readers],
                ..Calls::default()
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reader is called with `x`, and will need `workspace` bytes once its gradient comes.
    fn enter(
        &self,
        machine: &Machine,
        reader: usize,
        x: &TensorView,
        workspace: u64,
    ) -> Result<()> {
        let mut calls = self.lock();
        if calls.state != State::Active {
            return Ok(());
        }
        let at = calls.seen[reader];
        calls.seen[reader] += 1;
        calls.own.workspace = calls.own.workspace.max(workspace);
        let same =
            |kept: &&Arc<Kept>| kept.view.shape() == x.shape() && kept.view.dtype() == x.dtype();
        let known = calls.kept.get(at).filter(same).cloned();
        let kept = match known {
            Some(kept) => kept,
            None => match self.store.reserve(x, &mut calls.own, &self.name)? {
                true => {
                    let kept = Arc::new(self.store.keep(machine, x, &self.name)?);
                    calls.kept.push(Arc::clone(&kept));
                    kept
                }
                false => {
                    self.empty(&mut calls);
                    calls.state = State::PutOff;
                    return Ok(());
                }
            },
        };
        calls.waiting[reader].push(kept);
        Ok(())
    }

    /// What entered a reader whose gradient has come: gradients come in the reverse order of the calls. None: it is put
    /// off, or done.
    pub fn leave(&self, reader: usize, name: &str) -> Result<Option<Arc<Kept>>> {
        let mut calls = self.lock();
        if calls.state != State::Active {
            return Ok(None);
        }
        calls.waiting[reader].pop().map(Some).ok_or_else(|| {
            Error::State(format!(
                "layer `{name}`: mq_layer_grad() was called more often than mq_layer_input() in this step; pass every \
                 input through its tap, once for each time the layer is used"
            ))
        })
    }

    /// A run of a step is over.
    pub fn end_run(&self) -> Ended {
        let mut calls = self.lock();
        match calls.state {
            State::Active => {
                let readers = calls.seen.iter().zip(&calls.waiting);
                let readers = readers.map(|(seen, waiting)| (*seen > 0, waiting.len() < *seen));
                let readers = readers.collect();
                self.empty(&mut calls);
                calls.state = State::Done;
                Ended::Now(readers)
            }
            State::PutOff => {
                calls.state = State::Active;
                Ended::PutOff
            }
            State::Done => Ended::Before,
        }
    }

    /// Whether another run of the step is needed for it.
    pub fn is_waiting(&self) -> bool {
        self.lock().state != State::Done
    }

    /// The next step begins.
    pub fn begin_step(&self) {
        let mut calls = self.lock();
        self.empty(&mut calls);
        calls.state = State::Active;
    }

    fn empty(&self, calls: &mut Calls) {
        calls.waiting.iter_mut().for_each(Vec::clear);
        calls.seen.fill(0);
        calls.own = Own::default();
        self.store.give_back(std::mem::take(&mut calls.kept));
    }
}

/// The tap of a reader's input.
pub(super) struct InputTap {
    /// What it reads.
    pub activation: Arc<Activation>,
    /// Position among the readers.
    pub reader: usize,
    /// Bytes that scoring takes for an input of that shape.
    pub workspace: Box<dyn Fn(&TensorView) -> u64 + Send + Sync>,
}

impl Observer for InputTap {
    fn observe(&self, machine: &Machine, _: Option<usize>, x: &TensorView) -> Result<()> {
        self.activation
            .enter(machine, self.reader, x, (self.workspace)(x))
    }
}
