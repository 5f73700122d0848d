//! Proves that errors and searches agree with their definition on every path, and all paths with each
//! other to the bit.

use proptest::prelude::*;

use super::check::{FORMATS, Guarded, edges, round_to};
use super::{
    Best, Candidates, Format, MAX_REL_ERR, scalar, search, squared_error, squared_error_dynamic,
};
use crate::format::int::IntGrid;
use crate::kernels::cuda::testing::{self, OnGpu};
use crate::kernels::pieces::PIECE;
use crate::kernels::{Grid, Isa, Machine};
use crate::tensor::{DType, Shape};

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Candidates on both sides of 1, some of them equal.
const FACTORS: [f32; 7] = [0.25, 0.75, 0.75, 1.0, 1.125, 4.0, 0.5];

fn finds_scale(format: Format) -> bool {
    matches!(format, Format::Mx(_) | Format::Nvfp4 { .. })
}

/// Which block every element belongs to.
fn members(grid: &Grid) -> Vec<usize> {
    let (n, b) = grid.row();
    let block = |i: usize| grid.first_block_of_row(i / n) + i % n / b;
    (0..grid.count()).map(block).collect()
}

/// The definition: squares in float32, their sum in float64.
fn naive(x: &[f32], amax: &[f32], format: Format) -> f64 {
    let mut y = x.to_vec();
    scalar::run(&mut y, |i| amax[i], format);
    let squares = x.iter().zip(&y).map(|(x, y)| f64::from((y - x) * (y - x)));
    squares.sum()
}

fn assert_near(got: f64, want: f64, what: &str) {
    // A sum of float32 may overflow where that of float64 does not.
    let overflows = got.is_infinite() && want > f64::from(f32::MAX);
    // Sums of subnormal squares are exact.
    let near = (got - want).abs() <= want * MAX_REL_ERR || got.is_nan() && want.is_nan();
    assert!(
        near || overflows || got == want,
        "{what}: {got:e}, expected {want:e}"
    );
}

/// Runs `work` on every instruction set, with one thread and three; the results are equal.
fn on_every_cpu<T: PartialEq + std::fmt::Debug>(what: &str, work: impl Fn(&Machine) -> T) -> T {
    let mut first = None;
    for isa in Isa::available() {
        for threads in [1, 3] {
            let got = work(&Machine::new(threads, isa).expect("threads"));
            let want = first.get_or_insert_with(|| work(&Machine::new(1, isa).expect("threads")));
            assert_eq!(&got, want, "{what} on {isa}, {threads} threads");
        }
    }
    first.expect("there is an instruction set")
}

/// The bits of errors, for NaN to equal itself.
fn bits((error, energy): (f64, f64)) -> (u64, u64) {
    (
        error.to_bits() << u32::from(error.is_nan()),
        energy.to_bits() << u32::from(energy.is_nan()),
    )
}

/// What a GPU sums up is as near, and the same again.
fn assert_same_sums(run: impl Fn() -> (f64, f64), cpu: (f64, f64), what: &str) {
    let got = run();
    assert_eq!(bits(run()), bits(got), "{what} on a GPU, again");
    for (got, want) in [(got.0, cpu.0), (got.1, cpu.1)] {
        // Either of them may be off by the bound. Only the CPU's sums of float32 overflow.
        let is_near = (got - want).abs() <= 2.0 * want * MAX_REL_ERR || got == want;
        let overflows = want.is_infinite() && got > f64::from(f32::MAX);
        assert!(
            is_near || overflows || got.is_nan() && want.is_nan(),
            "{what} on a GPU: {got:e}, expected {want:e}"
        );
    }
}

