//! Callbacks of the host: a function, its user data, and how the user data dies.

use std::ffi::{CString, c_char, c_void};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::kernels::cuda::Gpu;
use crate::kernels::pack::Memory;

/// Runs the host's model once over its whole calibration set, calling the taps.
///
/// Ownership: passing this struct to an mq call hands `user_data` to mq, also when the call
/// fails; mq calls `release(user_data)` exactly once, before that call returns.
/// Threads: `forward` runs on the thread that made the call, and may call taps from any thread.
/// It must not throw or unwind. Registrations and verbs on the same model answer MQ_ERR_BUSY.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct mq_forward_fn {
    /// Handed back unchanged as the first argument.
    pub user_data: *mut c_void,
    /// Returns 0 to go on; any other value stops the verb, which answers MQ_ERR_CALLBACK.
    pub forward: Option<unsafe extern "C" fn(user_data: *mut c_void) -> i32>,
    /// Frees `user_data`; NULL when there is nothing to free.
    pub release: Option<unsafe extern "C" fn(user_data: *mut c_void)>,
}

/// Chooses quantizers by name. Ownership, threads and unwinding as in mq_forward_fn.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct mq_filter_fn {
    /// Handed back unchanged as the first argument.
    pub user_data: *mut c_void,
    /// Sets `*selected` (0 on entry) to non-zero to choose the quantizer of that dotted name.
    /// Returns 0 to go on; any other value stops the verb, which answers MQ_ERR_CALLBACK.
    pub filter: Option<
        unsafe extern "C" fn(
            user_data: *mut c_void,
            name: *const c_char,
            selected: *mut i32,
        ) -> i32,
    >,
    /// Frees `user_data`; NULL when there is nothing to free.
    pub release: Option<unsafe extern "C" fn(user_data: *mut c_void)>,
}

/// Replaces the amax of a quantizer. Ownership, threads and unwinding as in mq_forward_fn.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct mq_amax_fn {
    /// Handed back unchanged as the first argument.
    pub user_data: *mut c_void,
    /// Changes the `count` values of `amax` (row-major, units of the tensor) in place.
    /// They must end finite and not negative. Returns 0 to go on, any other value stops the verb.
    pub process: Option<
        unsafe extern "C" fn(
            user_data: *mut c_void,
            name: *const c_char,
            amax: *mut f32,
            count: usize,
        ) -> i32,
    >,
    /// Frees `user_data`; NULL when there is nothing to free.
    pub release: Option<unsafe extern "C" fn(user_data: *mut c_void)>,
}

/// Gives memory for packed weights. Ownership of `user_data`, threads and unwinding as in
/// mq_forward_fn. The memory itself stays the host's: it keeps it until mq_model_destroy() returns
/// and writes nothing to it. When mq_compress() fails, mq has no use for what it was given, once what is on the
/// context's CUDA stream is done.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct mq_buffer_fn {
    /// Handed back unchanged as the first argument.
    pub user_data: *mut c_void,
    /// Sets `*memory` (NULL on entry) to `size_bytes` bytes (never 0), aligned to 4, for a part
    /// ("weight", "scale", "double_scale", "scale_zeros") of the layer of that name: host memory, or, of a layer whose
    /// weight is in device memory, memory of that device which the context's CUDA stream may use. Returns 0 to go
    /// on; any other value stops the verb, which answers MQ_ERR_CALLBACK. NULL memory is
    /// MQ_ERR_OUT_OF_MEMORY.
    pub allocate: Option<
        unsafe extern "C" fn(
            user_data: *mut c_void,
            layer: *const c_char,
            part: *const c_char,
            size_bytes: usize,
            memory: *mut *mut c_void,
        ) -> i32,
    >,
    /// Frees `user_data`; NULL when there is nothing to free.
    pub release: Option<unsafe extern "C" fn(user_data: *mut c_void)>,
}

/// How serious a log line is.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum mq_log_level {
    /// Something the user should know about and may want to change.
    MQ_LOG_WARNING = 1,
    /// What the library did.
    MQ_LOG_INFO = 2,
}

/// Receives the log lines of a context. Ownership as in mq_forward_fn, but `release` runs when
/// the context and all its models are destroyed.
/// Threads: called on the thread of the mq call that has something to say; when the host calls mq
/// from several threads, so is this.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct mq_log_fn {
    /// Handed back unchanged as the first argument.
    pub user_data: *mut c_void,
    /// `level` is an mq_log_level; `text` is one line of UTF-8, valid during the call. NULL: no log.
    pub log: Option<unsafe extern "C" fn(user_data: *mut c_void, level: i32, text: *const c_char)>,
    /// Frees `user_data`; NULL when there is nothing to free.
    pub release: Option<unsafe extern "C" fn(user_data: *mut c_void)>,
}

