//! Attributes: defaults, merging, JSON and Python's notation.

use serde_json::{Value, json};

use super::{assert_says, attributes, config_error};
use crate::config::attributes::KEYS;
use crate::config::{
    Attributes, Axis, Bias, BiasMethod, BlockSizes, Calibrator, HighPrecisionDtype, JsonPath,
    NumBits, QuantType, Rotate, RotateMode,
};

fn valid(json: Value) -> Attributes {
    attributes(&json).unwrap_or_else(|error| panic!("{json}: {error}"))
}

fn merged(base: Value, update: Value) -> Result<Attributes, crate::error::Error> {
    valid(base).merged(&update, &JsonPath::root("update"))
}

#[test]
fn defaults_are_those_of_the_schema() {
    let expected = json!({
        "num_bits": 8, "effective_bits": null, "enable": true, "axis": null, "fake_quant": true,
        "unsigned": false, "narrow_range": false, "learn_amax": false, "type": "static",
        "block_sizes": null, "bias": null, "trt_high_precision_dtype": "Float", "calibrator": "max",
        "rotate": false, "pass_through_bwd": true, "backend": null, "backend_extra_args": null,
        "use_constant_amax": false, "constant_amax": null,
    });
    assert_eq!(Attributes::default().to_json(), expected);
    assert_eq!(valid(json!({})), Attributes::default());
    let keys: Vec<&str> = expected
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(keys, KEYS, "KEYS and to_json differ");
}

#[test]
fn every_attribute_is_read() {
    let read = valid(json!({
        "num_bits": 4, "effective_bits": 4.5, "enable": false, "fake_quant": false, "unsigned": true,
        "narrow_range": true, "type": "dynamic",
        "block_sizes": {"-1": 16, "type": "static", "scale_bits": [8, 0], "scale_block_sizes": {"-1": 256}, "four_over_six": 1},
        "bias": {"-2": null, "-4": null, "type": "dynamic", "method": "max_min"},
        "trt_high_precision_dtype": "BFloat16", "calibrator": "histogram",
        "rotate": {"enable": true, "mode": "rotate_back", "rotate_fp32": true, "block_size": 64},
        "pass_through_bwd": false, "backend": "mine", "backend_extra_args": {"k": [1]}, "constant_amax": 2688,
    }));
    let blocks = read.block_sizes.as_ref().unwrap();
    assert_eq!(blocks.blocks, [(-1, Some(16))]);
    assert_eq!(blocks.quant_type, QuantType::Static);
    assert_eq!(blocks.scale_bits, Some(NumBits::E8M0));
    assert_eq!(blocks.scale_block_sizes, Some(vec![(-1, 256)]));
    assert!(blocks.four_over_six);
    let expected = Attributes {
        num_bits: NumBits::Int(4),
        effective_bits: Some(4.5),
        enable: false,
        axis: None,
        fake_quant: false,
        unsigned: true,
        narrow_range: true,
        learn_amax: false,
        quant_type: QuantType::Dynamic,
        block_sizes: Some(blocks.clone()),
        bias: Some(Bias {
            axes: vec![-2, -4],
            quant_type: QuantType::Dynamic,
            method: BiasMethod::MaxMin,
        }),
        trt_high_precision_dtype: HighPrecisionDtype::BFloat16,
        calibrator: Calibrator::Histogram,
        rotate: Rotate {
            enable: true,
            mode: RotateMode::RotateBack,
            rotate_fp32: true,
            block_size: Some(64),
        },
        pass_through_bwd: false,
        backend: Some("mine".into()),
        backend_extra_args: Some(json!({"k": [1]})),
        use_constant_amax: false,
        constant_amax: Some(2688.0),
    };
    assert_eq!(read, expected);
    assert_eq!(valid(read.to_json()), read, "does not survive to_json");
    assert_eq!(
        valid(json!({"axis": [0, 1]})).axis,
        Some(Axis::Many(vec![0, 1]))
    );
}

#[test]
fn valid_sets_survive_json() {
    let sets = [
        json!({"num_bits": [4, 3], "axis": 0}),
        json!({"num_bits": [4, 3], "axis": [0, -1], "unsigned": true}),
        json!({"num_bits": [5, 2], "block_sizes": {"-1": 32, "type": "dynamic", "scale_bits": [8, 0]}}),
        json!({"num_bits": [2, 1], "block_sizes": {"type": "static", "-1": 16}}),
        json!({"block_sizes": {"-1": 128, "-2": 128}}),
        json!({"block_sizes": {"-1": null, "type": "dynamic"}}),
        json!({"block_sizes": {"-1": 64, "scale_bits": null, "four_over_six": false}}),
        json!({"bias": {"-1": null}, "rotate": true}),
        json!({"rotate": {"enable": true}}),
        json!({"rotate": {"enable": true, "block_size": null, "rotate_fp32": true}}),
        json!({"use_constant_amax": true, "constant_amax": null}),
        json!({"num_bits": [7, 0], "backend": "mine"}),
        json!({"enable": false}),
    ];
    for set in sets {
        let read = valid(set.clone());
        assert_eq!(valid(read.to_json()), read, "{set}");
    }
}

