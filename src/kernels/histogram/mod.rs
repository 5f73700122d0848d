//! How many magnitudes of a tensor fall into each of some equal bins from zero up.
//!
//! Exact: the bin of a value is found in float32 by the operations of `torch.histc`, in its order, and
//! counts are integers, so neither threads nor instruction sets show in the result.

pub(crate) mod cuda;

use std::sync::{Mutex, PoisonError};

use super::element::{Element, with_element};
use super::isa::Loop;
use super::machine::Machine;
use crate::tensor::TensorView;

/// Most bins there can be: a thread's counts stay in its cache, and a bin's number is exact in float32.
pub const MAX_BINS: usize = 1 << 16;

/// Up to here a thread keeps [`COPIES`] counts of a bin: a value that comes again and again would else
/// wait for its own last addition.
const MAX_COPIED_BINS: usize = 1 << 12;
const COPIES: usize = 4;

/// Elements whose bins are found together, before they are counted one by one.
const BLOCK: usize = 64;
const _: () = assert!(BLOCK.is_multiple_of(COPIES));

/// Fewest elements of a task: emptying a thread's counts into the result must not be felt.
const MIN_TASK: usize = 1 << 18;

/// Elements that a thread's 32-bit counts can hold.
const MAX_COUNTED: usize = 1 << 31;

/// Bytes that [`run`] allocates at most.
pub fn workspace_bytes(threads: usize) -> usize {
    threads * (MAX_BINS + 1) * size_of::<u32>()
}

/// Adds to `counts[i]` the magnitudes of `x` in bin `i` of `counts.len()` equal ones over `0..=last_edge`, and
/// returns how many are in none of them: larger ones, infinities and NaN.
///
/// There are 1 to [`MAX_BINS`] bins; `last_edge` is a normal float32.
pub fn run(machine: &Machine, x: &TensorView, last_edge: f32, counts: &mut [u64]) -> u64 {
    assert!((1..=MAX_BINS).contains(&counts.len()), "number of bins");
    assert!(last_edge.is_normal() && last_edge > 0.0, "last edge");
    if let Some(gpu) = machine.gpu_of(x) {
        return cuda::run(gpu, x, last_edge, counts);
    }
    let (n, x, isa) = (x.count(), *x, machine.isa());
    let per_task = n.div_ceil(4 * machine.num_threads()).max(MIN_TASK);
    let bins = Bins::new(last_edge, counts.len());
    let result = Mutex::new((counts, 0));
    with_element!(x.dtype(), T => machine.for_each(n.div_ceil(per_task), |task| {
        let first = task * per_task;
        // SAFETY: the elements lie within the tensor, which nobody writes to (contract of the view).
        let values = unsafe {
            std::slice::from_raw_parts(x.data().cast::<T>().add(first), per_task.min(n - first))
        };
        let copies = if bins.count <= MAX_COPIED_BINS { COPIES } else { 1 };
        let mut slots = vec![0; (bins.count + 1) * copies];
        for values in values.chunks(MAX_COUNTED) {
            if copies == COPIES {
                isa.run(CountLoop::<_, COPIES> { values, bins, slots: &mut slots });
            } else {
                isa.run(CountLoop::<_, 1> { values, bins, slots: &mut slots });
            }
            empty(&mut slots, copies, &result);
        }
    }));
    let (_, outside) = result.into_inner().unwrap_or_else(PoisonError::into_inner);
    outside
}

/// Moves a thread's counts to the result.
fn empty(slots: &mut [u32], copies: usize, result: &Mutex<(&mut [u64], u64)>) {
    let mut result = result.lock().unwrap_or_else(PoisonError::into_inner);
    let (counts, outside) = &mut *result;
    let targets = counts.iter_mut().chain(std::iter::once(outside));
    let of_copy = slots.len() / copies;
    for (i, target) in targets.enumerate() {
        let counts = slots[i..].iter().step_by(of_copy);
        *target += counts.map(|count| u64::from(*count)).sum::<u64>();
    }
    slots.fill(0);
}

/// Finds a value's bin.
#[derive(Clone, Copy)]
struct Bins {
    count: usize,
    last_edge: f32,
    /// The number of bins, and `last_edge`, both times the same power of two.
    factor: f32,
    divisor: f32,
}

impl Bins {
    fn new(last_edge: f32, count: usize) -> Self {
        // The product with the number of bins must not overflow; a power of two changes no quotient.
        let down = if last_edge > 2f32.powi(64) {
            2f32.powi(-64)
        } else {
            1.0
        };
        Self {
            count,
            last_edge,
            factor: count as f32 * down,
            divisor: last_edge * down,
        }
    }

    /// The bin of `x`, or the number of bins when it is in none.
    #[inline(always)]
    fn slot(&self, x: f32) -> u32 {
        let magnitude = x.abs();
        let inside = magnitude <= self.last_edge;
        // First the product, then the quotient.
        let place = magnitude * self.factor / self.divisor;
        let place = if inside { place } else { 0.0 };
        let count = self.count as i32;
        // SAFETY: between 0 and the number of bins, which two roundings exceed by less than 1.
        let bin = unsafe { place.to_int_unchecked::<i32>() };
        // The last bin has its right edge too.
        let bin = if bin < count { bin } else { count - 1 };
        (if inside { bin } else { count }) as u32
    }
}

