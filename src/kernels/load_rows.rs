//! Loads rows of a tensor as float32, times a factor.
//!
//! *Exact*: the same bits on every instruction set and for any number of threads (of a NaN, that it is one).

use std::sync::Arc;

use super::cuda::{DeviceBuffer, Gpu, by_dtype, launch};
use super::element::{Element, with_element};
use super::isa::Loop;
use super::machine::Machine;
use super::pieces::PIECE;
use crate::tensor::TensorView;

/// Elements that are converted side by side.
const LANES: usize = 16;

/// Which rows of a tensor `[.., channels]` to load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// The first row.
    pub first: usize,
    /// Rows from one to the next, at least 1.
    pub step: usize,
    /// How many.
    pub count: usize,
    /// Length of a row.
    pub channels: usize,
}

impl Rows {
    /// The first rows, all of them.
    pub fn leading(count: usize, channels: usize) -> Self {
        Self {
            first: 0,
            step: 1,
            count,
            channels,
        }
    }

    /// Rows that there are in a tensor; at least one of them, and not empty.
    fn assert_in(&self, x: &TensorView) {
        assert!(self.step > 0, "rows that are the same");
        assert!(
            x.count().is_multiple_of(self.channels),
            "rows of {}",
            self.channels
        );
        let last = self.first + (self.count - 1) * self.step;
        assert!(last < x.count() / self.channels, "row {last}");
    }
}

/// `out[i, j] = x[first + i * step, j] * factor`, one rounding; `out` is `[count, channels]` row-major.
pub fn run(machine: &Machine, x: &TensorView, rows: Rows, factor: f32, out: &mut [f32]) {
    let Rows {
        first,
        step,
        count,
        channels,
    } = rows;
    assert_eq!(out.len(), count * channels, "out");
    if out.is_empty() {
        return;
    }
    rows.assert_in(x);
    if let Some(gpu) = machine.gpu_of(x) {
        return fetch(gpu, x, rows, factor, out);
    }
    let per_task = (PIECE / channels).max(1);
    let (x, isa) = (*x, machine.isa());
    let out = Out(out.as_mut_ptr());
    with_element!(x.dtype(), T => machine.for_each(count.div_ceil(per_task), |task| {
        for i in task * per_task..((task + 1) * per_task).min(count) {
            // SAFETY: row `first + i * step` lies in the tensor and row i in `out` (asserted); nobody writes
            // to the tensor (contract of the view), and every row of `out` is written by one task.
            let (from, to) = unsafe {
                let from = x.data().cast::<T>().add((first + i * step) * channels);
                (
                    std::slice::from_raw_parts(from, channels),
                    std::slice::from_raw_parts_mut(out.row(i, channels), channels),
                )
            };
            isa.run(LoadLoop { from, factor, to });
        }
    }));
}

/// The same from device memory to host memory: waits for the stream. Zeros when it fails, which the GPU keeps.
fn fetch(gpu: &Arc<Gpu>, x: &TensorView, rows: Rows, factor: f32, out: &mut [f32]) {
    let loaded = DeviceBuffer::new(gpu, size_of_val(out)).and_then(|values| {
        into_device(gpu, x, rows, factor, values.address());
        values.read(out)
    });
    if loaded.is_err() {
        out.fill(0.0);
    }
    gpu.note(loaded);
}

/// The same within device memory, to float32 values at an address: puts work on the stream, and waits for nothing.
pub(crate) fn into_device(gpu: &Gpu, x: &TensorView, rows: Rows, factor: f32, address: u64) {
    if rows.count == 0 || rows.channels == 0 {
        return;
    }
    rows.assert_in(x);
    let [first, step, count, channels] =
        [rows.first, rows.step, rows.count, rows.channels].map(|number| number as u64);
    let blocks = gpu.blocks_for((count * channels).div_ceil(2048));
    // SAFETY: the kernel of that signature; the rows lie in the tensor (asserted), and the caller has room for them.
    unsafe {
        launch!(gpu, by_dtype!("load_rows", x), (blocks, 1);
            x.address(), first, step, count, channels, factor, address);
    }
}

/// The result, of which every task has rows of its own.
struct Out(*mut f32);

// SAFETY: an address; whoever writes through it promises that the row is its own.
unsafe impl Sync for Out {}

