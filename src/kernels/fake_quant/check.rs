//! Proves that every path agrees with the definition bit for bit.

use proptest::prelude::*;

use super::{Format, MxFormat, run, run_dynamic, scalar};
use crate::format::half::{Bf16, F16};
use crate::format::int::IntGrid;
use crate::kernels::cuda::testing::{self, OnGpu};
use crate::kernels::{Grid, Isa, Machine};
use crate::tensor::{DType, Shape, TensorView};

pub(super) const FORMATS: [Format; 14] = [
    Format::Mx(MxFormat::E4m3),
    Format::Mx(MxFormat::E5m2),
    Format::Mx(MxFormat::E3m2),
    Format::Mx(MxFormat::E2m3),
    Format::Mx(MxFormat::E2m1),
    Format::Mx(MxFormat::E1m2),
    Format::Mx(MxFormat::Int8),
    Format::Nvfp4 { global_scale: 0.01 },
    Format::Nvfp4Static { scale_amax: 10.0 },
    Format::Int(IntGrid {
        max: 127.0,
        min: -128.0,
    }),
    Format::Int(IntGrid {
        max: 7.0,
        min: -8.0,
    }),
    Format::Int(IntGrid {
        max: 1.0,
        min: -1.0,
    }),
    Format::Int(IntGrid {
        max: 255.0,
        min: 0.0,
    }),
    Format::E4m3,
];

/// Values at which something changes: zeros, ties, subnormals, limits, infinities, NaN.
const EDGES: [f32; 29] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    1.5,
    2.5,
    -2.5,
    126.5,
    127.5,
    -127.5,
    -128.5,
    448.0,
    464.0,
    -480.0,
    1e-45,
    -1e-38,
    1.1754944e-38,
    0.001953125,
    0.0009765625,
    3.0 / 2048.0,
    0.015625,
    3.4e38,
    -3.4e38,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    -f32::NAN,
];

/// Memory for a tensor of any dtype, with a canary before and after it.
pub(super) struct Guarded {
    memory: Vec<u8>,
    start: usize,
    dtype: DType,
    shape: Vec<usize>,
}

const CANARY: u8 = 0xa5;

impl Guarded {
    /// `skew` elements off a 64-byte boundary, holding `values` rounded to the dtype.
    pub(super) fn new(dtype: DType, shape: &[usize], skew: usize, values: &[f32]) -> Self {
        let size = dtype.size();
        let mut memory = vec![CANARY; values.len() * size + 256 + skew * size];
        let start = memory.as_ptr().align_offset(64) + 64 + skew * size;
        for (i, &value) in values.iter().enumerate() {
            let at = start + i * size;
            match dtype {
                DType::F32 => memory[at..at + 4].copy_from_slice(&value.to_ne_bytes()),
                DType::F16 => {
                    memory[at..at + 2].copy_from_slice(&F16::from_f32(value).0.to_ne_bytes())
                }
                DType::BF16 => {
                    memory[at..at + 2].copy_from_slice(&Bf16::from_f32(value).0.to_ne_bytes())
                }
            }
        }
        Self {
            memory,
            start,
            dtype,
            shape: shape.to_vec(),
        }
    }

    pub(super) fn view(&mut self) -> TensorView {
        // SAFETY: the memory holds the elements, and the tests use one view at a time.
        unsafe {
            TensorView::new(
                self.memory[self.start..].as_mut_ptr(),
                self.dtype,
                &self.shape,
            )
        }
        .expect("aligned")
    }

    fn assert_canaries(&self) {
        let end = self.start + self.shape.iter().product::<usize>() * self.dtype.size();
        let around = self.memory[..self.start].iter().chain(&self.memory[end..]);
        assert!(
            around.into_iter().all(|byte| *byte == CANARY),
            "wrote beyond the tensor"
        );
    }
}

