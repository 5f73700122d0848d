//! Scores on a GPU beside the sums in float64 that they stand for, within the bound that `cuda` states, for every mixture
//! of types and for the groups of a convolution.

use super::Sizes;
use super::cuda::{self, Places, Sum, max_rel_err};
use crate::kernels::Machine;
use crate::kernels::cuda::testing::{self, Host, OnGpu};
use crate::kernels::cuda::{DeviceBuffer, Elements};
use crate::kernels::gemm::UNIT_ROUNDOFF;
use crate::tensor::{DType, TensorView};

const TYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// A score and how far a GPU may be from it.
#[derive(Default)]
struct Exact {
    score: f64,
    /// `E` of [`max_rel_err`].
    energy: f64,
}

impl Exact {
    /// Adds the term of an element of two products, `[x, w]` each, and a gradient.
    fn add(&mut self, before: [&[f32]; 2], after: [&[f32]; 2], g: f32) {
        let product = |[x, w]: [&[f32]; 2]| {
            let terms = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
            terms.fold((0.0, 0.0), |(sum, all), term: f64| {
                (sum + term, all + term.abs())
            })
        };
        let ((y, of_y), (changed, of_changed)) = (product(before), product(after));
        let change = changed - y;
        // Of both products, and the roundings of the difference and of its product with g.
        let products = max_rel_err(before[0].len()) * (of_y + of_changed);
        let off = products + 2.01 * UNIT_ROUNDOFF * (change.abs() + products);
        self.score += (f64::from(g) * change).powi(2);
        self.energy += (f64::from(g) * off).powi(2);
    }

    fn assert_near(&self, got: f64, what: &dyn std::fmt::Debug) {
        let bound = 2.0 * (self.score * self.energy).sqrt() + self.energy + 1e-12 * self.score;
        let want = self.score;
        assert!(
            (got - want).abs() <= bound,
            "{what:?}: {got:e}, expected {want:e} within {bound:e}"
        );
        // Or the bound would not say much.
        assert!(bound <= 1e-3 * want || want == 0.0, "{bound:e} of {want:e}");
    }
}

fn noise(machine: &Machine, dtype: DType, shape: &[usize], seed: u32) -> (OnGpu, Vec<f32>) {
    let mut host = Host::noise(dtype, shape, seed);
    let there = OnGpu::copy_of(machine, &host.view(), 3 * dtype.size());
    (there, host.view().to_f32())
}

/// Runs a sum twice from a total of 0.25; the same bits both times.
fn summed(machine: &Machine, bytes: usize, add: impl Fn(Sum)) -> f64 {
    let gpu = machine.gpu().expect("a GPU");
    let of_tiles = DeviceBuffer::new(gpu, bytes).expect("memory");
    let once = || {
        let total = DeviceBuffer::holding(gpu, &[0.25f64]).expect("memory");
        add(Sum {
            of_tiles: of_tiles.address(),
            total: total.address(),
        });
        let mut found = [0.0f64];
        total.read(&mut found).expect("a copy");
        found[0]
    };
    let found = once();
    assert_eq!(
        found.to_bits(),
        once().to_bits(),
        "the same bytes every run"
    );
    found - 0.25
}

#[test]
fn scores_of_linear_layers_are_within_their_bound_for_all_mixtures_of_types() {
    let Some(machine) = testing::machine() else {
        return;
    };
    let gpu = machine.gpu().expect("a GPU");
    let mixtures = TYPES.map(|x| TYPES.map(|w| TYPES.map(|g| [x, w, g])));
    for (at, [of_x, of_w, of_g]) in mixtures.into_iter().flatten().flatten().enumerate() {
        let all = [
            (1, 1, 1),
            (5, 33, 7),
            (64, 64, 64),
            (70, 130, 129),
            (3, 0, 4),
        ];
        // Large ones take their time in an emulator.
        let few = [all[at % 5]];
        let sizes: &[_] = if at < 3 { &all } else { &few };
        for &(tokens, inputs, outputs) in sizes {
            let sizes = Sizes {
                tokens,
                inputs,
                outputs,
            };
            let (x, near_x) = noise(&machine, of_x, &[tokens, inputs], 1);
            let (other_x, near_other_x) = noise(&machine, of_x, &[tokens, inputs], 5);
            let (w, near_w) = noise(&machine, of_w, &[outputs, inputs], 2);
            let (other_w, near_other_w) = noise(&machine, of_w, &[outputs, inputs], 3);
            let (g, near_g) = noise(&machine, of_g, &[tokens, outputs], 4);
            let y = OnGpu::copy_of(
                &machine,
                &Host::noise(DType::F32, &[tokens, outputs], 9).view(),
                4,
            );
            cuda::product(gpu, [&x.view(), &w.view()], sizes, y.view().address());
            let mut exact = Exact::default();
            let row = |of: &[f32], at: usize| of[at * inputs..][..inputs].to_vec();
            for t in 0..tokens {
                for o in 0..outputs {
                    let before = [&row(&near_x, t)[..], &row(&near_w, o)];
                    let after = [&row(&near_other_x, t)[..], &row(&near_other_w, o)];
                    exact.add(before, after, near_g[t * outputs + o]);
                }
            }
            let got = summed(&machine, cuda::sums_bytes(sizes, 1), |sum| {
                let operands: [&TensorView; 3] = [&other_x.view(), &other_w.view(), &g.view()];
                cuda::add_squared(gpu, operands, sizes, y.view().address(), sum);
            });
            exact.assert_near(got, &(of_x, of_w, of_g, sizes));
            // Nothing was written around it.
            y.bytes();
        }
    }
    testing::assert_no_failure(&machine);
}

