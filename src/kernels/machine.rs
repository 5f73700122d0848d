//! The machine a context works on: threads, their instruction set, and a GPU if the host asks for one.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::cuda::{Gpu, GpuError, GpuErrorKind, without_gpu};
use super::isa::Isa;
use crate::tensor::{Device, TensorView};

/// Threads, instruction set and GPU; borrowed by every kernel. Where a tensor lives decides which of them work.
pub struct Machine {
    isa: Isa,
    /// The process that has the threads: a fork has a copy of the pool, but nobody in it.
    process: u32,
    threads: Option<Threads>,
    gpu: Option<Arc<Gpu>>,
}

/// A pool whose threads have ended when it is dropped, so that a host may unload the library.
struct Threads {
    pool: Option<rayon::ThreadPool>,
    handles: Vec<JoinHandle<()>>,
}

impl Machine {
    /// A machine with `threads` threads (at least 1) on `isa`, without a GPU. Errors when they cannot be started.
    pub fn new(threads: usize, isa: Isa) -> Result<Self, String> {
        if threads <= 1 {
            return Ok(Self {
                isa,
                process: std::process::id(),
                threads: None,
                gpu: None,
            });
        }
        let started = Arc::new(Mutex::new(Vec::with_capacity(threads)));
        let keep = Arc::clone(&started);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("mq-{i}"))
            .spawn_handler(move |thread| {
                let mut builder = std::thread::Builder::new();
                if let Some(name) = thread.name() {
                    builder = builder.name(name.to_owned());
                }
                let handle = builder.spawn(|| thread.run())?;
                if let Ok(mut handles) = keep.lock() {
                    handles.push(handle);
                }
                Ok(())
            })
            .build()
            .map_err(|e| format!("cannot start {threads} threads: {e}"))?;
        let handles = match started.lock() {
            Ok(mut handles) => std::mem::take(&mut *handles),
            Err(_) => return Err("a thread ended while the pool was started".to_owned()),
        };
        Ok(Self {
            isa,
            process: std::process::id(),
            threads: Some(Threads {
                pool: Some(pool),
                handles,
            }),
            gpu: None,
        })
    }

    /// The same machine with a GPU.
    pub fn with_gpu(mut self, gpu: Arc<Gpu>) -> Self {
        self.gpu = Some(gpu);
        self
    }

    /// The GPU, if the host asked for one.
    pub fn gpu(&self) -> Option<&Arc<Gpu>> {
        self.gpu.as_ref()
    }

    /// The GPU that works on a tensor; None: the CPU does. It was checked where it came in.
    pub(crate) fn gpu_of(&self, x: &TensorView) -> Option<&Arc<Gpu>> {
        match x.device() {
            Device::Cpu => None,
            Device::Cuda(_) => self.gpu.as_ref(),
        }
    }

    /// Errors when a tensor is none that this machine can work on: on a device that the context does not have, or at an
    /// address that is not of that device; or, if there is a GPU, of a device when it is said to be the host's.
    pub fn check_place(&self, x: &TensorView) -> Result<(), GpuError> {
        let Device::Cuda(index) = x.device() else {
            return match &self.gpu {
                Some(gpu) if x.count() > 0 => gpu.check_host_address(x.address()),
                _ => Ok(()),
            };
        };
        let invalid = |text| Err(GpuError::new(GpuErrorKind::Invalid, text));
        match &self.gpu {
            None => Err(without_gpu(format!(
                "a tensor on CUDA device {index}, but the context works on host memory; give mq_context_options a CUDA \
                 device"
            ))),
            Some(gpu) if gpu.device() != index => invalid(format!(
                "a tensor on CUDA device {index}, but the context works on device {}",
                gpu.device()
            )),
            Some(_) if x.count() == 0 => Ok(()),
            Some(gpu) => gpu.check_address(x.address(), x.size_bytes()),
        }
    }

    /// The first failure of the GPU since this was last asked.
    pub fn take_failure(&self) -> Result<(), GpuError> {
        self.gpu.as_ref().map_or(Ok(()), |gpu| gpu.take_failure())
    }

    /// Instruction set of the loops.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Runs `task` for 0..`count`, on all threads when it is worth waking them.
    pub(crate) fn for_each(&self, count: usize, task: impl Fn(usize) + Sync) {
        self.spread(count, &task);
    }

    /// Not generic: the machinery of the pool, and the task, are in the library once for each task and not many times.
    #[inline(never)]
    fn spread(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        match self.pool(count) {
            Some(pool) => pool.install(|| (0..count).into_par_iter().for_each(task)),
            None => (0..count).for_each(task),
        }
    }

    /// The results of `task` for 0..`count` in that order, found on all threads.
    pub(crate) fn map<T: Send>(&self, count: usize, task: impl Fn(usize) -> T + Sync) -> Vec<T> {
        self.collect(count, &task)
    }

    #[inline(never)]
    fn collect<T: Send>(&self, count: usize, task: &(dyn Fn(usize) -> T + Sync)) -> Vec<T> {
        match self.pool(count) {
            Some(pool) => pool.install(|| (0..count).into_par_iter().map(task).collect()),
            None => (0..count).map(task).collect(),
        }
    }

    /// The pool, where so many tasks are worth waking it, and it has threads in this process.
    fn pool(&self, count: usize) -> Option<&rayon::ThreadPool> {
        let threads = self.threads.as_ref()?;
        let pool = threads.pool.as_ref()?;
        (count > 1 && self.process == std::process::id()).then_some(pool)
    }

    /// Number of threads `for_each` spreads over.
    pub(crate) fn num_threads(&self) -> usize {
        self.threads.as_ref().map_or(1, |t| t.handles.len())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // There are no threads to wait for.
            std::mem::forget(self.threads.take());
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Tells the threads to end, which then can be waited for.
        drop(self.pool.take());
        for handle in self.handles.drain(..) {
            // A thread that panicked has nothing left to report here.
            let _ = handle.join();
        }
    }
}
