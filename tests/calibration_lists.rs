//! Algorithms one after the other, experts beside balanced peers, and norms that are not what two layers say.

mod owned;
mod stack;

use mq::apply::fold_pre_quant_scale;
use mq::calibrate;
use mq::check;
use mq::error::Error;
use mq::model::{LayerKind, LayerSpec, Norm};
use mq::tensor::DType;
use owned::Owned;
use stack::{
    INT4_BLOCKS, INT8, INT8_ROWS, Part, Stack, assert_unchanged, before, change, config, context,
    noise, three_layers,
};

const SMOOTHQUANT: &str = r#"{"method": "smoothquant", "alpha": 0.5}"#;

fn scales(stack: &Stack) -> Vec<Option<Vec<f32>>> {
    let of = |layer: &std::sync::Arc<mq::model::Layer>| {
        let state = layer.input_slot().state();
        state.members()[0]
            .pre_quant_scale
            .as_ref()
            .map(|s| s.to_vec())
    };
    stack.layers.iter().map(of).collect()
}

#[test]
fn clipping_after_scaling_keeps_the_scales() {
    let run = |algorithm: &str| {
        let mut stack = Stack::new(context(1, 0).0, three_layers());
        let config = config(INT4_BLOCKS, INT8, algorithm);
        stack.quantize(&config).expect(algorithm);
        stack
    };
    let (full, list) = (run(r#""awq_full""#), run(r#"["awq_lite", "awq_clip"]"#));
    assert_eq!(scales(&list), scales(&full));
    assert!(scales(&full).iter().all(Option::is_some));
    let (mut same, mut all) = (0, 0);
    for (one, other) in list.layers.iter().zip(&full.layers) {
        let amax = |layer: &mq::model::Layer| {
            let state = layer.weight_slot().expect("a weight").state();
            state.members()[0]
                .amax
                .clone()
                .expect("calibrated")
                .values()
                .to_vec()
        };
        let (one_amax, other_amax) = (amax(one), amax(other));
        all += one_amax.len();
        // The list saw the scaled input, rounded; a few blocks are a hair's breadth apart.
        same += one_amax
            .iter()
            .zip(&other_amax)
            .filter(|(a, b)| a == b)
            .count();
        let input = |layer: &mq::model::Layer| layer.input_slot().state().members()[0].clone();
        let (a, b) = (input(one), input(other));
        let (a, b) = (
            a.channel_amax.clone().expect("seen"),
            b.channel_amax.clone().expect("seen"),
        );
        assert!(
            a.iter().zip(&*b).all(|(a, b)| (a - b).abs() <= 1e-6 * b),
            "{a:?} {b:?}"
        );
    }
    assert!(same * 50 >= all * 49, "{same} of {all} blocks");
}

#[test]
fn an_expert_without_tokens_is_balanced_as_its_peers_are() {
    for algorithm in [SMOOTHQUANT, r#""awq_lite""#, r#""awq_full""#] {
        let mut parts: Vec<Part> = ["e0", "e1", "e2"]
            .iter()
            .map(|name| Part::linear(name, [8, 64], None))
            .collect();
        for part in &mut parts {
            part.spec.expert_group = Some("up".to_owned());
        }
        parts[1].batches.clear();
        let mut stack = Stack::new(context(1, 0).0, parts);
        let config = config(INT8_ROWS, INT8, algorithm);
        stack.quantize(&config).expect(algorithm);
        let factors: Vec<Vec<f32>> = scales(&stack)
            .into_iter()
            .map(|s| s.expect("factors"))
            .collect();
        for (i, adopted) in factors[1].iter().enumerate() {
            let mean = (factors[0][i] + factors[2][i]) / 2.0;
            assert!((adopted - mean).abs() <= 1e-6 * mean, "{algorithm} {i}");
        }
        // What its peers see comes through: the layer computes what it should.
        let input = stack.layers[1].input_slot().state();
        let amax = input.members()[0].amax.clone().expect("filled").values()[0];
        let largest = |batch: &Owned| {
            let x = batch.view().to_f32();
            let scaled = x
                .iter()
                .enumerate()
                .map(|(i, x)| (x * factors[1][i % 64]).abs());
            scaled.fold(0.0f32, f32::max)
        };
        let peers = stack.parts[0].batches.iter().chain(&stack.parts[2].batches);
        let seen = peers.map(largest).fold(0.0, f32::max);
        assert!(
            amax >= seen * (1.0 - 1e-6),
            "{algorithm}: {amax} would clip {seen}"
        );
        let report = check::check(&stack.model).expect("checked");
        assert_eq!(report.summary.errors, 0, "{:?}", report.problems);
        assert!(
            report
                .problems
                .iter()
                .any(|p| p.name.starts_with("e1") && p.text.contains("peers"))
        );
    }
}

/// Two layers that read a norm, as they describe it.
fn readers(norms: [Norm; 2]) -> Vec<Part> {
    ["a", "b"]
        .iter()
        .zip(norms)
        .map(|(name, norm)| {
            let mut part = Part::linear(name, [6, 32], Some("x"));
            part.spec.norm = Some(norm);
            part
        })
        .collect()
}

#[test]
fn readers_that_describe_different_norms_are_refused() {
    let mut memory = noise(&[96], 3);
    change(&mut memory, |_, g| 1.5 + g);
    let whole = memory.view_mut();
    let part = |first: usize| whole.rows(first, 32).expect("a part");
    let norm = |gain: usize, bias: Option<usize>, adds_one: bool| Norm {
        gain: part(gain),
        bias: bias.map(part),
        adds_one,
    };
    for (what, norms) in [
        (
            "one has a bias",
            [norm(0, None, false), norm(0, Some(32), false)],
        ),
        (
            "another bias",
            [norm(0, Some(64), false), norm(0, Some(32), false)],
        ),
        ("one adds one", [norm(0, None, true), norm(0, None, false)]),
        (
            "gains overlap",
            [norm(0, None, false), norm(16, None, false)],
        ),
        (
            "gain is bias",
            [norm(0, Some(0), false), norm(0, Some(0), false)],
        ),
    ] {
        let mut stack = Stack::new(context(1, 0).0, readers(norms));
        stack
            .quantize(&config(INT8_ROWS, INT8, SMOOTHQUANT))
            .expect(what);
        let unchanged = before(&mut stack);
        let values = whole.to_f32();
        let error = fold_pre_quant_scale(&mut stack.model).expect_err(what);
        assert!(matches!(error, Error::State(_)), "{what}: {error}");
        assert_unchanged(&mut stack, &unchanged, what);
        assert_eq!(whole.to_f32(), values, "{what}");
    }
    let mut stack = Stack::new(context(1, 0).0, readers([norm(0, Some(64), false); 2]));
    stack
        .quantize(&config(INT8_ROWS, INT8, SMOOTHQUANT))
        .expect("calibrates");
    assert_eq!(fold_pre_quant_scale(&mut stack.model), Ok(2));
}

#[test]
fn a_layer_is_not_its_own_producer() {
    let mut part = Part::linear("a", [4, 4], None);
    let spec = LayerSpec {
        weight: Some(part.weight.view_mut()),
        producer: Some("a".to_owned()),
        ..LayerSpec::new("a", LayerKind::Linear)
    };
    let mut model = mq::model::Model::new(context(1, 0).0);
    let error = model.add_layer(spec).err().expect("refused");
    assert!(error.to_string().contains("itself"), "{error}");
}

#[test]
fn a_check_sees_nan_in_a_weight_whose_error_was_recorded() {
    for algorithm in [r#""max""#, r#""mse""#, r#""awq_clip""#] {
        let mut stack = Stack::new(context(1, 0).0, three_layers());
        stack
            .quantize(&config(INT4_BLOCKS, "", algorithm))
            .expect(algorithm);
        check::check(&stack.model).map(|_| ()).expect("sound");
        let weight = &mut stack.parts[1].weight;
        weight.bytes_mut()[..4].copy_from_slice(&f32::NAN.to_ne_bytes());
        let error = check::check(&stack.model).err().expect(algorithm);
        let name = stack.layers[1].name();
        assert!(
            matches!(&error, Error::Numeric(text) if text.contains(name)),
            "{error}"
        );
    }
}

#[test]
fn taps_do_not_see_a_plan() {
    let mut stack = Stack::new(context(1, 0).0, three_layers());
    stack
        .quantize(&config(INT8_ROWS, INT8, r#""max""#))
        .expect("calibrates");
    let other = config(INT4_BLOCKS, "", r#""awq_lite""#);
    let layer = stack.layers[0].clone();
    let x = stack.parts[0].batches[0].clone();
    let through = |x: &Owned| {
        let mut out = Owned::zeros(x.dtype, &x.shape);
        layer
            .input(x.view(), Some(out.view_mut()))
            .expect("quantizes");
        out.view().to_f32()
    };
    let want = through(&x);
    std::thread::scope(|scope| {
        let tapping = scope.spawn(|| (0..2000).all(|_| through(&x) == want));
        for _ in 0..200 {
            calibrate::plan_quantize(&stack.model, &other).expect("plans");
        }
        assert!(tapping.join().expect("no panic"));
    });
}

#[test]
fn a_constant_amax_is_not_clipped() {
    let constant = r#"{"num_bits": 4, "block_sizes": {"-1": 8}, "constant_amax": 2.0}"#;
    for algorithm in [r#""awq_full""#, r#""awq_clip""#] {
        let mut stack = Stack::new(context(1, 0).0, three_layers());
        stack
            .quantize(&config(constant, "", algorithm))
            .expect(algorithm);
        let state = stack.layers[0].weight_slot().expect("a weight").state();
        let amax = state.members()[0].amax.clone().expect("the constant");
        assert_eq!(amax.values(), [2.0]);
    }
}

#[test]
fn bins_are_counted_before_anything_runs() {
    let mut stack = Stack::new(context(1, 0).0, three_layers());
    let one_bin = r#"{"method": "histogram", "num_bins": 1}"#;
    let config = config(INT8_ROWS, INT8, one_bin);
    let planned = calibrate::plan_quantize(&stack.model, &config).expect_err("one bin");
    let error = stack.quantize(&config).expect_err("one bin");
    assert_eq!(error, planned);
    assert!(error.to_string().contains("num_bins is 1"), "{error}");
    assert_eq!(stack.forwards, 0);
}

#[test]
fn factors_keep_halves_in_their_range() {
    let parts = || {
        let mut part = Part::linear("a", [6, 32], None);
        change(&mut part.weight, |c, w| if c == 0 { w * 1e38 } else { w });
        part.batches = part.batches.iter().map(|x| x.cast(DType::F16)).collect();
        vec![part]
    };
    let mut stack = Stack::new(context(1, 0).0, parts());
    let error = stack
        .quantize(&config(INT8_ROWS, INT8, SMOOTHQUANT))
        .expect_err("out of range");
    assert!(error.to_string().contains("`a`"), "{error}");
    let mut stack = Stack::new(context(1, 0).0, parts());
    stack
        .quantize(&config(INT8_ROWS, INT8, r#""awq_lite""#))
        .expect("has other candidates");
    for x in &stack.parts[0].batches {
        let mut out = Owned::zeros(x.dtype, &x.shape);
        let layer = &stack.layers[0];
        layer.input(x.view(), Some(out.view_mut())).expect("passes");
        assert!(out.view().to_f32().iter().all(|y| y.is_finite()));
    }
}

#[test]
fn a_searched_amax_keeps_halves_finite() {
    let mut part = Part::linear("a", [1, 4], None);
    part.weight = stack::of_values(&[1, 4], &[65504.0, -65504.0, 30000.0, 1.0]).cast(DType::F16);
    let mut stack = Stack::new(context(1, 0).0, vec![part]);
    let far = r#"{"method": "mse", "step_size": 7, "start_multiplier": 0.25}"#;
    stack
        .quantize(&config(INT8_ROWS, "", far))
        .expect("searches");
    let mut out = Owned::zeros(DType::F16, &[1, 4]);
    stack.layers[0].weight_into(out.view_mut()).expect("rounds");
    assert!(out.view().to_f32().iter().all(|w| w.is_finite()));
}
