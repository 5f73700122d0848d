//! Every validation rule of attributes, with the text it answers.

use serde_json::json;

use super::{assert_says, attributes, config_error, unsupported};

/// Every rule, with the words by which a user of the reference searches for it.
#[test]
fn every_rule_answers_with_its_text() {
    let fpx = "Supported FPx quantization formats: FP8 (E4M3, E5M2)";
    let blockwise = "Only blockwise dynamic quantization is supported with quantization formats";
    let positive = "num_bits must be a positive integer or a tuple of positive integers";
    let last_axis = "Dynamic block quantization only supports quantization last axis";
    let lone = "Cannot specify only {\"enable\": true}";
    let cases = [
        (
            json!({"num_bits": 0}),
            vec!["cfg.num_bits: ", positive, "got 0"],
        ),
        (json!({"num_bits": -4}), vec![positive, "got -4"]),
        (json!({"num_bits": 8.0}), vec![positive, "got 8.0"]),
        (json!({"num_bits": true}), vec![positive, "got true"]),
        (json!({"num_bits": null}), vec![positive, "got null"]),
        (
            json!({"num_bits": 4294967296u64}),
            vec![positive, "4294967296"],
        ),
        (json!({"num_bits": [4]}), vec![positive, "got [4]"]),
        (
            json!({"num_bits": [4, 3, 0]}),
            vec![positive, "got [4,3,0]"],
        ),
        (json!({"num_bits": [4, true]}), vec![positive]),
        (json!({"num_bits": [0, 3]}), vec![positive, "got [0,3]"]),
        (json!({"num_bits": [3, 0]}), vec![positive]),
        (json!({"num_bits": [6, 1]}), vec![fpx, "got (6, 1)"]),
        (json!({"num_bits": [5, 2]}), vec![blockwise, "E5M2"]),
        (
            json!({"num_bits": [3, 2], "block_sizes": {"-1": 32}}),
            vec![blockwise, "E3M2"],
        ),
        (
            json!({"effective_bits": 0}),
            vec!["effective_bits must be in (0, 16], got 0"],
        ),
        (
            json!({"effective_bits": 16.5}),
            vec!["effective_bits must be in (0, 16], got 16.5"],
        ),
        (
            json!({"effective_bits": "4"}),
            vec!["effective_bits must be a number, got \"4\""],
        ),
        (json!({"enable": true}), vec![lone]),
        (json!({"bias": {"enable": true}}), vec!["cfg.bias: ", lone]),
        (
            json!({"backend_extra_args": {"list": [{"enable": true}]}}),
            vec!["backend_extra_args.list[0]: ", lone],
        ),
        (
            json!({"enable": 1}),
            vec!["enable must be true or false, got 1"],
        ),
        (
            json!({"axis": "0"}),
            vec!["axis must be an int, a list of ints or null", "got \"0\""],
        ),
        (json!({"axis": 0.0}), vec!["axis must be an int", "got 0.0"]),
        (
            json!({"axis": [0, "1"]}),
            vec!["axis must be an int", "got [0,\"1\"]"],
        ),
        (
            json!({"axis": []}),
            vec!["axis must be an int", "write null"],
        ),
        (json!({"axis": [0, 1, 0]}), vec!["names 0 twice"]),
        (
            json!({"axis": 0, "block_sizes": {"-1": 128, "type": "static"}}),
            vec![
                "axis must be None when block_sizes is not None",
                "axis 0",
                "{-1: 128, 'type': 'static'}",
            ],
        ),
        (
            json!({"fake_quant": null}),
            vec!["fake_quant must be true or false, got null"],
        ),
        (
            json!({"unsigned": "yes"}),
            vec!["unsigned must be true or false"],
        ),
        (
            json!({"narrow_range": 0}),
            vec!["narrow_range must be true or false"],
        ),
        (
            json!({"learn_amax": true}),
            vec!["learn_amax is deprecated and reserved for backward compatibility"],
        ),
        (
            json!({"type": "Static"}),
            vec!["type must be \"static\" or \"dynamic\", got \"Static\""],
        ),
        (
            json!({"block_sizes": 128}),
            vec!["cfg.block_sizes: expected a block_sizes object", "got 128"],
        ),
        (
            json!({"block_sizes": {}}),
            vec!["block_sizes needs a dimension"],
        ),
        (
            json!({"block_sizes": {"type": "static"}}),
            vec!["block_sizes needs a dimension"],
        ),
        (
            json!({"block_sizes": {"-1": 0}}),
            vec!["[\"-1\"]: a block length must be a positive int", "got 0"],
        ),
        (
            json!({"block_sizes": {"-1": -8}}),
            vec!["a block length must be a positive int"],
        ),
        (
            json!({"block_sizes": {"-1": 8.0}}),
            vec!["a block length must be a positive int", "got 8.0"],
        ),
        (
            json!({"block_sizes": {"-1": null, "-2": 16}}),
            vec!["cannot mix null", "and block lengths"],
        ),
        (
            json!({"block_sizes": {"-1": 16, "-2": 16, "type": "dynamic"}}),
            vec![last_axis, "not 2"],
        ),
        (
            json!({"block_sizes": {"-1": 16, "type": "dyn"}}),
            vec!["type must be \"static\" or \"dynamic\", got \"dyn\""],
        ),
        (
            json!({"block_sizes": {"-1": 16, "scale_bit": 8}}),
            vec!["unknown key of block_sizes", "did you mean `scale_bits`?"],
        ),
        (
            json!({"block_sizes": {"+1": 16}}),
            vec!["unknown key of block_sizes \"+1\"", "-1 (a dimension)"],
        ),
        (
            json!({"block_sizes": {"01": 16}}),
            vec!["unknown key of block_sizes \"01\""],
        ),
        (
            json!({"block_sizes": {"-1": 16, "scale_bits": 0}}),
            vec!["scale_bits must be a positive integer"],
        ),
        (
            json!({"block_sizes": {"-1": 16, "scale_bits": [0, 8]}}),
            vec!["scale_bits must be a positive integer"],
        ),
        (
            json!({"block_sizes": {"-1": 16, "scale_block_sizes": {}}}),
            vec!["scale_block_sizes needs a dimension"],
        ),
        (
            json!({"block_sizes": {"-1": 16, "scale_block_sizes": {"x": 8}}}),
            vec!["dimensions as keys", "\"x\""],
        ),
        (
            json!({"block_sizes": {"-1": 16, "scale_block_sizes": {"-1": 0}}}),
            vec!["a block length must be"],
        ),
        (
            json!({"block_sizes": {"-1": 16, "four_over_six": "yes"}}),
            vec!["four_over_six must be"],
        ),
        (
            json!({"bias": {}}),
            vec!["The axis for bias computation is not specified"],
        ),
        (
            json!({"bias": {"type": "static"}}),
            vec!["The axis for bias computation is not specified"],
        ),
        (
            json!({"bias": {"-1": null, "type": "x"}}),
            vec!["type must be \"static\" or \"dynamic\", got \"x\""],
        ),
        (
            json!({"bias": {"-1": null, "method": "max"}}),
            vec!["method must be \"mean\" or \"max_min\", got \"max\""],
        ),
        (
            json!({"bias": {"-1": "all"}}),
            vec!["a dimension of bias takes null, got \"all\""],
        ),
        (
            json!({"bias": {"-1": null, "axis": -1}}),
            vec!["unknown key of bias \"axis\""],
        ),
        (
            json!({"trt_high_precision_dtype": "half"}),
            vec!["\"Float\" or \"Half\" or \"BFloat16\", got \"half\""],
        ),
        (
            json!({"calibrator": "mse"}),
            vec!["calibrator must be \"max\" or \"histogram\", got \"mse\""],
        ),
        (
            json!({"rotate": {"block_size": 0}}),
            vec!["block_size must be a positive int, got 0"],
        ),
        (
            json!({"rotate": {"block_size": true}}),
            vec!["block_size must be a positive int, got true"],
        ),
        (
            json!({"rotate": {"mode": "back"}}),
            vec!["mode must be \"rotate\" or \"rotate_back\""],
        ),
        (
            json!({"rotate": {"enabled": true}}),
            vec!["unknown key of rotate", "did you mean `enable`?"],
        ),
        (
            json!({"rotate": "yes"}),
            vec!["expected true, false or a rotate object, got \"yes\""],
        ),
        (
            json!({"pass_through_bwd": "no"}),
            vec!["pass_through_bwd must be true or false"],
        ),
        (
            json!({"backend": 3}),
            vec!["backend must be a string, got 3"],
        ),
        (
            json!({"backend_extra_args": 3}),
            vec!["expected an object of arguments, got 3"],
        ),
        (
            json!({"use_constant_amax": 448}),
            vec!["use_constant_amax must be true or false, got 448"],
        ),
        (
            json!({"constant_amax": 0}),
            vec!["constant_amax must be a positive value", "got 0"],
        ),
        (
            json!({"constant_amax": -1.5}),
            vec!["constant_amax must be a positive value"],
        ),
        (
            json!({"constant_amax": 1e-60}),
            vec!["constant_amax must be a positive value of float32"],
        ),
        (
            json!({"constant_amax": 1e60}),
            vec!["constant_amax must be a positive value of float32"],
        ),
        (
            json!({"constant_amax": true}),
            vec!["constant_amax must be a number, got true"],
        ),
        (
            json!({"constant_amax": 1.0, "use_constant_amax": true}),
            vec!["use_constant_amax and constant_amax are mutually exclusive; set only one"],
        ),
        (
            json!({"num_bitz": 8}),
            vec![
                "cfg: unknown attribute \"num_bitz\"",
                "did you mean `num_bits`?",
            ],
        ),
        (
            json!([]),
            vec!["cfg: expected an object of attributes, got []"],
        ),
    ];
    for (set, parts) in cases {
        let text = config_error(attributes(&set));
        assert_says(&text, &parts);
        assert!(text.starts_with("cfg"), "no path: {text}");
    }
}

#[test]
fn a_backend_name_for_num_bits_is_unsupported() {
    let text = unsupported(attributes(&json!({"num_bits": "nf4", "backend": "mine"})));
    assert_says(&text, &["cfg.num_bits", "\"nf4\"", "custom backend"]);
}

#[test]
fn a_backend_lifts_the_rules_for_num_bits() {
    let read = attributes(&json!({"num_bits": [6, 1], "backend": "mine"})).unwrap();
    assert_eq!(read.num_bits.to_string(), "(6, 1)");
}
