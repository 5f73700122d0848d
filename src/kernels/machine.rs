//! The CPU a context works on: its threads and its instruction set.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::isa::Isa;

/// Threads and instruction set; borrowed by every kernel.
pub struct Machine {
    isa: Isa,
    /// The process that has the threads: a fork has a copy of the pool, but nobody in it.
    process: u32,
    threads: Option<Threads>,
}

/// A pool whose threads have ended when it is dropped, so that a host may unload the library.
struct Threads {
    pool: Option<rayon::ThreadPool>,
    handles: Vec<JoinHandle<()>>,
}

impl Machine {
    /// A CPU with `threads` threads (at least 1) on `isa`. Errors when they cannot be started.
    pub fn new(threads: usize, isa: Isa) -> Result<Self, String> {
        if threads <= 1 {
            return Ok(Self {
                isa,
                process: std::process::id(),
                threads: None,
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
        })
    }

    /// Instruction set of the loops.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Runs `task` for 0..`count`, on all threads when it is worth waking them.
    pub(crate) fn for_each(&self, count: usize, task: impl Fn(usize) + Sync) {
        match &self.threads {
            Some(Threads {
                pool: Some(pool), ..
            }) if count > 1 && self.process == std::process::id() => {
                pool.install(|| (0..count).into_par_iter().for_each(&task))
            }
            _ => (0..count).for_each(task),
        }
    }

    /// The results of `task` for 0..`count` in that order, found on all threads.
    pub(crate) fn map<T: Send>(&self, count: usize, task: impl Fn(usize) -> T + Sync) -> Vec<T> {
        match &self.threads {
            Some(Threads {
                pool: Some(pool), ..
            }) if count > 1 && self.process == std::process::id() => {
                pool.install(|| (0..count).into_par_iter().map(&task).collect())
            }
            _ => (0..count).map(task).collect(),
        }
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
