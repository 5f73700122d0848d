//! Which valid configurations this version carries out.

use serde_json::{Value, json};

use super::{assert_says, attributes, config, unsupported};
use crate::config::support::{check, check_algorithm, check_attributes};
use crate::config::{Algorithm, JsonPath, QuantizeConfig, presets};
use crate::error::Error;

/// Presets this version carries out.
const BUILT: [&str; 42] = [
    "NF4_REAL_QUANT_CFG",
    "FP8_AFFINE_KV_CFG",
    "NVFP4_AFFINE_KV_CFG",
    "NVFP4_KV_ROTATE_CFG",
    "FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG",
    "FP8_DEFAULT_CFG",
    "FP8_KV_CFG",
    "FP8_PER_CHANNEL_PER_TOKEN_CFG",
    "INT4_BLOCKWISE_WEIGHT_ONLY_CFG",
    "INT8_DEFAULT_CFG",
    "INT8_WEIGHT_ONLY_CFG",
    "MAMBA_MOE_FP8_AGGRESSIVE_CFG",
    "MAMBA_MOE_FP8_CONSERVATIVE_CFG",
    "MAMBA_MOE_NVFP4_AGGRESSIVE_CFG",
    "MAMBA_MOE_NVFP4_CONSERVATIVE_CFG",
    "MXFP4_DEFAULT_CFG",
    "MXFP4_MLP_WEIGHT_ONLY_CFG",
    "MXFP6_DEFAULT_CFG",
    "MXFP8_DEFAULT_CFG",
    "MXINT8_DEFAULT_CFG",
    "NVFP4_DEFAULT_CFG",
    "NVFP4_EXPERTS_ONLY_CFG",
    "NVFP4_FP8_MHA_CONFIG",
    "NVFP4_KV_CFG",
    "NVFP4_MLP_ONLY_CFG",
    "NVFP4_MLP_WEIGHT_ONLY_CFG",
    "NVFP4_OMLP_ONLY_CFG",
    "W4A16_NVFP4_CFG",
    "W4A8_MXFP4_FP8_CFG",
    "W4A8_NVFP4_FP8_CFG",
    "FP8_DYNAMIC_CFG",
    "FP8_PER_CHANNEL_CFG",
    "FP8_WA_FP8_KV_CFG",
    "INT4_AWQ_REAL_QUANT_CFG",
    "W4A8_AWQ_BETA_CFG",
    "NVFP4_W4A4_WEIGHT_MSE_FP8_SWEEP_CFG",
    "NVFP4_FOUR_OVER_SIX_CFG",
    "NVFP4_AWQ_LITE_CFG",
    "NVFP4_AWQ_FULL_CFG",
    "NVFP4_AWQ_CLIP_CFG",
    "INT8_SMOOTHQUANT_CFG",
    "INT4_AWQ_CFG",
];

/// The others, with what is missing.
const NOT_BUILT: [(&str, &str); 2] = [
    ("NVFP4_SVDQUANT_DEFAULT_CFG", "algorithm svdquant"),
    (
        "NVFP4_W4A4_WEIGHT_LOCAL_HESSIAN_CFG",
        "algorithm local_hessian",
    ),
];

#[test]
fn every_preset_is_either_built_or_says_what_is_missing() {
    let mut listed: Vec<&str> = BUILT
        .iter()
        .copied()
        .chain(NOT_BUILT.iter().map(|(name, _)| *name))
        .collect();
    let mut known: Vec<&str> = presets::names().collect();
    listed.sort_unstable();
    known.sort_unstable();
    assert_eq!(listed, known, "a preset is missing here");
    for name in BUILT {
        assert_eq!(
            check(&QuantizeConfig::parse(name).unwrap()),
            Ok(()),
            "{name}"
        );
    }
    for (name, what) in NOT_BUILT {
        let text = unsupported(check(&QuantizeConfig::parse(name).unwrap()));
        assert_says(
            &text,
            &[
                &format!("preset {name}: "),
                what,
                "is not built in this version",
            ],
        );
    }
}

fn check_set(set: &Value) -> Result<(), Error> {
    check_attributes(
        &attributes(set).unwrap_or_else(|error| panic!("{set}: {error}")),
        &JsonPath::root("cfg"),
    )
}

#[test]
fn attributes_that_are_built_pass() {
    for set in [
        json!({"num_bits": 2, "axis": 0}),
        json!({"num_bits": 8, "axis": [0, 1], "unsigned": true, "narrow_range": true}),
        json!({"num_bits": 3, "block_sizes": {"-1": 32, "-2": 2}}),
        json!({"num_bits": [4, 3], "type": "dynamic"}),
        json!({"num_bits": 8, "type": "dynamic", "axis": -1}),
        json!({"num_bits": 8, "block_sizes": {"-1": null}}),
        json!({"num_bits": 8, "block_sizes": {"-1": null, "type": "dynamic"}}),
        json!({"num_bits": 8, "block_sizes": {"-1": null, "-2": null}, "type": "dynamic"}),
        json!({"num_bits": [1, 2], "block_sizes": {"-1": 8, "type": "dynamic", "scale_bits": [8, 0]}}),
        json!({"num_bits": [5, 2], "block_sizes": {"-1": 32, "type": "dynamic", "scale_bits": [8, 0]}}),
        json!({"num_bits": [2, 1], "block_sizes": {"-1": 16, "scale_bits": [4, 3], "four_over_six": true}}),
        json!({"num_bits": [2, 1], "block_sizes": {"-1": 32, "type": "dynamic", "scale_bits": [4, 3]}}),
        json!({"bias": {"-1": null}}),
        json!({"calibrator": "histogram"}),
        json!({"rotate": true}),
        json!({"fake_quant": false}),
        json!({"num_bits": 4, "block_sizes": {"-1": 32, "scale_bits": 8, "scale_block_sizes": {"-1": 8}}}),
        json!({"num_bits": 8, "use_constant_amax": true}),
        json!({"num_bits": 8, "constant_amax": 3.5}),
        json!({"num_bits": 8, "rotate": {"enable": false, "block_size": 64}}),
        json!({"num_bits": 8, "pass_through_bwd": false, "trt_high_precision_dtype": "Half", "effective_bits": 4}),
    ] {
        assert_eq!(check_set(&set), Ok(()), "{set}");
    }
}

