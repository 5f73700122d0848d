//! Tensors with memory of their own, as views for the library.
#![allow(dead_code, reason = "no test file uses all of it")]

use mq::format::half::{Bf16, F16};
use mq::tensor::{DType, TensorView};

/// A tensor with memory of its own, aligned for every dtype.
#[derive(Debug, Clone)]
pub struct Owned {
    pub dtype: DType,
    pub shape: Vec<usize>,
    memory: Vec<f32>,
}

impl Owned {
    pub fn zeros(dtype: DType, shape: &[usize]) -> Self {
        let bytes = shape.iter().product::<usize>() * dtype.size();
        Self {
            dtype,
            shape: shape.to_vec(),
            memory: vec![0.0; bytes.div_ceil(4)],
        }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let count = self.shape.iter().product::<usize>() * self.dtype.size();
        // SAFETY: plain floats seen as bytes; the memory holds at least `count` of them.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), count) }
    }

    /// A view to read from. Writing through it is what `view_mut` is for.
    pub fn view(&self) -> TensorView {
        // SAFETY: the memory holds the elements and outlives the view in these tests.
        unsafe {
            TensorView::new(
                self.memory.as_ptr().cast_mut().cast(),
                self.dtype,
                &self.shape,
            )
        }
        .expect("a valid shape")
    }

    pub fn view_mut(&mut self) -> TensorView {
        // SAFETY: as above, and borrowed exclusively when it is made.
        unsafe { TensorView::new(self.memory.as_mut_ptr().cast(), self.dtype, &self.shape) }
            .expect("a valid shape")
    }

    /// The same values in another type.
    #[allow(dead_code, reason = "not every test casts")]
    pub fn cast(&self, dtype: DType) -> Self {
        let mut cast = Self::zeros(dtype, &self.shape);
        let values = self.view().to_f32();
        let size = dtype.size();
        for (element, value) in cast.bytes_mut().chunks_exact_mut(size).zip(values) {
            match dtype {
                DType::F32 => element.copy_from_slice(&value.to_ne_bytes()),
                DType::F16 => element.copy_from_slice(&F16::from_f32(value).0.to_ne_bytes()),
                DType::BF16 => element.copy_from_slice(&Bf16::from_f32(value).0.to_ne_bytes()),
            }
        }
        cast
    }
}
