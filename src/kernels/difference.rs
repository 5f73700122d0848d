//! How far two tensors are apart.

use std::sync::{Arc, Mutex, PoisonError};

use super::cuda::{DeviceBuffer, Gpu, GpuError, TILE, by_dtype, launch};
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
    assert!(
        a.dtype() == b.dtype() && a.shape() == b.shape(),
        "two alike"
    );
    let count = a.count();
    if count == 0 {
        return (0.0, 0.0);
    }
    if let Some(gpu) = machine.gpu_of(a) {
        return of_gpu(gpu, a, b).unwrap_or_else(|error| (gpu.note(Err(error)), (0.0, 0.0)).1);
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

/// On the GPU, where the order is another one, but fixed as well; waits for the stream.
fn of_gpu(gpu: &Arc<Gpu>, a: &TensorView, b: &TensorView) -> Result<(f64, f64), GpuError> {
    let count = a.count() as u64;
    let tiles = count.div_ceil(TILE as u64);
    let sums = Sums::new(gpu, tiles)?;
    // SAFETY: the kernel of that signature; both tensors have the elements, and there is room for the sums of each
    // tile.
    unsafe {
        launch!(gpu, by_dtype!("difference", a), (gpu.blocks_for(tiles), 1);
            a.address(), b.address(), count, sums.address());
    }
    sums.total(gpu)
}

/// Two sums of every tile in device memory, `Sums` of `sums.cuh`.
pub(super) struct Sums {
    memory: DeviceBuffer,
    tiles: u64,
}

impl Sums {
    /// Room for those of so many tiles.
    pub fn new(gpu: &Arc<Gpu>, tiles: u64) -> Result<Self, GpuError> {
        let memory = DeviceBuffer::new(gpu, tiles as usize * 2 * size_of::<f64>())?;
        Ok(Self { memory, tiles })
    }

    /// Where they lie.
    pub fn address(&self) -> u64 {
        self.memory.address()
    }

    /// Adds them up in order; waits for the stream.
    pub fn total(self, gpu: &Gpu) -> Result<(f64, f64), GpuError> {
        // SAFETY: the kernel of that signature, and as many sums as there are.
        unsafe { launch!(gpu, "sum_up", (1, 1); self.memory.address(), self.tiles) };
        let mut total = [0f64; 2];
        self.memory.read(&mut total)?;
        Ok((total[0], total[1]))
    }
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
    use crate::kernels::cuda::testing::{self, OnGpu};
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

    #[test]
    fn a_gpu_is_as_near_and_the_same_again() {
        let Some(gpu) = testing::machine() else {
            return;
        };
        let cpu = Machine::new(1, Isa::best(None)).expect("a thread");
        for count in [0, 1, 255, 8192, 8193, 30_011] {
            let mut a: Vec<f32> = (0..count).map(|i| (i as f32 * 0.37).sin()).collect();
            let mut b: Vec<f32> = (0..count).map(|i| (i as f32 * 0.11).cos()).collect();
            let a = TensorView::over(&mut a, &[count]).expect("room");
            let b = TensorView::over(&mut b, &[count]).expect("room");
            let there = (OnGpu::copy_of(&gpu, &a, 4), OnGpu::copy_of(&gpu, &b, 0));
            let got = squared(&gpu, &there.0.view(), &there.1.view());
            assert_eq!(squared(&gpu, &there.0.view(), &there.1.view()), got);
            let want = squared(&cpu, &a, &b);
            let is_near = |got: f64, want: f64| (got - want).abs() <= 1e-12 * want;
            assert!(
                is_near(got.0, want.0) && is_near(got.1, want.1),
                "{got:?} {want:?}"
            );
        }
        testing::assert_no_failure(&gpu);
    }
}
