//! A histogram of magnitudes over batches, whose range grows with the largest one.

mod on_gpu;

use crate::kernels::histogram::{self, MAX_BINS};
use crate::kernels::{Machine, absmax};
use crate::tensor::TensorView;
pub(super) use on_gpu::OnGpu;

/// Counts of magnitudes in equal bins from zero up.
///
/// The first batch decides how wide a bin is; a batch with larger values adds bins of that width. Width,
/// counts and the edges of a range that has grown are the reference's to the last bit. Where it differs:
/// * No histogram has more than [`MAX_BINS`] bins. A batch that would need more makes neighbouring bins one,
///   two by two, until it does not: bins get wider by a power of two. (The reference runs out of memory,
///   or of patience: its entropy takes a quadratic time.)
/// * Counts are integers of 64 bits, not float32 sums that stop at 2^24.
/// * Inner edges of the first range may differ in the last bit, for the reference's depend on its vectors.
/// * The last edge is never below the largest magnitude seen, and there are never fewer edges than bins plus
///   one, even where float32 rounding would make it so. No value is lost.
/// * Batches of zeros before any other value wait in the first bin for a width: one bin from 0 to 0 until
///   then. (The reference counts them in the middle and divides by their width of zero.)
/// * A bin is at least as wide as the smallest normal float32, below which bins would not be equal.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// Number of bins over the range of the first batch.
    num_bins: usize,
    counts: Vec<u64>,
    /// At least one more than bins, ascending from 0. Rounding may give one edge too many, as in the reference:
    /// the bins share the whole range all the same.
    edges: Vec<f32>,
}

impl Histogram {
    /// Bins of the reference for the range of the first batch.
    pub const DEFAULT_BINS: usize = 2048;

    /// An empty histogram of `num_bins` over the first batch, 2 to [`MAX_BINS`].
    pub fn new(num_bins: usize) -> Result<Self, String> {
        if !(2..=MAX_BINS).contains(&num_bins) {
            return Err(format!("num_bins is {num_bins}, expected 2 to {MAX_BINS}"));
        }
        Ok(Self {
            num_bins,
            counts: Vec::new(),
            edges: Vec::new(),
        })
    }

    /// Counts a batch; one without elements changes nothing. Errors with the place and value of a NaN or
    /// infinity, and then changes nothing either.
    pub fn collect(&mut self, machine: &Machine, x: &TensorView) -> Result<(), (usize, f32)> {
        if x.count() == 0 {
            return Ok(());
        }
        // Most batches stay within the range: then counting has looked at every value already.
        if self.last_edge() > 0.0 {
            let mut counts = vec![0; self.counts.len()];
            if histogram::run(machine, x, self.last_edge(), &mut counts) == 0 {
                add(&mut self.counts, &counts);
                return Ok(());
            }
        }
        let x_max = absmax::of_tensor(machine, x);
        if !x_max.is_finite() {
            return Err(absmax::not_finite(machine, x).unwrap_or((0, x_max)));
        }
        self.reach(x_max);
        if self.last_edge() > 0.0 {
            let outside = histogram::run(machine, x, self.last_edge(), &mut self.counts);
            debug_assert_eq!(outside, 0, "the range was made for these values");
        } else {
            self.counts[0] += x.count() as u64;
        }
        Ok(())
    }

    /// Adds the counts of a histogram with bins of the same width. Errors when theirs differ, and then
    /// changes nothing.
    pub fn merge(&mut self, other: &Self) -> Result<(), String> {
        if other.last_edge() > 0.0 && self.last_edge() > 0.0 {
            let (own, width) = (self.edges[1], other.edges[1]);
            if own != width {
                return Err(format!("bins are {own:e} wide, the others {width:e}"));
            }
        }
        // Zeros alone lie in the first bin of every range.
        if other.last_edge() > self.last_edge() || self.edges.is_empty() {
            self.edges.clone_from(&other.edges);
        }
        let bins = self.counts.len().max(other.counts.len());
        self.counts.resize(bins, 0);
        add(&mut self.counts, &other.counts);
        Ok(())
    }

    /// How many magnitudes each bin has; empty before the first batch.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Where bins begin and end: bin `i` lies between edges `i` and `i + 1`. There may be one more than that
    /// needs. Both of them 0 when nothing but zeros came.
    pub fn edges(&self) -> &[f32] {
        &self.edges
    }

    /// Number of elements counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Memory that one holds at most, however far its range grows.
    pub fn most_bytes() -> u64 {
        ((MAX_BINS + 2) * (size_of::<u64>() + size_of::<f32>())) as u64
    }

