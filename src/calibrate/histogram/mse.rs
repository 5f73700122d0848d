//! The amax whose fake quantization moves the bins' centres least.

use std::sync::{Mutex, PoisonError};

use super::{Bins, Levels, Search};
use crate::format::e4m3;
use crate::format::int::IntGrid;
use crate::kernels::Machine;
use crate::kernels::isa::Loop;

/// Candidates that a thread tries in one go.
const PER_TASK: usize = 64;

/// Sums that are kept side by side: their order is fixed, so that no instruction set shows in the result.
const LANES: usize = 16;

/// The first centre, from `start_bin` on, with the least sum of squared differences weighted by counts.
///
/// The formula of the reference's version 0.21; later ones pass its arguments in the wrong places. Differences
/// are float32, as there; their sum is float64, so that the choice does not hang on rounding.
pub(super) fn amax(machine: &Machine, bins: &Bins, levels: Levels, search: &Search) -> Option<f32> {
    let n = bins.counts.len();
    let candidates = n.saturating_sub(search.start_bin).div_ceil(search.stride);
    // Empty bins add nothing, whatever the amax.
    let held = (0..n).filter(|bin| bins.counts[*bin] > 0);
    let (mut centres, mut weights): (Vec<f32>, Vec<f64>) = held
        .map(|bin| (bins.centre(bin), bins.counts[bin] as f64))
        .unzip();
    let whole = centres.len().next_multiple_of(LANES);
    centres.resize(whole, 0.0);
    weights.resize(whole, 0.0);

    let best = Mutex::new((f64::INFINITY, usize::MAX));
    machine.for_each(candidates.div_ceil(PER_TASK), |task| {
        let mut own = (f64::INFINITY, usize::MAX);
        for k in task * PER_TASK..candidates.min((task + 1) * PER_TASK) {
            let bin = search.start_bin + k * search.stride;
            let error = machine.isa().run(ErrorLoop {
                centres: &centres,
                weights: &weights,
                levels,
                amax: bins.centre(bin),
            });
            if error < own.0 {
                own = (error, bin);
            }
        }
        let mut best = best.lock().unwrap_or_else(PoisonError::into_inner);
        // Equal errors: the first candidate, whichever thread comes first.
        if own.0 < best.0 || own.0 == best.0 && own.1 < best.1 {
            *best = own;
        }
    });
    let (error, bin) = best.into_inner().unwrap_or_else(PoisonError::into_inner);
    (error < f64::INFINITY).then(|| bins.centre(bin))
}

/// The sum of errors of one candidate.
struct ErrorLoop<'a> {
    centres: &'a [f32],
    weights: &'a [f64],
    levels: Levels,
    amax: f32,
}

impl Loop for ErrorLoop<'_> {
    type Output = f64;
    #[inline(always)]
    fn run(self) -> f64 {
        match self.levels {
            Levels::Int { num_bits, unsigned } => {
                let grid = IntGrid::new(num_bits, unsigned, false);
                let scale = grid.scale(self.amax);
                self.sum(|x| grid.fake_quant(x, scale))
            }
            Levels::E4m3 => {
                let scale = e4m3::scale(self.amax);
                self.sum(|x| e4m3::fake_quant(x, scale))
            }
        }
    }
}

impl ErrorLoop<'_> {
    #[inline(always)]
    fn sum(&self, fake_quant: impl Fn(f32) -> f32) -> f64 {
        let mut sums = [0.0; LANES];
        let (centres, _) = self.centres.as_chunks::<LANES>();
        let (weights, _) = self.weights.as_chunks::<LANES>();
        for (centres, weights) in centres.iter().zip(weights) {
            for i in 0..LANES {
                let difference = f64::from(fake_quant(centres[i]) - centres[i]);
                sums[i] += difference * difference * weights[i];
            }
        }
        sums.iter().sum()
    }
}
