//! Data that are odd but no error: zeros, layers without tokens, balances on top of each other.

mod owned;
mod stack;

use std::sync::{Arc, Mutex};

use mq::calibrate;
use mq::model::{Context, Quantizer};
use mq::tensor::DType;
use stack::{
    FP8, INT4_BLOCKS, INT8, INT8_ROWS, NVFP4, Part, Stack, assert_same, change, config, context,
    pass, three_layers as parts,
};

const SMOOTHQUANT: &str = r#"{"method": "smoothquant", "alpha": 0.5}"#;
const SMOOTHQUANT_WHOLLY: &str = r#"{"method": "smoothquant", "alpha": 1.0}"#;

/// An algorithm with formats that it fits.
const CASES: [(&str, &str, &str); 10] = [
    (INT8_ROWS, INT8, r#""max""#),
    (INT8_ROWS, INT8, SMOOTHQUANT),
    (INT8_ROWS, INT8, SMOOTHQUANT_WHOLLY),
    (INT4_BLOCKS, FP8, r#""awq_lite""#),
    (INT8_ROWS, "", r#""awq_lite""#),
    (FP8, FP8, r#""awq_lite""#),
    (INT4_BLOCKS, "", r#""awq_clip""#),
    (INT4_BLOCKS, INT8, r#""awq_full""#),
    (NVFP4, NVFP4, r#""awq_full""#),
    (INT8_ROWS, INT8, r#""histogram""#),
];

type Warnings = Arc<Mutex<Vec<String>>>;

fn stack(parts: Vec<Part>) -> (Stack, Warnings) {
    let (context, warnings): (Arc<Context>, Warnings) = context(2, 0);
    (Stack::new(context, parts), warnings)
}

fn quantizer(slot: &mq::model::Slot) -> Arc<Quantizer> {
    Arc::clone(&slot.state().members()[0])
}

fn input(stack: &Stack, layer: usize) -> Arc<Quantizer> {
    quantizer(stack.layers[layer].input_slot())
}

fn weight(stack: &Stack, layer: usize) -> Arc<Quantizer> {
    quantizer(stack.layers[layer].weight_slot().expect("a weight"))
}

/// Whatever was calibrated can be used: finite, positive where it must be, and taps give finite values.
fn assert_usable(stack: &Stack, what: &str) {
    for slot in stack.model.slots() {
        for q in slot.state().members() {
            let amax = q.amax.iter().flat_map(|amax| amax.values());
            assert!(
                amax.into_iter().all(|a| a.is_finite() && *a >= 0.0),
                "{what}: {} {:?}",
                slot.name(),
                q.amax
            );
            let factors = q.pre_quant_scale.iter().flat_map(|factors| factors.iter());
            assert!(
                factors.into_iter().all(|p| p.is_finite() && *p > 0.0),
                "{what}: {} {:?}",
                slot.name(),
                q.pre_quant_scale
            );
        }
    }
    for (layer, part) in stack.layers.iter().zip(&stack.parts) {
        for x in &part.batches {
            let mut out = owned::Owned::zeros(x.dtype, &x.shape);
            layer.input(x.view(), Some(out.view_mut())).expect(what);
            assert!(out.view().to_f32().iter().all(|x| x.is_finite()), "{what}");
        }
        let mut out = owned::Owned::zeros(part.weight.dtype, &part.weight.shape);
        layer.weight_into(out.view_mut()).expect(what);
        assert!(out.view().to_f32().iter().all(|w| w.is_finite()), "{what}");
    }
    mq::check::check(&stack.model).expect(what);
}

#[test]
fn zeros_leave_usable_scales() {
    type Change = fn(&mut Part);
    let changes: [(&str, Change); 6] = [
        ("a channel of zeros", |part| {
            part.batches.iter_mut().for_each(|x| {
                change(x, |channel, value| if channel == 3 { 0.0 } else { value });
            });
        }),
        ("activations of zeros", |part| {
            part.batches.iter_mut().for_each(|x| change(x, |_, _| 0.0));
        }),
        ("a weight of zeros", |part| {
            change(&mut part.weight, |_, _| 0.0)
        }),
        ("a column of zeros", |part| {
            change(
                &mut part.weight,
                |channel, w| if channel == 5 { 0.0 } else { w },
            );
        }),
        ("zeros that meet zeros", |part| {
            part.batches.iter_mut().for_each(|x| {
                change(
                    x,
                    |channel, value| if channel % 3 == 0 { 0.0 } else { value },
                );
            });
            change(
                &mut part.weight,
                |channel, w| if channel % 3 == 0 { 0.0 } else { w },
            );
        }),
        ("nothing but zeros", |part| {
            part.batches.iter_mut().for_each(|x| change(x, |_, _| 0.0));
            change(&mut part.weight, |_, _| 0.0);
        }),
    ];
    for (name, change) in changes {
        for (weight, input, algorithm) in CASES {
            let what = format!("{name}, {algorithm}, {weight}");
            let mut parts = parts();
            parts.iter_mut().for_each(change);
            let (mut stack, _) = stack(parts);
            let weights = stack.weight_bytes();
            stack
                .quantize(&config(weight, input, algorithm))
                .expect(&what);
            assert_usable(&stack, &what);
            assert!(stack.weight_bytes() == weights, "{what}");
        }
    }
}

#[test]
fn a_dead_channel_gets_the_largest_factor_of_smoothquant() {
    for algorithm in [SMOOTHQUANT, SMOOTHQUANT_WHOLLY] {
        let mut parts = parts();
        for x in &mut parts[2].batches {
            change(x, |channel, value| if channel == 3 { 0.0 } else { value });
        }
        let (mut stack, _) = stack(parts);
        stack
            .quantize(&config(INT8_ROWS, INT8, algorithm))
            .expect("smooths");
        let factors = input(&stack, 2).pre_quant_scale.clone().expect("factors");
        assert_eq!(factors[3], 1e4, "{algorithm}");
    }
}

#[test]
fn batches_without_tokens_change_nothing() {
    for (weight, input, algorithm) in CASES {
        let what = format!("{algorithm}, {weight}");
        let config = config(weight, input, algorithm);
        let (mut plain, _) = stack(parts());
        plain.quantize(&config).expect(&what);
        let mut with_empty = parts();
        for part in &mut with_empty {
            let empty = stack::of_values(&[0, 7, part.weight.shape[1]], &[]);
            part.batches.insert(0, empty.clone());
            part.batches.insert(2, empty);
        }
        let (mut other, _) = stack(with_empty);
        other.quantize(&config).expect(&what);
        assert_same(&other.states(), &plain.states(), &what);
    }
}

#[test]
fn one_channel_is_enough_for_awq() {
    for (weight, input, algorithm) in &CASES[3..] {
        let what = format!("{algorithm}, {weight}");
        let (mut stack, _) = stack(vec![Part::linear("thin", [5, 1], None)]);
        stack
            .quantize(&config(weight, input, algorithm))
            .expect(&what);
        assert_usable(&stack, &what);
        if algorithm.contains("awq") && !algorithm.contains("clip") {
            let q = quantizer(stack.layers[0].input_slot());
            assert_eq!(q.pre_quant_scale.as_deref(), Some(&[1.0][..]), "{what}");
        }
    }
}

#[test]
fn a_layer_without_tokens_keeps_its_weight_and_is_warned_about() {
    for (weight_cfg, input_cfg, algorithm) in CASES {
        let what = format!("{algorithm}, {weight_cfg}");
        let config = config(weight_cfg, input_cfg, algorithm);
        let mut with_unseen = parts();
        with_unseen[2].batches.clear();
        let (mut stack, warnings) = stack(with_unseen);
        stack.quantize(&config).expect(&what);
        assert_usable(&stack, &what);
        let unseen = weight(&stack, 2);
        assert!(unseen.enabled, "{what}");
        let scales = algorithm.contains("lite") || algorithm.contains("full");
        let factors = input(&stack, 2).pre_quant_scale.clone();
        match scales {
            true => assert_eq!(factors.as_deref(), Some(&[1.0; 48][..]), "{what}"),
            false => assert_eq!(factors, None, "{what}"),
        }
        // The weight's amax is that of max.
        let (mut alone, _) = self::stack(vec![Part::linear("c", [8, 48], None)]);
        let max = stack::config(weight_cfg, input_cfg, r#""max""#);
        alone.quantize(&max).expect("max");
        assert_eq!(unseen.amax, weight(&alone, 0).amax, "{what}");
        assert_eq!(input(&stack, 2).amax, None, "{what}: stays dynamic");
        let warnings = warnings.lock().expect("no panic");
        let named = warnings.iter().any(|text| text.contains("`c"));
        let silent = input_cfg.is_empty() && !algorithm.contains("awq");
        assert!(named || silent, "{what}: {warnings:?}");
    }
}

#[test]
fn experts_without_tokens_are_filled_from_their_peers() {
    let experts = || {
        let mut parts: Vec<Part> = ["e0", "e1", "e2"]
            .iter()
            .map(|name| Part::linear(name, [8, 48], None))
            .collect();
        for part in &mut parts {
            part.spec.expert_group = Some("up".to_owned());
        }
        parts[1].batches.clear();
        parts.push(Part::linear("gate", [4, 48], Some("h")));
        let mut up = Part::linear("up", [4, 48], Some("h"));
        up.batches.clear();
        parts.push(up);
        parts
    };
    for (weight_cfg, input_cfg, algorithm) in CASES {
        let what = format!("{algorithm}, {weight_cfg}");
        let (mut stack, warnings) = stack(experts());
        stack
            .quantize(&config(weight_cfg, input_cfg, algorithm))
            .expect(&what);
        assert_usable(&stack, &what);
        if input_cfg.is_empty() {
            continue;
        }
        let amax = |layer| input(&stack, layer).amax.clone();
        assert!(amax(0).is_some(), "{what}");
        assert_eq!(amax(1), amax(0), "{what}: peers");
        assert_eq!(amax(2), amax(0), "{what}: one scale for what is gathered");
        assert!(amax(4).is_some(), "{what}: a reader of the same activation");
        let record = input(&stack, 1).record.clone().expect("a record");
        assert_eq!(record.tokens, Some(0), "{what}");
        assert!(record.filled_from.is_some(), "{what}");
        let warnings = warnings.lock().expect("no panic");
        assert!(
            warnings.iter().any(|text| text.contains("`e1")),
            "{what}: {warnings:?}"
        );
    }
}

#[test]
fn a_second_run_gives_what_the_first_one_gave() {
    for (weight, input, algorithm) in CASES {
        let what = format!("{algorithm}, {weight}");
        let config = config(weight, input, algorithm);
        let (mut stack, _) = stack(parts());
        stack.quantize(&config).expect(&what);
        let first = stack.states();
        stack.calibrate(algorithm.trim_matches('"')).expect(&what);
        assert_same(&stack.states(), &first, &format!("{what}: calibrate"));
        stack.quantize(&config).expect(&what);
        assert_same(&stack.states(), &first, &format!("{what}: quantize"));
    }
}

#[test]
fn awq_after_smoothquant_begins_with_the_weight_as_it_was() {
    for (first, second) in [
        (SMOOTHQUANT, "awq_lite"),
        ("awq_lite", SMOOTHQUANT),
        (SMOOTHQUANT, SMOOTHQUANT_WHOLLY),
        ("awq_full", "awq_lite"),
        ("max", "awq_lite"),
    ] {
        let json = |name: &str| match name.starts_with('{') {
            true => name.to_owned(),
            false => format!("\"{name}\""),
        };
        let what = format!("{first}, then {second}");
        let (mut once, _) = stack(parts());
        once.quantize(&config(INT8_ROWS, INT8, &json(second)))
            .expect(&what);
        let (mut twice, _) = stack(parts());
        twice
            .quantize(&config(INT8_ROWS, INT8, &json(first)))
            .expect(&what);
        twice.calibrate(second).expect(&what);
        assert_same(&twice.states(), &once.states(), &what);
        let (mut list, _) = stack(parts());
        let both = format!("[{}, {}]", json(first), json(second));
        list.quantize(&config(INT8_ROWS, INT8, &both)).expect(&what);
        assert_same(&list.states(), &once.states(), &format!("[{what}]"));
    }
}

#[test]
fn smoothquant_passes_over_what_is_not_int8() {
    let (mut stack, warnings) = stack(parts());
    stack
        .quantize(&config(FP8, FP8, SMOOTHQUANT))
        .expect("skips");
    for layer in 0..3 {
        assert_eq!(input(&stack, layer).pre_quant_scale, None);
        assert!(input(&stack, layer).amax.is_some());
        let warnings = warnings.lock().expect("no panic");
        let name = format!("`{}`", stack.layers[layer].name());
        assert!(
            warnings
                .iter()
                .any(|t| t.contains("Only int8 smoothing") && t.contains(&name)),
            "{warnings:?}"
        );
    }
}

#[test]
fn taps_may_come_from_several_threads_at_once() {
    // One batch each, so that no order of batches can show.
    let one_batch = || {
        let mut parts: Vec<Part> = (0..6)
            .map(|i| Part::linear(&format!("l{i}"), [8, 48], None))
            .collect();
        parts.iter_mut().for_each(|part| part.batches.truncate(1));
        parts
    };
    for (weight, input, algorithm) in CASES {
        let what = format!("{algorithm}, {weight}");
        let config = config(weight, input, algorithm);
        let (mut plain, _) = stack(one_batch());
        plain.quantize(&config).expect(&what);
        let (mut stack, _) = stack(one_batch());
        let (layers, parts) = (&stack.layers, &stack.parts);
        let mut forward = || {
            std::thread::scope(|scope| {
                let taps: Vec<_> = (0..layers.len())
                    .map(|i| scope.spawn(move || pass(&layers[i..=i], &parts[i..=i], &mut 0)))
                    .collect();
                taps.into_iter()
                    .try_for_each(|tap| tap.join().expect("no panic"))
            })
        };
        calibrate::quantize(&mut stack.model, &config, Some(&mut forward)).expect(&what);
        assert_same(&stack.states(), &plain.states(), &what);
    }
}

#[test]
fn a_scale_that_float16_cannot_hold_is_no_candidate() {
    for (weight, input, algorithm) in &CASES[3..9] {
        for outlier in [100.0f32, 10_000.0, 65_504.0] {
            // One huge weight in a column of small ones, or one huge activation.
            let mut in_weight = Part::linear("l", [300, 64], None);
            let mut values = in_weight.weight.view().to_f32();
            values
                .iter_mut()
                .skip(7)
                .step_by(64)
                .for_each(|w| *w = 1e-4);
            values[5 * 64 + 7] = outlier;
            in_weight.weight = stack::of_values(&[300, 64], &values);
            let mut in_input = Part::linear("l", [300, 64], None);
            let mut values = in_input.batches[0].view().to_f32();
            values[64 + 7] = outlier;
            in_input.batches[0] = stack::of_values(&in_input.batches[0].shape.clone(), &values);
            for part in [in_weight, in_input] {
                let what = format!("{algorithm}, {weight}, {outlier}");
                let (mut stack, _) = stack(vec![part.cast(DType::F16)]);
                stack
                    .quantize(&config(weight, input, algorithm))
                    .expect(&what);
                assert_usable(&stack, &what);
            }
        }
    }
}
