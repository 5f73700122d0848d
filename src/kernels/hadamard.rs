//! The Hadamard rotation of groups along the last axis: `y = x * H / sqrt(b)`, H of order b in Sylvester's
//! order, so that the rotation is its own inverse.
//!
//! Sums are taken in float32 in the order of the fast transform, the same on every instruction set, and
//! rounded once to the tensor's dtype.

use super::cuda::{Gpu, GpuError, GpuErrorKind, by_dtype, launch};
use super::element::{Element, with_element};
use super::isa::Loop;
use super::machine::Machine;
use super::pieces::PIECE;
use crate::tensor::TensorView;

/// Groups up to this size are transformed on the stack.
const ON_STACK: usize = 4096;

/// The largest group on a GPU: what a thread block has shared memory for.
const LARGEST_ON_GPU: usize = 8192;

/// Rotates `x` into `out`, which passed `x.check_out`. `group` is a power of two that divides the last
/// axis.
pub fn run(machine: &Machine, x: &TensorView, out: &TensorView, group: usize) {
    x.assert_out(out);
    assert!(
        group.is_power_of_two() && x.count().is_multiple_of(group),
        "group of {group}"
    );
    if let Some(gpu) = machine.gpu_of(x) {
        return gpu.note(run_resident(gpu, x, out, group));
    }
    let (x, out, isa, groups) = (*x, *out, machine.isa(), x.count() / group);
    let per_task = (PIECE / group).max(1);
    with_element!(x.dtype(), T => machine.for_each(groups.div_ceil(per_task), |task| {
        let mut stack = [0.0; ON_STACK];
        let mut heap = Vec::new();
        let scratch = match stack.get_mut(..group) {
            Some(scratch) => scratch,
            None => {
                heap.resize(group, 0.0);
                &mut heap[..]
            }
        };
        for i in task * per_task..((task + 1) * per_task).min(groups) {
            // SAFETY: the group lies within both tensors (asserted), which are ours to use (contract of
            // the view); it is read whole before it is written, so that they may be the same.
            unsafe {
                let from = x.data().cast::<T>().add(i * group);
                let to = out.data().cast::<T>().add(i * group);
                for (j, value) in scratch.iter_mut().enumerate() {
                    *value = from.add(j).read().load();
                }
                isa.run(Transform(scratch));
                for (j, value) in scratch.iter().enumerate() {
                    to.add(j).write(T::store(*value));
                }
            }
        }
    }));
}

/// The same in device memory: puts work on the stream and does nothing else. Errors for groups that a thread block does
/// not hold.
pub(crate) fn run_resident(
    gpu: &Gpu,
    x: &TensorView,
    out: &TensorView,
    group: usize,
) -> Result<(), GpuError> {
    x.assert_out(out);
    let (name, held) = match group {
        ..=4096 => (by_dtype!("hadamard_4096", x), 4096),
        4097..=LARGEST_ON_GPU => (by_dtype!("hadamard_8192", x), LARGEST_ON_GPU as u64),
        _ => {
            return Err(GpuError::new(
                GpuErrorKind::Unsupported,
                format!(
                    "a rotation in groups of {group} is not done in device memory by this version; set \
                     rotate.block_size to {LARGEST_ON_GPU} or less"
                ),
            ));
        }
    };
    let count = x.count() as u64;
    if count == 0 {
        return Ok(());
    }
    // SAFETY: the kernel of that signature; both tensors have the elements, in whole groups.
    unsafe {
        launch!(gpu, name, (gpu.blocks_for(count.div_ceil(held)), 1);
            x.address(), out.address(), count, group as u32, factor(group));
    }
    Ok(())
}

/// What the sums of a group are multiplied with.
#[inline(always)]
fn factor(group: usize) -> f32 {
    1.0 / (group as f32).sqrt()
}

struct Transform<'a>(&'a mut [f32]);

