//! Of every channel, the largest magnitude and the sum of magnitudes, in one pass over a tensor.
//!
//! The largest magnitude is *exact*: NaN wins, as in `absmax`. The sum is *reducing* within
//! [`MAX_REL_ERR`], in an order that is fixed: the same bits on every instruction set and for any number of
//! threads, and on a GPU. Rows come in chunks of [`CHUNK`]; a chunk is summed in float32 row after row, and the
//! chunks' sums in float64, one after the other.

pub(crate) mod cuda;

use super::element::{Element, with_element};
use super::isa::Loop;
use super::machine::Machine;
use crate::tensor::TensorView;

/// Rows that are summed in float32.
pub const CHUNK: usize = 256;

/// Bound of the relative error of a sum. All terms are positive, and each goes through less than `CHUNK`
/// additions of float32 (half an epsilon each) and as many of float64 as there are chunks: one more
/// half covers 2^29 chunks. A chunk whose sum exceeds float32 is infinite.
pub const MAX_REL_ERR: f64 = CHUNK as f64 * (f32::EPSILON / 2.0) as f64 * 1.001;

/// Channels of a task.
const BAND: usize = 1024;

/// Channels that are held in registers, and rows that are added to them at a time.
const LANES: usize = 16;
const ROWS: usize = 4;

/// Floats of the chunks in work, unless a few chunks are more.
const WORKING: usize = 1 << 18;

/// Bytes that [`run`] allocates at most for the largest magnitudes, and for the sums too if they are wanted.
pub fn workspace_bytes(channels: usize, sums: bool) -> usize {
    let results = 1 + usize::from(sums);
    results * in_work(channels) * channels * size_of::<f32>()
}

/// Chunks whose results are held at a time.
fn in_work(channels: usize) -> usize {
    (WORKING / channels.max(1)).clamp(16, 1024)
}

/// Writes, for `x` of `[.., channels]`, the largest magnitude of each channel to `amax` and the sum of its
/// magnitudes to `sums`, each if wanted. Without rows they are zero.
///
/// Allocates 4 bytes for each channel, each of the results and each chunk in work: the larger of 1 MiB
/// and 16 chunks for each result.
pub fn run(
    machine: &Machine,
    x: &TensorView,
    channels: usize,
    mut amax: Option<&mut [f32]>,
    mut sums: Option<&mut [f64]>,
) {
    for len in [
        amax.as_ref().map(|a| a.len()),
        sums.as_ref().map(|s| s.len()),
    ] {
        assert!(len.is_none_or(|len| len == channels), "channels");
    }
    if let Some(amax) = &mut amax {
        amax.fill(0.0);
    }
    if let Some(sums) = &mut sums {
        sums.fill(0.0);
    }
    if x.count() == 0 || (amax.is_none() && sums.is_none()) {
        return;
    }
    assert!(x.count().is_multiple_of(channels), "rows of {channels}");
    if let Some(gpu) = machine.gpu_of(x) {
        return cuda::run(gpu, x, channels, amax, sums);
    }
    with_element!(x.dtype(), T => match (amax, sums) {
        (amax, None) => pass::<T, true, false>(machine, x, channels, amax, None),
        (None, sums) => pass::<T, false, true>(machine, x, channels, None, sums),
        (amax, sums) => pass::<T, true, true>(machine, x, channels, amax, sums),
    });
}

fn pass<T: Element, const MAX: bool, const SUM: bool>(
    machine: &Machine,
    x: &TensorView,
    channels: usize,
    mut amax: Option<&mut [f32]>,
    mut sums: Option<&mut [f64]>,
) {
    let (rows, x, isa) = (x.count() / channels, *x, machine.isa());
    let chunks = rows.div_ceil(CHUNK);
    let in_work = in_work(channels).min(chunks);
    let bands = channels.div_ceil(BAND);
    let mut highest = vec![0u32; if MAX { in_work * channels } else { 0 }];
    let mut partial = vec![0.0f32; if SUM { in_work * channels } else { 0 }];
    for first in (0..chunks).step_by(in_work) {
        let here = in_work.min(chunks - first);
        let results = Results(highest.as_mut_ptr(), partial.as_mut_ptr());
        machine.for_each(here * bands, |task| {
            let (chunk, start) = (task / bands, task % bands * BAND);
            let width = BAND.min(channels - start);
            let (from, at) = ((first + chunk) * CHUNK, chunk * channels + start);
            // SAFETY: the rows lie in the tensor, which nobody writes to (contract of the view); the band of
            // a chunk is this task's own, and lies in the results that are wanted.
            unsafe {
                let work = ChunkLoop::<T, MAX, SUM> {
                    x: x.data().cast::<T>().add(from * channels + start),
                    channels,
                    rows: CHUNK.min(rows - from),
                    highest: results.highest(at, if MAX { width } else { 0 }),
                    sums: results.sums(at, if SUM { width } else { 0 }),
                    width,
                };
                isa.run(work);
            }
        });
        for chunk in highest.chunks_exact(channels).take(here) {
            for (amax, bits) in amax.iter_mut().flat_map(|a| a.iter_mut()).zip(chunk) {
                let all = amax.to_bits().max(T::from_magnitude(*bits).to_bits());
                *amax = f32::from_bits(all);
            }
        }
        for chunk in partial.chunks_exact(channels).take(here) {
            for (sum, part) in sums.iter_mut().flat_map(|s| s.iter_mut()).zip(chunk) {
                *sum += f64::from(*part);
            }
        }
    }
}

