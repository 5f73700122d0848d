//! The search on a GPU beside the definition in float64, and beside the steps of the CPU.

use super::cuda::{Clipped, Problem, Search};
use super::max_rel_err;
use crate::format::int::IntGrid;
use crate::kernels::cuda::testing::{self, Host, OnGpu};
use crate::kernels::fake_quant::{self, Format};
use crate::kernels::gram::Gram;
use crate::kernels::{Grid, Isa, Machine, quadratic};
use crate::tensor::DType;

const INT4: Format = Format::Int(IntGrid {
    max: 7.0,
    min: -8.0,
});

const RATIOS: [f32; 11] = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0];

fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut host = Host::noise(DType::F32, &[count], seed);
    host.view().to_f32()
}

/// A weight, what its columns are multiplied with, and how it is cut.
struct Case {
    dtype: DType,
    format: Format,
    rows: usize,
    channels: usize,
    block: usize,
    weight: Vec<f32>,
    gram: Vec<f32>,
    factors: Option<Vec<f32>>,
    ratios: Vec<f32>,
}

impl Case {
    fn new([rows, channels, block]: [usize; 3], dtype: DType, format: Format) -> Self {
        // A few values stand out, so that clipping pays in some blocks.
        let mut weight = noise(rows * channels, 7);
        for (i, value) in weight.iter_mut().enumerate() {
            *value *= if i % 29 == 3 { 1.0 } else { 0.4 };
        }
        let weight = Host::of(dtype, &[rows, channels], &weight).view().to_f32();
        // Of twice as many tokens as columns; what is below the diagonal must not be read, nor what is beyond it.
        let squares = channels.div_ceil(block);
        let mut gram = vec![f32::NAN; squares * block * block];
        for k in 0..squares {
            let width = block.min(channels - k * block);
            let tokens = noise(2 * width * width, 11 + k as u32);
            for i in 0..width {
                for j in i..width {
                    let products = tokens.chunks_exact(width).map(|x| x[i] * x[j]);
                    gram[(k * block + i) * block + j] = products.sum();
                }
            }
        }
        Self {
            dtype,
            format,
            rows,
            channels,
            block,
            weight,
            gram,
            factors: None,
            ratios: RATIOS.to_vec(),
        }
    }

    fn blocks(&self) -> usize {
        self.channels.div_ceil(self.block)
    }

    fn highest(&self) -> Vec<f32> {
        let rows = self.weight.chunks_exact(self.channels);
        let blocks = rows.flat_map(|row| row.chunks(self.block));
        let largest = |block: &[f32]| block.iter().fold(0.0f32, |a, w| a.max(w.abs()));
        blocks.map(largest).collect()
    }

    /// What rounding under a ratio changes; None: the weight.
    fn deltas(&self, ratio: Option<f32>) -> Vec<f32> {
        let Some(ratio) = ratio else {
            return self.weight.clone();
        };
        let machine = Machine::new(1, Isa::best(None)).expect("one thread");
        let shape = [self.rows, self.channels];
        let mut host = Host::of(self.dtype, &shape, &self.weight);
        let x = host.view();
        let amax: Vec<f32> = self.highest().iter().map(|amax| amax * ratio).collect();
        let grid = Grid::new(x.shape(), &[1, self.block]);
        fake_quant::run(&machine, &x, &x, &grid, &amax, self.format);
        let rounded = x.to_f32();
        rounded
            .iter()
            .zip(&self.weight)
            .map(|(q, w)| q - w)
            .collect()
    }

    /// The Gram matrix as the search has to take it.
    fn scaled(&self) -> Vec<f32> {
        let mut gram = self.gram.clone();
        let Some(p) = &self.factors else {
            return gram;
        };
        let squares = gram.chunks_exact_mut(self.block * self.block);
        for (square, p) in squares.zip(p.chunks(self.block)) {
            for (row, a) in square.chunks_exact_mut(self.block).zip(p) {
                for (value, b) in row.iter_mut().zip(p) {
                    *value *= a * b;
                }
            }
        }
        gram
    }