struct CountLoop<'a, T, const COPIES: usize> {
    values: &'a [T],
    bins: Bins,
    /// `COPIES` times one count for each bin and one for what is in none.
    slots: &'a mut [u32],
}

impl<T: Element, const COPIES: usize> Loop for CountLoop<'_, T, COPIES> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let Self {
            values,
            bins,
            slots,
        } = self;
        let of_copy = bins.count + 1;
        assert_eq!(slots.len(), of_copy * COPIES, "counts");
        let first = slots.as_mut_ptr();
        // SAFETY: the first counts of the copies, which there are (asserted).
        let copies: [_; COPIES] = std::array::from_fn(|i| unsafe { first.add(i * of_copy) });
        let (mut loaded, mut found) = ([0.0; BLOCK], [0; BLOCK]);
        let (blocks, rest) = values.as_chunks::<BLOCK>();
        for block in blocks {
            T::load_block(block, &mut loaded);
            for (slot, x) in found.iter_mut().zip(&loaded) {
                *slot = bins.slot(*x);
            }
            for some in found.as_chunks::<COPIES>().0 {
                for (copy, slot) in copies.iter().zip(some) {
                    // SAFETY: `slot` gives 0 to the number of bins; a copy has one count more (asserted).
                    unsafe { *copy.add(*slot as usize) += 1 };
                }
            }
        }
        for x in rest {
            slots[bins.slot(x.load()) as usize] += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::half::{Bf16, F16};
    use crate::kernels::isa::Isa;
    use crate::tensor::DType;

    /// The definition: one value after the other, by `torch.histc`'s operations.
    fn expected(values: &[f32], last_edge: f32, bins: usize) -> (Vec<u64>, u64) {
        let (mut counts, mut outside) = (vec![0; bins], 0);
        for x in values.iter().map(|x| x.abs()) {
            if x <= last_edge {
                let bin = (x * bins as f32 / last_edge) as usize;
                counts[bin.min(bins - 1)] += 1;
            } else {
                outside += 1;
            }
        }
        (counts, outside)
    }

    /// Repeatable values on both sides of zero, most of them small.
    fn values(count: usize) -> Vec<f32> {
        let mut state = 7u32;
        let mut next = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        };
        (0..count).map(|_| next() * next() * 4.0).collect()
    }

    fn check(mut bits: Vec<u16>, mut floats: Vec<f32>, dtype: DType, last_edge: f32, bins: usize) {
        let (data, count) = match dtype {
            DType::F32 => (floats.as_mut_ptr().cast::<u8>(), floats.len()),
            _ => (bits.as_mut_ptr().cast::<u8>(), bits.len()),
        };
        // SAFETY: the vectors live to the end of this function.
        let x = unsafe { TensorView::new(data, dtype, &[count]) }.expect("aligned");
        let want = expected(&x.to_f32(), last_edge, bins);
        for isa in Isa::available() {
            for threads in [1, 3] {
                let machine = Machine::new(threads, isa).expect("threads");
                let mut counts = vec![0; bins];
                let outside = run(&machine, &x, last_edge, &mut counts);
                assert_eq!((counts, outside), want, "{dtype} {isa} {threads} {bins}");
            }
        }
    }

    #[test]
    fn every_isa_dtype_and_number_of_threads_counts_the_same() {
        for (count, bins) in [(0, 3), (1, 1), (63, 2), (65, 2048), (600_001, 2048)] {
            let floats = values(count);
            let half = floats.iter().map(|x| F16::from_f32(*x).0).collect();
            let brain = floats.iter().map(|x| Bf16::from_f32(*x).0).collect();
            check(half, vec![], DType::F16, 2.7, bins);
            check(brain, vec![], DType::BF16, 2.7, bins);
            check(vec![], floats, DType::F32, 2.7, bins);
        }
        check(vec![], values(5000), DType::F32, 1.3, MAX_BINS);
    }

    #[test]
    fn edges_and_special_values_have_their_places() {
        let machine = Machine::new(1, Isa::best(None)).expect("one thread");
        let count = |last_edge: f32, mut values: Vec<f32>| {
            // Also where whole blocks are counted.
            values.resize(values.len().max(128), f32::NAN);
            let shape = [values.len()];
            // SAFETY: the values live to the end of the closure.
            let x = unsafe { TensorView::new(values.as_mut_ptr().cast(), DType::F32, &shape) };
            let mut counts = [0; 4];
            let outside = run(&machine, &x.expect("aligned"), last_edge, &mut counts);
            (counts, outside)
        };
        let special = vec![
            0.0,
            -0.0,
            1.0,
            -4.0,
            4.0,
            4.0f32.next_up(),
            f32::NEG_INFINITY,
        ];
        assert_eq!(count(4.0, special), ([2, 1, 0, 2], 123));
        let huge = vec![f32::MAX, -f32::MAX / 2.0, 1.0];
        assert_eq!(count(f32::MAX, huge), ([1, 0, 1, 1], 125));
        let tiny = vec![f32::MIN_POSITIVE, f32::from_bits(1)];
        assert_eq!(count(f32::MIN_POSITIVE, tiny), ([1, 0, 0, 1], 126));
    }
}
