//! The amax after which the quantized histogram diverges least from the histogram.
//!
//! For each number `i` of bins that are kept, the reference clips the histogram (what lies beyond counts for the
//! last kept bin), spreads it over the integers' buckets, and evens every bucket out over its bins that are
//! not empty. The divergence is the sum over bins of `r ln(r / n)`, of both as shares.
//!
//! Within a bucket `n` has one value, and the sum of `r` is a difference of prefix sums; so is that of `r ln r`.
//! What took the reference a pass over all bins takes one over the buckets: for 2048 bins and 8 bits 128
//! logarithms a candidate in place of thousands. It also settles the reference's check of its sums: here
//! both are the same integer.

use super::{Bins, Search};

/// Divergences closer than this are equal: what is left of them is rounding.
const TIE: f64 = 1e-12;

/// The edge after the kept bins, of the last of the best candidates.
///
/// `bits` of the integers without their sign. The first bin counts as many as the second, so that zeros do not
/// decide.
pub(super) fn amax(bins: &Bins, bits: u32, search: &Search) -> Option<f32> {
    let n = bins.counts.len();
    let first = search.start_bin.max(1);
    if n < 2 || first > n {
        return None;
    }
    let sums = Sums::new(bins.counts);
    if sums.total() == 0.0 {
        // Everything lay in the first bin.
        return None;
    }
    let kept = || (first..=n).step_by(search.stride);
    let divergences: Vec<f64> = kept().map(|i| sums.divergence(i, bits)).collect();
    let least = divergences.iter().copied().fold(f64::INFINITY, f64::min);
    let last = divergences.iter().rposition(|d| *d <= least + TIE)?;
    let i = kept().nth(last)?;
    bins.edges.get(i).copied()
}

/// Prefix sums over bins: of what the first `i` of them hold.
struct Sums {
    /// Counts; exact up to 2^53.
    counts: Vec<f64>,
    /// Bins that are not empty.
    filled: Vec<u32>,
    /// `c ln c` of the counts.
    logs: Vec<f64>,
}

impl Sums {
    fn new(counts: &[u64]) -> Self {
        let bins = counts.len() + 1;
        let mut sums = Self {
            counts: Vec::with_capacity(bins),
            filled: Vec::with_capacity(bins),
            logs: Vec::with_capacity(bins),
        };
        sums.counts.push(0.0);
        sums.filled.push(0);
        sums.logs.push(0.0);
        let (mut count, mut filled, mut log) = (0, 0, 0.0);
        for own in counts[1..2].iter().chain(&counts[1..]) {
            count += own;
            filled += u32::from(*own > 0);
            log += x_ln_x(*own as f64);
            sums.counts.push(count as f64);
            sums.filled.push(filled);
            sums.logs.push(log);
        }
        sums
    }

    fn total(&self) -> f64 {
        self.counts[self.counts.len() - 1]
    }

    /// The divergence when the first `i` bins are kept: infinite when the last of them is empty and has to
    /// stand for what lies beyond.
    fn divergence(&self, i: usize, bits: u32) -> f64 {
        let (total, inside) = (self.total(), self.counts[i]);
        let last = inside - self.counts[i - 1];
        let beyond = total - inside;
        if last == 0.0 && beyond > 0.0 {
            return f64::INFINITY;
        }
        let buckets = 1usize << bits;
        let (mut below, mut evened, mut evened_last) = (0, 0.0, 0.0);
        for bucket in 1..=buckets {
            // Bin j is in bucket floor(j * buckets / i): here ends the one before.
            let end = (bucket * i).div_ceil(buckets);
            let sum = self.counts[end] - self.counts[below];
            if sum > 0.0 {
                let filled = self.filled[end] - self.filled[below];
                let log = (sum / f64::from(filled)).ln();
                evened += sum * log;
                evened_last = log;
            }
            below = end;
        }
        // The last filled bucket is that of the last kept bin, unless nothing lies beyond.
        let clipped = self.logs[i - 1] + x_ln_x(last + beyond) - beyond * evened_last;
        (clipped - evened) / total + inside.ln() - total.ln()
    }
}

fn x_ln_x(x: f64) -> f64 {
    if x > 0.0 { x * x.ln() } else { 0.0 }
}