fn check(values: &[f32], shape: &[usize], blocks: &[usize], formats: &[Format]) {
    let grid = Grid::new(&Shape::new(shape).expect("small"), blocks);
    let members = members(&grid);
    for dtype in DTYPES {
        let x: Vec<f32> = values.iter().map(|v| round_to(dtype, *v)).collect();
        let mut memory = Guarded::new(dtype, shape, 1, &x);
        let view = memory.view();
        let given: Vec<f32> = (0..grid.num_blocks())
            .map(|i| [3.25, 0.0, 127.0, 1e-9, 448.0, 0.7][i % 6])
            .collect();
        let own = |block: usize, with_nan: bool| {
            let of = members
                .iter()
                .zip(&x)
                .filter(|(b, _)| **b == block)
                .map(|(_, x)| *x);
            match with_nan {
                true => scalar::absmax(of),
                false => scalar::absmax_without_nan(of),
            }
        };
        for &format in formats {
            let what = format!("{format:?} {dtype} {shape:?} / {blocks:?}");
            let spread = |amax: &[f32]| -> Vec<f32> { members.iter().map(|b| amax[*b]).collect() };
            let energy: f64 = x.iter().map(|x| f64::from(x * x)).sum();
            if !finds_scale(format) || grid.blocks_stay_in_rows() {
                let amax: Vec<f32> = (0..grid.num_blocks())
                    .map(|block| own(block, !finds_scale(format)))
                    .collect();
                let run =
                    |machine: &Machine| bits(squared_error_dynamic(machine, &view, &grid, format));
                on_every_cpu(&what, run);
                let machine = Machine::new(1, Isa::best(None)).expect("a thread");
                let got = squared_error_dynamic(&machine, &view, &grid, format);
                assert_near(got.0, naive(&x, &spread(&amax), format), &what);
                assert_near(got.1, energy, &what);
                if let Some(gpu) = testing::machine() {
                    let there = OnGpu::copy_of(&gpu, &view, dtype.size());
                    let run = || squared_error_dynamic(&gpu, &there.view(), &grid, format);
                    assert_same_sums(run, got, &what);
                    testing::assert_no_failure(&gpu);
                }
            }
            if finds_scale(format) {
                continue;
            }
            on_every_cpu(&what, |machine| {
                bits(squared_error(machine, &view, &grid, &given, format))
            });
            let machine = Machine::new(1, Isa::best(None)).expect("a thread");
            let got = squared_error(&machine, &view, &grid, &given, format);
            assert_near(got.0, naive(&x, &spread(&given), format), &what);
            assert_near(got.1, energy, &what);
            if let Some(gpu) = testing::machine() {
                let there = OnGpu::copy_of(&gpu, &view, 0);
                let run = || squared_error(&gpu, &there.view(), &grid, &given, format);
                assert_same_sums(run, got, &what);
                testing::assert_no_failure(&gpu);
            }

            let values = [0.01f32, 0.5, 3.0, 200.0];
            for candidates in [
                Candidates::Multiples {
                    amax: &given,
                    factors: &FACTORS,
                },
                Candidates::Values(&values),
            ] {
                let found = on_every_cpu(&what, |machine| {
                    search(machine, &view, &grid, candidates, format)
                });
                assert_eq!(found.len(), grid.num_blocks(), "{what}");
                if let Some(gpu) = testing::machine() {
                    let there = OnGpu::copy_of(&gpu, &view, dtype.size());
                    let on_gpu = search(&gpu, &there.view(), &grid, candidates, format);
                    testing::assert_no_failure(&gpu);
                    assert_eq!(on_gpu, found, "{what} on a GPU");
                }
                for (block, best) in found.iter().enumerate() {
                    let of = members.iter().zip(&x).filter(|(b, _)| **b == block);
                    let of: Vec<f32> = of.map(|(_, x)| *x).collect();
                    let tried: Vec<f32> = match candidates {
                        Candidates::Multiples { .. } => {
                            FACTORS.iter().map(|f| given[block] * f).collect()
                        }
                        Candidates::Values(values) => values.to_vec(),
                    };
                    assert_best(best, &of, &tried, format, &what);
                }
            }
        }
    }
}

