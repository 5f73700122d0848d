//! The patches of a convolution on the GPU. *Exact*: values are converted to float32 and copied.

use super::Patches;
use crate::kernels::cuda::{Elements, Gpu, launch};
use crate::tensor::TensorView;

/// `PatchParams` of the kernel.
#[repr(C)]
#[derive(Clone, Copy)]
struct PatchParams {
    channels: u64,
    input: [u64; 3],
    kernel: [u64; 3],
    stride: [u64; 3],
    padding: [u64; 3],
    dilation: [u64; 3],
    output: [u64; 3],
}

impl From<&Patches> for PatchParams {
    fn from(patches: &Patches) -> Self {
        let numbers = |of: [usize; 3]| of.map(|number| number as u64);
        Self {
            channels: patches.channels as u64,
            input: numbers(patches.input),
            kernel: numbers(patches.kernel),
            stride: numbers(patches.stride),
            padding: numbers(patches.padding),
            dilation: numbers(patches.dilation),
            output: numbers(patches.output),
        }
    }
}

/// Rows `first` to `first + count` of the patches of all channels, as [`super::run`] has them, to float32 values at an
/// address. Puts work on the stream, and waits for nothing.
pub(crate) fn rows(
    gpu: &Gpu,
    x: &TensorView,
    patches: &Patches,
    first: usize,
    count: usize,
    out: u64,
) {
    let volume: usize = patches.input.iter().product();
    assert_eq!(x.count(), patches.batch * patches.channels * volume, "x");
    assert!(first + count <= patches.tokens(), "rows");
    let width = patches.patch(patches.channels);
    if count * width == 0 {
        return;
    }
    let parts = (count * width / patches.kernel[2]) as u64;
    let blocks = gpu.blocks_for(parts.div_ceil(256));
    // SAFETY: the kernel of that signature; the input has the elements and the rows are its own (asserted), and the
    // caller has room for them.
    unsafe {
        launch!(gpu, "unfold", (blocks, 1);
            Elements::from(x), PatchParams::from(patches), first as u64, count as u64, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cuda::DeviceBuffer;
    use crate::kernels::cuda::testing::{self, Host, OnGpu};
    use crate::kernels::{Isa, Machine, unfold};
    use crate::tensor::DType;

    /// Extents of input and kernel, strides, padding, dilation.
    const MOVES: [[[usize; 3]; 5]; 7] = [
        [[1, 1, 1], [1, 1, 1], [1, 1, 1], [0, 0, 0], [1, 1, 1]],
        [[1, 1, 17], [1, 1, 5], [1, 1, 2], [0, 0, 3], [1, 1, 2]],
        [[1, 6, 7], [1, 3, 3], [1, 1, 1], [0, 1, 1], [1, 1, 1]],
        [[1, 9, 5], [1, 3, 2], [1, 2, 3], [0, 2, 0], [1, 3, 2]],
        [[4, 5, 6], [2, 3, 1], [1, 2, 2], [1, 0, 2], [2, 1, 1]],
        [[3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 1, 1], [1, 1, 1]],
        [[1, 1, 2], [1, 1, 1], [1, 1, 5], [0, 0, 0], [1, 1, 1]],
    ];

    #[test]
    fn patches_are_those_of_the_cpu_from_any_row_on() {
        let Some(machine) = testing::machine() else {
            return;
        };
        let gpu = machine.gpu().expect("a GPU");
        let cpu = Machine::new(1, Isa::scalar()).expect("a thread");
        for [input, kernel, stride, padding, dilation] in MOVES {
            let output = Patches::output(input, kernel, stride, padding, dilation).expect("fits");
            for (batch, channels, dtype, place) in [
                (1, 1, DType::F32, 0),
                (2, 3, DType::BF16, 1),
                (3, 2, DType::F16, 3),
            ] {
                let patches = Patches {
                    batch,
                    channels,
                    input,
                    kernel,
                    stride,
                    padding,
                    dilation,
                    output,
                };
                let mut x = Host::noise(dtype, &[batch, channels, input.iter().product()], 5);
                let there = OnGpu::copy_of(&machine, &x.view(), place * dtype.size());
                let width = patches.patch(channels);
                let mut want = vec![f32::NAN; patches.tokens() * width];
                let values = x.view().to_f32();
                unfold::run(&cpu, &values, &patches, 0, channels, &mut want);
                for (first, count) in [
                    (0, patches.tokens()),
                    (patches.tokens() / 3, patches.tokens().div_ceil(2)),
                    (patches.tokens(), 0),
                ] {
                    // A row that must stay as it was lies behind.
                    let mut got = vec![7.0f32; (count + 1) * width];
                    let out = DeviceBuffer::holding(gpu, &got).expect("memory");
                    rows(gpu, &there.view(), &patches, first, count, out.address());
                    out.read(&mut got).expect("a copy");
                    let what = format!("{patches:?} from {first}");
                    let (got, behind) = got.split_at(count * width);
                    testing::assert_same(got, &want[first * width..][..count * width], &what);
                    assert!(behind.iter().all(|value| *value == 7.0), "{what}");
                }
            }
        }
        testing::assert_no_failure(&machine);
    }
}
