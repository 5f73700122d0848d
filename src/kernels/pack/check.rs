//! Proves that decoding what was encoded is fake quantization, on every path, and that codes lie where
//! the layouts say.

use proptest::prelude::*;

use super::{Coding, Nf4Scales, Scaling, decode, encode, fake_nf4};
use crate::format::half::{Bf16, F16};
use crate::format::int::IntGrid;
use crate::format::{mx, nvfp4};
use crate::kernels::cuda::testing::{self, OnGpu};
use crate::kernels::fake_quant::{Format, MxFormat, scalar};
use crate::kernels::{Grid, Isa, Machine, absmax};
use crate::tensor::{DType, Shape, TensorView};

const INT8: IntGrid = IntGrid {
    max: 127.0,
    min: -128.0,
};
const INT4: IntGrid = IntGrid {
    max: 7.0,
    min: -8.0,
};
const NVFP4: Coding = Coding::Nvfp4 { global_scale: 0.01 };
const NVFP4_STATIC: Coding = Coding::Nvfp4Static { scale_amax: 10.0 };

/// Codings with the fake quantization they stand for.
const CODINGS: [(Coding, Format); 7] = [
    (Coding::Int8(INT8), Format::Int(INT8)),
    (Coding::Int4(INT4), Format::Int(INT4)),
    (Coding::E4m3, Format::E4m3),
    (Coding::MxE4m3, Format::Mx(MxFormat::E4m3)),
    (Coding::MxE2m1, Format::Mx(MxFormat::E2m1)),
    (NVFP4, Format::Nvfp4 { global_scale: 0.01 }),
    (NVFP4_STATIC, Format::Nvfp4Static { scale_amax: 10.0 }),
];

/// Memory for a tensor of any dtype.
struct Tensor {
    memory: Vec<f32>,
    dtype: DType,
    shape: Vec<usize>,
}

impl Tensor {
    fn new(dtype: DType, shape: &[usize], values: &[f32]) -> Self {
        let mut memory = vec![0.0f32; values.len()];
        let half = |values: &[f32], to: fn(f32) -> u16| -> Vec<f32> {
            let codes: Vec<u16> = values.iter().map(|v| to(*v)).collect();
            let pair = |c: &[u16]| {
                let high = c.get(1).copied().unwrap_or(0);
                f32::from_bits(u32::from(c[0]) | u32::from(high) << 16)
            };
            codes.chunks(2).map(pair).collect()
        };
        match dtype {
            DType::F32 => memory.copy_from_slice(values),
            DType::F16 => memory = half(values, |v| F16::from_f32(v).0),
            DType::BF16 => memory = half(values, |v| Bf16::from_f32(v).0),
        }
        Self {
            memory,
            dtype,
            shape: shape.to_vec(),
        }
    }

    fn view(&mut self) -> TensorView {
        // SAFETY: the memory holds the elements, and the tests use one view at a time.
        unsafe { TensorView::new(self.memory.as_mut_ptr().cast(), self.dtype, &self.shape) }
            .expect("aligned")
    }
}

fn scales(coding: Coding, amax: &[f32]) -> Vec<u8> {
    let code = |a: &f32| match coding {
        Coding::MxE4m3 => mx::scale_code(*a, 448.0),
        Coding::MxE2m1 => mx::scale_code(*a, 6.0),
        Coding::Nvfp4 { global_scale } => {
            nvfp4::scale_code(*a, nvfp4::block_scale(*a, global_scale))
        }
        Coding::Nvfp4Static { scale_amax } => {
            nvfp4::scale_code(*a, nvfp4::static_scale_parts(*a, scale_amax).0)
        }
        _ => 0,
    };
    amax.iter().map(code).collect()
}

fn scaling<'a>(coding: Coding, amax: &'a [f32], codes: &'a [u8]) -> Scaling<'a> {
    match coding {
        Coding::Int8(grid) | Coding::Int4(grid) => Scaling::OfInt(grid, amax),
        Coding::E4m3 => Scaling::OfE4m3(amax),
        Coding::MxE4m3 | Coding::MxE2m1 => Scaling::Exponents(codes),
        Coding::Nvfp4 { global_scale } => Scaling::Nvfp4(codes, global_scale),
        Coding::Nvfp4Static { scale_amax } => {
            Scaling::Nvfp4(codes, nvfp4::static_scale_parts(0.0, scale_amax).1)
        }
        Coding::Nf4 => panic!("has scales of its own"),
    }
}

