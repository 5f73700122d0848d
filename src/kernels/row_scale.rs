//! Multiplies the rows of a matrix in place, or the values of a norm's gain: what takes over the
//! `pre_quant_scale` of the layer that reads the result.

use super::element::{Element, with_element};
use super::machine::Machine;
use crate::tensor::TensorView;

/// `x[r, ..] *= scale[r]`, rounded to the tensor's type; `x` has as many rows as there are factors.
pub fn rows(machine: &Machine, x: &TensorView, scale: &[f32]) {
    if machine.refuses("scaling of rows", x) {
        return;
    }
    assert_eq!(x.shape().dims().first(), Some(&scale.len()), "rows");
    if x.count() == 0 {
        return;
    }
    let (columns, x) = (x.count() / scale.len(), *x);
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
pub fn gain(gain: &TensorView, scale: &[f32], adds_one: bool) {
    assert_eq!(gain.count(), scale.len(), "channels");
    if gain.count() == 0 {
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
    use crate::tensor::DType;

    fn view(values: &mut [f32], extents: &[usize]) -> TensorView {
        // SAFETY: the memory outlives the view in these tests, and nobody else uses it meanwhile.
        unsafe { TensorView::new(values.as_mut_ptr().cast(), DType::F32, extents) }.expect("valid")
    }

    #[test]
    fn rows_are_scaled_each_by_its_own() {
        let machine = Machine::new(2, crate::kernels::Isa::best(None)).expect("threads");
        let mut x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        rows(&machine, &view(&mut x, &[3, 2]), &[2.0, 0.5, -1.0]);
        assert_eq!(x, [2.0, 4.0, 1.5, 2.0, -5.0, -6.0]);
    }

    #[test]
    fn a_gain_that_adds_one_is_scaled_with_its_one() {
        let mut x = [0.5, -0.25];
        gain(&view(&mut x, &[2]), &[2.0, 4.0], true);
        assert_eq!(x, [2.0, 2.0]);
        gain(&view(&mut x, &[2]), &[0.5, 0.25], false);
        assert_eq!(x, [1.0, 0.5]);
    }
}
