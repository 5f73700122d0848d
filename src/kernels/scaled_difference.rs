//! What scaling and rounding a weight has changed: `out = q * inverse - w`, column by column.

use super::isa::{Isa, Loop};

/// `out[r, j] = q[r, j] * inverse[j] - w[r, j]` for rows of the length of `inverse`; without it, `q - w`. On
/// the calling thread.
pub fn run(isa: Isa, q: &[f32], inverse: Option<&[f32]>, w: &[f32], out: &mut [f32]) {
    assert!(q.len() == w.len() && q.len() == out.len(), "three alike");
    match inverse {
        None => isa.run(Difference { q, w, out }),
        Some(inverse) => {
            assert!(
                q.is_empty() || q.len().is_multiple_of(inverse.len()),
                "rows"
            );
            let n = inverse.len().max(1);
            let rows = q.chunks_exact(n).zip(w.chunks_exact(n));
            for ((q, w), out) in rows.zip(out.chunks_exact_mut(n)) {
                isa.run(ScaledDifference { q, inverse, w, out });
            }
        }
    }
}

struct Difference<'a> {
    q: &'a [f32],
    w: &'a [f32],
    out: &'a mut [f32],
}

impl Loop for Difference<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        for ((out, q), w) in self.out.iter_mut().zip(self.q).zip(self.w) {
            *out = q - w;
        }
    }
}

struct ScaledDifference<'a> {
    q: &'a [f32],
    inverse: &'a [f32],
    w: &'a [f32],
    out: &'a mut [f32],
}

impl Loop for ScaledDifference<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let rows = self.q.iter().zip(self.inverse).zip(self.w);
        for (out, ((q, inverse), w)) in self.out.iter_mut().zip(rows) {
            *out = q * inverse - w;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let q: Vec<f32> = (0..69).map(|i| (i as f32).sin()).collect();
        let w: Vec<f32> = (0..69).map(|i| (i as f32).cos()).collect();
        let inverse: Vec<f32> = (0..23).map(|i| 0.1 + i as f32).collect();
        for isa in Isa::available() {
            let mut out = vec![0.0; 69];
            run(isa, &q, Some(&inverse), &w, &mut out);
            for (i, got) in out.iter().enumerate() {
                let want = q[i] * inverse[i % 23] - w[i];
                assert_eq!(got.to_bits(), want.to_bits(), "{isa} {i}");
            }
            run(isa, &q, None, &w, &mut out);
            assert!(out.iter().zip(&q).zip(&w).all(|((o, q), w)| *o == q - w));
        }
    }
}
