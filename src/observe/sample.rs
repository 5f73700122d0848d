//! A few of the tokens that passed, to measure the error of a quantizer on.

use std::sync::{Arc, Mutex, PoisonError};

use super::gate::tokens;
use crate::kernels::Machine;
use crate::kernels::load_rows::{self, Rows};
use crate::tensor::{Device, TensorView};

/// Most tokens that are kept.
const MOST: u64 = 64;

/// Every `stride`-th token, `stride` the least power of two for which they are few enough. So which ones
/// they are depends on how many passed, not on how a batch was cut into taps.
#[derive(Default)]
pub struct Sample(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    channels: usize,
    seen: u64,
    stride: u64,
    /// Shared with whoever measures on it, when nothing more comes.
    rows: Arc<Vec<f32>>,
    /// A tensor with another last axis came: there is no sample of such.
    mixed: bool,
}

impl Sample {
    /// Bytes that the sample of so many channels takes.
    pub fn size_bytes(channels: usize) -> u64 {
        MOST * (channels * size_of::<f32>()) as u64
    }

    /// Takes from a tensor what belongs to the sample.
    pub fn add(&self, machine: &Machine, x: &TensorView) {
        let channels = x.shape().dims().last().copied().unwrap_or(1);
        let count = tokens(x.shape());
        // In device memory there is none: a few rows would have to be fetched from every tensor.
        if count == 0 || channels == 0 || x.device() != Device::Cpu {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.seen == 0 {
            (kept.channels, kept.stride) = (channels, 1);
            Arc::make_mut(&mut kept.rows).reserve_exact(MOST as usize * channels);
        }
        if kept.mixed || kept.channels != channels {
            *kept = Kept {
                mixed: true,
                seen: 1,
                ..Kept::default()
            };
            return;
        }
        kept.add(machine, x, count);
    }

    /// The rows, `[count, channels]`, and the number of channels.
    pub fn rows(&self) -> (Arc<Vec<f32>>, usize) {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (Arc::clone(&kept.rows), kept.channels)
    }
}

impl Kept {
    fn add(&mut self, machine: &Machine, x: &TensorView, count: u64) {
        let total = self.seen + count;
        while total.div_ceil(self.stride) > MOST {
            self.halve();
        }
        let first = self.seen.next_multiple_of(self.stride);
        self.seen = total;
        if first >= total {
            return;
        }
        let rows = Rows {
            first: (first - (total - count)) as usize,
            step: self.stride as usize,
            count: (total - first).div_ceil(self.stride) as usize,
            channels: self.channels,
        };
        let kept = Arc::make_mut(&mut self.rows);
        let start = kept.len();
        kept.resize(start + rows.count * rows.channels, 0.0);
        load_rows::run(machine, x, rows, 1.0, &mut kept[start..]);
    }

    /// Keeps every second row.
    fn halve(&mut self) {
        self.stride *= 2;
        let channels = self.channels;
        let kept = Arc::make_mut(&mut self.rows);
        let rows = kept.len() / channels;
        for row in (0..rows).step_by(2) {
            kept.copy_within(row * channels..(row + 1) * channels, row / 2 * channels);
        }
        kept.truncate(rows.div_ceil(2) * channels);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;
    use proptest::prelude::*;

    fn sampled(cuts: &[usize]) -> Vec<f32> {
        let machine = Machine::new(1, Isa::scalar()).expect("one thread");
        let sample = Sample::default();
        let mut next = 0.0;
        for &count in cuts {
            let mut rows: Vec<f32> = Vec::new();
            for _ in 0..count {
                rows.extend([next, -next]);
                next += 1.0;
            }
            let x = TensorView::over(&mut rows, &[count, 2]).expect("valid");
            sample.add(&machine, &x);
        }
        let (rows, _) = sample.rows();
        assert!(rows.chunks(2).all(|row| row[0] == -row[1]));
        rows.chunks(2).map(|row| row[0]).collect()
    }

    #[test]
    fn few_tokens_are_all_kept_and_many_thinned() {
        assert_eq!(sampled(&[3]), [0.0, 1.0, 2.0]);
        let many = sampled(&[1000]);
        assert_eq!(many.len(), 63);
        assert_eq!(&many[..3], [0.0, 16.0, 32.0]);
    }

    proptest! {
        #[test]
        fn the_cut_into_taps_does_not_matter(cuts in prop::collection::vec(0usize..90, 1..12)) {
            let total: usize = cuts.iter().sum();
            prop_assert_eq!(sampled(&cuts), sampled(&[total]));
        }
    }
}
