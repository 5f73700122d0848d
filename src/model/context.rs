//! What models share: the CPU they work on and the log they write to.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::kernels::cuda::Gpu;
use crate::kernels::{Isa, Machine};

/// How serious a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Something the user should know about and may want to change.
    Warning,
    /// What the library did.
    Info,
}

/// Receives log lines.
pub type LogSink = Box<dyn Fn(LogLevel, &str) + Send + Sync>;

/// How far a verb has come.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// What is being done: "observe", "solve", ...
    pub phase: &'static str,
    /// Steps done of this phase.
    pub done: u64,
    /// Steps of this phase.
    pub total: u64,
    /// The layer or quantizer that was finished; empty for none.
    pub layer: &'a str,
}

/// Receives progress; anything but 0 stops the verb.
pub type ProgressSink = Box<dyn Fn(&Progress) -> i32 + Send + Sync>;

/// What a context is made with.
pub struct ContextSettings {
    /// Threads; 0 means one for each CPU.
    pub threads: usize,
    /// Bytes that the statistics and work memory of a calibration may take; 0 means no limit.
    pub memory_limit_bytes: u64,
    /// Receives log lines.
    pub log: LogSink,
    /// Receives progress.
    pub progress: Option<ProgressSink>,
    /// The GPU whose tensors models hold beside those in host memory.
    pub gpu: Option<Arc<Gpu>>,
}

/// Threads, instruction set, memory limit, log and progress.
pub struct Context {
    machine: Machine,
    memory_limit_bytes: u64,
    log: LogSink,
    progress: Option<ProgressSink>,
}

/// More threads than this are a mistake of the caller's.
const MAX_THREADS: usize = 1024;

impl Context {
    /// A context with `threads` threads; 0 means one for each CPU.
    pub fn new(threads: usize, log: LogSink) -> Result<Self> {
        Self::with(ContextSettings {
            threads,
            memory_limit_bytes: 0,
            log,
            progress: None,
            gpu: None,
        })
    }

    /// A context with everything that can be set.
    pub fn with(settings: ContextSettings) -> Result<Self> {
        let threads = settings.threads;
        if threads > MAX_THREADS {
            return Err(Error::InvalidArgument(format!(
                "num_threads is {threads}, expected 0 to {MAX_THREADS}"
            )));
        }
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS)),
            n => n,
        };
        let isa = Isa::best(std::env::var("MQ_ISA").ok().as_deref());
        let mut machine = Machine::new(threads, isa).map_err(Error::OutOfMemory)?;
        if let Some(gpu) = settings.gpu {
            machine = machine.with_gpu(gpu);
        }
        Ok(Self {
            machine,
            memory_limit_bytes: settings.memory_limit_bytes,
            log: settings.log,
            progress: settings.progress,
        })
    }

    /// Bytes that the statistics and work memory of a calibration may take; None: no limit.
    pub fn memory_limit_bytes(&self) -> Option<u64> {
        Some(self.memory_limit_bytes).filter(|limit| *limit > 0)
    }

    /// Tells the host how far a verb has come. Errors when the host wants it to stop.
    pub fn progress(&self, progress: &Progress) -> Result<()> {
        match self.progress.as_ref().map_or(0, |sink| sink(progress)) {
            0 => Ok(()),
            code => Err(Error::Callback {
                what: "progress",
                code,
            }),
        }
    }

    /// The CPU that kernels run on.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Tells the user something they may want to change.
    pub fn warn(&self, text: &str) {
        (self.log)(LogLevel::Warning, text);
    }

    /// Tells the user what was done.
    pub fn info(&self, text: &str) {
        (self.log)(LogLevel::Info, text);
    }
}