    /// Memory that collecting a batch takes at most: counts of the batch, or new bins beside the old ones.
    pub fn transient_bytes(threads: usize) -> u64 {
        Self::most_bytes() + histogram::workspace_bytes(threads) as u64
    }

    /// Memory it holds.
    pub fn size_bytes(&self) -> usize {
        self.counts.capacity() * size_of::<u64>() + self.edges.capacity() * size_of::<f32>()
    }

    fn last_edge(&self) -> f32 {
        self.edges.last().copied().unwrap_or(0.0)
    }

    /// Makes the range include `x_max`.
    fn reach(&mut self, x_max: f32) {
        if self.last_edge() > 0.0 {
            if x_max > self.last_edge() {
                self.grow(x_max);
            }
        } else if x_max > 0.0 {
            let zeros = self.total();
            self.counts = vec![0; self.num_bins];
            self.counts[0] = zeros;
            self.edges = first_edges(x_max, self.num_bins);
        } else if self.edges.is_empty() {
            self.counts = vec![0];
            self.edges = vec![0.0; 2];
        }
    }

    fn grow(&mut self, x_max: f32) {
        let mut width = self.edges[1];
        while (x_max / width).ceil() > MAX_BINS as f32 {
            width *= 2.0;
            self.counts = self.counts.chunks(2).map(|two| two.iter().sum()).collect();
        }
        let bins = ((x_max / width).ceil() as usize).max(self.counts.len());
        self.counts.resize(bins, 0);
        self.edges = next_edges(x_max, width, bins);
    }
}

fn add(counts: &mut [u64], more: &[u64]) {
    for (count, more) in counts.iter_mut().zip(more) {
        *count += more;
    }
}

/// `torch.linspace(0, x_max, bins + 1)`: from both ends to the middle.
fn first_edges(x_max: f32, bins: usize) -> Vec<f32> {
    let x_max = x_max.max(bins as f32 * f32::MIN_POSITIVE);
    let step = x_max / bins as f32;
    let edge = |i: usize| match i < bins.div_ceil(2) {
        true => step * i as f32,
        false => x_max - step * (bins - i) as f32,
    };
    (0..=bins).map(edge).collect()
}