/// The same bits; of integers the sign of a zero may differ, as there is no code for it.
fn assert_same(got: &[f32], want: &[f32], integers: bool, what: &str) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let same = g.to_bits() == w.to_bits() || integers && *g == 0.0 && *w == 0.0;
        assert!(same, "{what}: element {i} is {g:e}, expected {w:e}");
    }
}

/// Every coding, dtype, instruction set and number of threads on one tensor.
fn check(values: &[f32], shape: &[usize], blocks: &[usize]) {
    let grid = Grid::new(&Shape::new(shape).expect("small"), blocks);
    // Zero, tiny and ordinary blocks; some clip.
    let given: Vec<f32> = (0..grid.num_blocks())
        .map(|i| [3.25, 0.0, 127.0, 1e-9, 448.0, 0.7][i % 6])
        .collect();
    for (coding, format) in CODINGS {
        let mut amax = given.clone();
        if matches!(format, Format::Mx(_)) {
            // The blocks' own: a power of two stands for it, and 0 only for zeros.
            let machine = Machine::new(1, Isa::scalar()).expect("one thread");
            let mut x = Tensor::new(DType::F32, shape, values);
            absmax::run(&machine, &x.view(), &grid, &mut amax);
        }
        let nibbles = coding.elements().high_nibble_first().is_some();
        if nibbles && !values.len().is_multiple_of(2) {
            continue;
        }
        let codes = scales(coding, &amax);
        let integers = matches!(coding, Coding::Int8(_) | Coding::Int4(_));
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let mut x = Tensor::new(dtype, shape, values);
            let mut want = Tensor::new(dtype, shape, values);
            let mut got = Tensor::new(dtype, shape, values);
            // The definition, with one rounding to the dtype.
            let (n, block) = grid.row();
            let mut y = want.view().to_f32();
            let amax_of = |i: usize| amax[grid.first_block_of_row(i / n) + i % n / block];
            scalar::run(&mut y, amax_of, format);
            want = Tensor::new(dtype, shape, &y);
            let mut first: Option<Vec<u8>> = None;
            if let Some(gpu) = testing::machine() {
                let what = format!("{coding:?} {dtype} {shape:?} / {blocks:?} on a GPU");
                let there = OnGpu::copy_of(&gpu, &x.view(), dtype.size());
                let mut packed = vec![0xa5; coding.elements().bytes(values.len())];
                encode(&gpu, &there.view(), &grid, &amax, coding, &mut packed);
                let target = OnGpu::copy_of(&gpu, &got.view(), 2 * dtype.size());
                let scaling = scaling(coding, &amax, &codes);
                let elements = coding.elements();
                decode(&gpu, &packed, &grid, elements, scaling, &target.view());
                testing::assert_no_failure(&gpu);
                assert_same(&target.values(), &want.view().to_f32(), integers, &what);
                first = Some(packed);
            }
            for isa in Isa::available() {
                for threads in [1, 3] {
                    let machine = Machine::new(threads, isa).expect("threads");
                    let mut packed = vec![0xa5; coding.elements().bytes(values.len())];
                    encode(&machine, &x.view(), &grid, &amax, coding, &mut packed);
                    assert_eq!(first.get_or_insert_with(|| packed.clone()), &packed);
                    decode(
                        &machine,
                        &packed,
                        &grid,
                        coding.elements(),
                        scaling(coding, &amax, &codes),
                        &got.view(),
                    );
                    let what = format!("{coding:?} {dtype} {shape:?} / {blocks:?} on {isa}");
                    assert_same(&got.view().to_f32(), &want.view().to_f32(), integers, &what);
                }
            }
        }
    }
}

