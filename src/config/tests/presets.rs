//! The presets: names, which version answers, and what some of them say.

use serde_json::{Value, json};

use super::config;
use crate::config::presets::{self, V0_21};
use crate::config::{Attributes, Cfg, Entry, JsonPath, NumBits, QuantizeConfig, Shape};

/// What only reference 0.21 has.
const OLDER: [&str; 5] = [
    "FP8_DYNAMIC_CFG",
    "FP8_PER_CHANNEL_CFG",
    "FP8_WA_FP8_KV_CFG",
    "INT4_AWQ_REAL_QUANT_CFG",
    "NF4_REAL_QUANT_CFG",
];

fn preset(name: &str) -> QuantizeConfig {
    QuantizeConfig::parse(name).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn attributes(json: Value) -> Attributes {
    Attributes::from_json(&json, &JsonPath::root("")).unwrap()
}

fn find<'c>(config: &'c QuantizeConfig, pattern: &str) -> &'c Entry {
    config
        .entries
        .iter()
        .find(|entry| entry.pattern.as_str() == pattern)
        .unwrap_or_else(|| panic!("no {pattern}"))
}

fn one(config: &QuantizeConfig, pattern: &str) -> Attributes {
    match &find(config, pattern).cfg {
        Some(Cfg::One(attributes)) => (**attributes).clone(),
        other => panic!("{pattern}: {other:?}"),
    }
}

/// The names of the algorithms.
fn methods(config: &QuantizeConfig) -> Vec<&'static str> {
    config
        .algorithm
        .iter()
        .map(|algorithm| algorithm.method.name())
        .collect()
}

#[test]
fn all_names_are_there_in_order() {
    let names: Vec<&str> = presets::names().collect();
    let (newer, older) = names.split_at(39);
    assert!(newer.is_sorted());
    assert_eq!(older, OLDER);
    assert_eq!(V0_21.len(), 11);
}

#[test]
fn every_preset_of_both_versions_is_valid() {
    for name in presets::names() {
        let read = preset(name);
        assert_eq!(read.preset.as_deref(), Some(name));
        assert!(!read.entries.is_empty(), "{name}");
        let text = presets::json(name).unwrap();
        assert_eq!(
            QuantizeConfig {
                preset: None,
                ..read
            },
            QuantizeConfig::parse(&text).unwrap(),
            "{name}"
        );
    }
    for (name, value) in V0_21.iter() {
        let read = config(value);
        assert_eq!(read.shape, Shape::Dict, "{name}");
        let first = &read.entries[0];
        assert!(
            first.pattern.as_str() == "*" && !first.enable && first.cfg.is_none(),
            "{name}: default is not first"
        );
    }
}

#[test]
fn the_newer_version_answers_where_both_have_a_name() {
    assert_eq!(preset("INT8_DEFAULT_CFG").shape, Shape::List);
    assert_eq!(preset("NF4_REAL_QUANT_CFG").shape, Shape::Dict);
    assert_eq!(presets::json("no such"), None);
}

#[test]
fn int8_says_what_the_reference_says() {
    let read = preset("INT8_DEFAULT_CFG");
    let first = &read.entries[0];
    assert!(first.pattern.as_str() == "*" && first.cfg.is_none() && !first.enable);
    assert_eq!(
        one(&read, "*weight_quantizer"),
        attributes(json!({"num_bits": 8, "axis": 0}))
    );
    assert_eq!(
        one(&read, "*input_quantizer"),
        attributes(json!({"num_bits": 8}))
    );
    assert!(!find(&read, "*lm_head*").enable);
    let classes: Vec<&str> = read
        .entries
        .iter()
        .filter_map(|entry| entry.parent_class.as_deref())
        .collect();
    assert_eq!(
        classes,
        [
            "nn.BatchNorm1d",
            "nn.BatchNorm2d",
            "nn.BatchNorm3d",
            "nn.LeakyReLU",
            "nn.Embedding"
        ]
    );
    assert_eq!(methods(&read), ["max"]);
    assert_eq!(methods(&preset("INT8_SMOOTHQUANT_CFG")), ["smoothquant"]);
    assert!(!find(&preset("INT8_WEIGHT_ONLY_CFG"), "*input_quantizer").enable);
}

