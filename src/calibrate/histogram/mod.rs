//! The amax that a histogram of magnitudes speaks for: percentile, least squared error or least entropy.
//!
//! All of them give `None` for no data, 0 when there were only zeros, and else a positive amax within the
//! range. Where a method has no candidate (fewer bins than `start_bin`), the amax is the one that clips
//! nothing: the right edge of the last bin that holds anything; the reference fails there.

pub(super) mod algorithm;
mod entropy;
mod mse;
mod percentile;

use crate::kernels::Machine;
use crate::kernels::histogram::MAX_BINS;
use crate::observe::Histogram;

/// How the amax is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Method {
    /// Least Kullback-Leibler divergence of the histogram from its quantized self.
    Entropy(Search),
    /// Least mean squared error of the bins' centres.
    Mse(Search),
    /// So many percent of the values, 0 to 100, are not clipped.
    Percentile(f64),
}

/// Which bins are candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Search {
    /// Bins from one candidate to the next, at least 1.
    pub stride: usize,
    /// The first candidate. Entropy takes 0 for 1: nothing would be left.
    pub start_bin: usize,
}

impl Default for Search {
    fn default() -> Self {
        Self {
            stride: 1,
            start_bin: 128,
        }
    }
}

impl Method {
    /// The percentile that is taken when none is said.
    pub const DEFAULT_PERCENTILE: f64 = 99.99;

    /// The method of this name. Errors when there is none, or a number that it uses is out of range.
    pub fn new(name: &str, search: Search, percentile: f64) -> Result<Self, String> {
        let method = match name {
            "entropy" => Self::Entropy(search),
            "mse" => Self::Mse(search),
            "percentile" => Self::Percentile(percentile),
            _ => {
                return Err(format!(
                    "Unknown calibration method {name}; expected entropy, mse or percentile"
                ));
            }
        };
        method.check().map(|()| method)
    }

    fn check(&self) -> Result<(), String> {
        match *self {
            Self::Percentile(percentile) if !(0.0..=100.0).contains(&percentile) => Err(format!(
                "Invalid percentile. Must be in range 0 <= percentile <= 100. Got {percentile}"
            )),
            Self::Entropy(search) | Self::Mse(search) if search.stride == 0 => {
                Err("stride is 0, expected at least 1".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// The format that an amax is sought for. A percentile does not ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Levels {
    /// Integers of 2 to 8 bits.
    Int {
        /// Bits, the sign included.
        num_bits: u32,
        /// Whether the sign's bit is used for values.
        unsigned: bool,
    },
    /// FP8 E4M3.
    E4m3,
}

/// A histogram of magnitudes, checked.
#[derive(Debug, Clone, Copy)]
pub struct Bins<'a> {
    counts: &'a [u64],
    edges: &'a [f32],
}

impl<'a> Bins<'a> {
    /// Bin `i` holds `counts[i]` values between `edges[i]` and `edges[i + 1]`; further edges are ignored. Errors
    /// when edges are missing, not finite, negative or not ascending.
    pub fn new(counts: &'a [u64], edges: &'a [f32]) -> Result<Self, String> {
        if counts.is_empty() {
            return Ok(Self { counts, edges: &[] });
        }
        let Some(edges) = edges.get(..counts.len() + 1) else {
            return Err(format!(
                "{} edges for {} bins, expected one more than bins",
                edges.len(),
                counts.len()
            ));
        };
        let ascending = edges.windows(2).all(|pair| pair[0] <= pair[1]);
        if !ascending || edges[0] < 0.0 || !edges[counts.len()].is_finite() {
            return Err("edges must be finite and ascend from 0 on".to_owned());
        }
        Ok(Self { counts, edges })
    }

    /// The bins of an observed histogram.
    pub fn of(histogram: &'a Histogram) -> Result<Self, String> {
        Self::new(histogram.counts(), histogram.edges())
    }

    /// The middle of a bin.
    fn centre(&self, bin: usize) -> f32 {
        // Halved before they are added, which cannot overflow and rounds the same.
        self.edges[bin] / 2.0 + self.edges[bin + 1] / 2.0
    }

    /// The smallest edge that has no values above it; None without values.
    fn highest(&self) -> Option<f32> {
        let last = self.counts.iter().rposition(|count| *count > 0)?;
        Some(self.edges[last + 1])
    }
}

/// Bytes that [`amax`] takes at most: for every bin two sums or a centre and a weight, which grow by doubling, and
/// an error.
fn workspace_bytes() -> usize {
    MAX_BINS * 5 * size_of::<f64>()
}

/// The amax that `method` chooses, for a quantizer to `levels`. Errors with what is wrong about the parameters.
pub fn amax(
    machine: &Machine,
    bins: &Bins,
    method: &Method,
    levels: Levels,
) -> Result<Option<f32>, String> {
    method.check()?;
    if let Levels::Int { num_bits, .. } = levels
        && !(2..=8).contains(&num_bits)
    {
        return Err(format!("num_bits is {num_bits}, expected 2 to 8"));
    }
    let divergence = match (method, levels) {
        (Method::Entropy(_), Levels::E4m3) => {
            return Err(
                "entropy is defined for integers, not for FP8; use mse or percentile".to_owned(),
            );
        }
        (Method::Entropy(_), Levels::Int { num_bits, unsigned }) => {
            Some(num_bits - 1 + u32::from(unsigned))
        }
        _ => None,
    };
    let Some(highest) = bins.highest() else {
        return Ok(None);
    };
    if highest == 0.0 {
        return Ok(Some(0.0));
    }
    let found = match (method, divergence) {
        (Method::Percentile(percentile), _) => percentile::amax(bins, *percentile),
        (Method::Mse(search), _) => mse::amax(machine, bins, levels, search),
        (Method::Entropy(search), Some(bits)) => entropy::amax(bins, bits, search),
        (Method::Entropy(_), None) => None,
    };
    // A candidate of a first bin that begins and ends at 0 is no scale.
    Ok(Some(found.filter(|amax| *amax > 0.0).unwrap_or(highest)))
}
