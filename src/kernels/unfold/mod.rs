//! A convolution as a product: the patches of its input as rows ("im2col"), and its output or a gradient with
//! channels last.
//!
//! *Exact*: values are copied.

pub(crate) mod cuda;

use super::machine::Machine;

/// Sizes of a convolution over three spatial axes; those that it does not have are 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patches {
    /// Images.
    pub batch: usize,
    /// Channels of the whole input.
    pub channels: usize,
    /// Extents of the input.
    pub input: [usize; 3],
    /// Extents of the kernel.
    pub kernel: [usize; 3],
    /// Steps of the kernel.
    pub stride: [usize; 3],
    /// Zeros on either side.
    pub padding: [usize; 3],
    /// Distance of the kernel's elements.
    pub dilation: [usize; 3],
    /// Extents of the output.
    pub output: [usize; 3],
}

impl Patches {
    /// Extents of the output; None when the kernel does not fit, or a stride or dilation is 0.
    pub fn output(
        input: [usize; 3],
        kernel: [usize; 3],
        stride: [usize; 3],
        padding: [usize; 3],
        dilation: [usize; 3],
    ) -> Option<[usize; 3]> {
        let mut output = [0; 3];
        for axis in 0..3 {
            let reach = dilation[axis]
                .checked_mul(kernel[axis].checked_sub(1)?)?
                .checked_add(1)?;
            let room = input[axis]
                .checked_add(padding[axis].checked_mul(2)?)?
                .checked_sub(reach)?;
            output[axis] = room.checked_div(stride[axis])?.checked_add(1)?;
        }
        (!dilation.contains(&0)).then_some(output)
    }

    /// Places of the output, over all images; more than memory could hold are as many as there are numbers.
    pub fn tokens(&self) -> usize {
        let places = self.output.iter();
        places.fold(self.batch, |all, extent| all.saturating_mul(*extent))
    }

    /// Elements of a patch of so many channels.
    pub fn patch(&self, channels: usize) -> usize {
        channels * self.kernel.iter().product::<usize>()
    }
}

/// Row `t` of `out` is the patch under place `t` of the output, of `count` channels from `first` on: `[tokens,
/// count * kernel]`. `x` is `[batch, channels, input...]`.
pub fn run(
    machine: &Machine,
    x: &[f32],
    patches: &Patches,
    first: usize,
    count: usize,
    out: &mut [f32],
) {
    let volume: usize = patches.input.iter().product();
    assert_eq!(x.len(), patches.batch * patches.channels * volume, "x");
    assert!(first + count <= patches.channels, "channels");
    let width = patches.patch(count);
    assert_eq!(out.len(), patches.tokens() * width, "out");
    if width == 0 {
        return;
    }
    // Rows of the output's last axis are tasks.
    let row = patches.output[2] * width;
    let rows = out.chunks_exact_mut(row.max(1));
    let rows: Vec<std::sync::Mutex<&mut [f32]>> = rows.map(std::sync::Mutex::new).collect();
    machine.for_each(rows.len(), |at| {
        // Each task has a row of its own: nobody waits, and nobody can have panicked with it.
        let mut to = rows[at]
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let (image, d, h) = (
            at / (patches.output[0] * patches.output[1]),
            at / patches.output[1] % patches.output[0],
            at % patches.output[1],
        );
        for (w, to) in to.chunks_exact_mut(width).enumerate() {
            fill(x, patches, [image, first, count], [d, h, w], to);
        }
    });
}

/// One patch.
fn fill(x: &[f32], p: &Patches, [image, first, count]: [usize; 3], at: [usize; 3], to: &mut [f32]) {
    let [depth, height, width] = p.input;
    let source = |axis: usize, k: usize| {
        let place = at[axis] * p.stride[axis] + k * p.dilation[axis];
        place
            .checked_sub(p.padding[axis])
            .filter(|place| *place < p.input[axis])
    };
    let mut to = to.iter_mut();
    for channel in first..first + count {
        let plane = (image * p.channels + channel) * depth * height * width;
        for kd in 0..p.kernel[0] {
            for kh in 0..p.kernel[1] {
                let line = source(0, kd).zip(source(1, kh));
                let line = line.map(|(d, h)| plane + (d * height + h) * width);
                for kw in 0..p.kernel[2] {
                    let found = line.zip(source(2, kw)).map_or(0.0, |(line, w)| x[line + w]);
                    if let Some(to) = to.next() {
                        *to = found;
                    }
                }
            }
        }
    }
}