    /// The error of a row's share of a block, and the sum of magnitudes that its bound is in proportion to.
    fn error(&self, gram: &[f32], deltas: &[f32], row: usize, k: usize) -> (f64, f64) {
        let start = k * self.block;
        let width = self.block.min(self.channels - start);
        let delta = &deltas[row * self.channels + start..][..width];
        let square = &gram[k * self.block * self.block..];
        let (mut error, mut magnitude) = (0.0, 0.0);
        for (i, a) in delta.iter().enumerate() {
            for (j, b) in delta.iter().enumerate() {
                let entry = square[i.min(j) * self.block + i.max(j)];
                let product = f64::from(*a) * f64::from(*b) * f64::from(entry);
                error += product;
                magnitude += product.abs();
            }
        }
        (error, magnitude)
    }

    /// What the GPU finds, with memory for so many bytes of errors, and the errors of the last part.
    fn found(&self, machine: &Machine, most: usize) -> (Clipped, Vec<f64>) {
        let gpu = machine.gpu().expect("a GPU");
        let mut host = Host::of(self.dtype, &[self.rows, self.channels], &self.weight);
        let there = OnGpu::copy_of(machine, &host.view(), 4);
        let problem = Problem {
            gram: &Gram::of_blocks(self.channels, self.block, self.gram.clone()),
            factors: self.factors.as_deref(),
            format: self.format,
            amax: &self.highest(),
            ratios: &self.ratios,
        };
        let search = Search::with_errors(gpu, &problem, most).expect("memory");
        let mut last = 0;
        for (first, count) in search.parts() {
            search.add(
                (first, count),
                &there.view().rows(first, count).expect("rows"),
            );
            last = count;
        }
        let errors = search.errors(last * self.blocks() * (self.ratios.len() + 1));
        let found = search.finish().expect("a copy");
        testing::assert_no_failure(machine);
        (found, errors)
    }

    /// Asserts that errors are within their bound and choices those of the CPU, where errors are not too close; returns how
    /// many choices were compared.
    fn check(&self, machine: &Machine) -> usize {
        let what = format!(
            "{} x {} by {}, {:?} {:?}",
            self.rows, self.channels, self.block, self.dtype, self.format
        );
        let (found, errors) = self.found(machine, usize::MAX);
        let (tried, blocks) = (self.ratios.len() + 1, self.blocks());
        let gram = self.scaled();
        let ratios = self.ratios.iter().copied().map(Some);
        let deltas: Vec<Vec<f32>> = ratios.chain([None]).map(|r| self.deltas(r)).collect();
        let bound = max_rel_err(self.block.min(self.channels));
        let highest = self.highest();
        let mut totals = [0.0; 3];
        let mut compared = 0;
        for (row, k) in (0..self.rows).flat_map(|row| (0..blocks).map(move |k| (row, k))) {
            let own = &errors[(k * self.rows + row) * tried..][..tried];
            let mut slack = 0.0f64;
            for (got, deltas) in own.iter().zip(&deltas) {
                let (want, magnitude) = self.error(&gram, deltas, row, k);
                assert!(
                    (got - want).abs() <= bound * magnitude,
                    "{what}: {row} {k}: {got:e}, expected {want:e}"
                );
                slack = slack.max(2.0 * bound * magnitude);
            }
            // The CPU's errors, which have a bound of the same kind, and its choice.
            let on_cpu = self.errors_on_cpu(&gram, &deltas, row, k);
            let first_least = |errors: &[f64]| {
                let least = |a: usize, b: usize| if errors[b] < errors[a] { b } else { a };
                (0..tried - 1).reduce(least).expect("ratios")
            };
            let (best, want) = (first_least(own), first_least(&on_cpu));
            let at = row * blocks + k;
            assert_eq!(
                found.amax[at].to_bits(),
                (highest[at] * self.ratios[best]).to_bits(),
                "{what}: {row} {k}"
            );
            let others = (0..tried - 1).filter(|i| *i != want);
            if others
                .clone()
                .all(|i| on_cpu[i] > on_cpu[want] + 2.0 * slack)
            {
                assert_eq!(best, want, "{what}: {row} {k}");
                compared += 1;
            }
            let sums = [own[tried - 2], own[best], own[tried - 1]];
            totals.iter_mut().zip(sums).for_each(|(a, b)| *a += b);
        }
        for (got, want) in [found.plain, found.best, found.energy].iter().zip(totals) {
            assert!((got - want).abs() <= 1e-12 * want.abs(), "{what}: {got:e}");
        }
        let (again, _) = self.found(machine, usize::MAX);
        assert_eq!(format!("{found:?}"), format!("{again:?}"), "{what}: twice");
        // One row at a time, or two: errors do not depend on the rows beside them.
        for rows in [1, 2] {
            let (parts, _) = self.found(machine, rows * blocks * tried * 8);
            testing::assert_same(&parts.amax, &found.amax, &what);
            for (part, whole) in [(parts.plain, found.plain), (parts.best, found.best)] {
                assert!((part - whole).abs() <= 1e-12 * whole.abs(), "{what}");
            }
        }
        compared
    }