/// How far a verb has come.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct mq_progress {
    /// "observe": a pass of the host's forward begins or ends; "solve": a layer or quantizer is solved; "score": a step
    /// of mq_auto_quantize() (a layer, for the methods gram and fisher) is scored.
    pub phase: *const c_char,
    /// The layer or quantizer that was just solved; empty for none.
    pub layer: *const c_char,
    /// Steps done of this phase, of the algorithm that is running.
    pub done: u64,
    /// Steps of this phase.
    pub total: u64,
}

/// Receives the progress of the verbs of a context's models. Ownership as in mq_log_fn.
/// Threads: called on the thread of the verb. It must not throw or unwind, and verbs on the same model
/// answer MQ_ERR_BUSY.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct mq_progress_fn {
    /// Handed back unchanged as the first argument.
    pub user_data: *mut c_void,
    /// `progress` is valid during the call. Returns 0 to go on; any other value stops the verb, which
    /// answers MQ_ERR_CALLBACK with the model as it was. NULL: no progress.
    pub progress:
        Option<unsafe extern "C" fn(user_data: *mut c_void, progress: *const mq_progress) -> i32>,
    /// Frees `user_data`; NULL when there is nothing to free.
    pub release: Option<unsafe extern "C" fn(user_data: *mut c_void)>,
}

/// Owns a host's user data and releases it exactly once.
pub(crate) struct UserData {
    pointer: *mut c_void,
    release: Option<unsafe extern "C" fn(user_data: *mut c_void)>,
}

// SAFETY: the pointer is only handed back to the host, whose callbacks state their threads.
unsafe impl Send for UserData {}
// SAFETY: as above.
unsafe impl Sync for UserData {}

impl UserData {
    /// Takes ownership.
    pub(crate) fn new(
        pointer: *mut c_void,
        release: Option<unsafe extern "C" fn(user_data: *mut c_void)>,
    ) -> Self {
        Self { pointer, release }
    }

    pub(crate) fn pointer(&self) -> *mut c_void {
        self.pointer
    }
}

impl Drop for UserData {
    fn drop(&mut self) {
        if let Some(release) = self.release {
            // SAFETY: contract of the callback structs; Drop runs once.
            unsafe { release(self.pointer) }
        }
    }
}

/// A callback taken over from the host: its user data, and the function if it is set.
pub(crate) struct Taken<F> {
    data: UserData,
    function: Option<F>,
}

macro_rules! takes {
    ($name:ident, $struct:ty, $field:ident, $function:ty) => {
        /// Takes ownership; a NULL struct is "no callback". Call before anything can fail.
        ///
        /// # Safety
        /// `raw` is NULL or valid per the contract of its type.
        pub(crate) unsafe fn $name(raw: *const $struct) -> Option<Taken<$function>> {
            // SAFETY: contract above.
            let raw = unsafe { raw.as_ref() }?;
            Some(Taken {
                data: UserData {
                    pointer: raw.user_data,
                    release: raw.release,
                },
                function: raw.$field,
            })
        }
    };
}

type Forward = unsafe extern "C" fn(*mut c_void) -> i32;
type Filter = unsafe extern "C" fn(*mut c_void, *const c_char, *mut i32) -> i32;
type Process = unsafe extern "C" fn(*mut c_void, *const c_char, *mut f32, usize) -> i32;
type Buffers =
    unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char, usize, *mut *mut c_void) -> i32;
type Report = unsafe extern "C" fn(*mut c_void, *const mq_progress) -> i32;
type Log = unsafe extern "C" fn(*mut c_void, i32, *const c_char);

takes!(take_forward, mq_forward_fn, forward, Forward);
takes!(take_filter, mq_filter_fn, filter, Filter);
takes!(take_amax, mq_amax_fn, process, Process);
takes!(take_buffers, mq_buffer_fn, allocate, Buffers);
takes!(take_log, mq_log_fn, log, Log);
takes!(take_progress, mq_progress_fn, progress, Report);

pub(crate) fn outcome(what: &'static str, code: i32) -> Result<()> {
    match code {
        0 => Ok(()),
        code => Err(Error::Callback { what, code }),
    }
}

pub(crate) fn c_name(name: &str) -> Result<CString> {
    CString::new(name).map_err(|_| Error::Internal(format!("name {name:?} holds a NUL")))
}

impl Taken<Forward> {
    pub(crate) fn run(&self) -> Result<()> {
        let forward = self
            .function
            .ok_or_else(|| Error::InvalidArgument("forward.forward is NULL".into()))?;
        // SAFETY: contract of mq_forward_fn.
        outcome("forward", unsafe { forward(self.data.pointer()) })
    }

