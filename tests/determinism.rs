//! Results do not depend on threads, on the instruction set, or on how the host cuts its data where the
//! definition does not; and what AWQ chooses is the best of its candidates.

mod owned;
mod stack;

use std::hash::{DefaultHasher, Hash, Hasher};

use mq::model::fake_quant_once;
use mq::observe::{InputNeeds, InputStatistics};
use mq::tensor::DType;
use owned::Owned;
use proptest::prelude::*;
use stack::{
    FP8, INT4_BLOCKS, INT8, INT8_ROWS, NVFP4, Part, Stack, assert_same, change, config, context,
    noise, of_values, product,
};

const SMOOTHQUANT: &str = r#"{"method": "smoothquant", "alpha": 0.5}"#;

const CASES: [(&str, &str, &str); 10] = [
    (INT8_ROWS, INT8, r#""max""#),
    (INT8_ROWS, INT8, SMOOTHQUANT),
    (INT8_ROWS, INT8, r#""histogram""#),
    (
        INT8_ROWS,
        FP8,
        r#"{"method": "histogram", "amax_method": "mse"}"#,
    ),
    (INT4_BLOCKS, FP8, r#""awq_lite""#),
    (FP8, FP8, r#""awq_lite""#),
    (INT4_BLOCKS, "", r#""awq_clip""#),
    (INT4_BLOCKS, INT8, r#""awq_full""#),
    (NVFP4, NVFP4, r#""awq_full""#),
    (INT4_BLOCKS, INT8, r#""mse""#),
];

/// More rows than a task of any search takes, more channels than a panel.
fn parts() -> Vec<Part> {
    vec![
        Part::linear("a", [150, 80], Some("x")),
        Part::linear("b", [70, 80], Some("x")),
        Part::linear("c", [64, 300], None),
    ]
}

fn calibrated(threads: usize, case: (&str, &str, &str), parts: Vec<Part>) -> Stack {
    let (weight, input, algorithm) = case;
    let mut stack = Stack::new(context(threads, 0).0, parts);
    stack
        .quantize(&config(weight, input, algorithm))
        .expect(algorithm);
    stack
}

#[test]
fn every_number_of_threads_gives_the_same_bits() {
    for case in CASES {
        for dtype in [DType::F32, DType::BF16] {
            let parts = || parts().into_iter().map(|part| part.cast(dtype)).collect();
            let one = calibrated(1, case, parts());
            for threads in [2, 3, 8] {
                let many = calibrated(threads, case, parts());
                let what = format!("{case:?}, {dtype}, {threads} threads");
                assert_same(&many.states(), &one.states(), &what);
            }
        }
    }
}

/// Of everything that is calibrated.
fn fingerprint() -> u64 {
    let mut hasher = DefaultHasher::new();
    for case in CASES {
        for state in calibrated(2, case, parts()).states() {
            format!("{state:?}").hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// The instruction set is chosen once for a context by MQ_ISA; setting the environment of this process would
/// race with its other tests, so this test runs itself in another.
#[test]
fn every_isa_gives_the_same_bits() {
    let child = std::env::var_os("MQ_DETERMINISM_CHILD");
    let own = fingerprint();
    if child.is_some() {
        println!("fingerprint {own:x}");
        return;
    }
    for isa in ["scalar", "avx2", "avx512"] {
        let output = std::process::Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "every_isa_gives_the_same_bits", "--nocapture"])
            .env("MQ_DETERMINISM_CHILD", "1")
            .env("MQ_ISA", isa)
            .output()
            .expect("runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            text.contains(&format!("fingerprint {own:x}")),
            "{isa}: {text}"
        );
    }
}

/// The same tokens in other tensors: another rank, and a tap for each few of them.
#[test]
fn how_tokens_come_does_not_matter_where_the_definition_allows_it() {
    let cut = |mut part: Part| {
        let channels = part.weight.shape[1];
        let cut = |x: &Owned| -> Vec<Owned> {
            let values = x.view().to_f32();
            let pieces = values.chunks(3 * channels);
            pieces
                .map(|piece| of_values(&[piece.len() / channels, channels], piece))
                .collect()
        };
        part.batches = part.batches.iter().flat_map(cut).collect();
        part
    };
    // A histogram's bins are those of the first tap: let it have the largest value.
    let parts = || {
        let mut parts = parts();
        for part in &mut parts {
            let first = &mut part.batches[0];
            let mut values = first.view().to_f32();
            values[0] = 20.0;
            *first = of_values(&first.shape.clone(), &values);
        }
        parts
    };
    for case in &CASES[..4] {
        let whole = calibrated(2, *case, parts());
        let pieces = calibrated(2, *case, parts().into_iter().map(cut).collect());
        assert_same(&pieces.states(), &whole.states(), &format!("{case:?}"));
    }
    // A batch counts once for AWQ, so only its rank is free.
    let flat = |mut part: Part| {
        let channels = part.weight.shape[1];
        for x in &mut part.batches {
            let values = x.view().to_f32();
            *x = of_values(&[values.len() / channels, 1, channels], &values);
        }
        part
    };
    for case in CASES {
        let whole = calibrated(2, case, parts());
        let flat = calibrated(2, case, parts().into_iter().map(flat).collect());
        assert_same(&flat.states(), &whole.states(), &format!("{case:?}"));
    }
}

/// Relative error of a layer's output, with mq's input and weight.
fn output_error(stack: &Stack, plain: &[Part], layer: usize) -> f64 {
    let (handle, part, plain) = (&stack.layers[layer], &stack.parts[layer], &plain[layer]);
    let mut w = Owned::zeros(part.weight.dtype, &part.weight.shape);
    handle.weight_into(w.view_mut()).expect("a weight");
    let (mut error, mut energy) = (0.0, 0.0);
    for (batch, exact) in part.batches.iter().zip(&plain.batches) {
        let mut x = Owned::zeros(batch.dtype, &batch.shape);
        handle
            .input(batch.view(), Some(x.view_mut()))
            .expect("an input");
        let got = product(&x.view().to_f32(), &w.view().to_f32(), part.weight.shape[1]);
        let want = product(
            &exact.view().to_f32(),
            &plain.weight.view().to_f32(),
            part.weight.shape[1],
        );
        for (got, want) in got.iter().zip(&want) {
            error += (got - want).powi(2);
            energy += want.powi(2);
        }
    }
    error / energy
}

#[test]
fn halves_end_near_float32() {
    for case in CASES {
        let exact = calibrated(1, case, parts());
        for dtype in [DType::F16, DType::BF16] {
            let half = calibrated(
                1,
                case,
                parts().into_iter().map(|p| p.cast(dtype)).collect(),
            );
            for layer in 0..3 {
                let (half, exact) = (
                    output_error(&half, &parts(), layer),
                    output_error(&exact, &parts(), layer),
                );
                // The rounding of bfloat16 itself: 2^-9 of each value, of weight and input, squared.
                let limit = 1.25 * exact + 1e-4;
                assert!(
                    half <= limit,
                    "{case:?} {dtype} layer {layer}: {half:e}, {exact:e}"
                );
            }
        }
    }
}

/// A candidate of AWQ: scales of the weight's columns, and the factors that undo them.
struct Candidate {
    scales: Vec<f32>,
    factors: Vec<f32>,
}

/// What AWQ minimizes, in float64: the squared error of the output, meaned over each batch.
fn loss(part: &Part, format: &str, candidate: &Candidate) -> f64 {
    let (shape, w) = (part.weight.shape.clone(), part.weight.view().to_f32());
    let channels = shape[1];
    let mut scaled = part.weight.clone();
    change(&mut scaled, |channel, w| w * candidate.scales[channel]);
    let place = scaled.view_mut();
    fake_quant_once(&context(1, 0).0, place, format, None, place).expect("rounds");
    let scaled = scaled.view().to_f32();
    let delta: Vec<f64> = (0..w.len())
        .map(|i| {
            f64::from(scaled[i]) * f64::from(candidate.factors[i % channels]) - f64::from(w[i])
        })
        .collect();
    let mut loss = 0.0;
    for batch in &part.batches {
        let x = batch.view().to_f32();
        let tokens = (x.len() / channels) as f64;
        for x in x.chunks_exact(channels) {
            for delta in delta.chunks_exact(channels) {
                let products = x.iter().zip(delta).map(|(x, d)| f64::from(*x) * d);
                loss += products.sum::<f64>().powi(2) / tokens;
            }
        }
    }
    loss
}

/// The candidate of an exponent, from the definition.
fn candidate(part: &Part, block: usize, x_mean: &[f32], alpha: f32) -> Candidate {
    let (rows, channels) = (part.weight.shape[0], part.weight.shape[1]);
    let mut w_sum = vec![0.0f64; channels];
    for row in part.weight.view().to_f32().chunks_exact(channels) {
        for (k, values) in row.chunks(block).enumerate() {
            let amax = values.iter().fold(0.0f32, |amax, w| amax.max(w.abs())) + f32::MIN_POSITIVE;
            for (i, w) in values.iter().enumerate() {
                w_sum[k * block + i] += f64::from(w.abs() / amax);
            }
        }
    }
    let scale = |i: usize| {
        let w = ((w_sum[i] / rows as f64) as f32).powf(1.0 - alpha) + f32::MIN_POSITIVE;
        (x_mean[i].powf(alpha) / w).clamp(1e-4, 1e4)
    };
    let scales: Vec<f32> = (0..channels).map(scale).collect();
    let highest = scales.iter().copied().fold(0.0, f32::max);
    let lowest = scales.iter().copied().fold(f32::INFINITY, f32::min);
    let centre = (highest * lowest).sqrt();
    let scales: Vec<f32> = scales.iter().map(|s| s / centre).collect();
    Candidate {
        factors: scales.iter().map(|s| 1.0 / s).collect(),
        scales,
    }
}

/// The mean over the batches of the mean magnitudes, to the bit: a last bit of a scale moves the loss of 8-bit
/// weights by a part in 10^5.
fn mean_magnitudes(part: &Part) -> Vec<f32> {
    let needs = InputNeeds {
        mean_abs: true,
        ..InputNeeds::default()
    };
    let seen = InputStatistics::new("x", part.weight.shape[1], needs).expect("memory");
    let (context, _) = context(1, 0);
    for x in &part.batches {
        seen.observe(context.machine(), &x.view()).expect("finite");
    }
    let found = seen.summary(context.machine()).mean_abs.clone();
    let mut exact = vec![0.0f64; found.len()];
    for batch in &part.batches {
        let values = batch.view().to_f32();
        let tokens = (values.len() / found.len()) as f64;
        for (i, x) in values.iter().enumerate() {
            exact[i % found.len()] += f64::from(x.abs()) / tokens / part.batches.len() as f64;
        }
    }
    for (found, exact) in found.iter().zip(&exact) {
        assert!(
            (f64::from(*found) - exact).abs() <= 1e-6 * exact,
            "{found}, {exact}"
        );
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn awq_chooses_the_best_of_its_candidates(
        // With many rows, a part of them tells which candidates are worth the rest.
        rows in prop_oneof![3 => 1usize..40, 1 => 257usize..900],
        channels in 1usize..100,
        tokens in proptest::collection::vec(1usize..20, 1..4),
        format in 0usize..4,
        (spread, offset) in (0.0f32..3.0, prop_oneof![Just(0.0f32), -3.0f32..3.0]),
        seed: u32,
    ) {
        let (format, block) = [
            (INT4_BLOCKS, 32),
            (INT8_ROWS, channels),
            (FP8, channels),
            (NVFP4, 16),
        ][format];
        let seed = u64::from(seed);
        let size = noise(&[channels], seed ^ 77).view().to_f32();
        let mut part = Part::linear("l", [rows, channels], None);
        part.weight = noise(&[rows, channels], seed);
        change(&mut part.weight, |c, w| w * (spread * size[channels - 1 - c]).exp());
        part.batches = (0u64..).zip(&tokens).map(|(i, tokens)| {
            let mut x = noise(&[*tokens, channels], seed + 1 + i);
            change(&mut x, |c, x| (x + offset) * (spread * size[c]).exp());
            x
        }).collect();
        let stack = calibrated(1, (format, "", r#""awq_lite""#), vec![part]);
        let part = &stack.parts[0];
        let state = stack.layers[0].input_slot().state();
        let chosen = state.members()[0].pre_quant_scale.clone().expect("factors");
        prop_assert!(chosen.iter().all(|p| p.is_finite() && *p > 0.0));
        let highest = chosen.iter().copied().fold(0.0, f32::max);
        let lowest = chosen.iter().copied().fold(f32::INFINITY, f32::min);
        prop_assert!((highest * lowest - 1.0).abs() < 1e-5, "{highest} {lowest}");
        // It is one of the candidates, and none is better.
        let x_mean = mean_magnitudes(part);
        let candidates: Vec<Candidate> = (0..11u8)
            .map(|i| candidate(part, block, &x_mean, (f64::from(i) * 0.1) as f32))
            .collect();
        let own = candidates.iter().position(|c| c.factors[..] == chosen[..]);
        prop_assert!(own.is_some(), "no candidate: {chosen:?}");
        let losses: Vec<f64> =
            candidates.iter().map(|candidate| loss(part, format, candidate)).collect();
        let own = losses[own.expect("checked")];
        for (i, other) in losses.iter().enumerate() {
            prop_assert!(own <= other * (1.0 + 1e-5), "{format}: {own:e}, but {i} has {other:e}");
        }
    }

    /// Halves have little range: a scale that leaves it is no candidate.
    #[test]
    fn factors_of_halves_can_be_used(
        (rows, channels) in (1usize..20, 2usize..60),
        format in 0usize..4,
        is_f16: bool,
        (weight_size, input_size) in (-9i32..15, -9i32..15),
        seed: u32,
    ) {
        let format = [INT4_BLOCKS, INT8_ROWS, FP8, NVFP4][format];
        let dtype = if is_f16 { DType::F16 } else { DType::BF16 };
        let seed = u64::from(seed);
        let mut part = Part::linear("l", [rows, channels], None);
        // One value in each column, or none, is of the largest size.
        let is_large = noise(&[channels], seed).view().to_f32();
        let size = |c: usize, exponent: i32| if is_large[c] > 0.8 { 2f32.powi(exponent) } else { 1.0 };
        part.weight = noise(&[rows, channels], seed + 1);
        change(&mut part.weight, |c, w| w * w.powi(8) * size(c, weight_size));
        for x in &mut part.batches {
            change(x, |c, x| x * 0.08 * size(channels - 1 - c, input_size));
        }
        let input = if format == FP8 || format == NVFP4 { format } else { INT8 };
        let stack = calibrated(1, (format, input, r#""awq_full""#), vec![part.cast(dtype)]);
        let (layer, part) = (&stack.layers[0], &stack.parts[0]);
        let input = layer.input_slot().state();
        let factors = input.members()[0].pre_quant_scale.clone().expect("factors");
        prop_assert!(factors.iter().all(|p| p.is_finite() && *p > 0.0), "{factors:?}");
        let amax = input.members()[0].amax.clone().expect("an amax");
        prop_assert!(amax.values()[0].is_finite(), "{amax:?}");
        let mut w = Owned::zeros(dtype, &part.weight.shape);
        layer.weight_into(w.view_mut()).expect("a weight");
        prop_assert!(w.view().to_f32().iter().all(|w| w.is_finite()));
        for x in &part.batches {
            let mut out = Owned::zeros(dtype, &x.shape);
            layer.input(x.view(), Some(out.view_mut())).expect("an input");
            prop_assert!(out.view().to_f32().iter().all(|x| x.is_finite()));
        }
    }
}
