//! What models share: the CPU they work on and the log they write to.

use crate::error::{Error, Result};
use crate::kernels::{Cpu, Isa};

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

/// Threads, instruction set and log.
pub struct Context {
    cpu: Cpu,
    log: LogSink,
}

/// More threads than this are a mistake of the caller's.
const MAX_THREADS: usize = 1024;

impl Context {
    /// A context with `threads` threads; 0 means one for each CPU.
    pub fn new(threads: usize, log: LogSink) -> Result<Self> {
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
        let cpu = Cpu::new(threads, isa).map_err(Error::OutOfMemory)?;
        Ok(Self { cpu, log })
    }

    /// The CPU that kernels run on.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
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
