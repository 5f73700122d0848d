//! `Pattern` against CPython's answers, and the index of quantizer lists.

use serde_json::Value;

use crate::config::Pattern;

fn pattern(glob: &str) -> Pattern {
    Pattern::new(glob).unwrap()
}

#[test]
fn every_pair_is_answered_as_by_python() {
    let doc: Value = serde_json::from_str(include_str!("fnmatch.json")).unwrap();
    let cases = doc["cases"].as_array().unwrap();
    assert!(cases.len() >= 1000, "the golden file lost its cases");
    let mut matching = 0;
    for case in cases {
        let (glob, name) = (case[0].as_str().unwrap(), case[1].as_str().unwrap());
        let expected = case[2].as_bool().unwrap();
        assert_eq!(
            pattern(glob).matches(name),
            expected,
            "pattern {glob:?}, name {name:?}"
        );
        matching += usize::from(expected);
    }
    assert!(
        matching >= 150 && cases.len() - matching >= 150,
        "one-sided: {matching} match"
    );
}

#[test]
fn the_index_of_a_quantizer_list_may_be_left_out() {
    let cases = [
        (
            "*weight_quantizer",
            "experts.gate_up_proj_weight_quantizers.3",
            true,
        ),
        ("*weight_quantizer", "linear.weight_quantizer.0", true),
        (
            "*input_quantizer",
            "experts.down_proj_input_quantizers.12",
            true,
        ),
        ("*weight_quantizer.0", "linear.weight_quantizer.0", true),
        ("*weight_quantizers.3", "experts.weight_quantizers.3", true),
        ("*weight_quantizer", "linear.weight_quantizer", true),
        (
            "*.weight_quantizer.scale",
            "e.weight_quantizers.1.scale",
            true,
        ),
        // Only one index, only digits, only these two lists.
        ("*weight_quantizer", "linear.weight_quantizer.0.1", false),
        ("*weight_quantizer.1", "linear.weight_quantizer.0.1", true),
        ("*weight_quantizer", "linear.weight_quantizer.x0", false),
        ("*weight_quantizer", "linear.weight_quantizers", false),
        ("*output_quantizer", "linear.output_quantizer.0", false),
        ("*layers.q_proj", "layers.0.q_proj", false),
    ];
    for (glob, name, expected) in cases {
        assert_eq!(
            pattern(glob).matches_quantizer(name),
            expected,
            "pattern {glob:?}, name {name:?}"
        );
    }
}

#[test]
fn matching_alone_keeps_the_index() {
    assert!(!pattern("*weight_quantizer").matches("linear.weight_quantizer.0"));
}

#[test]
fn an_absurdly_long_pattern_is_an_error_and_not_a_panic() {
    let text = super::config_error(Pattern::new(&"?".repeat(400_000)));
    super::assert_says(&text, &["too long", "400000 bytes"]);
}