/// `out[t, c] = x[image, first + c, place]` for `t = image * places + place`: some channels of `[batch, channels,
/// places]`, last.
pub fn channels_last(
    x: &[f32],
    [batch, channels, places]: [usize; 3],
    first: usize,
    count: usize,
    out: &mut [f32],
) {
    assert_eq!(x.len(), batch * channels * places, "x");
    assert!(first + count <= channels, "channels");
    assert_eq!(out.len(), batch * places * count, "out");
    for image in 0..batch {
        for c in 0..count {
            let from = &x[(image * channels + first + c) * places..][..places];
            let to = out[image * places * count..]
                .iter_mut()
                .skip(c)
                .step_by(count.max(1));
            for (to, from) in to.zip(from) {
                *to = *from;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_patch_is_what_its_place_sees(
            batch in 1usize..3, channels in 1usize..4, extents in prop::array::uniform3(1usize..5),
            kernel in prop::array::uniform3(1usize..4), stride in prop::array::uniform3(1usize..3),
            padding in prop::array::uniform3(0usize..3), dilation in prop::array::uniform3(1usize..3),
            first in 0usize..3, threads in 1usize..3,
        ) {
            prop_assume!(first < channels);
            let Some(output) = Patches::output(extents, kernel, stride, padding, dilation) else {
                return Ok(());
            };
            let p = Patches { batch, channels, input: extents, kernel, stride, padding, dilation, output };
            let volume: usize = extents.iter().product();
            let x: Vec<f32> = (1..=batch * channels * volume).map(|i| i as f32).collect();
            let count = channels - first;
            let mut out = vec![f32::NAN; p.tokens() * p.patch(count)];
            run(&Machine::new(threads, Isa::scalar()).expect("threads"), &x, &p, first, count, &mut out);
            let mut at = 0;
            for image in 0..batch {
                for (od, oh, ow) in places(output) {
                    for c in first..channels {
                        for (kd, kh, kw) in places(kernel) {
                            let place = |o: usize, k: usize, axis: usize| {
                                (o * stride[axis] + k * dilation[axis]) as i64 - padding[axis] as i64
                            };
                            let [d, h, w] = [place(od, kd, 0), place(oh, kh, 1), place(ow, kw, 2)];
                            let inside = [d, h, w].iter().zip(extents).all(|(i, n)| *i >= 0 && *i < n as i64);
                            let [_, height, width] = extents.map(|n| n as i64);
                            let plane = ((image * channels + c) * volume) as i64;
                            let index = plane + (d * height + h) * width + w;
                            let want = if inside { x[index as usize] } else { 0.0 };
                            prop_assert_eq!(out[at], want);
                            at += 1;
                        }
                    }
                }
            }
            prop_assert_eq!(at, out.len());
        }
    }

    fn places(extents: [usize; 3]) -> impl Iterator<Item = (usize, usize, usize)> {
        let [a, b, c] = extents;
        (0..a).flat_map(move |i| (0..b).flat_map(move |j| (0..c).map(move |k| (i, j, k))))
    }

    #[test]
    fn what_cannot_be_is_refused_and_channels_move_last() {
        let one = [1; 3];
        assert_eq!(
            Patches::output([1, 1, 2], [1, 1, 3], one, [0; 3], one),
            None
        );
        assert_eq!(
            Patches::output([1, 1, 2], [1, 1, 3], one, [0, 0, 1], one),
            Some([1, 1, 2])
        );
        assert_eq!(Patches::output(one, one, [1, 0, 1], [0; 3], one), None);
        assert_eq!(Patches::output(one, one, one, [0; 3], [1, 1, 0]), None);
        let x: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let mut out = vec![0.0; 8];
        channels_last(&x, [2, 3, 2], 1, 2, &mut out);
        assert_eq!(out, [2.0, 4.0, 3.0, 5.0, 8.0, 10.0, 9.0, 11.0]);
    }
}