/// `torch.arange(0, x_max + width, width)`, at least `bins + 1` edges, the last one not below `x_max`.
///
/// Its loop makes two vectors of 8 in a step, each from its own first edge rounded to float32; what is left over
/// it makes one by one. All in float64.
fn next_edges(x_max: f32, width: f32, bins: usize) -> Vec<f32> {
    const VECTOR: usize = 8;
    let end = f64::from(x_max + width);
    let exact = |i: usize| i as f64 * f64::from(width);
    let count = (end / f64::from(width)).ceil();
    // Infinite when the end overflows.
    let count = if count.is_finite() {
        (count as usize).max(bins + 1)
    } else {
        bins + 1
    };
    let in_steps = count - count % (2 * VECTOR);
    let edge = |i: usize| {
        let value = if i < in_steps {
            let first = exact(i - i % VECTOR) as f32;
            (f64::from(first) + exact(i % VECTOR)) as f32
        } else {
            exact(i) as f32
        };
        value.min(f32::MAX)
    };
    let mut edges: Vec<f32> = (0..count).map(edge).collect();
    if let Some(last) = edges.last_mut() {
        *last = last.max(x_max);
    }
    edges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;

    fn collect(histogram: &mut Histogram, values: &[f32]) -> Result<(), (usize, f32)> {
        let machine = Machine::new(1, Isa::best(None)).expect("one thread");
        let mut values = values.to_vec();
        let shape = [values.len()];
        let x = TensorView::over(&mut values, &shape).expect("valid");
        histogram.collect(&machine, &x)
    }

    fn of(num_bins: usize, batches: &[&[f32]]) -> Histogram {
        let mut histogram = Histogram::new(num_bins).expect("a valid number");
        for batch in batches {
            collect(&mut histogram, batch).expect("finite");
        }
        histogram
    }

    #[test]
    fn the_first_batch_decides_the_width_and_others_add_bins() {
        let mut histogram = of(4, &[&[], &[0.0, -1.0, 4.0]]);
        assert_eq!(histogram.counts(), [1, 1, 0, 1]);
        assert_eq!(histogram.edges(), [0.0, 1.0, 2.0, 3.0, 4.0]);
        collect(&mut histogram, &[2.5]).expect("finite");
        assert_eq!(histogram.counts(), [1, 1, 1, 1]);
        collect(&mut histogram, &[-5.5, 0.0]).expect("finite");
        assert_eq!(histogram.counts(), [2, 1, 1, 1, 0, 1]);
        assert_eq!(histogram.edges(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(histogram.total(), 6);
        assert!(histogram.size_bytes() >= 6 * 8 + 7 * 4);
    }

    #[test]
    fn zeros_wait_for_a_width() {
        let mut histogram = of(4, &[&[0.0, -0.0], &[0.0]]);
        assert_eq!(
            (histogram.counts(), histogram.edges()),
            (&[3][..], &[0.0; 2][..])
        );
        collect(&mut histogram, &[2.0]).expect("finite");
        assert_eq!(histogram.counts(), [3, 0, 0, 1]);
        collect(&mut histogram, &[0.0]).expect("finite");
        assert_eq!(histogram.counts(), [4, 0, 0, 1]);
        assert_eq!(of(4, &[]).counts(), [0u64; 0]);
    }

    #[test]
    fn what_is_not_finite_is_told_and_changes_nothing() {
        for before in [&[][..], &[&[1.0][..]], &[&[0.0][..]]] {
            let mut histogram = of(4, before);
            let same = histogram.clone();
            let found = collect(&mut histogram, &[0.5, f32::NEG_INFINITY, f32::NAN]);
            assert_eq!(found, Err((1, f32::NEG_INFINITY)));
            let (position, value) = collect(&mut histogram, &[f32::NAN]).expect_err("a NaN");
            assert!(position == 0 && value.is_nan());
            assert_eq!(histogram, same);
        }
    }

    #[test]
    fn too_many_bins_become_wider_ones() {
        let mut histogram = of(2048, &[&[1e-6, 5e-7]]);
        let width = histogram.edges()[1];
        collect(&mut histogram, &[1e3]).expect("finite");
        let bins = histogram.counts().len();
        assert!((MAX_BINS / 2..=MAX_BINS).contains(&bins), "{bins}");
        assert_eq!((histogram.edges()[1] / width).log2().fract(), 0.0);
        assert_eq!((histogram.counts()[0], histogram.total()), (2, 3));
        collect(&mut histogram, &[f32::MAX]).expect("finite");
        assert_eq!((histogram.counts()[0], histogram.total()), (3, 4));
        assert_eq!(histogram.edges().last(), Some(&f32::MAX));
    }

    #[test]
    fn extreme_ranges_have_equal_bins() {
        for x_max in [f32::from_bits(1), 1e-44, f32::MIN_POSITIVE, f32::MAX] {
            let mut histogram = of(2048, &[&[x_max, 0.0]]);
            assert!(histogram.edges().windows(2).all(|pair| pair[0] < pair[1]));
            assert_eq!(histogram.total(), 2);
            collect(&mut histogram, &[f32::MAX, x_max]).expect("finite");
            assert_eq!(histogram.total(), 4);
        }
    }

    #[test]
    fn equal_widths_merge() {
        let (a, b) = (&[4.0, 1.5][..], &[4.0, 0.5][..]);
        for (first, second) in [(&[a, &[9.0]][..], &[b][..]), (&[a][..], &[b, &[9.0]][..])] {
            let mut merged = of(4, first);
            merged.merge(&of(4, second)).expect("equal widths");
            assert_eq!(merged, of(4, &[a, b, &[9.0]]));
        }
        let zeros = of(4, &[&[0.0; 3]]);
        let mut merged = zeros.clone();
        merged.merge(&of(4, &[a])).expect("zeros have no width");
        assert_eq!(merged, of(4, &[a, &[0.0; 3]]));
        merged = of(4, &[a]);
        merged.merge(&zeros).expect("zeros have no width");
        assert_eq!(merged, of(4, &[a, &[0.0; 3]]));
        merged.merge(&of(4, &[])).expect("nothing to add");
        assert_eq!(merged.total(), 5);
        let mut empty = of(4, &[]);
        empty.merge(&merged).expect("nothing before");
        assert_eq!(empty, merged);
        let other = of(4, &[&[3.0]]);
        assert!(merged.merge(&other).is_err());
        assert_eq!(merged, empty);
    }

    #[test]
    fn the_number_of_bins_is_checked() {
        for wrong in [0, 1, MAX_BINS + 1] {
            assert!(Histogram::new(wrong).is_err());
        }
    }
}
