//! Large products by cuBLAS, where it can be loaded; by mq's own kernels otherwise.
//!
//! A GPU gets a handle when a large product is first to be expected ([`Gpu::prepare_cublas`]), which may allocate; a
//! product itself neither allocates nor waits, and can be captured. What cuBLAS does not do, whatever the reason, is told
//! once ([`Gpu::take_notice`]) and done by mq's kernels. Which of both makes a product depends on its sizes, the library
//! and the device alone: the same bytes in every run.

mod handle;
mod library;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::error::{GpuError, GpuErrorKind};
use super::gpu::Gpu;
use super::memory;
use super::products::{Product, UseCublas};
use handle::{Handle, WORKSPACE_BYTES};
use library::{Status, is_refusal, name_of};

/// Multiplications from which on a product is cuBLAS' work.
///
/// An estimate, not a measurement of cuBLAS. mq's tiles made Gram matrices at 27 TFLOP/s (an H200, docs/benchmarks.md): so
/// many multiplications and additions in 0.16 ms. To begin a product by cuBLAS takes the host some 10 us, for it chooses
/// among its kernels anew. Below this, that is more than a tenth of what could be gained.
const LARGE: u64 = 1 << 31;

/// What a GPU makes products with.
pub(super) struct Products {
    wanted: UseCublas,
    /// None: it cannot be used.
    handle: OnceLock<Option<Handle>>,
    workspace: OnceLock<u64>,
    /// It has refused a product: from then on there are none for it.
    has_refused: AtomicBool,
    notice: Mutex<Option<String>>,
}

impl Products {
    pub fn new(wanted: UseCublas) -> Self {
        Self {
            wanted,
            handle: OnceLock::new(),
            workspace: OnceLock::new(),
            has_refused: AtomicBool::new(false),
            notice: Mutex::default(),
        }
    }

    fn takes(&self, multiplications: u64) -> bool {
        match self.wanted {
            UseCublas::Never => false,
            UseCublas::WhereItPays => multiplications >= LARGE,
            UseCublas::Always => multiplications > 0,
        }
    }

    fn usable(&self) -> Option<&Handle> {
        let handle = self.handle.get()?.as_ref()?;
        (!self.has_refused.load(SeqCst)).then_some(handle)
    }

    fn tell(&self, text: String) {
        *self.notice.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }

    /// Gives everything back; the context is current.
    pub fn end(&mut self, gpu: &Gpu) {
        if let Some(Some(handle)) = self.handle.take() {
            handle.destroy();
        }
        if let Some(workspace) = self.workspace.take() {
            memory::free(gpu, workspace, WORKSPACE_BYTES);
        }
    }
}

impl Gpu {
    /// Products of so many multiplications are to be expected: loads cuBLAS and makes a handle, if they are large and that
    /// has not been done. Allocates; nothing is done while the stream is being captured.
    pub(crate) fn prepare_cublas(&self, multiplications: u64) {
        let products = self.products();
        if !products.takes(multiplications) || products.handle.get().is_some() {
            return;
        }
        // What is needed cannot be made in a capture; the next statistic that begins will ask again.
        if self.is_capturing().unwrap_or(true) {
            return;
        }
        products.handle.get_or_init(|| match self.make_handle() {
            Ok(handle) => {
                products.tell(format!(
                    "large products on {} are made by {}; mq_context_options.cublas can forbid it",
                    self.name(),
                    handle.name()
                ));
                Some(handle)
            }
            Err(reason) => {
                products.tell(format!(
                    "large products on {} are made by mq's own kernels, for cuBLAS cannot be used: {reason}",
                    self.name()
                ));
                None
            }
        });
    }

    fn make_handle(&self) -> Result<Handle, String> {
        // Before the handle, so that a library that is missing costs nothing.
        library::library()?;
        let workspace = memory::allocate(self, WORKSPACE_BYTES).map_err(|error| error.text)?;
        let _current = self.enter().map_err(|error| error.text)?;
        match Handle::new(workspace) {
            Ok(handle) => {
                let _ = self.products().workspace.set(workspace);
                Ok(handle)
            }
            Err(reason) => {
                memory::free(self, workspace, WORKSPACE_BYTES);
                Err(reason)
            }
        }
    }

    /// Whether a product of so many multiplications would be cuBLAS' work.
    pub(crate) fn takes_cublas(&self, multiplications: u64) -> bool {
        let products = self.products();
        products.takes(multiplications) && products.usable().is_some()
    }

    /// Puts `c += aᵀ a` on the stream, of which cuBLAS makes the upper triangle: `a` is `[count, n]` and `c` is `[n, n]`, row
    /// by row. False: it does not, and nothing is on the stream.
    pub(crate) fn square_by_cublas(&self, a: u64, sizes: [usize; 2], c: u64) -> bool {
        self.by_cublas("cublasSsyrk", |handle| {
            handle.add_square(self.stream(), a, sizes, c)
        })
    }

    /// Puts a product on the stream. False: as above.
    pub(crate) fn product_by_cublas(&self, product: &Product) -> bool {
        self.by_cublas("cublasSgemm", |handle| {
            handle.multiply(self.stream(), product)
        })
    }

    /// What cuBLAS has refused is done by other means, from now on; what it has broken off is a failure.
    fn by_cublas(&self, function: &str, call: impl FnOnce(&Handle) -> Option<Status>) -> bool {
        let products = self.products();
        let Some(handle) = products.usable() else {
            return false;
        };
        let _current = match self.enter() {
            Ok(current) => current,
            Err(error) => {
                self.note(Err(error));
                return true;
            }
        };
        match call(handle) {
            Some(0) => true,
            None => false,
            Some(status) => {
                products.has_refused.store(true, SeqCst);
                let what = format!("{}: {function}: {}", handle.name(), name_of(status));
                if is_refusal(status) {
                    products.tell(format!(
                        "large products on {} are made by mq's own kernels from now on: {what}",
                        self.name()
                    ));
                    return false;
                }
                self.note(Err(GpuError::new(
                    GpuErrorKind::Driver,
                    format!("CUDA: {what}; mq_context_options.cublas can forbid its use"),
                )));
                true
            }
        }
    }

    /// What large products are made with, when that was found out since this was last asked: a line for the log.
    pub fn take_notice(&self) -> Option<String> {
        let mut notice = self.products().notice.lock();
        notice
            .as_mut()
            .unwrap_or_else(|poisoned| poisoned.get_mut())
            .take()
    }
}