/// The definition, with one rounding to the dtype at the end.
fn defined(x: &[f32], amax: &[f32], grid: &Grid, dtype: DType, format: Format) -> Vec<f32> {
    let (n, b) = grid.row();
    let mut y = x.to_vec();
    scalar::run(
        &mut y,
        |i| amax[grid.first_block_of_row(i / n) + i % n / b],
        format,
    );
    y.iter().map(|y| round_to(dtype, *y)).collect()
}

pub(super) fn round_to(dtype: DType, value: f32) -> f32 {
    match dtype {
        DType::F32 => value,
        DType::F16 => F16::from_f32(value).to_f32(),
        DType::BF16 => Bf16::from_f32(value).to_f32(),
    }
}

fn assert_same(got: &[f32], want: &[f32], what: &str) {
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(
            g.to_bits() == w.to_bits() || g.is_nan() && w.is_nan(),
            "{what}: element {i} is {g:e}, expected {w:e}"
        );
    }
    assert_eq!(got.len(), want.len());
}

/// Runs every path on one input: given amax and dynamic, apart and in place, every instruction set, one
/// thread and three.
fn check(values: &[f32], shape: &[usize], blocks: &[usize], skew: usize) {
    let extents = Shape::new(shape).expect("small");
    let grid = Grid::new(&extents, blocks);
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let x: Vec<f32> = values.iter().map(|v| round_to(dtype, *v)).collect();
        // Some blocks get an amax of zero or a tiny one; the rest an arbitrary positive one.
        let amax: Vec<f32> = (0..grid.num_blocks())
            .map(|i| [3.25, 0.0, 127.0, 1e-9, 448.0, 0.7][i % 6])
            .collect();
        let (n, b) = grid.row();
        let block_of = |i: usize| grid.first_block_of_row(i / n) + i % n / b;
        let own = |absmax: fn(std::vec::IntoIter<f32>) -> f32| -> Vec<f32> {
            let members = |block| {
                let of = x.iter().enumerate().filter(|(i, _)| block_of(*i) == block);
                absmax(of.map(|(_, x)| *x).collect::<Vec<_>>().into_iter())
            };
            (0..grid.num_blocks()).map(members).collect()
        };
        let with_nan = own(scalar::absmax);
        let without_nan = own(scalar::absmax_without_nan);
        for format in FORMATS {
            let given = defined(&x, &amax, &grid, dtype, format);
            // Formats that find their own scale leave NaN out, in blocks along rows as they always are.
            let finds_own = matches!(format, Format::Mx(_) | Format::Nvfp4 { .. });
            let own = if finds_own { &without_nan } else { &with_nan };
            let checks_dynamic = !finds_own || grid.blocks_stay_in_rows();
            let largest = scalar::absmax(own.iter().copied());
            let dynamic = defined(&x, own, &grid, dtype, format);
            if let Some(machine) = testing::machine() {
                let case = Case {
                    x: Guarded::new(dtype, shape, skew, &x),
                    grid: &grid,
                    format,
                    skew: skew * dtype.size(),
                };
                let given = (!finds_own).then_some((&amax[..], &given[..]));
                let dynamic = checks_dynamic.then_some(&dynamic[..]);
                case.check_on_gpu(&machine, given, dynamic, largest);
            }
            for isa in Isa::available() {
                for threads in [1, 3] {
                    let machine = Machine::new(threads, isa).expect("threads");
                    let what = format!(
                        "{format:?} {dtype} {shape:?} / {blocks:?} on {isa}, {threads} threads"
                    );
                    let mut source = Guarded::new(dtype, shape, skew, &x);
                    let mut target = Guarded::new(dtype, shape, skew / 2, &vec![7.0; x.len()]);
                    if !finds_own {
                        run(
                            &machine,
                            &source.view(),
                            &target.view(),
                            &grid,
                            &amax,
                            format,
                        );
                        assert_same(&target.view().to_f32(), &given, &what);
                    }
                    if checks_dynamic {
                        let seen =
                            run_dynamic(&machine, &source.view(), &target.view(), &grid, format);
                        assert_same(
                            &target.view().to_f32(),
                            &dynamic,
                            &format!("dynamic {what}"),
                        );
                        assert_same(&[seen], &[largest], &format!("largest {what}"));
                    }
                    assert_same(&source.view().to_f32(), &x, "the source stays");
                    if !finds_own {
                        let place = source.view();
                        run(&machine, &place, &place, &grid, &amax, format);
                        assert_same(&place.to_f32(), &given, &format!("in place {what}"));
                    }
                    let mut again = Guarded::new(dtype, shape, skew, &x);
                    if checks_dynamic {
                        let place = again.view();
                        run_dynamic(&machine, &place, &place, &grid, format);
                        assert_same(
                            &place.to_f32(),
                            &dynamic,
                            &format!("dynamic in place {what}"),
                        );
                    }
                    for guarded in [&source, &target, &again] {
                        guarded.assert_canaries();
                    }
                }
            }
        }
    }
}

