//! What a calibration refuses. Whatever the reason, every quantizer is left exactly as it was, and the
//! host's weights too.

mod owned;
mod stack;

use mq::calibrate;
use mq::config::QuantizeConfig;
use mq::error::{Error, Result};
use stack::{
    FP8, INT4_BLOCKS, INT8, INT8_ROWS, NVFP4, Part, Stack, assert_unchanged, before, config,
    context, of_values, pass, three_layers as parts,
};

const NF4: &str = r#"{"num_bits": 4, "block_sizes": {"-1": 16, "scale_bits": 8, "scale_block_sizes": {"-1": 8}}}"#;
const SMOOTHQUANT: &str = r#"{"method": "smoothquant", "alpha": 0.5}"#;

/// An algorithm with formats that it fits.
const CASES: [(&str, &str, &str); 8] = [
    (INT8_ROWS, INT8, r#""max""#),
    (INT8_ROWS, INT8, SMOOTHQUANT),
    (INT4_BLOCKS, FP8, r#""awq_lite""#),
    (INT4_BLOCKS, "", r#""awq_clip""#),
    (INT4_BLOCKS, INT8, r#""awq_full""#),
    (INT8_ROWS, INT8, r#""histogram""#),
    (INT4_BLOCKS, INT8, r#"["max", "awq_lite"]"#),
    (
        INT8_ROWS,
        INT8,
        r#"["histogram", "smoothquant", "awq_clip"]"#,
    ),
];

fn stack(threads: usize, parts: Vec<Part>) -> Stack {
    Stack::new(context(threads, 0).0, parts)
}

/// Fails in a model that was never quantized and in one that is calibrated; says why each time.
fn refused(mut parts: impl FnMut() -> Vec<Part>, config: &QuantizeConfig, what: &str) -> Error {
    let mut stack = stack(2, parts());
    let unchanged = before(&mut stack);
    let error = stack.quantize(config).expect_err(what);
    assert_unchanged(&mut stack, &unchanged, what);
    error
}

/// A quantizable model in which a forward of the test's own is tried, first of all and after a calibration.
fn each_forward(
    what: &str,
    mut forward: impl FnMut(&Stack, &mut usize) -> Result<()>,
    is_right: impl Fn(&Error) -> bool,
) {
    for (weight, input, algorithm) in CASES {
        let what = format!("{what}, {algorithm}");
        let config = config(weight, input, algorithm);
        let mut stack = stack(2, parts());
        for round in 0..2 {
            let unchanged = before(&mut stack);
            let mut model =
                std::mem::replace(&mut stack.model, mq::model::Model::new(context(1, 0).0));
            let mut calls = 0;
            let mut run = || {
                calls += 1;
                forward(&stack, &mut calls)
            };
            let outcome = match round {
                0 => calibrate::quantize(&mut model, &config, Some(&mut run)),
                _ => calibrate::calibrate(&mut model, &config.algorithm, Some(&mut run)),
            };
            stack.model = model;
            let error = outcome.expect_err(&what);
            assert!(is_right(&error), "{what}: {error}");
            assert_unchanged(&mut stack, &unchanged, &what);
            if round == 0 {
                stack.quantize(&config).expect(&what);
            }
        }
    }
}

#[test]
fn a_forward_that_calls_no_tap_is_refused() {
    each_forward(
        "no tap",
        |_, _| Ok(()),
        |error| matches!(error, Error::State(text) if text.contains("no tokens through the taps")),
    );
}

#[test]
fn a_forward_without_tokens_is_refused() {
    each_forward(
        "no tokens",
        |stack, _| {
            for (layer, part) in stack.layers.iter().zip(&stack.parts) {
                let empty = of_values(&[2, 0, part.weight.shape[1]], &[]);
                layer.input(empty.view(), None)?;
            }
            Ok(())
        },
        |error| matches!(error, Error::State(text) if text.contains("no tokens through the taps")),
    );
}

#[test]
fn a_callback_that_fails_midway_is_reported() {
    each_forward(
        "a callback's 7",
        |stack, _| {
            stack.layers[0].input(stack.parts[0].batches[0].view(), None)?;
            Err(Error::Callback {
                what: "forward",
                code: 7,
            })
        },
        |error| {
            matches!(
                error,
                Error::Callback {
                    what: "forward",
                    code: 7
                }
            )
        },
    );
}

#[test]
fn a_later_forward_that_fails_takes_the_earlier_ones_back() {
    // Of two algorithms the second fails: what the first one found is gone too.
    let config = config(INT4_BLOCKS, INT8, r#"["max", "awq_lite"]"#);
    let mut stack = stack(1, parts());
    let unchanged = before(&mut stack);
    let (layers, parts) = (&stack.layers, &stack.parts);
    let mut calls = 0;
    let mut forward = || match calls {
        0 => pass(layers, parts, &mut calls),
        _ => Err(Error::Callback {
            what: "forward",
            code: 1,
        }),
    };
    let error = calibrate::quantize(&mut stack.model, &config, Some(&mut forward));
    assert!(
        matches!(error, Err(Error::Callback { code: 1, .. })),
        "{error:?}"
    );
    assert_unchanged(&mut stack, &unchanged, "the second of a list");
}

#[test]
fn a_forward_that_is_missing_is_an_argument() {
    for (weight, input, algorithm) in CASES {
        let config = config(weight, input, algorithm);
        let mut stack = stack(1, parts());
        let unchanged = before(&mut stack);
        let outcome = calibrate::quantize(&mut stack.model, &config, None);
        let methods: Vec<&str> = config.algorithm.iter().map(|a| a.method.name()).collect();
        if methods
            .iter()
            .all(|method| ["max", "histogram"].contains(method))
        {
            outcome.expect("weights alone, and dynamic activations");
            continue;
        }
        let error = outcome.expect_err(algorithm);
        assert!(
            matches!(&error, Error::InvalidArgument(text) if text.contains("forward is NULL")),
            "{algorithm}: {error}"
        );
        assert_unchanged(&mut stack, &unchanged, algorithm);
    }
}

#[test]
fn a_value_that_is_not_finite_names_its_layer() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        each_forward(
            &format!("{bad}"),
            |stack, _| {
                pass(&stack.layers, &stack.parts, &mut 0)?;
                let mut values = stack.parts[2].batches[0].view().to_f32();
                values[100] = bad;
                let x = of_values(&stack.parts[2].batches[0].shape, &values);
                stack.layers[2].input(x.view(), None)
            },
            |error| matches!(error, Error::Numeric(text) if text.contains("`c.input_quantizer`")),
        );
        // In a weight.
        for (weight, input, algorithm) in CASES {
            let broken = || {
                let mut parts = parts();
                stack::change(&mut parts[1].weight, |channel, w| match channel {
                    41 => bad,
                    _ => w,
                });
                parts
            };
            let error = refused(broken, &config(weight, input, algorithm), algorithm);
            assert!(
                matches!(&error, Error::Numeric(text) if text.contains("`b.weight_quantizer`")),
                "{algorithm}: {error}"
            );
        }
    }
}

#[test]
fn another_shape_of_channels_is_refused_by_the_tap() {
    each_forward(
        "79 channels",
        |stack, _| {
            pass(&stack.layers, &stack.parts, &mut 0)?;
            // The host ignores the status: the verb fails all the same.
            let wrong = of_values(&[3, 79], &[1.0; 237]);
            stack.layers[0]
                .input(wrong.view(), None)
                .expect_err("79 for 80");
            Ok(())
        },
        |error| matches!(error, Error::InvalidArgument(text) if text.contains("[..., 80]")),
    );
}

#[test]
fn other_data_in_a_later_pass_is_refused() {
    for (weight, input, algorithm) in [CASES[1], CASES[2], CASES[3], CASES[4], CASES[5]] {
        let config = config(weight, input, algorithm);
        // Room for one activation at a time.
        let error = Stack::new(context(1, 1).0, parts()).quantize(&config);
        let Err(Error::OutOfMemory(text)) = error else {
            panic!("{error:?}");
        };
        let number = text
            .split_once("needs ")
            .and_then(|(_, t)| t.split_once(' '));
        let limit = number.expect(&text).0.parse().expect("a number");
        let mut stack = Stack::new(context(1, limit).0, parts());
        let unchanged = before(&mut stack);
        let (layers, parts) = (&stack.layers, &stack.parts);
        let mut calls = 0;
        let mut forward = || {
            pass(layers, parts, &mut calls)?;
            match calls {
                2 => layers[0].input(parts[0].batches[0].view(), None),
                _ => Ok(()),
            }
        };
        let outcome = calibrate::quantize(&mut stack.model, &config, Some(&mut forward));
        let error = outcome.expect_err("more tokens the second time");
        assert!(
            matches!(&error, Error::State(text) if text.contains("same data every time")),
            "{algorithm}: {error}"
        );
        assert_unchanged(&mut stack, &unchanged, algorithm);
    }
}

#[test]
fn layers_that_share_an_input_see_the_same_tokens() {
    each_forward(
        "one batch more for b",
        |stack, _| {
            pass(&stack.layers, &stack.parts, &mut 0)?;
            stack.layers[1].input(stack.parts[1].batches[0].view(), None)
        },
        |error| matches!(error, Error::State(text) if text.contains("shared_input_group")),
    );
}

#[test]
fn an_algorithm_that_does_not_fit_a_format_names_the_quantizer() {
    let nvfp4_static = NVFP4.replace("dynamic", "static");
    let awq = [
        r#""awq_lite""#,
        r#""awq_clip""#,
        r#""awq_full""#,
        r#"["max", "awq_lite"]"#,
    ];
    let both_axes = r#"{"num_bits": 8, "axis": [0, 1]}"#;
    for algorithm in awq {
        for weight in [NF4, &nvfp4_static, both_axes] {
            let error = refused(parts, &config(weight, "", algorithm), algorithm);
            assert!(
                matches!(&error, Error::Config(text) if text.contains("`a.weight_quantizer`")),
                "{algorithm} {weight}: {error}"
            );
        }
        let rows = r#"{"num_bits": 8, "axis": 0}"#;
        let error = refused(parts, &config(INT4_BLOCKS, rows, algorithm), algorithm);
        assert!(
            matches!(&error, Error::Config(text) if text.contains("`a.input_quantizer`")),
            "{algorithm}: {error}"
        );
    }
    let error = refused(parts, &config(INT8_ROWS, FP8, r#""histogram""#), "entropy");
    assert!(
        matches!(&error, Error::Config(text) if text.contains("entropy is defined for integers")),
        "{error}"
    );
    let one = || {
        vec![
            Part::linear("thin", [4, 1], None),
            Part::linear("c", [8, 48], None),
        ]
    };
    let error = refused(one, &config(INT8_ROWS, INT8, SMOOTHQUANT), "one channel");
    assert!(
        matches!(&error, Error::Config(text) if text.contains("only one channel to smooth")),
        "{error}"
    );
}

#[test]
fn what_a_later_algorithm_cannot_do_is_said_before_the_first_one_runs() {
    let config = config(NF4, INT8, r#"["max", "awq_lite"]"#);
    let mut misfit = stack(1, parts());
    let error = misfit.quantize(&config).expect_err("AWQ of NF4");
    assert!(matches!(&error, Error::Config(_)), "{error}");
    assert_eq!(misfit.forwards, 0);
    let list = r#"["max", "awq_lite"]"#;
    let config = stack::config(INT4_BLOCKS, INT8, list);
    let mut small = Stack::new(context(1, 100_000).0, parts());
    let error = small.quantize(&config).expect_err("too little for AWQ");
    assert!(
        matches!(&error, Error::OutOfMemory(text) if text.contains("awq_lite")),
        "{error}"
    );
    assert_eq!(small.forwards, 0);
}