#[test]
fn every_granularity_comes_back() {
    let values: Vec<f32> = (0..3 * 6 * 34)
        .map(|i| [0.0, -0.0, 0.3, -0.26, 3.25, -127.5, 0.05, -1e-9, 500.0][i % 9] * (i % 7) as f32)
        .collect();
    for blocks in [
        [3, 6, 34],
        [1, 6, 34],
        [3, 1, 34],
        [3, 6, 1],
        [1, 1, 16],
        [1, 1, 15],
        [1, 4, 16],
        [1, 1, 1],
    ] {
        check(&values, &[3, 6, 34], &blocks);
    }
}

/// More elements than a task has, with blocks that do not divide it.
#[test]
fn tasks_join_without_a_seam() {
    let count = 2 * 32 * 1024 + 2046;
    let values: Vec<f32> = (0..count).map(|i| (i % 1999) as f32 - 999.5).collect();
    for (shape, blocks) in [
        ([1, count], [1, 48]),
        ([count / 2, 2], [count / 2, 2]),
        ([count / 2, 2], [1, 2]),
    ] {
        check(&values, &shape, &blocks);
    }
}

/// The row of the specification, in all layouts.
const ROW: [f32; 16] = [
    0.0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0, -0.25, -0.75, -1.75, -0.1, 0.1, -6.0, 0.5,
];

fn codes(values: &[f32], block: usize, amax: &[f32], coding: Coding) -> Vec<u8> {
    let n = values.len();
    let grid = Grid::new(&Shape::new(&[n]).expect("small"), &[block]);
    let mut out = vec![0; coding.elements().bytes(n)];
    let machine = Machine::new(1, Isa::scalar()).expect("one thread");
    let mut x = Tensor::new(DType::F32, &[n], values);
    encode(&machine, &x.view(), &grid, amax, coding, &mut out);
    out
}

#[test]
fn nvfp4_codes_of_the_specification() {
    let global_scale = nvfp4::global_scale(6.0);
    let coding = Coding::Nvfp4 { global_scale };
    assert_eq!(
        codes(&ROW, 16, &[6.0], coding),
        [0, 34, 68, 102, 135, 202, 8, 31]
    );
    assert_eq!(
        scales(coding, &[6.0, 0.0, 0.01, 1e-4]),
        [0x7e, 0x38, 0x34, 0x04]
    );
    assert_eq!(crate::format::e4m3::decode(0x34), 0.75);
    assert_eq!(crate::format::e4m3::decode(0x04), 0.0078125);
    // A scale that vanishes is stored as the smallest one; its elements are zero all the same.
    assert_eq!(scales(coding, &[1e-7]), [1]);
    assert_eq!(codes(&[1e-7, -1e-7], 2, &[1e-7], coding), [0x80]);
    let mut second = [0.0; 32];
    second[..16].copy_from_slice(&[
        0.1, -0.7, 1.0, 3.3, -5.2, 0.0, 6.1, 0.01, 0.3, -0.3, 2.2, -2.6, 4.4, 5.0, -0.05, 1.6,
    ]);
    for (i, value) in second[16..].iter_mut().enumerate() {
        *value = 0.01 * (i + 1) as f32;
    }
    let coding = Coding::Nvfp4 {
        global_scale: nvfp4::global_scale(6.1),
    };
    assert_eq!(scales(coding, &[6.1, 0.16]), [0x7e, 0x54]);
    assert_eq!(
        codes(&second, 16, &[6.1, 0.16], coding)[..8],
        [144, 82, 15, 7, 145, 212, 102, 56]
    );
}

/// The bytes of the reference ([8, 33, 67, 101, 135, 185, 8, 31]) round ties down and give zero a sign;
/// ours are those of fake quantization: ties to even, zeros with their own sign.
#[test]
fn mxfp4_codes_are_those_of_fake_quantization() {
    assert_eq!(
        codes(&ROW, 16, &[6.0], Coding::MxE2m1),
        [0, 34, 68, 102, 135, 202, 8, 31]
    );
    assert_eq!(scales(Coding::MxE2m1, &[6.0, 0.0]), [127, 0]);
}

#[test]
fn int4_codes_of_the_specification() {
    let block = [-7.0, -3.5, 0.0, 1.0, 2.49, 2.5, 3.5, 7.0];
    assert_eq!(
        codes(&block, 8, &[7.0], Coding::Int4(INT4)),
        [20, 137, 170, 207]
    );
    assert_eq!(codes(&[0.0, -0.0], 2, &[0.0], Coding::Int4(INT4)), [0x88]);
}

