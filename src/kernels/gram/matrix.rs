//! A Gram matrix where it was collected, in host memory or on a GPU.

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::kernels::cuda::{DeviceBuffer, Gpu, GpuError};

/// `[n, n]`, valid on and above the diagonal. One that lies on a GPU is fetched when a CPU first asks for it.
#[derive(Default)]
pub struct Gram {
    n: usize,
    host: OnceLock<Vec<f32>>,
    there: Option<DeviceBuffer>,
}

impl Gram {
    /// One in device memory.
    pub(crate) fn on_device(n: usize, there: DeviceBuffer) -> Self {
        assert_eq!(there.len(), n * n * size_of::<f32>(), "gram");
        Self {
            n,
            there: Some(there),
            ..Self::default()
        }
    }

    /// Rows and columns.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Whether there are none: it was not asked for.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Its address, if it lies on this GPU.
    pub(crate) fn on(&self, gpu: &Arc<Gpu>) -> Option<u64> {
        let there = self.there.as_ref()?;
        Arc::ptr_eq(there.gpu(), gpu).then(|| there.address())
    }

    /// Its entries, row by row; waits for the GPU's stream if they have to be fetched.
    pub fn on_host(&self) -> Result<&[f32], GpuError> {
        if let (None, Some(there)) = (self.host.get(), &self.there) {
            let mut entries = vec![0.0; self.n * self.n];
            there.read(&mut entries)?;
            // Another thread may have been faster, with the same entries.
            let _ = self.host.set(entries);
        }
        Ok(self.host.get().map_or(&[], Vec::as_slice))
    }
}

impl From<Vec<f32>> for Gram {
    /// Of n * n entries.
    fn from(entries: Vec<f32>) -> Self {
        let n = entries.len().isqrt();
        assert_eq!(entries.len(), n * n, "gram");
        Self {
            n,
            host: OnceLock::from(entries),
            there: None,
        }
    }
}

impl fmt::Debug for Gram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.there.is_some() {
            "a GPU"
        } else {
            "the host"
        };
        write!(f, "Gram({0} x {0} on {place})", self.n)
    }
}