    /// Whether the struct names a function at all.
    pub(crate) fn check(&self) -> Result<()> {
        match self.function {
            Some(_) => Ok(()),
            None => Err(Error::InvalidArgument("forward.forward is NULL".into())),
        }
    }
}

impl Taken<Filter> {
    pub(crate) fn selects(&self, name: &str) -> Result<bool> {
        let filter = self
            .function
            .ok_or_else(|| Error::InvalidArgument("filter.filter is NULL".into()))?;
        let name = c_name(name)?;
        let mut selected = 0;
        // SAFETY: contract of mq_filter_fn; both pointers outlive the call.
        let code = unsafe { filter(self.data.pointer(), name.as_ptr(), &mut selected) };
        outcome("filter", code).map(|()| selected != 0)
    }
}

impl Taken<Process> {
    pub(crate) fn process(&self, name: &str, amax: &mut [f32]) -> Result<()> {
        let process = self
            .function
            .ok_or_else(|| Error::InvalidArgument("process.process is NULL".into()))?;
        let name = c_name(name)?;
        // SAFETY: contract of mq_amax_fn; name and values outlive the call.
        let code = unsafe {
            process(
                self.data.pointer(),
                name.as_ptr(),
                amax.as_mut_ptr(),
                amax.len(),
            )
        };
        outcome("amax", code)
    }
}

impl Taken<Buffers> {
    /// Memory of the host's for a part of a packed weight: on the GPU that the weight lies on, else where the CPU can
    /// follow it, which `driver`, the context's GPU, is asked about.
    pub(crate) fn allocate(
        &self,
        layer: &str,
        part: &str,
        size: usize,
        (gpu, driver): (Option<&Arc<Gpu>>, Option<&Arc<Gpu>>),
    ) -> Result<Memory> {
        let allocate = self
            .function
            .ok_or_else(|| Error::InvalidArgument("buffers.allocate is NULL".into()))?;
        let (layer_name, part_name) = (c_name(layer)?, c_name(part)?);
        let mut memory = std::ptr::null_mut();
        // SAFETY: contract of mq_buffer_fn; all pointers outlive the call.
        let code = unsafe {
            allocate(
                self.data.pointer(),
                layer_name.as_ptr(),
                part_name.as_ptr(),
                size,
                &mut memory,
            )
        };
        outcome("buffer", code)?;
        let what = || format!("{size} bytes for {part} of layer `{layer}`");
        if memory.is_null() {
            return Err(Error::OutOfMemory(format!(
                "the buffer callback gave NULL for {}",
                what()
            )));
        }
        if !memory.cast::<f32>().is_aligned() {
            return Err(Error::InvalidArgument(format!(
                "the buffer callback gave memory that is not aligned to 4 for {}",
                what()
            )));
        }
        let address = memory as u64;
        let found = match (gpu, driver) {
            (Some(gpu), _) => gpu.check_address(address, size),
            (None, Some(driver)) => driver.check_host_address(address),
            (None, None) => Ok(()),
        };
        found.map_err(|error| error.of(&format!("{part} of packed {layer}")))?;
        if let Some(gpu) = gpu {
            // SAFETY: contract of mq_buffer_fn, as below; device memory, as was just checked.
            return Ok(unsafe { Memory::of_host_on(gpu, address, size) });
        }
        // SAFETY: contract of mq_buffer_fn: the memory is ours until the model is destroyed.
        Ok(unsafe { Memory::of_host(memory.cast(), size) })
    }
}

impl Taken<Log> {
    pub(crate) fn log(&self, level: mq_log_level, text: &str) {
        // A line that holds a NUL cannot cross as a C string; there is no one to tell.
        if let (Some(log), Ok(text)) = (self.function, CString::new(text)) {
            // SAFETY: contract of mq_log_fn; the text outlives the call.
            unsafe { log(self.data.pointer(), level as i32, text.as_ptr()) }
        }
    }
}

impl Taken<Report> {
    /// What the host answers; 0 when it wants no progress.
    pub(crate) fn report(&self, progress: &crate::model::Progress) -> i32 {
        let (Some(report), Ok(phase), Ok(layer)) = (
            self.function,
            CString::new(progress.phase),
            CString::new(progress.layer),
        ) else {
            return 0;
        };
        let told = mq_progress {
            phase: phase.as_ptr(),
            layer: layer.as_ptr(),
            done: progress.done,
            total: progress.total,
        };
        // SAFETY: contract of mq_progress_fn; struct and texts outlive the call.
        unsafe { report(self.data.pointer(), &told) }
    }
}