/// What the chunks in work come to, each task its own part.
struct Results(*mut u32, *mut f32);

// SAFETY: addresses; whoever takes a part promises that it is its own.
unsafe impl Sync for Results {}

impl Results {
    /// # Safety
    /// The part lies in the memory unless it is empty, and is nobody else's.
    #[allow(clippy::mut_from_ref, reason = "the contract says so")]
    unsafe fn highest(&self, at: usize, len: usize) -> &mut [u32] {
        if len == 0 {
            return &mut [];
        }
        // SAFETY: contract.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), len) }
    }

    /// # Safety
    /// As [`Results::highest`].
    #[allow(clippy::mut_from_ref, reason = "the contract says so")]
    unsafe fn sums(&self, at: usize, len: usize) -> &mut [f32] {
        if len == 0 {
            return &mut [];
        }
        // SAFETY: contract.
        unsafe { std::slice::from_raw_parts_mut(self.1.add(at), len) }
    }
}

/// One band of one chunk.
struct ChunkLoop<'a, T, const MAX: bool, const SUM: bool> {
    /// The first row's first channel of the band; rows are `channels` apart.
    x: *const T,
    channels: usize,
    rows: usize,
    /// `width` values each, empty when not wanted.
    highest: &'a mut [u32],
    sums: &'a mut [f32],
    width: usize,
}

impl<T: Element, const MAX: bool, const SUM: bool> Loop for ChunkLoop<'_, T, MAX, SUM> {
    type Output = ();
    #[inline(always)]
    fn run(mut self) {
        self.highest.fill(0);
        self.sums.fill(0.0);
        let whole = self.rows / ROWS * ROWS;
        for row in (0..whole).step_by(ROWS) {
            self.add::<ROWS>(row);
        }
        for row in whole..self.rows {
            self.add::<1>(row);
        }
    }
}

impl<T: Element, const MAX: bool, const SUM: bool> ChunkLoop<'_, T, MAX, SUM> {
    /// Adds `N` rows from `row` on, in their order.
    #[inline(always)]
    fn add<const N: usize>(&mut self, row: usize) {
        let rows: [&[T]; N] = std::array::from_fn(|i| {
            // SAFETY: the row lies in the tensor (contract of the loop's maker).
            unsafe { std::slice::from_raw_parts(self.x.add((row + i) * self.channels), self.width) }
        });
        let whole = self.width / LANES * LANES;
        for at in (0..whole).step_by(LANES) {
            self.add_lanes::<N, LANES>(rows, at);
        }
        for at in whole..self.width {
            self.add_lanes::<N, 1>(rows, at);
        }
    }

    /// The same for `L` channels from `at` on, in registers meanwhile.
    #[inline(always)]
    fn add_lanes<const N: usize, const L: usize>(&mut self, rows: [&[T]; N], at: usize) {
        let (mut highest, mut sums) = ([0u32; L], [0.0f32; L]);
        if MAX {
            highest.copy_from_slice(&self.highest[at..at + L]);
        }
        if SUM {
            sums.copy_from_slice(&self.sums[at..at + L]);
        }
        for row in rows {
            let mut block = [row[at]; L];
            block.copy_from_slice(&row[at..at + L]);
            if MAX {
                for (highest, x) in highest.iter_mut().zip(&block) {
                    *highest = (*highest).max(x.magnitude());
                }
            }
            if SUM {
                let mut values = [0.0; L];
                T::load_block(&block, &mut values);
                for (sum, value) in sums.iter_mut().zip(&values) {
                    *sum += value.abs();
                }
            }
        }
        if MAX {
            self.highest[at..at + L].copy_from_slice(&highest);
        }
        if SUM {
            self.sums[at..at + L].copy_from_slice(&sums);
        }
    }
}

