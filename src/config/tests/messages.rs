//! Paths and suggestions.

use serde_json::{Value, json};

use super::{assert_says, config_error};
use crate::config::read::{hint, shown};
use crate::config::{JsonPath, QuantizeConfig};

#[test]
fn paths_print_as_they_would_be_typed() {
    let top = JsonPath::root("");
    assert_eq!(top.to_string(), "top level");
    let list = top.key("quant_cfg");
    assert_eq!(
        list.index(2)
            .key("cfg")
            .key("block_sizes")
            .key("-1")
            .to_string(),
        "quant_cfg[2].cfg.block_sizes[\"-1\"]"
    );
    assert_eq!(list.key("*\n\"").to_string(), "quant_cfg[\"*\\n\\\"\"]");
    let named = JsonPath::root("quant_cfg[0].cfg");
    assert_eq!(
        named.index(1).key("axis").to_string(),
        "quant_cfg[0].cfg[1].axis"
    );
}

#[test]
fn long_values_are_shortened_on_a_character() {
    let long = shown(&Value::from("ä".repeat(200)));
    assert_eq!(long.chars().count(), 83);
    assert!(long.ends_with("ä..."));
}

#[test]
fn near_names_are_suggested_and_far_ones_are_not() {
    let valid = &["num_bits", "axis", "block_sizes"];
    assert_says(&hint("NUM_BITS", valid), &["did you mean `num_bits`?"]);
    assert_says(&hint("bits", valid), &["did you mean `num_bits`?"]);
    assert_says(
        &hint("block_size", valid),
        &["did you mean `block_sizes`?", "valid: num_bits, axis"],
    );
    assert_eq!(hint("qqq", valid), "; valid: num_bits, axis, block_sizes");
    assert_eq!(hint("", valid), "; valid: num_bits, axis, block_sizes");
    assert_eq!(hint("zzz", &["a"; 30]), "");
}

#[test]
fn a_wrong_preset_names_the_nearest() {
    let error = |name: &str| config_error(QuantizeConfig::parse(name));
    assert_says(
        &error("INT8_DEFALT_CFG"),
        &[
            "unknown preset \"INT8_DEFALT_CFG\"",
            "did you mean `INT8_DEFAULT_CFG`?",
        ],
    );
    assert_says(
        &error("int8_default_cfg"),
        &["did you mean `INT8_DEFAULT_CFG`?"],
    );
    assert_says(
        &error("NVFP4_DEFAULT"),
        &["did you mean `NVFP4_DEFAULT_CFG`?"],
    );
    assert_says(
        &error("zzz"),
        &["unknown preset \"zzz\"", "such as INT8_DEFAULT_CFG"],
    );
    let no_name = config_error(QuantizeConfig::from_value(&json!("")));
    assert_says(&no_name, &["unknown preset \"\""]);
}
