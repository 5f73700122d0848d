//! Sums of squares of the channels of an activation, or of its difference from another.
//!
//! *Reducing*: float64 sums over the rows, one after the other. The same bits on every instruction set and for every
//! number of threads; on a GPU in another fixed order (see `cuda`).

pub(crate) mod cuda;

use std::sync::{Mutex, PoisonError};

use super::element::{Element, elements, with_element};
use super::machine::Machine;
use crate::tensor::TensorView;

/// Channels of a task: a few cache lines of every row.
const BAND: usize = 128;

/// `sums[i] += weight * Σ_t (a[t, i] - factors[i] * b[t, i])²`, for `a` and `b` of one type and shape `[.., channels]`;
/// without `b`, of `a` alone. In host memory; `cuda` has the same for a GPU.
pub fn run(
    machine: &Machine,
    a: &TensorView,
    b: Option<(&TensorView, Option<&[f32]>)>,
    weight: f64,
    sums: &mut [f64],
) {
    let channels = sums.len();
    if a.count() == 0 || channels == 0 {
        return;
    }
    assert!(a.count().is_multiple_of(channels), "rows of {channels}");
    if let Some((b, factors)) = b {
        assert!(
            a.dtype() == b.dtype() && a.shape() == b.shape(),
            "two alike"
        );
        assert!(
            factors.is_none_or(|factors| factors.len() == channels),
            "factors"
        );
    }
    let rows = a.count() / channels;
    let bands = sums.chunks_mut(BAND).map(Mutex::new);
    let bands: Vec<Mutex<&mut [f64]>> = bands.collect();
    with_element!(a.dtype(), T => {
        let a = elements::<T>(a);
        let b = b.map(|(b, factors)| (elements::<T>(b), factors));
        machine.for_each(bands.len(), |band| {
            // Each task has a band of its own: nobody waits.
            let mut sums = bands[band].lock().unwrap_or_else(PoisonError::into_inner);
            let mut squares = [0.0f64; BAND];
            let first = band * BAND;
            for row in 0..rows {
                let start = row * channels + first;
                let part = start..start + sums.len();
                match b {
                    None => {
                        for (square, a) in squares.iter_mut().zip(&a[part]) {
                            let value = f64::from(a.load());
                            *square += value * value;
                        }
                    }
                    Some((b, factors)) => {
                        let pairs = a[part.clone()].iter().zip(&b[part]);
                        for (i, ((a, b), square)) in pairs.zip(&mut squares).enumerate() {
                            let factor = factors.map_or(1.0, |factors| factors[first + i]);
                            let value = f64::from(a.load() - b.load() * factor);
                            *square += value * value;
                        }
                    }
                }
            }
            for (sum, square) in sums.iter_mut().zip(squares) {
                *sum += weight * square;
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_channel_is_summed_over_its_rows(
            rows in 1usize..9, channels in 1usize..300, threads in 1usize..4, seed: u32,
        ) {
            let mut state = seed | 1;
            let mut noise = |len: usize| -> Vec<f32> {
                (0..len).map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 8) as f32 / 8_388_608.0 - 1.0
                }).collect()
            };
            let (mut a, mut b, factors) = (noise(rows * channels), noise(rows * channels), noise(channels));
            let machine = Machine::new(threads, Isa::scalar()).expect("threads");
            let (mut alone, mut apart) = (vec![1.0; channels], vec![0.0; channels]);
            let x = TensorView::over(&mut a, &[rows, channels]).expect("valid");
            let y = TensorView::over(&mut b, &[rows, channels]).expect("valid");
            run(&machine, &x, None, 2.0, &mut alone);
            run(&machine, &x, Some((&y, Some(&factors))), 0.5, &mut apart);
            for i in 0..channels {
                let of = |f: &dyn Fn(usize) -> f64| (0..rows).map(|t| f(t * channels + i)).sum::<f64>();
                let squares = of(&|at| f64::from(a[at]).powi(2));
                prop_assert_eq!(alone[i], 1.0 + 2.0 * squares);
                let squares = of(&|at| f64::from(a[at] - b[at] * factors[i]).powi(2));
                prop_assert_eq!(apart[i], 0.5 * squares);
            }
        }
    }
}