impl Loop for Transform<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let values = self.0;
        let mut half = 1;
        while half < values.len() {
            for pair in values.chunks_exact_mut(2 * half) {
                let (low, high) = pair.split_at_mut(half);
                for (a, b) in low.iter_mut().zip(high) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half *= 2;
        }
        let factor = factor(values.len());
        for value in values {
            *value *= factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::f32::consts::SQRT_2;

    use super::*;
    use crate::kernels::Isa;
    use crate::kernels::cuda::testing::{self, OnGpu};
    use crate::tensor::DType;

    fn rotate(values: &mut [f32], group: usize, isa: Isa) {
        let shape = [values.len()];
        // SAFETY: the slice outlives the view and is not used meanwhile.
        let view = unsafe { TensorView::new(values.as_mut_ptr().cast(), DType::F32, &shape) };
        let view = view.expect("aligned");
        run(&Machine::new(2, isa).expect("threads"), &view, &view, group);
    }

    #[test]
    fn eight_values_as_in_the_specification() {
        let mut x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        rotate(&mut x, 8, Isa::scalar());
        let want = [
            12.727_922,
            -SQRT_2,
            -2.0 * SQRT_2,
            0.0,
            -4.0 * SQRT_2,
            0.0,
            0.0,
            0.0,
        ];
        for (x, want) in x.iter().zip(want) {
            assert!((x - want).abs() < 1e-5, "{x} {want}");
        }
    }

    #[test]
    fn it_is_its_own_inverse_and_the_same_on_every_instruction_set() {
        let x: Vec<f32> = (0..8192 * 3)
            .map(|i| ((i * 37) % 101) as f32 - 50.0)
            .collect();
        for group in [1, 2, 16, 256, 8192] {
            let mut first = x.clone();
            rotate(&mut first, group, Isa::scalar());
            for isa in Isa::available() {
                let mut again = x.clone();
                rotate(&mut again, group, isa);
                assert_eq!(again, first, "{isa}");
            }
            rotate(&mut first, group, Isa::scalar());
            for (back, x) in first.iter().zip(&x) {
                assert!((back - x).abs() < 1e-3, "{back} {x}");
            }
        }
    }

    #[test]
    fn a_gpu_gives_the_bits_of_the_cpu() {
        let Some(gpu) = testing::machine() else {
            return;
        };
        let cpu = Machine::new(1, Isa::best(None)).expect("a thread");
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for (group, groups) in [
                (1, 5),
                (2, 3),
                (16, 33),
                (64, 0),
                (128, 70),
                (4096, 3),
                (8192, 2),
            ] {
                let count = group * groups;
                let mut bytes: Vec<u32> = (0..count)
                    .map(|i| match dtype {
                        DType::F32 => (((i * 37) % 101) as f32 / 7.0 - 7.0).to_bits(),
                        // Two finite numbers of either type.
                        _ => (i as u32).wrapping_mul(2_654_435_761) & 0xbfff_bfff,
                    })
                    .collect();
                // SAFETY: the memory outlives the view, and nobody else uses it meanwhile.
                let x = unsafe { TensorView::new(bytes.as_mut_ptr().cast(), dtype, &[count]) };
                let x = x.expect("aligned");
                let there = OnGpu::copy_of(&gpu, &x, dtype.size());
                let apart = OnGpu::copy_of(&gpu, &x, 0);
                run(&gpu, &there.view(), &apart.view(), group);
                run(&gpu, &there.view(), &there.view(), group);
                run(&cpu, &x, &x, group);
                for got in [apart, there] {
                    testing::assert_same(&got.values(), &x.to_f32(), &format!("{dtype} {group}"));
                }
                testing::assert_no_failure(&gpu);
            }
        }
        let mut large = vec![0.0f32; 16384];
        let large = TensorView::over(&mut large, &[16384]).expect("room");
        let there = OnGpu::copy_of(&gpu, &large, 0);
        run(&gpu, &there.view(), &there.view(), 16384);
        let refused = gpu.take_failure().expect_err("too large a group");
        assert!(refused.text.contains("groups of 16384"), "{}", refused.text);
    }
}
