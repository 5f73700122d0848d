//! One handle of cuBLAS, in the CUDA context of a GPU, set so that its results are the same bytes in every run.

use std::ffi::c_int;
use std::sync::{Mutex, PoisonError};

use cudarc::driver::sys::CUstream;

use super::library::{Library, RawHandle, Status, library, name_of};
use crate::kernels::cuda::products::Product;

/// Bytes of the workspace: the most that NVIDIA recommends for any architecture (that of Hopper), for all of them. Its
/// size is among what a product's kernel is chosen by.
pub(super) const WORKSPACE_BYTES: usize = 32 << 20;

/// The oldest version: that of CUDA 12.0, as of the driver.
const OLDEST: c_int = 120_000;

const PEDANTIC_MATH: c_int = 2;
const ATOMICS_NOT_ALLOWED: c_int = 0;
const POINTERS_TO_HOST: c_int = 0;
const LOWER: c_int = 0;
const PLAIN: c_int = 0;
const TRANSPOSED: c_int = 1;

/// A handle and the workspace that goes with it.
pub(super) struct Handle {
    library: &'static Library,
    /// Locked from the choice of the stream to the product.
    raw: Mutex<Raw>,
    workspace: u64,
    version: c_int,
}

struct Raw(RawHandle);

// SAFETY: a handle may be used by any thread, by one at a time: behind the lock.
unsafe impl Send for Raw {}

impl Handle {
    /// A handle in the context that is current now, which waits for nothing but may allocate: not while a stream is being
    /// captured. Errors, with what was found, when there is no library that works.
    pub fn new(workspace: u64) -> Result<Self, String> {
        let library = library()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: a place for the handle.
        let status = unsafe { (library.create)(&mut raw) };
        if status != 0 {
            return Err(format!(
                "{}: cublasCreate: {}",
                library.name,
                name_of(status)
            ));
        }
        let handle = Self {
            library,
            raw: Mutex::new(Raw(raw)),
            workspace,
            version: 0,
        };
        match handle.set_up(raw) {
            Ok(version) => Ok(Self { version, ..handle }),
            Err(reason) => {
                handle.destroy();
                Err(reason)
            }
        }
    }

    /// Its version.
    fn set_up(&self, raw: RawHandle) -> Result<c_int, String> {
        let library = self.library;
        let check = |status: Status, function: &str| match status {
            0 => Ok(()),
            _ => Err(format!("{}: {function}: {}", library.name, name_of(status))),
        };
        let mut version = 0;
        // SAFETY: a live handle, and a place for the number.
        unsafe {
            check((library.get_version)(raw, &mut version), "cublasGetVersion")?;
            // No TF32, no sums in 16 bits.
            check(
                (library.set_math_mode)(raw, PEDANTIC_MATH),
                "cublasSetMathMode",
            )?;
            // No sums in the order in which threads come.
            check(
                (library.set_atomics_mode)(raw, ATOMICS_NOT_ALLOWED),
                "cublasSetAtomicsMode",
            )?;
            check(
                (library.set_pointer_mode)(raw, POINTERS_TO_HOST),
                "cublasSetPointerMode",
            )?;
        }
        match version < OLDEST {
            false => Ok(version),
            true => Err(format!(
                "{}: version {version}, but {OLDEST} or later is needed",
                library.name
            )),
        }
    }

    /// Name and version, for the log.
    pub fn name(&self) -> String {
        let (major, minor) = (self.version / 10_000, self.version / 100 % 100);
        format!(
            "cuBLAS {major}.{minor}.{} ({})",
            self.version % 100,
            self.library.name
        )
    }

    /// Puts `c += a aᵀ` on the stream, for the lower triangle of `c`, `[n, n]` column by column, which is the upper one row
    /// by row; `a` is `[n, count]` column by column. The context is current. None: the sizes are beyond what it takes.
    pub fn add_square(
        &self,
        stream: CUstream,
        a: u64,
        [count, n]: [usize; 2],
        c: u64,
    ) -> Option<Status> {
        let [count, n] = [to_int(count)?, to_int(n)?];
        let one = 1.0f32;
        self.with(stream, |raw| {
            // SAFETY: a live handle; the caller has so many rows and such a matrix in device memory; numbers are read
            // before the call returns (the pointers are to host memory).
            unsafe {
                (self.library.ssyrk)(
                    raw,
                    LOWER,
                    PLAIN,
                    n,
                    count,
                    &one,
                    a as *const f32,
                    n,
                    &one,
                    c as *mut f32,
                    n,
                )
            }
        })
    }

    /// Puts a product on the stream. The context is current. None: as above.
    pub fn multiply(&self, stream: CUstream, product: &Product) -> Option<Status> {
        let [rows, columns, sums, stride] = [
            to_int(product.rows)?,
            to_int(product.columns)?,
            to_int(product.sums)?,
            to_int(product.b_stride)?,
        ];
        let (one, zero) = (1.0f32, 0.0f32);
        self.with(stream, |raw| {
            // SAFETY: as above.
            unsafe {
                (self.library.sgemm)(
                    raw,
                    PLAIN,
                    TRANSPOSED,
                    rows,
                    columns,
                    sums,
                    &one,
                    product.a as *const f32,
                    rows,
                    product.b as *const f32,
                    stride,
                    &zero,
                    product.c as *mut f32,
                    rows,
                )
            }
        })
    }

    /// Sets the stream and, as that forgets it, the workspace, and then calls.
    fn with(&self, stream: CUstream, call: impl FnOnce(RawHandle) -> Status) -> Option<Status> {
        let raw = self.raw.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: a live handle; a stream of its context, and device memory of ours, aligned to 256.
        let status = unsafe {
            match (self.library.set_stream)(raw.0, stream) {
                0 => (self.library.set_workspace)(raw.0, self.workspace as *mut _, WORKSPACE_BYTES),
                status => status,
            }
        };
        Some(match status {
            0 => call(raw.0),
            status => status,
        })
    }

    /// Ends it, in its context, which is current. Waits for the device.
    pub fn destroy(self) {
        let raw = self
            .raw
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        // SAFETY: made once, ended once.
        let _ = unsafe { (self.library.destroy)(raw.0) };
    }
}

fn to_int(number: usize) -> Option<c_int> {
    c_int::try_from(number).ok()
}