impl Out {
    fn row(&self, i: usize, channels: usize) -> *mut f32 {
        self.0.wrapping_add(i * channels)
    }
}

struct LoadLoop<'a, T> {
    from: &'a [T],
    factor: f32,
    to: &'a mut [f32],
}

impl<T: Element> Loop for LoadLoop<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let (from, from_rest) = self.from.as_chunks::<LANES>();
        let (to, to_rest) = self.to.as_chunks_mut::<LANES>();
        for (to, from) in to.iter_mut().zip(from) {
            T::load_block(from, to);
            for value in to {
                *value *= self.factor;
            }
        }
        for (to, from) in to_rest.iter_mut().zip(from_rest) {
            *to = from.load() * self.factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::half::{Bf16, F16};
    use crate::kernels::Isa;
    use crate::kernels::cuda::testing::{self, Host, OnGpu};
    use crate::tensor::DType;

    #[test]
    fn every_step_th_row_on_every_instruction_set() {
        let (rows, channels) = (300, 131);
        let values: Vec<f32> = (0..rows * channels)
            .map(|i| (i % 2003) as f32 * 0.37 - 300.0)
            .collect();
        let mut halves: Vec<u16> = values.iter().map(|x| F16::from_f32(*x).0).collect();
        let mut upper: Vec<u16> = values.iter().map(|x| Bf16::from_f32(*x).0).collect();
        let mut floats = values.clone();
        let tensors = [
            (DType::F32, floats.as_mut_ptr().cast::<u8>()),
            (DType::F16, halves.as_mut_ptr().cast()),
            (DType::BF16, upper.as_mut_ptr().cast()),
        ];
        for (dtype, data) in tensors {
            // SAFETY: the memory outlives the view and is not used meanwhile.
            let x = unsafe { TensorView::new(data, dtype, &[3, 100, channels]) }.expect("aligned");
            let loaded = x.to_f32();
            for (first, step, count) in [(0, 1, 300), (7, 3, 98), (299, 5, 1), (2, 1, 0)] {
                for isa in Isa::available() {
                    let machine = Machine::new(3, isa).expect("threads");
                    let which = Rows {
                        first,
                        step,
                        count,
                        channels,
                    };
                    let mut out = vec![f32::NAN; count * channels];
                    run(&machine, &x, which, 0.3, &mut out);
                    for (at, got) in out.iter().enumerate() {
                        let row = first + at / channels * step;
                        let want = loaded[row * channels + at % channels] * 0.3;
                        assert_eq!(got.to_bits(), want.to_bits(), "{dtype} {isa} {at}");
                    }
                }
            }
        }
    }

    #[test]
    fn cuda_loads_the_same() {
        let Some(gpu) = testing::machine() else {
            return;
        };
        let cpu = Machine::new(1, Isa::scalar()).expect("one thread");
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for (all, channels, place) in [
                (300, 131, 0),
                (40, 64, 0),
                (40, 64, 1),
                (9, 8, 4),
                (7, 1, 0),
            ] {
                let mut host = Host::noise(dtype, &[all, channels], 5);
                let there = OnGpu::copy_of(&gpu, &host.view(), place * dtype.size());
                for (first, step, count) in
                    [(0, 1, all), (2, 3, all / 3 - 1), (all - 1, 5, 1), (2, 1, 0)]
                {
                    let rows = Rows {
                        first,
                        step,
                        count,
                        channels,
                    };
                    let (mut want, mut got) = (
                        vec![f32::NAN; count * channels],
                        vec![f32::NAN; count * channels],
                    );
                    run(&cpu, &host.view(), rows, 0.3, &mut want);
                    run(&gpu, &there.view(), rows, 0.3, &mut got);
                    let what = format!("{dtype} {rows:?}");
                    testing::assert_same(&got, &want, &what);
                }
            }
        }
        let mut host = Host::of(DType::F32, &[1, 16], &testing::EDGES);
        let there = OnGpu::copy_of(&gpu, &host.view(), 0);
        let (mut want, mut got) = ([0.0; 16], [0.0; 16]);
        run(&cpu, &host.view(), Rows::leading(1, 16), 0.7, &mut want);
        run(&gpu, &there.view(), Rows::leading(1, 16), 0.7, &mut got);
        testing::assert_same(&got, &want, &"special values");
        testing::assert_no_failure(&gpu);
    }
}