/// The error is the candidate's, none is smaller, and no earlier one is equal.
fn assert_best(best: &Best, x: &[f32], tried: &[f32], format: Format, what: &str) {
    let errors: Vec<f64> = tried
        .iter()
        .map(|amax| naive(x, &vec![*amax; x.len()], format))
        .collect();
    let Some(candidate) = best.candidate else {
        assert_eq!(best.error, f64::INFINITY, "{what}");
        let usable = errors.iter().filter(|e| **e <= f64::from(f32::MAX)).count();
        assert_eq!(usable, 0, "{what}: {errors:?} of {x:?}");
        return;
    };
    let candidate = candidate as usize;
    assert_near(best.error, errors[candidate], what);
    for (i, error) in errors.iter().enumerate() {
        let far_less = *error < best.error * (1.0 - MAX_REL_ERR);
        assert!(!far_less, "{what}: {candidate} of {errors:?} over {i}");
        // Equal candidates have equal sums, whatever their rounding.
        let is_same = tried[i].to_bits() == tried[candidate].to_bits();
        assert!(
            i >= candidate || !is_same,
            "{what}: {candidate}, {i} is equal and earlier"
        );
    }
}

#[test]
fn every_length_and_granularity_matches_the_definition() {
    for length in [0, 1, 15, 16, 17, 31, 33, 63, 95, 127, 128, 129, 255, 300] {
        check(&edges(length), &[length], &[length.max(1)], &FORMATS);
        let finite: Vec<f32> = (0..length)
            .map(|i| ((i * 37) % 101) as f32 - 49.3)
            .collect();
        check(&finite, &[length], &[16.min(length.max(1))], &FORMATS);
    }
    let shape = [3, 5, 34];
    let x: Vec<f32> = (0..3 * 5 * 34)
        .map(|i| ((i * 53) % 997) as f32 / 31.0 - 15.0)
        .collect();
    for blocks in [
        [3, 5, 34],
        [1, 5, 34],
        [3, 1, 34],
        [3, 5, 1],
        [1, 1, 34],
        [1, 1, 16],
        [2, 2, 16],
        [1, 1, 1],
    ] {
        check(&x, &shape, &blocks, &FORMATS);
    }
}

/// Blocks below and above what one task holds.
#[test]
fn large_blocks_match_the_definition() {
    let count = 2 * PIECE + 173;
    let x: Vec<f32> = (0..count)
        .map(|i| ((i * 7919) % 10_007) as f32 / 999.0 - 5.0)
        .collect();
    let int8 = Format::Int(IntGrid::new(8, false, false));
    for block in [48, PIECE, PIECE + 5, count] {
        check(&x, &[count], &[block], &[int8]);
    }
    check(
        &x[..2 * PIECE],
        &[512, 128],
        &[300, 128],
        &[int8, Format::E4m3],
    );
    check(&x[..2 * PIECE], &[512, 128], &[512, 1], &[int8]);
}

