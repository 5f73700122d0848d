//! A Gram matrix, or its blocks, as it is summed up: in host memory, or by a GPU alone, where it then stays.

use super::zeros;
use crate::error::Result;
use crate::kernels::cuda::DeviceBuffer;
use crate::kernels::gram::Gram;

/// Floats that are fetched at a time, to be added to what is in host memory.
const FETCHED: usize = 1 << 20;

/// The sum so far.
#[derive(Default)]
pub(super) struct Summed {
    columns: usize,
    block: usize,
    /// Empty until a CPU adds something.
    host: Vec<f32>,
    /// What a GPU has summed up, and nothing else has been seen: `host` is empty then.
    there: Option<DeviceBuffer>,
}

impl Summed {
    /// Nothing yet, in blocks of so many columns; 0: it is not asked for.
    pub fn new(columns: usize, block: usize) -> Self {
        Self {
            columns,
            block,
            ..Self::default()
        }
    }

    /// Floats that it has.
    fn len(&self) -> usize {
        match self.block {
            0 => 0,
            block => self.columns.div_ceil(block) * block * block,
        }
    }

    /// The sum in host memory: begun there, or brought there.
    pub fn on_host(&mut self) -> Result<&mut [f32]> {
        if self.host.is_empty() {
            self.host = zeros(self.len())?;
            if let Some(there) = self.there.take() {
                there.read(&mut self.host)?;
            }
        }
        Ok(&mut self.host)
    }

    /// Adds what a GPU has summed up, or takes it over if there is nothing else. Waits for the stream where it adds.
    pub fn add(&mut self, more: DeviceBuffer) -> Result<()> {
        if self.host.is_empty() && self.there.is_none() {
            self.there = Some(more);
            return Ok(());
        }
        let into = self.on_host()?;
        let mut fetched = vec![0.0f32; FETCHED.min(into.len())];
        let mut address = more.address();
        for into in into.chunks_mut(FETCHED) {
            let fetched = &mut fetched[..into.len()];
            more.gpu().read_from(address, fetched)?;
            address += size_of_val(fetched) as u64;
            for (value, found) in into.iter_mut().zip(fetched) {
                *value += *found;
            }
        }
        Ok(())
    }

    /// The matrix; zeros when nothing was seen, none when it was not asked for.
    pub fn into_gram(self) -> Gram {
        if self.block == 0 {
            return Gram::default();
        }
        let (columns, block, len) = (self.columns, self.block, self.len());
        match (self.there, self.host) {
            (Some(there), _) => Gram::on_device(columns, block, there),
            (None, host) if host.is_empty() => Gram::of_blocks(columns, block, vec![0.0; len]),
            (None, host) => Gram::of_blocks(columns, block, host),
        }
    }
}