#[test]
fn toggles_are_recognised() {
    for (set, expected) in [
        (json!({"enable": true}), true),
        (json!({"enable": false}), true),
        (json!({"enable": 1}), false),
        (json!({"enable": true, "num_bits": 8}), false),
        (json!({"num_bits": 8}), false),
        (json!({}), false),
        (json!(true), false),
    ] {
        assert_eq!(Attributes::only_toggles(&set), expected, "{set}");
    }
}

#[test]
fn dynamic_is_said_in_two_places() {
    assert!(!valid(json!({"block_sizes": {"-1": 16}})).is_dynamic());
    assert!(valid(json!({"block_sizes": {"-1": null}, "type": "dynamic"})).is_dynamic());
    assert!(valid(json!({"block_sizes": {"-1": null, "type": "dynamic"}})).is_dynamic());
}

#[test]
fn values_print_as_in_python() {
    let blocks = |json: &str| {
        let value: Value = serde_json::from_str(json).unwrap();
        BlockSizes::from_json(&value, &JsonPath::root(""))
            .unwrap()
            .python_repr()
    };
    assert_eq!(
        blocks(r#"{"-1": 128, "type": "static"}"#),
        "{-1: 128, 'type': 'static'}"
    );
    assert_eq!(
        blocks(r#"{"type": "dynamic", "-1": null}"#),
        "{'type': 'dynamic', -1: None}"
    );
    assert_eq!(
        blocks(r#"{"-1": 16, "type": "dynamic", "scale_bits": [4, 3]}"#),
        "{-1: 16, 'type': 'dynamic', 'scale_bits': (4, 3)}"
    );
    assert_eq!(
        blocks(
            r#"{"-1": 64, "scale_bits": 8, "scale_block_sizes": {"-1": 256}, "four_over_six": true}"#
        ),
        "{-1: 64, 'scale_bits': 8, 'scale_block_sizes': {-1: 256}, 'four_over_six': True}"
    );
    assert_eq!(
        blocks(r#"{"-1": 16, "four_over_six": 1}"#),
        "{-1: 16, 'four_over_six': 1}"
    );
    assert_eq!(NumBits::Int(8).to_string(), "8");
    assert_eq!(NumBits::E4M3.to_string(), "(4, 3)");
    assert_eq!(Axis::One(-1).to_string(), "-1");
    assert_eq!(Axis::Many(vec![0, 1]).to_string(), "(0, 1)");
    assert_eq!(Axis::Many(vec![0]).to_string(), "(0,)");
    assert_eq!(Axis::Many(vec![0, -1]).dims(), [0, -1]);
}

#[test]
fn rotation_may_be_written_as_a_lone_enable() {
    assert!(valid(json!({"rotate": {"enable": true}})).rotate.enable);
}

#[test]
fn merging_changes_only_the_given_keys() {
    let base = json!({"num_bits": 4, "axis": 0, "unsigned": true});
    let result = merged(base.clone(), json!({"narrow_range": true})).unwrap();
    assert_eq!(
        result,
        Attributes {
            narrow_range: true,
            ..valid(base.clone())
        }
    );
    let off = merged(base.clone(), json!({"enable": false})).unwrap();
    assert_eq!(
        off,
        Attributes {
            enable: false,
            ..valid(base.clone())
        }
    );
    let on = off
        .merged(&json!({"enable": true}), &JsonPath::root("update"))
        .unwrap();
    assert_eq!(on, valid(base.clone()));
    assert_eq!(
        merged(base.clone(), json!({})).unwrap(),
        valid(base.clone())
    );
    let blocks = merged(base, json!({"axis": null, "block_sizes": {"-1": 16}})).unwrap();
    assert_eq!(
        (blocks.axis, blocks.block_sizes.unwrap().blocks),
        (None, vec![(-1, Some(16))])
    );
    let rotated = merged(json!({}), json!({"rotate": {"enable": true}})).unwrap();
    assert!(
        rotated.rotate.enable,
        "complete in rotate, though not elsewhere"
    );
}

#[test]
fn a_merged_set_is_checked_as_a_whole() {
    let cases = [
        (
            json!({"axis": 0}),
            json!({"block_sizes": {"-1": 16}}),
            "axis must be None",
        ),
        (
            json!({"constant_amax": 3}),
            json!({"use_constant_amax": true}),
            "mutually exclusive",
        ),
        (
            json!({"block_sizes": {"-1": 16, "type": "dynamic"}, "num_bits": [5, 2]}),
            json!({"block_sizes": null}),
            "E5M2",
        ),
        (
            json!({}),
            json!({"bias": {"enable": true}}),
            "Cannot specify only",
        ),
        (json!({}), json!({"axes": 0}), "did you mean `axis`?"),
        (json!({}), json!([]), "update: expected an object"),
    ];
    for (base, update, part) in cases {
        assert_says(&config_error(merged(base, update)), &[part]);
    }
}
