//! Multiplies the rows of a matrix in place, or the values of a norm's gain: what takes over the
//! `pre_quant_scale` of the layer that reads the result.

use super::cuda::{DeviceBuffer, GpuError, by_dtype, launch};
use super::element::{Element, with_element};
use super::machine::Machine;
use crate::tensor::TensorView;

/// Factors, with a copy on the machine's GPU if it has one: then scaling asks for no memory any more.
pub struct Factors<'a> {
    here: &'a [f32],
    there: Option<DeviceBuffer>,
}

impl<'a> Factors<'a> {
    /// Copies them. Errors when there is no memory, or a stream is being captured.
    pub fn new(machine: &Machine, factors: &'a [f32]) -> Result<Self, GpuError> {
        let there = machine.gpu().map(|gpu| DeviceBuffer::holding(gpu, factors));
        Ok(Self {
            here: factors,
            there: there.transpose()?,
        })
    }

    fn address(&self) -> u64 {
        self.there.as_ref().map_or(0, DeviceBuffer::address)
    }
}

/// `x[r, ..] *= scale[r]`, rounded to the tensor's type; `x` has as many rows as there are factors.
pub fn rows(machine: &Machine, x: &TensorView, factors: &Factors<'_>) {
    let scale = factors.here;
    assert_eq!(x.shape().dims().first(), Some(&scale.len()), "rows");
    if x.count() == 0 {
        return;
    }
    let (columns, x) = (x.count() / scale.len(), *x);
    if let Some(gpu) = machine.gpu_of(&x) {
        let (count, columns) = (x.count() as u64, columns as u64);
        // SAFETY: the kernel of that signature; the tensor has the elements, and there is a factor for each row.
        unsafe {
            launch!(gpu, by_dtype!("scale_rows", x), (gpu.blocks_for(count.div_ceil(2048)), 1);
                x.address(), count, columns, factors.address());
        }
        return;
    }
    with_element!(x.dtype(), T => machine.for_each(scale.len(), |row| {
        // SAFETY: the row lies within the tensor, no other task has it, and it is ours to write to (contract of
        // the view).
        let values = unsafe {
            std::slice::from_raw_parts_mut(x.data().cast::<T>().add(row * columns), columns)
        };
        for value in values {
            *value = T::store(value.load() * scale[row]);
        }
    }));
}

/// `gain[i] = (gain[i] + one) * scale[i] - one` with `one` 1 for a norm that adds one to its gain, else 0.
pub fn gain(machine: &Machine, gain: &TensorView, factors: &Factors<'_>, adds_one: bool) {
    let scale = factors.here;
    assert_eq!(gain.count(), scale.len(), "channels");
    if gain.count() == 0 {
        return;
    }
    if let Some(gpu) = machine.gpu_of(gain) {
        let (count, adds_one) = (gain.count() as u64, u32::from(adds_one));
        // SAFETY: the kernel of that signature; the gain has the elements, and there is a factor for each.
        unsafe {
            launch!(gpu, by_dtype!("scale_gain", gain), (gpu.blocks_for(count.div_ceil(2048)), 1);
                gain.address(), count, factors.address(), adds_one);
        }
        return;
    }
    with_element!(gain.dtype(), T => {
        // SAFETY: the tensor's elements, ours to write to (contract of the view).
        let values = unsafe {
            std::slice::from_raw_parts_mut(gain.data().cast::<T>(), gain.count())
        };
        for (value, scale) in values.iter_mut().zip(scale) {
            *value = T::store(scaled(value.load(), *scale, adds_one));
        }
    });
}

/// One value of a gain after scaling, before it is rounded.
pub fn scaled(gain: f32, scale: f32, adds_one: bool) -> f32 {
    match adds_one {
        true => (1.0 + gain) * scale - 1.0,
        false => gain * scale,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cuda::testing::{self, OnGpu};
    use crate::tensor::DType;

    fn view(values: &mut [f32], extents: &[usize]) -> TensorView {
        // SAFETY: the memory outlives the view in these tests, and nobody else uses it meanwhile.
        unsafe { TensorView::new(values.as_mut_ptr().cast(), DType::F32, extents) }.expect("valid")
    }

    fn of<'a>(machine: &Machine, factors: &'a [f32]) -> Factors<'a> {
        Factors::new(machine, factors).expect("room")
    }

    #[test]
    fn rows_are_scaled_each_by_its_own() {
        let machine = Machine::new(2, crate::kernels::Isa::best(None)).expect("threads");
        let mut x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        rows(
            &machine,
            &view(&mut x, &[3, 2]),
            &of(&machine, &[2.0, 0.5, -1.0]),
        );
        assert_eq!(x, [2.0, 4.0, 1.5, 2.0, -5.0, -6.0]);
    }

    #[test]
    fn a_gain_that_adds_one_is_scaled_with_its_one() {
        let machine = Machine::new(1, crate::kernels::Isa::best(None)).expect("a thread");
        let mut x = [0.5, -0.25];
        gain(
            &machine,
            &view(&mut x, &[2]),
            &of(&machine, &[2.0, 4.0]),
            true,
        );
        assert_eq!(x, [2.0, 2.0]);
        gain(
            &machine,
            &view(&mut x, &[2]),
            &of(&machine, &[0.5, 0.25]),
            false,
        );
        assert_eq!(x, [1.0, 0.5]);
    }

    #[test]
    fn a_gpu_gives_the_bits_of_the_cpu() {
        let Some(gpu) = testing::machine() else {
            return;
        };
        let cpu = Machine::new(1, crate::kernels::Isa::best(None)).expect("a thread");
        let mut values: Vec<f32> = (0..37 * 19).map(|i| 0.37 * i as f32 - 100.0).collect();
        let scale: Vec<f32> = (0..37).map(|i| 0.3 * i as f32 + 0.1).collect();
        let x = view(&mut values, &[37, 19]);
        let there = OnGpu::copy_of(&gpu, &x, 4);
        rows(&gpu, &there.view(), &of(&gpu, &scale));
        rows(&cpu, &x, &of(&cpu, &scale));
        testing::assert_same(&there.values(), &x.to_f32(), &"rows");
        for adds_one in [false, true] {
            let x = view(&mut values[..37], &[37]);
            let there = OnGpu::copy_of(&gpu, &x, 0);
            gain(&gpu, &there.view(), &of(&gpu, &scale), adds_one);
            gain(&cpu, &x, &of(&cpu, &scale), adds_one);
            testing::assert_same(&there.values(), &x.to_f32(), &"gain");
        }
        testing::assert_no_failure(&gpu);
    }
}