/// One input for the GPU.
struct Case<'a> {
    x: Guarded,
    grid: &'a Grid,
    format: Format,
    /// Bytes that tensors begin behind a multiple of 256.
    skew: usize,
}

impl Case<'_> {
    /// The same on the GPU: apart, from another alignment, and in place.
    fn check_on_gpu(
        mut self,
        machine: &Machine,
        given: Option<(&[f32], &[f32])>,
        dynamic: Option<&[f32]>,
        largest: f32,
    ) {
        let (grid, format, view) = (self.grid, self.format, self.x.view());
        let what = format!(
            "{format:?} {} {:?} {grid:?} on a GPU",
            view.dtype(),
            view.shape()
        );
        for (from, to) in [(self.skew, self.skew), (self.skew, 0), (0, 0)] {
            let x = OnGpu::copy_of(machine, &view, from);
            let out = OnGpu::copy_of(machine, &view, to);
            if let Some((amax, want)) = given {
                run(machine, &x.view(), &out.view(), grid, amax, format);
                testing::assert_same(&out.values(), want, &what);
            }
            if let Some(want) = dynamic {
                let seen = run_dynamic(machine, &x.view(), &out.view(), grid, format);
                testing::assert_same(&out.values(), want, &format!("dynamic {what}"));
                let is_flawless = matches!(format, Format::Mx(_)) || largest.is_finite();
                if !matches!(format, Format::Mx(_)) {
                    assert_eq!(seen.is_finite(), is_flawless, "{what}");
                }
            }
            testing::assert_same(&x.values(), &view.to_f32(), &"the source stays");
            if let Some((amax, want)) = given {
                run(machine, &x.view(), &x.view(), grid, amax, format);
                testing::assert_same(&x.values(), want, &format!("in place {what}"));
            } else if let Some(want) = dynamic {
                run_dynamic(machine, &x.view(), &x.view(), grid, format);
                testing::assert_same(&x.values(), want, &format!("dynamic in place {what}"));
            }
        }
        testing::assert_no_failure(machine);
    }
}

pub(super) fn edges(count: usize) -> Vec<f32> {
    (0..count)
        .map(|i| {
            EDGES[i % EDGES.len()]
                * if (i / EDGES.len()).is_multiple_of(2) {
                    1.0
                } else {
                    0.37
                }
        })
        .collect()
}

#[test]
fn every_length_around_a_block_matches_the_definition() {
    for block in [16, 32] {
        for length in 0..=2 * block + 1 {
            let size = block.min(length).max(1);
            check(&edges(length), &[length], &[size], length % 5);
        }
    }
}

#[test]
fn every_granularity_matches_the_definition() {
    let shape = [3, 5, 34];
    let x = edges(3 * 5 * 34);
    for blocks in [
        [3, 5, 34],
        [1, 5, 34],
        [3, 1, 34],
        [3, 5, 1],
        [1, 1, 34],
        [1, 1, 16],
        [1, 2, 16],
        [1, 1, 1],
    ] {
        check(&x, &shape, &blocks, 3);
    }
}