/// Two groups of channels, three images of five places, a piece of the rows at a time.
#[test]
fn groups_of_a_convolution_find_their_parts_and_their_gradients() {
    let Some(machine) = testing::machine() else {
        return;
    };
    let gpu = machine.gpu().expect("a GPU");
    for (groups, images, area, inputs, outputs, piece) in [
        (1, 1, 1, 1, 1, 1),
        (2, 3, 5, 9, 3, 15),
        (3, 2, 40, 17, 66, 64),
        (4, 1, 70, 2, 1, 64),
    ] {
        let tokens = images * area;
        let sizes = |tokens| Sizes {
            tokens,
            inputs,
            outputs,
        };
        let width = groups * inputs;
        let (x, near_x) = noise(&machine, DType::F32, &[tokens, width], 1);
        let (other_x, near_other_x) = noise(&machine, DType::F32, &[tokens, width], 5);
        let (w, near_w) = noise(&machine, DType::BF16, &[groups * outputs, inputs], 2);
        let (other_w, near_other_w) = noise(&machine, DType::BF16, &[groups * outputs, inputs], 3);
        let (g, near_g) = noise(&machine, DType::F16, &[images, groups * outputs, area], 4);
        let y = DeviceBuffer::new(gpu, groups * tokens * outputs * 4).expect("memory");
        let places = |first: usize| Places {
            stride: width as u64,
            x: inputs as u64,
            w: (inputs * outputs) as u64,
            y: (tokens * outputs) as u64,
            first: first as u64,
            places: area as u64,
            image: (groups * outputs * area) as u64,
            place: 1,
            channel: area as u64,
        };
        let pieces = || {
            (0..tokens).step_by(piece).map(|first| {
                let count = piece.min(tokens - first);
                (sizes(count), (groups, places(first)), first)
            })
        };
        let rows = |of: &OnGpu, first: usize| {
            let offset = (first * width * 4) as u64;
            Elements::at(of.view().address() + offset, DType::F32)
        };
        for (sizes, batch, first) in pieces() {
            let operands = [rows(&x, first), Elements::from(&w.view())];
            cuda::products(gpu, operands, sizes, batch, y.address());
        }
        let got = summed(&machine, cuda::sums_bytes(sizes(piece), groups), |sum| {
            for (sizes, batch, first) in pieces() {
                let (w, g) = (Elements::from(&other_w.view()), Elements::from(&g.view()));
                let operands = [rows(&other_x, first), w, g];
                cuda::add_all_squared(gpu, operands, sizes, batch, y.address(), sum);
            }
        });
        let mut exact = Exact::default();
        for t in 0..tokens {
            for o in 0..groups * outputs {
                let from_x = t * width + o / outputs * inputs;
                let part = |x: &[f32], w: &[f32]| {
                    (
                        x[from_x..][..inputs].to_vec(),
                        w[o * inputs..][..inputs].to_vec(),
                    )
                };
                let before = part(&near_x, &near_w);
                let after = part(&near_other_x, &near_other_w);
                let place = (t / area * groups * outputs + o) * area + t % area;
                exact.add([&before.0, &before.1], [&after.0, &after.1], near_g[place]);
            }
        }
        exact.assert_near(got, &(groups, images, area, inputs, outputs));
    }
    testing::assert_no_failure(&machine);
}

#[test]
fn differences_of_outputs_that_a_host_computed_are_those_of_the_cpu() {
    let Some(machine) = testing::machine() else {
        return;
    };
    let gpu = machine.gpu().expect("a GPU");
    for (count, [of_y, of_g]) in [
        (0, [DType::F32; 2]),
        (1, [DType::BF16, DType::F32]),
        (8192, [DType::F32, DType::F16]),
        (20_011, [DType::F16, DType::BF16]),
    ] {
        let (changed, near_changed) = noise(&machine, of_y, &[count], 1);
        let (y, near_y) = noise(&machine, of_y, &[count], 2);
        let (g, near_g) = noise(&machine, of_g, &[count], 3);
        let want = super::squared_difference(&machine, &near_changed, &near_y, &near_g);
        let got = summed(&machine, cuda::difference_bytes(count), |sum| {
            cuda::add_squared_difference(gpu, [&changed.view(), &y.view(), &g.view()], sum);
        });
        // Terms are the same; their sums are float64 in another order.
        assert!((got - want).abs() <= 1e-12 * (1.0 + want), "{got} {want}");
    }
    testing::assert_no_failure(&machine);
}

/// What a sum must not hide: NaN stays, and one term cannot make all others vanish.
#[test]
fn terms_are_clamped_and_not_a_number_stays() {
    let Some(machine) = testing::machine() else {
        return;
    };
    let gpu = machine.gpu().expect("a GPU");
    let there = |value: f32| {
        let mut host = Host::of(DType::F32, &[1], &[value]);
        OnGpu::copy_of(&machine, &host.view(), 0)
    };
    let (one, zero) = (there(1.0), there(0.0));
    for (value, want) in [
        (1e30f32, 1e20),
        (f32::NEG_INFINITY, 1e20),
        (f32::NAN, f64::NAN),
    ] {
        let changed = there(value);
        let got = summed(&machine, cuda::difference_bytes(1), |sum| {
            cuda::add_squared_difference(gpu, [&changed.view(), &zero.view(), &one.view()], sum);
        });
        assert!(
            got == want || got.is_nan() && want.is_nan(),
            "{value}: {got}"
        );
    }
    testing::assert_no_failure(&machine);
}
