//! What a calibration leaves alone: a model that is only planned for, weights that are packed.

mod owned;
mod stack;

use mq::apply;
use mq::calibrate;
use mq::config::{Algorithm, CompressConfig};
use mq::error::Error;
use mq::model::allocate_own;
use stack::{
    FP8, INT4_BLOCKS, INT8, INT8_ROWS, Stack, assert_unchanged, before, config, context,
    three_layers,
};

const CASES: [(&str, &str, &str); 4] = [
    (INT8_ROWS, INT8, r#""max""#),
    (
        INT8_ROWS,
        INT8,
        r#"{"method": "smoothquant", "alpha": 0.5}"#,
    ),
    (INT4_BLOCKS, FP8, r#""awq_full""#),
    (
        INT8_ROWS,
        INT8,
        r#"["histogram", "smoothquant", "awq_clip"]"#,
    ),
];

#[test]
fn an_unquantized_model_is_not_calibrated() {
    let mut stack = Stack::new(context(1, 0).0, three_layers());
    let unchanged = before(&mut stack);
    let error = stack.calibrate("awq_lite").expect_err("no formats yet");
    assert!(matches!(error, Error::State(_)), "{error}");
    assert_unchanged(&mut stack, &unchanged, "calibrate before quantize");
}

#[test]
fn a_plan_changes_nothing() {
    for (weight, input, algorithm) in CASES {
        let config = config(weight, input, algorithm);
        let mut stack = Stack::new(context(1, 0).0, three_layers());
        let unchanged = before(&mut stack);
        calibrate::plan_quantize(&stack.model, &config).expect(algorithm);
        assert_unchanged(&mut stack, &unchanged, algorithm);
        stack.quantize(&config).expect(algorithm);
        let unchanged = before(&mut stack);
        let awq = Algorithm::parse_text(r#"["awq_clip", "max"]"#).expect("algorithms");
        calibrate::plan_calibrate(&stack.model, &awq).expect(algorithm);
        assert_unchanged(&mut stack, &unchanged, algorithm);
    }
}

#[test]
fn packed_layers_are_passed_over() {
    for algorithm in ["awq_lite", "awq_clip", "awq_full", "smoothquant", "max"] {
        let mut stack = Stack::new(context(1, 0).0, three_layers());
        stack
            .quantize(&config(
                &INT4_BLOCKS.replace("32", "16"),
                INT8,
                r#""awq_lite""#,
            ))
            .expect("awq");
        let first = CompressConfig::parse(r#"{"default": false, "a.*": true}"#);
        apply::compress(
            &mut stack.model,
            &first.expect("valid"),
            false,
            &mut allocate_own,
        )
        .expect("packs");
        let packed = stack.layers[0].weight_slot().expect("a weight").state();
        let input = stack.layers[0].input_slot().state();
        stack.calibrate(algorithm).expect(algorithm);
        assert!(*stack.layers[0].weight_slot().expect("a weight").state() == *packed);
        let now = stack.layers[0].input_slot().state();
        assert_eq!(
            now.members()[0].pre_quant_scale,
            input.members()[0].pre_quant_scale,
            "{algorithm}"
        );
    }
}
