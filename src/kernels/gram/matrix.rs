//! A Gram matrix, or its blocks along the diagonal, where it was collected: in host memory or on a GPU.

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::kernels::cuda::{DeviceBuffer, Gpu, GpuError};

/// `[blocks, block, block]`, valid on and above the diagonals; a whole matrix is one block. The last block may be short of
/// columns, and takes as much room. One that lies on a GPU is fetched when a CPU first asks for it.
#[derive(Default)]
pub struct Gram {
    n: usize,
    block: usize,
    host: OnceLock<Vec<f32>>,
    there: Option<DeviceBuffer>,
}

impl Gram {
    /// One of blocks in host memory, of `n` columns all together.
    pub fn of_blocks(n: usize, block: usize, entries: Vec<f32>) -> Self {
        assert_eq!(entries.len(), len(n, block), "gram");
        Self {
            n,
            block,
            host: OnceLock::from(entries),
            there: None,
        }
    }

    /// One of blocks in device memory.
    pub(crate) fn on_device(n: usize, block: usize, there: DeviceBuffer) -> Self {
        assert_eq!(there.len(), len(n, block) * size_of::<f32>(), "gram");
        Self {
            n,
            block,
            there: Some(there),
            ..Self::default()
        }
    }

    /// Columns.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Columns of a block.
    pub fn block(&self) -> usize {
        self.block
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

    /// Its entries, row by row and block by block; waits for the GPU's stream if they have to be fetched.
    pub fn on_host(&self) -> Result<&[f32], GpuError> {
        if let (None, Some(there)) = (self.host.get(), &self.there) {
            let mut entries = vec![0.0; len(self.n, self.block)];
            there.read(&mut entries)?;
            // Another thread may have been faster, with the same entries.
            let _ = self.host.set(entries);
        }
        Ok(self.host.get().map_or(&[], Vec::as_slice))
    }
}

/// Entries of blocks of so many columns, `n` all together.
fn len(n: usize, block: usize) -> usize {
    match block {
        0 => 0,
        _ => n.div_ceil(block) * block * block,
    }
}

impl From<Vec<f32>> for Gram {
    /// A whole one, of n * n entries.
    fn from(entries: Vec<f32>) -> Self {
        let n = entries.len().isqrt();
        Self::of_blocks(n, n, entries)
    }
}

impl fmt::Debug for Gram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.there.is_some() {
            "a GPU"
        } else {
            "the host"
        };
        write!(f, "Gram({} columns by {} on {place})", self.n, self.block)
    }
}