/// Every positive E4M3 scale on blocks of static NVFP4, as a sweep tries them: on weights, on values that lie on the
/// grid already, on zeros, under scales beyond what a division may take apart, and with more candidates than are kept.
#[test]
fn a_gpu_chooses_as_the_cpu_in_a_sweep() {
    let Some(gpu) = testing::machine() else {
        return;
    };
    let cpu = Machine::new(1, Isa::best(None)).expect("a thread");
    let count = 16 * 37 + 5;
    let normal = |i: usize| {
        let uniform = |k: usize| ((i * 7919 + k * 104_729) % 65_537) as f32 / 65_537.0 - 0.5;
        (0..6).map(uniform).sum::<f32>() * 0.05
    };
    let on_the_grid = |i: usize| [0.0, 0.5, -1.0, 1.5, 2.0, -3.0, 4.0, 6.0][i * 5 % 8] * 0.25;
    let values: Vec<f32> = (0..count)
        .map(|i| match i / 16 % 5 {
            0 | 1 => normal(i),
            2 => on_the_grid(i),
            3 => normal(i) * 10f32.powi(i as i32 / 80 * 9 - 30),
            _ => 0.0,
        })
        .collect();
    for tensor in [0.4f32, 448.0, 1e-36, 1e35] {
        let sweep: Vec<f32> = (1..0x7f)
            .map(|code| crate::format::e4m3::decode(code) / 448.0 * tensor)
            .collect();
        let many: Vec<f32> = (1..=300).map(|i| tensor * i as f32 / 300.0).collect();
        let format = Format::Nvfp4Static {
            scale_amax: tensor / 6.0,
        };
        for dtype in DTYPES {
            let x: Vec<f32> = values.iter().map(|v| round_to(dtype, *v)).collect();
            let mut memory = Guarded::new(dtype, &[count], 1, &x);
            let view = memory.view();
            let there = OnGpu::copy_of(&gpu, &view, dtype.size());
            for block in [16, 32, 600] {
                let grid = Grid::new(view.shape(), &[block]);
                for tried in [&sweep, &many] {
                    for format in [
                        format,
                        Format::E4m3,
                        Format::Int(IntGrid::new(4, false, false)),
                    ] {
                        let tried = Candidates::Values(tried);
                        let want = search(&cpu, &view, &grid, tried, format);
                        let got = search(&gpu, &there.view(), &grid, tried, format);
                        assert_eq!(
                            got, want,
                            "{format:?} {dtype} in blocks of {block}, {tensor}"
                        );
                    }
                }
            }
        }
    }
    testing::assert_no_failure(&gpu);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_best_is_never_worse_than_the_max(
        values in prop::collection::vec(-3f32..3.0, 1..300),
        block in 1usize..80,
        zeros in 0usize..3,
    ) {
        let mut values = values;
        let block = block.min(values.len());
        values.iter_mut().take(zeros * block).for_each(|x| *x = 0.0);
        let mut memory = Guarded::new(DType::F32, &[values.len()], 0, &values);
        let (view, machine) = (memory.view(), Machine::new(1, Isa::best(None)).expect("a thread"));
        let grid = Grid::new(view.shape(), &[block]);
        let amax: Vec<f32> =
            values.chunks(block).map(|block| scalar::absmax(block.iter().copied())).collect();
        let scale_amax = scalar::absmax(amax.iter().copied()) / 6.0;
        for format in [
            Format::Int(IntGrid::new(4, false, false)),
            Format::Int(IntGrid::new(8, false, true)),
            Format::E4m3,
            Format::Nvfp4Static { scale_amax },
        ] {
            let candidates = Candidates::Multiples { amax: &amax, factors: &FACTORS };
            let all = search(&machine, &view, &grid, candidates, format);
            let one = Candidates::Multiples { amax: &amax, factors: &[1.0] };
            let max = search(&machine, &view, &grid, one, format);
            for (block, (all, max)) in all.iter().zip(&max).enumerate() {
                prop_assert!(all.error <= max.error, "{:?}: {:?} {:?}", format, all, max);
                let chosen = amax[block] * FACTORS[all.candidate.expect("finite") as usize];
                prop_assert!(amax[block] > 0.0 || chosen == 0.0 && all.error == 0.0);
            }
        }
    }

    /// A candidate that makes a block NaN is never chosen, whatever its place.
    #[test]
    fn nan_never_wins(
        values in prop::collection::vec(-3f32..3.0, 1..40), place in 0usize..3, bad in 0usize..2
    ) {
        let bad = [f32::NAN, f32::INFINITY][bad];
        let mut memory = Guarded::new(DType::F32, &[values.len()], 0, &values);
        let (view, machine) = (memory.view(), Machine::new(1, Isa::best(None)).expect("a thread"));
        let grid = Grid::new(view.shape(), &[values.len()]);
        let mut tried = [1.0, 2.0, 3.0];
        tried[place] = bad;
        let format = Format::Int(IntGrid::new(8, false, false));
        let best = search(&machine, &view, &grid, Candidates::Values(&tried), format);
        prop_assert_ne!(best[0].candidate, Some(place as u32));
        prop_assert!(best[0].error.is_finite());
        let none = search(&machine, &view, &grid, Candidates::Values(&[bad]), format);
        prop_assert_eq!(none[0], Best { candidate: None, error: f64::INFINITY });
    }
}
