//! The shapes of `quant_cfg` and of the text around it.

use serde_json::{Value, json};

use super::config;
use crate::config::{Attributes, Cfg, Entry, JsonPath, QuantizeConfig, Shape};

fn parse(quant_cfg: Value) -> QuantizeConfig {
    config(&json!({"quant_cfg": quant_cfg}))
}

fn one(entry: &Entry) -> &Attributes {
    match &entry.cfg {
        Some(Cfg::One(attributes)) => attributes,
        other => panic!("expected one set of attributes, got {other:?}"),
    }
}

fn names(config: &QuantizeConfig) -> Vec<&str> {
    config
        .entries
        .iter()
        .map(|entry| entry.pattern.as_str())
        .collect()
}

#[test]
fn a_list_keeps_its_order() {
    let config = parse(json!([
        {"quantizer_name": "*", "enable": false},
        {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": 8, "axis": 0}},
        {"quantizer_name": "*input_quantizer", "parent_class": "nn.LeakyReLU", "enable": true},
        {"quantizer_name": "*lm_head*", "parent_class": null, "cfg": {"num_bits": 4}, "enable": false},
    ]));
    assert_eq!(config.shape, Shape::List);
    assert_eq!(
        names(&config),
        ["*", "*weight_quantizer", "*input_quantizer", "*lm_head*"]
    );
    let [all, weight, relu, head] = config.entries.as_slice() else {
        panic!("four entries")
    };
    assert!(all.cfg.is_none() && !all.enable);
    assert!(weight.enable && one(weight).enable);
    assert_eq!(weight.path, "quant_cfg[1]");
    assert_eq!(weight.cfg_path, "quant_cfg[1].cfg");
    assert!(relu.cfg.is_none() && relu.enable);
    assert_eq!(relu.parent_class.as_deref(), Some("nn.LeakyReLU"));
    assert!(
        !head.enable && !one(head).enable,
        "the flag of the entry is put into cfg"
    );
    assert_eq!(head.parent_class, None);
}

#[test]
fn a_cfg_replaces_all_attributes() {
    let config = parse(json!([{"quantizer_name": "*", "cfg": {"num_bits": 4}}]));
    let expected = Attributes::from_json(&json!({"num_bits": 4}), &JsonPath::root("")).unwrap();
    assert_eq!(one(&config.entries[0]), &expected);
}

#[test]
fn a_list_of_attributes_is_a_sequence() {
    let config =
        parse(json!([{"quantizer_name": "*", "cfg": [{"num_bits": 4}, {"num_bits": [4, 3]}, {}]}]));
    let Some(Cfg::Sequential(members)) = &config.entries[0].cfg else {
        panic!("a sequence")
    };
    assert_eq!(
        members
            .iter()
            .map(|m| m.num_bits.to_string())
            .collect::<Vec<_>>(),
        ["4", "(4, 3)", "8"]
    );
    let off = parse(json!([{"quantizer_name": "*", "cfg": [{"num_bits": 4}], "enable": false}]));
    let Some(Cfg::Sequential(members)) = &off.entries[0].cfg else {
        panic!("a sequence")
    };
    assert!(!members[0].enable);
}

#[test]
fn a_dictionary_applies_default_first() {
    let config = parse(json!({
        "*weight_quantizer": {"num_bits": 8, "axis": 0},
        "*lm_head*": {"enable": false},
        "default": {"enable": false},
        "*": {"enable": true},
    }));
    assert_eq!(config.shape, Shape::Dict);
    assert_eq!(names(&config), ["*", "*weight_quantizer", "*lm_head*", "*"]);
    let enable: Vec<bool> = config.entries.iter().map(|entry| entry.enable).collect();
    assert_eq!(enable, [false, true, false, true]);
    let with_cfg: Vec<bool> = config
        .entries
        .iter()
        .map(|entry| entry.cfg.is_some())
        .collect();
    assert_eq!(
        with_cfg,
        [false, true, false, false],
        "a lone enable only toggles"
    );
    assert_eq!(config.entries[1].path, "quant_cfg[\"*weight_quantizer\"]");
    assert_eq!(config.entries[1].cfg_path, config.entries[1].path);
}

#[test]
fn a_dictionary_splits_enable_from_the_attributes() {
    let config = parse(
        json!({"*a": {"num_bits": 4, "enable": false}, "*b": {"enable": true, "num_bits": 4}}),
    );
    let [a, b] = config.entries.as_slice() else {
        panic!("two entries")
    };
    assert!(!a.enable && !one(a).enable);
    assert!(b.enable && one(b).enable);
}

#[test]
fn members_of_a_sequence_in_a_dictionary_keep_their_own_flag() {
    let members = json!([{"num_bits": 4, "enable": true}, {"num_bits": [4, 3], "enable": false}]);
    let config = parse(json!({ "*w": members }));
    let Some(Cfg::Sequential(members)) = &config.entries[0].cfg else {
        panic!("a sequence")
    };
    assert!(members[0].enable && !members[1].enable && config.entries[0].enable);
    let off = parse(json!({"*w": [{"num_bits": 4, "enable": false}]}));
    assert!(!off.entries[0].enable);
}

#[test]
fn a_class_scopes_its_patterns() {
    let config = parse(json!({
        "nn.BatchNorm1d": {"*": {"enable": false}},
        "nn.Linear": {"*weight_quantizer": {"num_bits": 4}, "*input_quantizer": [{"num_bits": 8}]},
    }));
    let found: Vec<(&str, Option<&str>)> = config
        .entries
        .iter()
        .map(|e| (e.pattern.as_str(), e.parent_class.as_deref()))
        .collect();
    assert_eq!(
        found,
        [
            ("*", Some("nn.BatchNorm1d")),
            ("*weight_quantizer", Some("nn.Linear")),
            ("*input_quantizer", Some("nn.Linear")),
        ]
    );
    assert_eq!(
        config.entries[0].path,
        "quant_cfg[\"nn.BatchNorm1d\"][\"*\"]"
    );
    assert!(matches!(config.entries[2].cfg, Some(Cfg::Sequential(_))));
}

#[test]
fn a_list_may_hold_dictionaries() {
    let config = parse(json!([
        {"*": {"enable": false}},
        {"*weight_quantizer": {"num_bits": 8}},
        {"default": {"enable": false}},
        {"nn.Linear": {"*": {"enable": false}}, "*x": {"num_bits": 4}},
        {"quantizer_name": "*y", "enable": true},
    ]));
    assert_eq!(config.shape, Shape::List);
    // In the list, `default` is another name of `*` and stays where it is.
    assert_eq!(
        names(&config),
        ["*", "*weight_quantizer", "*", "*", "*x", "*y"]
    );
    assert_eq!(config.entries[2].path, "quant_cfg[2].default");
    assert_eq!(config.entries[3].parent_class.as_deref(), Some("nn.Linear"));
    assert_eq!(config.entries[4].parent_class, None);
}

#[test]
fn an_empty_cfg_is_dropped_where_the_entry_is_off() {
    for cfg in [json!({}), json!([]), json!([{}, {}])] {
        let config = parse(json!([{"quantizer_name": "*", "cfg": cfg, "enable": false}]));
        assert!(config.entries[0].cfg.is_none() && !config.entries[0].enable);
    }
}

#[test]
fn a_null_cfg_only_switches_on() {
    let config = parse(json!([{"quantizer_name": "*", "cfg": null}]));
    assert!(config.entries[0].cfg.is_none() && config.entries[0].enable);
}

#[test]
fn a_missing_quant_cfg_is_int8_for_all_and_no_calibration() {
    let config = config(&json!({}));
    assert_eq!(names(&config), ["*"]);
    assert_eq!(one(&config.entries[0]), &Attributes::default());
    assert!(
        config.algorithm.is_empty(),
        "a mapping without the key is not calibrated"
    );
    assert_eq!((config.preset, config.effective_bits), (None, None));
}

#[test]
fn an_empty_quant_cfg_has_no_entries() {
    assert!(parse(json!([])).entries.is_empty());
    let dictionary = parse(json!({}));
    assert!(dictionary.entries.is_empty() && dictionary.shape == Shape::Dict);
}

#[test]
fn the_whole_configuration_is_read() {
    let text =
        r#" {"quant_cfg": [], "algorithm": ["max", {"method": "awq"}], "effective_bits": 4.5} "#;
    let config = QuantizeConfig::parse(text).unwrap();
    let methods: Vec<&str> = config
        .algorithm
        .iter()
        .map(|algorithm| algorithm.method.name())
        .collect();
    assert_eq!(methods, ["max", "awq_full"]);
    assert_eq!(config.effective_bits, Some(4.5));
}

#[test]
fn a_preset_may_be_bare_or_a_json_string() {
    for text in [
        "INT8_DEFAULT_CFG",
        " INT8_DEFAULT_CFG\n",
        "\"INT8_DEFAULT_CFG\"",
    ] {
        let config = QuantizeConfig::parse(text).unwrap();
        assert_eq!(
            config.preset.as_deref(),
            Some("INT8_DEFAULT_CFG"),
            "{text:?}"
        );
        assert!(!config.entries.is_empty());
    }
}