/// Only the sums, as [`run`] gives them: for x of `[.., channels]`, `sums[j] = sum of |x[t, j]|`.
pub fn abs_sums(machine: &Machine, x: &TensorView, channels: usize, sums: &mut [f64]) {
    run(machine, x, channels, None, Some(sums));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::half::{Bf16, F16};
    use crate::kernels::Isa;
    use crate::tensor::DType;

    /// Both results together and each alone, which must agree.
    fn stats(machine: &Machine, x: &TensorView, channels: usize) -> (Vec<u32>, Vec<u64>) {
        let (mut amax, mut sums) = (vec![9.0; channels], vec![9.0; channels]);
        run(machine, x, channels, Some(&mut amax), Some(&mut sums));
        let (mut amax_alone, mut sums_alone) = (vec![9.0; channels], vec![9.0; channels]);
        run(machine, x, channels, Some(&mut amax_alone), None);
        abs_sums(machine, x, channels, &mut sums_alone);
        let bits = |a: &[f32]| a.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let wide = |a: &[f64]| a.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&amax), bits(&amax_alone));
        assert_eq!(wide(&sums), wide(&sums_alone));
        (bits(&amax), wide(&sums))
    }

    #[test]
    fn all_dtypes_shapes_threads_and_instruction_sets_agree_with_float64() {
        for (rows, channels) in [
            (0, 5),
            (1, 1),
            (7, 15),
            (255, 16),
            (256, 17),
            (257, 33),
            (1300, 40),
            (4099, 3),
            (20, 1100),
        ] {
            let values: Vec<f32> = (0..rows * channels)
                .map(|i| ((i * 7919 % 2003) as f32 - 1000.0) * 0.01)
                .collect();
            let mut halves: Vec<u16> = values.iter().map(|x| F16::from_f32(*x).0).collect();
            let mut upper: Vec<u16> = values.iter().map(|x| Bf16::from_f32(*x).0).collect();
            let mut floats = values.clone();
            let tensors = [
                (DType::F32, floats.as_mut_ptr().cast::<u8>()),
                (DType::F16, halves.as_mut_ptr().cast()),
                (DType::BF16, upper.as_mut_ptr().cast()),
            ];
            for (dtype, data) in tensors {
                // SAFETY: the memory outlives the view and is not used meanwhile.
                let x = unsafe { TensorView::new(data, dtype, &[rows, channels]) };
                let x = x.expect("aligned");
                let loaded = x.to_f32();
                let one = Machine::new(1, Isa::scalar()).expect("threads");
                let (amax, sums) = stats(&one, &x, channels);
                for j in 0..channels {
                    let column = || loaded.iter().skip(j).step_by(channels).map(|x| x.abs());
                    assert_eq!(f32::from_bits(amax[j]), column().fold(0.0, f32::max));
                    let want: f64 = column().map(f64::from).sum();
                    let got = f64::from_bits(sums[j]);
                    assert!((got - want).abs() <= MAX_REL_ERR * want, "{got} {want}");
                }
                for isa in Isa::available() {
                    let three = Machine::new(3, isa).expect("threads");
                    let again = stats(&three, &x, channels);
                    assert_eq!(
                        again,
                        (amax.clone(), sums.clone()),
                        "{isa} {rows} {channels}"
                    );
                }
            }
        }
    }

    #[test]
    fn not_a_number_wins_in_its_channel_only() {
        let (rows, channels) = (600, 20);
        let mut values = vec![1.0f32; rows * channels];
        values[300 * channels + 4] = f32::NAN;
        values[301 * channels + 4] = f32::INFINITY;
        values[599 * channels + 19] = f32::NEG_INFINITY;
        let (mut amax, mut sums) = (vec![0.0; channels], vec![0.0; channels]);
        // SAFETY: the memory outlives the view and is not used meanwhile.
        let x =
            unsafe { TensorView::new(values.as_mut_ptr().cast(), DType::F32, &[rows, channels]) };
        let x = x.expect("aligned");
        for isa in Isa::available() {
            let machine = Machine::new(2, isa).expect("threads");
            run(&machine, &x, channels, Some(&mut amax), Some(&mut sums));
            assert!(amax[4].is_nan() && sums[4].is_nan());
            assert!(amax[19] == f32::INFINITY && sums[19] == f64::INFINITY);
            assert!(amax[5] == 1.0 && sums[5] == 600.0);
        }
    }
}
