//! The sampled tokens in device memory, for which no tap waits.

use std::sync::Arc;

use super::sample::MOST;
use crate::error::Result;
use crate::kernels::cuda::{DeviceBuffer, Gpu};
use crate::kernels::load_rows::{Rows, into_device};
use crate::tensor::TensorView;

/// Rows of float32, with room for as many as a sample has.
pub(super) struct OnGpu {
    gpu: Arc<Gpu>,
    memory: DeviceBuffer,
    rows: usize,
    channels: usize,
}

impl OnGpu {
    /// Goes on from what was kept in host memory.
    pub fn holding(gpu: &Arc<Gpu>, kept: &[f32], channels: usize) -> Result<Self> {
        let memory = DeviceBuffer::new(gpu, MOST * channels * size_of::<f32>())?;
        memory.write(kept)?;
        Ok(Self {
            gpu: Arc::clone(gpu),
            memory,
            rows: kept.len() / channels,
            channels,
        })
    }

    /// Adds rows, for which there is room.
    pub fn add(&mut self, x: &TensorView, rows: Rows) {
        assert!(self.rows + rows.count <= MOST, "rows of a sample");
        into_device(&self.gpu, x, rows, 1.0, self.row(self.rows));
        self.rows += rows.count;
    }

    /// Keeps every second row.
    pub fn halve(&mut self) {
        // The first one stays where it is; each goes to where the one before it was read.
        for row in (2..self.rows).step_by(2) {
            self.gpu
                .copy(self.row(row), self.row(row / 2), self.row_bytes());
        }
        self.rows = self.rows.div_ceil(2);
    }

    /// The rows in host memory: waits for the stream.
    pub fn fetched(self) -> Result<Vec<f32>> {
        let mut rows = vec![0.0; self.rows * self.channels];
        self.memory.read(&mut rows)?;
        Ok(rows)
    }

    fn row_bytes(&self) -> usize {
        self.channels * size_of::<f32>()
    }

    fn row(&self, i: usize) -> u64 {
        self.memory.address() + (i * self.row_bytes()) as u64
    }
}
