//! A layer whose `pre_quant_scale` was folded can be calibrated again, on activations that come scaled.

mod owned;
mod stack;

use mq::apply::fold_pre_quant_scale;
use mq::calibrate;
use mq::config::Algorithm;
use mq::model::Norm;
use owned::Owned;
use stack::{FP8, INT4_BLOCKS, INT8, INT8_ROWS, Part, Stack, config, context, product};

fn error_of(stack: &Stack, x: &Owned, plain: &[f64]) -> f64 {
    let (layer, part) = (&stack.layers[0], &stack.parts[0]);
    let mut seen = Owned::zeros(x.dtype, &x.shape);
    layer.input(x.view(), Some(seen.view_mut())).expect("a tap");
    let mut w = Owned::zeros(part.weight.dtype, &part.weight.shape);
    layer.weight_into(w.view_mut()).expect("a weight");
    let y = product(
        &seen.view().to_f32(),
        &w.view().to_f32(),
        part.weight.shape[1],
    );
    let error: f64 = y.iter().zip(plain).map(|(a, b)| (a - b).powi(2)).sum();
    error / plain.iter().map(|b| b * b).sum::<f64>()
}

#[test]
fn calibrating_after_folding_keeps_what_was_folded() {
    for (weight, input, first) in [
        (
            INT8_ROWS,
            INT8,
            r#"{"method": "smoothquant", "alpha": 0.5}"#,
        ),
        (INT8_ROWS, INT8, r#""awq_lite""#),
        (INT4_BLOCKS, INT8, r#""awq_full""#),
        (FP8, FP8, r#""awq_lite""#),
    ] {
        for second in [
            "max",
            "awq_lite",
            "smoothquant",
            "awq_full",
            "mse",
            "histogram",
        ] {
            if second == "histogram" && input == FP8 {
                continue;
            }
            let what = format!("{first} {weight}, then {second}");
            let mut part = Part::linear("l", [24, 64], None);
            let mut gain = stack::of_values(&[64], &[1.0; 64]);
            part.spec.norm = Some(Norm {
                gain: gain.view_mut(),
                bias: None,
                adds_one: false,
            });
            let x = part.batches[0].clone();
            let plain = product(
                &x.view().to_f32(),
                &part.weight.view().to_f32(),
                part.weight.shape[1],
            );
            // What the second algorithm reaches alone.
            let mut alone = Stack::new(context(1, 0).0, vec![Part::linear("l", [24, 64], None)]);
            let json = format!("\"{second}\"");
            alone.quantize(&config(weight, input, &json)).expect(&what);
            let alone = error_of(&alone, &x, &plain);
            let mut stack = Stack::new(context(1, 0).0, vec![part]);
            stack.quantize(&config(weight, input, first)).expect(&what);
            let before = error_of(&stack, &x, &plain);
            assert_eq!(fold_pre_quant_scale(&mut stack.model), Ok(1), "{what}");
            let factors = gain.view().to_f32();
            let scale = |x: &Owned| {
                let mut scaled = x.clone();
                stack::change(&mut scaled, |c, x| x * factors[c]);
                scaled
            };
            let x = scale(&x);
            let folded = error_of(&stack, &x, &plain);
            assert!(
                folded <= 1.2 * before + 1e-9,
                "{what}: {folded:e} after {before:e}"
            );
            let batches: Vec<Owned> = stack.parts[0].batches.iter().map(scale).collect();
            let again = |stack: &mut Stack| {
                let layer = &stack.layers[0];
                let mut forward = || batches.iter().try_for_each(|x| layer.input(x.view(), None));
                let algorithms = Algorithm::parse_text(second).expect("a name");
                calibrate::calibrate(&mut stack.model, &algorithms, Some(&mut forward))
            };
            again(&mut stack).expect(&what);
            let after = error_of(&stack, &x, &plain);
            assert!(
                after <= 2.0 * before.max(alone),
                "{what}: {after:e} after {before:e}, alone {alone:e}"
            );
            // And once more: nothing adds up.
            let states = stack.states();
            again(&mut stack).expect(&what);
            stack::assert_same(&stack.states(), &states, &what);
        }
    }
}