#[test]
fn mxfp8_codes_are_e4m3() {
    let x = [0.1, -0.7, 1.0, 3.3, -5.2, 0.0, 6.1, 0.01];
    let grid = Grid::new(&Shape::new(&[8]).expect("small"), &[8]);
    let bytes = codes(&x, 8, &[6.1], Coding::MxE4m3);
    assert_eq!(scales(Coding::MxE4m3, &[6.1]), [121]);
    let machine = Machine::new(1, Isa::scalar()).expect("one thread");
    let mut out = Tensor::new(DType::F32, &[8], &x);
    let scale = [121];
    decode(
        &machine,
        &bytes,
        &grid,
        Coding::MxE4m3.elements(),
        Scaling::Exponents(&scale),
        &out.view(),
    );
    assert_eq!(
        out.view().to_f32(),
        [0.1015625, -0.6875, 1.0, 3.25, -5.0, 0.0, 6.0, 0.009765625]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn random_tensors_come_back(
        bits in prop::collection::vec(any::<u32>(), 2..300),
        columns in 1usize..20,
        block in 1usize..40,
    ) {
        let columns = columns * 2;
        let finite = |b: &u32| {
            let value = f32::from_bits(*b);
            // Beyond the 16-bit types there is infinity, which packing refuses.
            if value.abs() < 6e4 { value } else { (*b % 1000) as f32 - 500.0 }
        };
        let rows = bits.len() / columns;
        let values: Vec<f32> = bits[..rows * columns].iter().map(finite).collect();
        check(&values, &[rows, columns], &[1, block.min(columns)]);
    }

    /// NF4: packed codes and scales decode to what fake quantization gives, in place and apart.
    #[test]
    fn nf4_comes_back(
        values in prop::collection::vec(-10f32..10.0, 2..300),
        block in 1usize..70,
        group in 1usize..9,
    ) {
        let n = values.len() / 2 * 2;
        let (values, shape) = (&values[..n], [n]);
        let grid = Grid::new(&Shape::new(&shape).expect("small"), &[block.min(n)]);
        let b = block.min(n);
        let amax: Vec<f32> = values.chunks(b).map(|c| c.iter().fold(0.0, |a: f32, x| a.max(x.abs()))).collect();
        let scales = Nf4Scales::new(&amax, group);
        for isa in Isa::available() {
            let machine = Machine::new(2, isa).expect("threads");
            let mut x = Tensor::new(DType::BF16, &shape, values);
            let mut want = Tensor::new(DType::BF16, &shape, values);
            fake_nf4(&machine, &x.view(), &want.view(), &grid, &amax, group);
            let mut packed = vec![0; n / 2];
            encode(&machine, &x.view(), &grid, &amax, Coding::Nf4, &mut packed);
            let mut got = Tensor::new(DType::BF16, &shape, values);
            let scaling = Scaling::of_nf4(&scales, amax.len());
            decode(&machine, &packed, &grid, Coding::Nf4.elements(), scaling, &got.view());
            assert_same(&got.view().to_f32(), &want.view().to_f32(), false, "nf4");
            if let Some(gpu) = testing::machine() {
                let there = OnGpu::copy_of(&gpu, &x.view(), 2);
                let mut codes = vec![0; n / 2];
                encode(&gpu, &there.view(), &grid, &amax, Coding::Nf4, &mut codes);
                prop_assert_eq!(&codes, &packed);
                decode(&gpu, &codes, &grid, Coding::Nf4.elements(), scaling, &there.view());
                testing::assert_same(&there.values(), &want.view().to_f32(), &"nf4 on a GPU");
                let there = OnGpu::copy_of(&gpu, &x.view(), 0);
                fake_nf4(&gpu, &there.view(), &there.view(), &grid, &amax, group);
                testing::assert_same(&there.values(), &want.view().to_f32(), &"nf4 in place on a GPU");
                testing::assert_no_failure(&gpu);
            }
            let place = x.view();
            fake_nf4(&machine, &place, &place, &grid, &amax, group);
            assert_same(&place.to_f32(), &want.view().to_f32(), false, "nf4 in place");
        }
    }
}
