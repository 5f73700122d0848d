//! How far the probabilities of two models are apart, from their logits: `Σ p (log p - log q)`.
//!
//! *Reducing*: sums are float64, in the order of the classes on the CPU and by trees on a GPU (see `cuda`); logarithms of
//! probabilities are float32.

pub(crate) mod cuda;

/// Turns rows of so many logits into the logarithms of their probabilities. NaN or Inf makes a row NaN.
pub fn log_softmax(logits: &mut [f32], classes: usize) {
    for row in logits.chunks_exact_mut(classes) {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        // In f64, for two large numbers may be further apart than f32 reaches.
        let below = |x: f32| f64::from(x) - f64::from(largest);
        let sum: f64 = row.iter().map(|x| below(*x).exp()).sum();
        let shift = sum.ln();
        for x in row {
            *x = (below(*x) - shift) as f32;
        }
    }
}

/// `Σ p (log p - log q)` of as many logarithms of each.
pub fn of(p: &[f32], q: &[f32]) -> f64 {
    assert_eq!(p.len(), q.len(), "two alike");
    // A class that is masked with -inf takes no part, as p log p is zero there.
    let possible = p.iter().zip(q).filter(|(p, _)| **p > f32::NEG_INFINITY);
    let terms = possible.map(|(p, q)| f64::from(*p).exp() * (f64::from(*p) - f64::from(*q)));
    terms.sum()
}