    fn errors_on_cpu(&self, gram: &[f32], deltas: &[Vec<f32>], row: usize, k: usize) -> Vec<f64> {
        let start = k * self.block;
        let width = self.block.min(self.channels - start);
        let mut scratch = vec![0.0; quadratic::scratch_len(width, 1)];
        let mut error = |deltas: &Vec<f32>| {
            let mut out = [0.0];
            quadratic::block_rows(
                &gram[k * self.block * self.block..][..self.block * self.block],
                self.block,
                width,
                &deltas[row * self.channels + start..][..width],
                width,
                1,
                &mut scratch,
                &mut out,
            );
            out[0]
        };
        deltas.iter().map(&mut error).collect()
    }
}

#[test]
fn errors_and_choices_are_those_of_the_cpu() {
    let Some(machine) = testing::machine() else {
        return;
    };
    let mut compared = 0;
    for (i, sizes) in [
        [1, 1, 1],
        [1, 40, 16],
        [7, 5, 2],
        [5, 70, 24],
        [3, 64, 64],
        [2, 65, 65],
        [3, 130, 128],
        [2, 200, 200],
        [1, 300, 270],
    ]
    .into_iter()
    .enumerate()
    {
        for (j, format) in [INT4, Format::E4m3].into_iter().enumerate() {
            let dtype = [DType::F32, DType::F16, DType::BF16][(i + j) % 3];
            let mut case = Case::new(sizes, dtype, format);
            if (i + j) % 2 == 0 {
                let factors = noise(case.channels, 5).iter().map(|x| 1.5 + x).collect();
                case.factors = Some(factors);
            }
            compared += case.check(&machine);
        }
    }
    // Of 150 blocks, nearly all.
    assert!(compared > 100, "only {compared} choices were clear");
}

#[test]
fn one_ratio_and_more_than_a_thread_block_has() {
    let Some(machine) = testing::machine() else {
        return;
    };
    let mut case = Case::new([3, 20, 8], DType::BF16, INT4);
    case.ratios = vec![0.75];
    case.check(&machine);
    case.ratios = (1..=130).map(|i| i as f32 / 130.0).collect();
    case.check(&machine);
}

#[test]
fn the_first_of_equal_ratios_wins_and_nan_never_does() {
    let Some(machine) = testing::machine() else {
        return;
    };
    let mut case = Case::new([3, 20, 8], DType::F32, INT4);
    for entry in [0.0, f32::NAN] {
        case.gram.fill(entry);
        let (found, _) = case.found(&machine, usize::MAX);
        let halves: Vec<f32> = case.highest().iter().map(|amax| amax * 0.5).collect();
        testing::assert_same(&found.amax, &halves, &"equal errors");
    }
    // A weight of zeros has none to lose.
    let mut case = Case::new([2, 20, 8], DType::F16, Format::E4m3);
    case.weight.fill(0.0);
    let (found, _) = case.found(&machine, usize::MAX);
    assert_eq!(found.amax, [0.0; 6]);
    assert_eq!([found.plain, found.best, found.energy], [0.0; 3]);
}

#[test]
fn a_weight_without_rows_is_searched_in_no_parts() {
    let Some(machine) = testing::machine() else {
        return;
    };
    let case = Case::new([0, 20, 8], DType::F32, INT4);
    let (found, _) = case.found(&machine, usize::MAX);
    assert!(found.amax.is_empty() && found.energy == 0.0);
}
