//! Layers of many kinds: shapes, types, how a convolution moves.

use mq::model::{Convolution, LayerKind};
use mq::tensor::DType;

use crate::owned::Owned;

const F32: DType = DType::F32;
const F16: DType = DType::F16;
const BF16: DType = DType::BF16;

/// A layer, what enters it and the types of input, weight and gradient.
#[derive(Clone)]
pub struct Kind {
    pub name: &'static str,
    pub kind: LayerKind,
    pub x: Vec<usize>,
    pub weight: Vec<usize>,
    pub g: Vec<usize>,
    pub moves: Convolution,
    pub types: [DType; 3],
    /// The host computes it.
    pub is_hosts: bool,
}

fn linear(name: &'static str, [tokens, inputs, outputs]: [usize; 3], types: [DType; 3]) -> Kind {
    Kind {
        name,
        kind: LayerKind::Linear,
        x: vec![2, tokens, inputs],
        weight: vec![outputs, inputs],
        g: vec![2, tokens, outputs],
        moves: Convolution::default(),
        types,
        is_hosts: false,
    }
}

/// Linear layers, all of one type and mixed.
pub fn linears() -> Vec<Kind> {
    vec![
        linear("plain", [9, 48, 33], [F32; 3]),
        linear("half", [5, 64, 70], [BF16; 3]),
        linear("master_weight", [33, 32, 40], [BF16, F32, BF16]),
        linear("float_gradient", [7, 80, 17], [F16, F16, F32]),
        linear("float_input", [6, 16, 65], [F32, BF16, F16]),
    ]
}

fn conv(
    name: &'static str,
    [x, weight, g]: [&[usize]; 3],
    [stride, padding, dilation]: [[usize; 3]; 3],
    types: [DType; 3],
) -> Kind {
    Kind {
        name,
        kind: LayerKind::Conv {
            spatial: weight.len() - 2,
        },
        x: x.to_vec(),
        weight: weight.to_vec(),
        g: g.to_vec(),
        moves: Convolution {
            stride,
            padding,
            dilation,
        },
        types,
        is_hosts: false,
    }
}

/// Convolutions of one to three axes, with groups, strides, padding and dilation.
pub fn convolutions() -> Vec<Kind> {
    let one = [1; 3];
    vec![
        conv(
            "conv1d",
            [&[2, 6, 20], &[9, 6, 3], &[2, 9, 10]],
            [[2, 1, 1], [1, 0, 0], one],
            [F32; 3],
        ),
        conv(
            "conv2d",
            [&[2, 8, 9, 11], &[6, 4, 3, 3], &[2, 6, 9, 6]],
            [[1, 2, 1], [1, 1, 0], one],
            [BF16; 3],
        ),
        conv(
            "depthwise",
            [&[3, 5, 8, 8], &[5, 1, 3, 3], &[3, 5, 8, 8]],
            [one, [2, 2, 0], [2, 2, 1]],
            [F16, F32, F16],
        ),
        conv(
            "single",
            [&[4, 30, 5], &[66, 4, 1, 1], &[66, 30, 5]],
            [one, [0; 3], one],
            [F32, F32, BF16],
        ),
        conv(
            "conv3d",
            [&[1, 3, 4, 6, 5], &[4, 3, 2, 3, 2], &[1, 4, 3, 2, 6]],
            [[1, 2, 1], [0, 0, 1], [1, 1, 1]],
            [BF16, BF16, F32],
        ),
    ]
}

/// Layers that the host computes, one of them a linear one.
pub fn hosts() -> Vec<Kind> {
    let of = |name, kind, weight: &[usize], types| Kind {
        name,
        kind,
        x: vec![3, 70, 24],
        weight: weight.to_vec(),
        g: vec![3, 70, 24],
        moves: Convolution::default(),
        types,
        is_hosts: true,
    };
    vec![
        of("scale", LayerKind::Generic, &[24], [F32; 3]),
        of("gate", LayerKind::Generic, &[24], [BF16, F32, F16]),
        of("table", LayerKind::Linear, &[24, 24], [F16; 3]),
    ]
}

/// Numbers between -1 and 1 without any pattern that a format would like.
pub fn noise(dtype: DType, shape: &[usize], seed: usize) -> Owned {
    let mut owned = Owned::zeros(DType::F32, shape);
    for (i, value) in owned.bytes_mut().chunks_exact_mut(4).enumerate() {
        let number = ((i * 37 + seed * 101) as f32 * 0.7311).sin();
        value.copy_from_slice(&number.to_ne_bytes());
    }
    owned.cast(dtype)
}
