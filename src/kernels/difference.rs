//! How far two tensors are apart.

use std::sync::{Mutex, PoisonError};

use super::element::{Element, with_element};
use super::isa::Loop;
use super::machine::Machine;
use super::pieces::PIECE;
use crate::tensor::TensorView;

/// Sums that are kept side by side: their order is fixed, so that no instruction set shows in the result.
const LANES: usize = 16;

/// `(sum (a - b)^2, sum b^2)` of two tensors of one type and shape. Sums of pieces are float64 and added in
/// order: the same bits for every number of threads.
pub fn squared(machine: &Machine, a: &TensorView, b: &TensorView) -> (f64, f64) {
    if machine.refuses("the error of a tensor", a) {
        return (0.0, 0.0);
    }
    assert!(
        a.dtype() == b.dtype() && a.shape() == b.shape(),
        "two alike"
    );
    let count = a.count();
    if count == 0 {
        return (0.0, 0.0);
    }
    let (a, b, isa) = (*a, *b, machine.isa());
    let tasks = count.div_ceil(PIECE);
    let sums = Mutex::new(vec![(0.0, 0.0); tasks]);
    with_element!(a.dtype(), T => machine.for_each(tasks, |task| {
        let first = task * PIECE;
        let len = PIECE.min(count - first);
        // SAFETY: the piece lies within both tensors, which nobody writes to (contract of the view).
        let (a, b) = unsafe {
            (
                std::slice::from_raw_parts(a.data().cast::<T>().add(first), len),
                std::slice::from_raw_parts(b.data().cast::<T>().add(first), len),
            )
        };
        let sum = isa.run(SquaredLoop(a, b));
        sums.lock().unwrap_or_else(PoisonError::into_inner)[task] = sum;
    }));
    let sums = sums.into_inner().unwrap_or_else(PoisonError::into_inner);
    sums.iter()
        .fold((0.0, 0.0), |total, sum| (total.0 + sum.0, total.1 + sum.1))
}

struct SquaredLoop<'a, T>(&'a [T], &'a [T]);

impl<T: Element> Loop for SquaredLoop<'_, T> {
    type Output = (f64, f64);
    #[inline(always)]
    fn run(self) -> (f64, f64) {
        let (mut error, mut energy) = ([0.0f64; LANES], [0.0f64; LANES]);
        for (a, b) in self.0.chunks(LANES).zip(self.1.chunks(LANES)) {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                let (a, b) = (f64::from(a.load()), f64::from(b.load()));
                error[i] += (a - b) * (a - b);
                energy[i] += b * b;
            }
        }
        let total = |sums: [f64; LANES]| sums.iter().fold(0.0, |total, sum| total + sum);
        (total(error), total(energy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;
    use crate::tensor::DType;

    #[test]
    fn sums_are_those_of_the_definition_and_do_not_depend_on_threads() {
        let mut a: Vec<f32> = (0..100_003).map(|i| (i as f32 * 0.37).sin()).collect();
        let mut b: Vec<f32> = (0..100_003).map(|i| (i as f32 * 0.11).cos()).collect();
        let pairs = || {
            a.iter()
                .zip(&b)
                .map(|(a, b)| (f64::from(*a), f64::from(*b)))
        };
        let error: f64 = pairs().map(|(a, b)| (a - b) * (a - b)).sum();
        let energy: f64 = pairs().map(|(_, b)| b * b).sum();
        let mut all = Vec::new();
        for threads in [1, 3] {
            for isa in Isa::available() {
                let machine = Machine::new(threads, isa).expect("threads");
                // SAFETY: both outlive the views and nobody else uses them meanwhile.
                let (a, b) = unsafe {
                    (
                        TensorView::new(a.as_mut_ptr().cast(), DType::F32, &[100_003]).expect("a"),
                        TensorView::new(b.as_mut_ptr().cast(), DType::F32, &[100_003]).expect("b"),
                    )
                };
                all.push(squared(&machine, &a, &b));
            }
        }
        assert!(all.iter().all(|sums| *sums == all[0]), "{all:?}");
        assert!(
            (all[0].0 - error).abs() < 1e-9 * error && (all[0].1 - energy).abs() < 1e-9 * energy
        );
    }
}
