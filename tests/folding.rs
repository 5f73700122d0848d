//! Folding of `pre_quant_scale` into norms and producers: layers compute what they computed before.

mod owned;
mod stack;

use mq::apply::{fold_pre_quant_scale, fold_weight};
use mq::check::{self, Severity};
use mq::error::Error;
use mq::model::{LayerKind, Norm};
use mq::tensor::DType;
use owned::Owned;
use stack::{
    FP8, INT4_BLOCKS, INT8, INT8_ROWS, NVFP4, Part, Stack, assert_same, change, config, context,
    noise, product,
};

const SMOOTHQUANT: &str = r#"{"method": "smoothquant", "alpha": 0.5}"#;

const CASES: [(&str, &str, &str); 6] = [
    (INT8_ROWS, INT8, SMOOTHQUANT),
    (INT8_ROWS, "", r#""awq_lite""#),
    (INT4_BLOCKS, "", r#""awq_lite""#),
    (INT4_BLOCKS, "", r#""awq_full""#),
    (FP8, FP8, r#""awq_lite""#),
    (NVFP4, NVFP4, r#""awq_full""#),
];

/// What comes out of a norm before its gain.
fn normed(channels: usize, batch: u64) -> Owned {
    noise(&[4, channels], 900 + batch)
}

/// A norm's parameters, and what it gives.
struct Gain {
    gain: Owned,
    bias: Option<Owned>,
    adds_one: bool,
}

impl Gain {
    fn new(channels: usize, has_bias: bool, adds_one: bool) -> Self {
        let mut gain = noise(&[channels], 5);
        change(&mut gain, |channel, g| {
            let size = if channel % 7 == 0 { 9.0 } else { 0.8 };
            size * (1.2 + g) - if adds_one { 1.0 } else { 0.0 }
        });
        Self {
            gain,
            bias: has_bias.then(|| noise(&[channels], 6)),
            adds_one,
        }
    }

    fn norm(&mut self) -> Norm {
        Norm {
            gain: self.gain.view_mut(),
            bias: self.bias.as_mut().map(Owned::view_mut),
            adds_one: self.adds_one,
        }
    }

    fn apply(&self, x: &Owned) -> Owned {
        let gain = self.gain.view().to_f32();
        let bias = self.bias.as_ref().map(|bias| bias.view().to_f32());
        let one = if self.adds_one { 1.0 } else { 0.0 };
        let mut y = x.clone();
        change(&mut y, |c, x| {
            x * (one + gain[c]) + bias.as_ref().map_or(0.0, |bias| bias[c])
        });
        y
    }
}

fn readers(norm: &mut Gain, names: &[&str], channels: usize) -> Vec<Part> {
    let mut parts = Vec::new();
    for (i, name) in names.iter().enumerate() {
        let mut part = Part::linear(name, [20 + 4 * i, channels], Some("x"));
        part.spec.norm = Some(norm.norm());
        part.spec.fused_group = Some("fused".to_owned());
        part.batches = (0..3)
            .map(|batch| norm.apply(&normed(channels, batch)))
            .collect();
        parts.push(part);
    }
    parts
}

/// Output of a layer for an input that reaches its tap.
fn output(stack: &Stack, layer: usize, x: &Owned) -> Vec<f64> {
    let part = &stack.parts[layer];
    let mut seen = Owned::zeros(x.dtype, &x.shape);
    let handle = &stack.layers[layer];
    handle
        .input(x.view(), Some(seen.view_mut()))
        .expect("a tap");
    let mut w = Owned::zeros(part.weight.dtype, &part.weight.shape);
    handle.weight_into(w.view_mut()).expect("a weight");
    product(
        &seen.view().to_f32(),
        &w.view().to_f32(),
        part.weight.shape[1],
    )
}

fn relative_error(got: &[f64], want: &[f64]) -> f64 {
    let error: f64 = got.iter().zip(want).map(|(a, b)| (a - b).powi(2)).sum();
    let energy: f64 = want.iter().map(|b| b * b).sum();
    error / energy
}

/// What the layer gives without quantization.
fn exact(part: &Part, x: &Owned) -> Vec<f64> {
    product(
        &x.view().to_f32(),
        &part.weight.view().to_f32(),
        part.weight.shape[1],
    )
}

fn group_problems(stack: &Stack) -> Vec<String> {
    let report = check::check(&stack.model).expect("checks");
    let problems = report.problems.iter();
    problems
        .filter(|p| p.kind == check::Kind::Group || p.severity == Severity::Error)
        .map(|p| format!("{}: {}", p.name, p.text))
        .collect()
}

#[test]
fn norms_take_over_the_factors_of_their_readers() {
    for (weight, input, algorithm) in CASES {
        for (names, has_bias, adds_one) in [
            (&["q_proj", "k_proj", "v_proj"][..], false, false),
            (&["q_proj", "k_proj", "v_proj"][..], true, false),
            (&["gate_proj", "up_proj"][..], false, true),
            (&["gate_proj", "up_proj"][..], true, true),
            (&["fc1"][..], true, false),
        ] {
            let what = format!("{algorithm} {weight} {names:?} {has_bias} {adds_one}");
            let mut gain = Gain::new(64, has_bias, adds_one);
            let x = gain.apply(&normed(64, 1));
            let mut max = Stack::new(context(2, 0).0, readers(&mut gain, names, 64));
            let plain: Vec<_> = max.parts.iter().map(|part| exact(part, &x)).collect();
            max.quantize(&config(weight, input, r#""max""#))
                .expect(&what);
            let rounded = |i: usize| relative_error(&output(&max, i, &x), &plain[i]);
            let mut stack = Stack::new(context(2, 0).0, readers(&mut gain, names, 64));
            stack
                .quantize(&config(weight, input, algorithm))
                .expect(&what);
            let before: Vec<_> = (0..names.len()).map(|i| output(&stack, i, &x)).collect();
            let weights = stack.weight_bytes();
            assert_eq!(
                fold_pre_quant_scale(&mut stack.model),
                Ok(names.len()),
                "{what}"
            );
            assert!(
                stack.weight_bytes() == weights,
                "{what}: only the norm is written to"
            );
            let folded = gain.apply(&normed(64, 1));
            for i in 0..names.len() {
                let input = stack.layers[i].input_slot().state();
                assert_eq!(input.members()[0].pre_quant_scale, None, "{what}");
                let after = output(&stack, i, &folded);
                let (was, now) = (
                    relative_error(&before[i], &plain[i]),
                    relative_error(&after, &plain[i]),
                );
                // Other factors round otherwise, and a mean of factors is nobody's best: no more than that.
                let limit = 2.0 * was.max(rounded(i)) + 1e-9;
                assert!(now <= limit, "{what} {i}: {now:e} after {was:e}");
                if names.len() == 1 {
                    let moved = relative_error(&after, &before[i]);
                    assert!(moved < 0.1 * was + 1e-9, "{what}: {moved:e}");
                }
            }
            assert!(
                group_problems(&stack).is_empty(),
                "{what}: {:?}",
                group_problems(&stack)
            );
            // There is nothing left to fold.
            let (states, bytes) = (stack.states(), gain.gain.clone());
            assert_eq!(fold_pre_quant_scale(&mut stack.model), Ok(0), "{what}");
            assert_same(&stack.states(), &states, &what);
            assert_eq!(gain.gain.view().to_f32(), bytes.view().to_f32(), "{what}");
        }
    }
}

#[test]
fn equal_factors_leave_the_weights_exactly_as_they_were() {
    for (weight, input, algorithm) in CASES {
        // Readers with the same weight have the same factors.
        let mut gain = Gain::new(64, false, false);
        let mut parts = readers(&mut gain, &["gate_proj", "up_proj"], 64);
        parts[1].weight = parts[0].weight.clone();
        let mut stack = Stack::new(context(1, 0).0, parts);
        stack
            .quantize(&config(weight, input, algorithm))
            .expect(algorithm);
        let quantized = |stack: &Stack, layer: usize| {
            let mut w = Owned::zeros(DType::F32, &stack.parts[layer].weight.shape);
            stack.layers[layer]
                .weight_into(w.view_mut())
                .expect("a weight");
            w.view().to_f32()
        };
        let before = [quantized(&stack, 0), quantized(&stack, 1)];
        fold_pre_quant_scale(&mut stack.model).expect(algorithm);
        for (layer, before) in before.iter().enumerate() {
            assert!(quantized(&stack, layer) == *before, "{algorithm} {layer}");
        }
    }
}

/// up -> down, with a gate that multiplies what up gives channel by channel.
fn mlp(dtype: DType) -> Vec<Part> {
    let mut up = Part::linear("up_proj", [48, 40], None).cast(dtype);
    let mut down = Part::linear("down_proj", [20, 48], None).cast(dtype);
    down.spec.producer = Some("up_proj".to_owned());
    up.spec.kind = LayerKind::Linear;
    vec![up, down]
}

#[test]
fn a_producer_takes_over_the_factors_of_its_reader() {
    for (weight, input, algorithm) in CASES {
        let what = format!("{algorithm} {weight}");
        let mut parts = mlp(DType::F32);
        let mut bias = noise(&[48], 3);
        parts[0].spec.bias = Some(bias.view_mut());
        let mut stack = Stack::new(context(1, 0).0, parts);
        stack
            .quantize(&config(weight, input, algorithm))
            .expect(&what);
        let factors = stack.layers[1].input_slot().state().members()[0]
            .pre_quant_scale
            .clone();
        let factors = factors.expect("factors");
        let (up, old_bias) = (stack.parts[0].weight.view().to_f32(), bias.view().to_f32());
        let x = noise(&[5, 40], 4);
        let z = noise(&[5, 48], 5);
        let (up_before, down_before) = (output(&stack, 0, &x), output(&stack, 1, &z));
        assert_eq!(fold_pre_quant_scale(&mut stack.model), Ok(1), "{what}");
        for (i, w) in stack.parts[0].weight.view().to_f32().iter().enumerate() {
            assert_eq!(*w, up[i] * factors[i / 40], "{what}");
        }
        for (i, b) in bias.view().to_f32().iter().enumerate() {
            assert_eq!(*b, old_bias[i] * factors[i], "{what}");
        }
        // up's output is scaled, row by row; down's is as it was for an input that comes scaled.
        let want: Vec<f64> = up_before
            .iter()
            .enumerate()
            .map(|(i, y)| y * f64::from(factors[i % 48]))
            .collect();
        let moved = relative_error(&output(&stack, 0, &x), &want);
        assert!(moved < 2e-2, "{what}: up {moved:e}");
        if weight == INT4_BLOCKS || weight == INT8_ROWS {
            assert!(
                moved < 1e-9,
                "{what}: rows have scales of their own, {moved:e}"
            );
        }
        let mut scaled = z.clone();
        change(&mut scaled, |c, z| z * factors[c]);
        let moved = relative_error(&output(&stack, 1, &scaled), &down_before);
        assert!(moved < 1e-3, "{what}: down {moved:e}");
    }
}

#[test]
fn what_cannot_be_folded_leaves_everything_as_it_was() {
    type Change = fn(&mut Vec<Part>);
    let changes: [(&str, Change, &str); 4] = [
        (
            "no such producer",
            |p| p[1].spec.producer = Some("nobody".to_owned()),
            "`nobody`",
        ),
        (
            "another width",
            |p| p[0] = Part::linear("up_proj", [47, 40], None).cast(DType::F16),
            "47",
        ),
        (
            "an overflow",
            |p| {
                change(&mut p[0].weight, |_, _| 60000.0);
                p[0].weight = p[0].weight.cast(DType::F16);
            },
            "no finite float16",
        ),
        (
            "a convolution",
            |p| {
                p[0].spec.kind = LayerKind::Conv { spatial: 1 };
                p[0].weight = noise(&[48, 4, 10], 8).cast(DType::F16);
                p[0].batches.clear();
            },
            "`up_proj`",
        ),
    ];
    for (name, change, says) in changes {
        let mut parts = mlp(DType::F16);
        change(&mut parts);
        let mut stack = Stack::new(context(1, 0).0, parts);
        stack
            .quantize(&config(INT8_ROWS, INT8, SMOOTHQUANT))
            .expect(name);
        let (states, weights) = (stack.states(), stack.weight_bytes());
        let error = fold_pre_quant_scale(&mut stack.model).expect_err(name);
        assert!(error.to_string().contains(says), "{name}: {error}");
        assert_same(&stack.states(), &states, name);
        assert!(stack.weight_bytes() == weights, "{name}");
    }
    // A norm whose gain would overflow.
    let mut gain = Gain::new(64, false, false);
    change(&mut gain.gain, |_, _| 65504.0);
    gain.gain = gain.gain.cast(DType::F16);
    let mut parts = readers(
        &mut Gain::new(64, false, false),
        &["gate_proj", "up_proj"],
        64,
    );
    let norm = gain.norm();
    parts
        .iter_mut()
        .for_each(|part| part.spec.norm = Some(norm));
    let mut stack = Stack::new(context(1, 0).0, parts);
    stack
        .quantize(&config(INT8_ROWS, "", r#""awq_lite""#))
        .expect("awq");
    let states = stack.states();
    let error = fold_pre_quant_scale(&mut stack.model).expect_err("too large");
    assert!(
        matches!(&error, Error::Numeric(text) if text.contains("gate_proj")),
        "{error}"
    );
    assert_same(&stack.states(), &states, "an overflowing gain");
    assert!(gain.gain.view().to_f32().iter().all(|g| *g == 65504.0));
    // A weight that is folded already, beside one with other factors.
    let mut gain = Gain::new(64, false, false);
    let parts = readers(&mut gain, &["gate_proj", "up_proj"], 64);
    let mut stack = Stack::new(context(1, 0).0, parts);
    let error = fold_pre_quant_scale(&mut stack.model).expect_err("not quantized");
    assert!(matches!(error, Error::State(_)), "{error}");
    stack
        .quantize(&config(INT8_ROWS, "", r#""awq_lite""#))
        .expect("awq");
    fold_weight(&mut stack.model, true).expect("folds");
    let (states, before) = (stack.states(), gain.gain.view().to_f32());
    let error = fold_pre_quant_scale(&mut stack.model).expect_err("folded");
    assert!(
        matches!(&error, Error::State(text) if text.contains("folded already")),
        "{error}"
    );
    assert_same(&stack.states(), &states, "folded weights");
    assert_eq!(gain.gain.view().to_f32(), before);
}

#[test]
fn the_checker_tells_of_factors_that_differ_and_producers_that_are_missing() {
    let mut gain = Gain::new(64, false, false);
    let mut parts = readers(&mut gain, &["gate_proj", "up_proj"], 64);
    let mut lost = Part::linear("lost", [4, 16], None);
    lost.spec.producer = Some("nobody".to_owned());
    parts.push(lost);
    let mut stack = Stack::new(context(1, 0).0, parts);
    stack
        .quantize(&config(INT8_ROWS, INT8, r#""awq_lite""#))
        .expect("awq");
    let problems = group_problems(&stack);
    assert!(
        problems
            .iter()
            .any(|text| text.contains("different factors")),
        "{problems:?}"
    );
    assert!(
        problems.iter().any(|text| text.contains("`nobody`")),
        "{problems:?}"
    );
}