#[test]
fn block_presets_say_what_the_reference_says() {
    let int4 = one(
        &preset("INT4_BLOCKWISE_WEIGHT_ONLY_CFG"),
        "*weight_quantizer",
    );
    assert_eq!(int4.num_bits, NumBits::Int(4));
    assert_eq!(
        int4.block_sizes.unwrap().python_repr(),
        "{-1: 128, 'type': 'static'}"
    );
    let plane = one(
        &preset("FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG"),
        "*weight_quantizer",
    );
    assert_eq!(
        plane.block_sizes.unwrap().blocks,
        [(-1, Some(128)), (-2, Some(128))]
    );
    let token = one(&preset("FP8_PER_CHANNEL_PER_TOKEN_CFG"), "*input_quantizer");
    assert!(token.is_dynamic() && token.block_sizes.unwrap().spans_whole_dimensions());
    let nvfp4 = one(&preset("NVFP4_DEFAULT_CFG"), "*weight_quantizer");
    assert_eq!(
        (nvfp4.num_bits, nvfp4.effective_bits),
        (NumBits::E2M1, Some(4.5))
    );
    assert_eq!(nvfp4.block_sizes.unwrap().scale_bits, Some(NumBits::E4M3));
    let six = one(&preset("NVFP4_FOUR_OVER_SIX_CFG"), "*weight_quantizer");
    assert!(six.block_sizes.unwrap().four_over_six);
    let mx = one(&preset("MXFP6_DEFAULT_CFG"), "*input_quantizer");
    assert_eq!(mx.block_sizes.unwrap().scale_bits, Some(NumBits::E8M0));
    let nf4 = one(&preset("NF4_REAL_QUANT_CFG"), "*weight_quantizer");
    assert!(!nf4.fake_quant);
    assert_eq!(
        nf4.block_sizes.unwrap().scale_block_sizes,
        Some(vec![(-1, 256)])
    );
}

#[test]
fn w4a8_is_a_sequence() {
    for read in [
        preset("W4A8_AWQ_BETA_CFG"),
        config(&V0_21["W4A8_AWQ_BETA_CFG"]),
    ] {
        let Some(Cfg::Sequential(members)) = &find(&read, "*weight_quantizer").cfg else {
            panic!("a sequence")
        };
        assert_eq!(
            members.iter().map(|m| m.num_bits).collect::<Vec<_>>(),
            [NumBits::Int(4), NumBits::E4M3]
        );
        assert_eq!(one(&read, "*input_quantizer").num_bits, NumBits::E4M3);
        assert_eq!(methods(&read), ["awq_lite"]);
    }
}

#[test]
fn cache_presets_do_not_calibrate() {
    for name in [
        "FP8_KV_CFG",
        "FP8_AFFINE_KV_CFG",
        "NVFP4_KV_CFG",
        "NVFP4_AFFINE_KV_CFG",
    ] {
        assert!(preset(name).algorithm.is_empty(), "{name}");
    }
    let affine = preset("FP8_AFFINE_KV_CFG");
    let Some(Cfg::One(last)) = &affine.entries[1].cfg else {
        panic!("attributes")
    };
    assert_eq!(last.bias.as_ref().unwrap().axes, [-2, -4]);
    let rotate = preset("NVFP4_KV_ROTATE_CFG");
    let query = one(&rotate, "*q_bmm_quantizer");
    assert!(query.rotate.enable && !query.enable && !find(&rotate, "*q_bmm_quantizer").enable);
}

#[test]
fn algorithms_of_presets_carry_their_fields() {
    let six = preset("NVFP4_FOUR_OVER_SIX_CFG");
    let fields = &six.algorithm[0].fields;
    assert_eq!(
        (&fields["start_multiplier"], &fields["stop_multiplier"]),
        (&json!(1.0), &json!(1.5))
    );
    let real = preset("INT4_AWQ_REAL_QUANT_CFG");
    assert_eq!(
        real.algorithm[0].fields["additional_algorithm"]["method"],
        "awq_lite"
    );
    assert!(preset("MXFP8_DEFAULT_CFG").algorithm.is_empty());
}

#[test]
fn older_fp8_presets_are_dynamic_where_the_reference_says() {
    let dynamic = preset("FP8_DYNAMIC_CFG");
    assert_eq!(
        one(&dynamic, "*weight_quantizer"),
        attributes(json!({"num_bits": [4, 3], "axis": 0, "type": "dynamic"}))
    );
    assert_eq!(
        one(&dynamic, "*input_quantizer"),
        attributes(json!({"num_bits": [4, 3], "axis": -1, "type": "dynamic"}))
    );
    let channel = preset("FP8_PER_CHANNEL_CFG");
    assert!(
        !one(&channel, "*weight_quantizer").is_dynamic()
            && one(&channel, "*input_quantizer").is_dynamic()
    );
    assert_eq!(
        one(&preset("FP8_WA_FP8_KV_CFG"), "*bmm_quantizer"),
        attributes(json!({"num_bits": [4, 3]}))
    );
}