/// More elements than a piece of work holds, with blocks below and above it.
#[test]
fn pieces_join_without_a_seam() {
    let machine = |threads, isa| Machine::new(threads, isa).expect("threads");
    let count = 3 * 32 * 1024 + 17;
    let x = edges(count);
    for block in [1, 48, 32 * 1024, 50_000, count] {
        let grid = Grid::new(&Shape::new(&[count]).expect("small"), &[block]);
        let amax: Vec<f32> = (0..grid.num_blocks())
            .map(|i| 0.5 + (i % 97) as f32)
            .collect();
        for format in [FORMATS[8], FORMATS[9], FORMATS[13]] {
            let want = defined(&x, &amax, &grid, DType::F32, format);
            for isa in Isa::available() {
                let mut source = Guarded::new(DType::F32, &[count], 1, &x);
                let place = source.view();
                run(&machine(4, isa), &place, &place, &grid, &amax, format);
                assert_same(&place.to_f32(), &want, &format!("block {block} on {isa}"));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_tensors_match_the_definition(
        bits in prop::collection::vec(any::<u32>(), 1..200),
        columns in 1usize..40,
        block in 1usize..40,
        skew in 0usize..4,
    ) {
        let rows = bits.len() / columns;
        let values: Vec<f32> = bits[..rows * columns].iter().map(|b| f32::from_bits(*b)).collect();
        check(&values, &[rows, columns], &[1, block.min(columns)], skew);
    }

    /// A value on the grid stays where it is when the amax is kept.
    #[test]
    fn fake_quant_is_idempotent(values in prop::collection::vec(-500f32..500.0, 1..64), amax in 0.001f32..600.0) {
        for format in FORMATS {
            let mut once = values.clone();
            scalar::run(&mut once, |_| amax, format);
            let mut twice = once.clone();
            scalar::run(&mut twice, |_| amax, format);
            for (a, b) in once.iter().zip(&twice) {
                // The value comes back through a division or an inverse: equal but for its last bit.
                prop_assert!((a - b).abs() <= a.abs() * f32::EPSILON, "{a} became {b}");
            }
        }
    }

    /// A power of two on values and amax alike comes out as that power of two.
    #[test]
    fn fake_quant_is_invariant_under_powers_of_two(
        x in -500f32..500.0, amax in 0.01f32..600.0, exponent in -8i32..9
    ) {
        let factor = 2f32.powi(exponent);
        for format in FORMATS {
            // The scale of a tensor goes along with it.
            let scaled = match format {
                Format::Nvfp4 { global_scale } => Format::Nvfp4 { global_scale: global_scale * factor },
                Format::Nvfp4Static { scale_amax } => Format::Nvfp4Static { scale_amax: scale_amax * factor },
                other => other,
            };
            let (mut plain, mut multiplied) = ([x], [x * factor]);
            scalar::run(&mut plain, |_| amax, format);
            scalar::run(&mut multiplied, |_| amax * factor, scaled);
            prop_assert_eq!(plain[0] * factor, multiplied[0], "{:?}", format);
        }
    }

    /// Larger values never come out smaller.
    #[test]
    fn fake_quant_is_monotone(a in -500f32..500.0, b in -500f32..500.0, amax in 0.001f32..600.0) {
        for format in FORMATS {
            let mut pair = [a.min(b), a.max(b)];
            scalar::run(&mut pair, |_| amax, format);
            prop_assert!(pair[0] <= pair[1]);
        }
    }

    /// No value of a symmetric grid exceeds amax by more than the rounding of the scale.
    #[test]
    fn fake_quant_is_bounded_by_amax(x in -1e6f32..1e6, amax in 0.001f32..600.0) {
        for format in [Format::E4m3, Format::Int(IntGrid::new(8, false, true))] {
            let mut y = [x, -x];
            scalar::run(&mut y, |_| amax, format);
            prop_assert!(y[0].abs() <= amax * (1.0 + 4.0 * f32::EPSILON));
            prop_assert_eq!(y[0], -y[1]);
        }
    }
}