#[test]
fn attributes_that_are_not_built_name_key_and_feature() {
    let cases = [
        (
            json!({"num_bits": 1}),
            "cfg.num_bits: this number format (num_bits 1) is not built",
        ),
        (json!({"num_bits": 9}), "(num_bits 9) is"),
        (json!({"num_bits": 16}), "(num_bits 16) is"),
        (
            json!({"num_bits": [2, 1]}),
            "cfg.num_bits: this number format (num_bits (2, 1)) is",
        ),
        (
            json!({"num_bits": [1, 2], "block_sizes": {"-1": 32, "type": "dynamic"}}),
            "(num_bits (1, 2)",
        ),
        (
            json!({"num_bits": 4, "block_sizes": {"-1": 64, "scale_bits": 8}}),
            "cfg.num_bits: this number format (num_bits 4, scale_bits 8)",
        ),
        (
            json!({"num_bits": 4, "block_sizes": {"-1": null, "scale_bits": 8}}),
            "this number format (num_bits 4, scale_bits 8)",
        ),
        (
            json!({"num_bits": 4, "block_sizes": {"-1": 64, "scale_block_sizes": {"-1": 8}}}),
            "scale_block_sizes",
        ),
        (
            json!({"num_bits": 8, "block_sizes": {"-1": 64, "type": "dynamic"}}),
            "cfg.block_sizes: dynamic blocks (num_bits 8)",
        ),
        (
            json!({"num_bits": [4, 3], "block_sizes": {"-1": 64}, "type": "dynamic"}),
            "dynamic blocks (num_bits (4, 3))",
        ),
        (
            json!({"num_bits": [4, 3], "block_sizes": {"-1": 64, "type": "dynamic", "scale_bits": [8, 0]}}),
            "cfg.block_sizes: a block of this size",
        ),
        (
            json!({"num_bits": [2, 1], "block_sizes": {"-1": 128, "scale_bits": [4, 3]}}),
            "MX in dynamic blocks of 8, 16 or 32, NVFP4 in blocks of 16 or 32",
        ),
        (json!({"backend": "mine"}), "cfg.backend: a custom backend"),
    ];
    for (set, part) in cases {
        let text = unsupported(check_set(&set));
        assert_says(
            &text,
            &[part, "built are integers of 2 to 8 bits and FP8 (4, 3)"],
        );
    }
}

#[test]
fn algorithms_are_checked() {
    let check = |value: Value| {
        Algorithm::parse(&value, &JsonPath::root(""))
            .unwrap()
            .iter()
            .try_for_each(check_algorithm)
    };
    const NOT_BUILT: [&str; 5] = [
        "local_hessian",
        "svdquant",
        "gptq",
        "nvfp4_act_headroom",
        "lsq",
    ];
    assert_eq!(check(json!(null)), Ok(()));
    let fields = json!({"method": "max", "distributed_sync": true, "sync_expert_weight_amax": true,
        "skip_forward_without_activation_calib": true, "shared_states": {"weight_global_amax": {}},
        "layerwise": {"save_every": 2}});
    assert_eq!(check(fields), Ok(()));
    let (missing, built): (Vec<_>, Vec<_>) = crate::config::Method::ALL
        .iter()
        .map(|(name, _)| *name)
        .partition(|name| NOT_BUILT.contains(name));
    for name in built {
        assert_eq!(check(json!(name)), Ok(()), "{name}");
    }
    for name in missing {
        assert_says(
            &unsupported(check(json!(name))),
            &[&format!("algorithm {name} is not built")],
        );
    }
    let layered = json!({"method": "max", "layerwise": {"enable": true}});
    assert_says(
        &unsupported(check(layered)),
        &["algorithm.layerwise: layerwise calibration"],
    );
    let forced = json!({"method": "max", "moe_calib_experts_ratio": 0.5});
    assert_says(&unsupported(check(forced)), &["moe_calib_experts_ratio"]);
}

#[test]
fn a_configuration_without_a_preset_names_only_the_place() {
    let sequence = json!({"quant_cfg": {"*w": [{"num_bits": 4}, {"num_bits": 16}]}});
    let text = unsupported(check(&config(&sequence)));
    assert!(
        text.starts_with("quant_cfg[\"*w\"][1].num_bits: this number format (num_bits 16)"),
        "{text}"
    );
    let second = json!({"quant_cfg": [], "algorithm": ["max", "gptq"]});
    assert_says(&unsupported(check(&config(&second))), &["algorithm gptq"]);
}
