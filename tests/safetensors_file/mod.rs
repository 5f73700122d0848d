//! Tensors of a safetensors file.
#![allow(dead_code, reason = "no test file uses all of it")]

use mq::tensor::DType;
use safetensors::{Dtype, SafeTensors};

use crate::owned::Owned;

/// A parsed file.
pub struct Tensors<'a>(SafeTensors<'a>);

impl<'a> Tensors<'a> {
    pub fn parse(bytes: &'a [u8]) -> Self {
        Self(SafeTensors::deserialize(bytes).expect("a safetensors file"))
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        let mut names = self.0.names();
        names.sort();
        names.into_iter()
    }

    pub fn find(&self, name: &str) -> Option<Owned> {
        let tensor = self.0.tensor(name).ok()?;
        let dtype = match tensor.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => panic!("{name}: {other:?}"),
        };
        let mut owned = Owned::zeros(dtype, tensor.shape());
        owned.bytes_mut().copy_from_slice(tensor.data());
        Some(owned)
    }

    pub fn get(&self, name: &str) -> Owned {
        self.find(name)
            .unwrap_or_else(|| panic!("{name} is not in the file"))
    }
}
