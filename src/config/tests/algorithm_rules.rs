//! Every range and rule of algorithms, with the text it answers.

use serde_json::{Value, json};

use super::{assert_says, config_error};
use crate::config::{Algorithm, JsonPath, Method};
use crate::error::Error;

fn parse(value: &Value) -> Result<Vec<Algorithm>, Error> {
    Algorithm::parse(value, &JsonPath::root("algorithm"))
}

/// The ends of every range, from both sides.
#[test]
fn ranges_have_the_right_ends() {
    let cases = [
        (
            "mse",
            "step_size",
            "greater than 0",
            vec![json!(1e-9), json!(100)],
            vec![json!(0), json!(-1)],
        ),
        (
            "mse",
            "start_multiplier",
            "greater than 0",
            vec![json!(0.1)],
            vec![json!(0.0)],
        ),
        (
            "local_hessian",
            "stop_multiplier",
            "greater than 0",
            vec![json!(9)],
            vec![json!(0)],
        ),
        (
            "local_hessian",
            "block_size",
            "a positive int",
            vec![json!(1)],
            vec![json!(0), json!(16.0)],
        ),
        (
            "smoothquant",
            "alpha",
            "in [0, 1]",
            vec![json!(0), json!(1)],
            vec![json!(-0.01), json!(1.01)],
        ),
        (
            "awq_lite",
            "alpha_step",
            "in (0, 1]",
            vec![json!(1)],
            vec![json!(0), json!(1.1)],
        ),
        (
            "awq_clip",
            "max_co_batch_size",
            "a positive int",
            vec![json!(1)],
            vec![json!(0), json!(true)],
        ),
        (
            "awq_clip",
            "max_tokens_per_batch",
            "a positive int",
            vec![json!(1)],
            vec![json!(-1)],
        ),
        (
            "awq_clip",
            "min_clip_ratio",
            "in (0, 1)",
            vec![json!(0.99)],
            vec![json!(0), json!(1)],
        ),
        (
            "awq_full",
            "shrink_step",
            "in (0, 1]",
            vec![json!(1)],
            vec![json!(0), json!(2)],
        ),
        (
            "svdquant",
            "lowrank",
            "a positive int",
            vec![json!(1)],
            vec![json!(0)],
        ),
        (
            "gptq",
            "perc_damp",
            "in (0, 1]",
            vec![json!(1)],
            vec![json!(0), json!(1.5)],
        ),
        (
            "gptq",
            "block_size",
            "a positive int",
            vec![json!(1)],
            vec![json!(0)],
        ),
        (
            "nvfp4_act_headroom",
            "anchor_percentile",
            "in (0, 100]",
            vec![json!(100)],
            vec![json!(0), json!(101)],
        ),
        (
            "nvfp4_act_headroom",
            "upper_percentile",
            "in (0, 100]",
            vec![json!(100)],
            vec![json!(0), json!(101)],
        ),
        (
            "nvfp4_act_headroom",
            "rho",
            "in (0, 28672)",
            vec![json!(28671)],
            vec![json!(0), json!(28672)],
        ),
        (
            "max",
            "moe_calib_experts_ratio",
            "in (0, 1]",
            vec![json!(1), json!(null)],
            vec![json!(0), json!(1.1)],
        ),
    ];
    for (method, field, range, inside, outside) in cases {
        for value in inside {
            let given = json!({"method": method, field: value});
            assert!(parse(&given).is_ok(), "{given}");
        }
        for value in outside {
            let text = config_error(parse(&json!({"method": method, field: value.clone()})));
            assert_says(
                &text,
                &[&format!(
                    "algorithm.{field}: {field} must be {range}, got {value}"
                )],
            );
        }
    }
}

#[test]
fn wrong_algorithms_say_where_and_why() {
    let shared = |patterns: Value| json!({"method": "max", "shared_states": {"weight_global_amax": {"patterns": patterns}}});
    let cases = [
        (
            json!("awq_light"),
            vec![
                "Algorithm \"awq_light\" not found",
                "did you mean `awq_lite`?",
                "valid: max, mse",
            ],
        ),
        (
            json!(3),
            vec!["algorithm: an algorithm is null, a name", "got 3"],
        ),
        (json!({}), vec!["'method' is missing"]),
        (
            json!({"name": "max"}),
            vec!["'method' is missing", "got {\"name\":\"max\"}"],
        ),
        (
            json!({"method": null}),
            vec![
                "algorithm.method: method must be a name, got null",
                "no calibration is null",
            ],
        ),
        (json!([["max"]]), vec!["algorithm[0]: an algorithm is"]),
        (
            json!({"method": "awq_lite", "alpha_stp": 1}),
            vec![
                "unknown field of awq_lite \"alpha_stp\"",
                "did you mean `alpha_step`?",
            ],
        ),
        (
            json!({"method": "smoothquant", "debug": true}),
            vec!["unknown field of smoothquant \"debug\""],
        ),
        (
            json!({"method": "max", "distributed_sync": 1}),
            vec!["algorithm.distributed_sync: ", "true or false, got 1"],
        ),
        (
            json!({"method": "histogram", "amax_method": "max"}),
            vec!["amax_method must be one of entropy, mse, percentile, got \"max\""],
        ),
        (
            json!({"method": "histogram", "percentile": 101}),
            vec!["percentile must be in [0, 100], got 101"],
        ),
        (
            json!({"method": "smoothquant", "alpha": "1"}),
            vec!["alpha must be a number, got \"1\""],
        ),
        (
            json!({"method": "smoothquant", "alpha": true}),
            vec!["alpha must be a number, got true"],
        ),
        (
            json!({"method": "smoothquant", "alpha": null}),
            vec!["alpha must be a number, got null"],
        ),
        (
            json!({"method": "smoothquant", "alpha": 2}),
            vec!["(default 1.0)"],
        ),
        (
            json!({"method": "svdquant", "skip_layers": "*"}),
            vec!["expected a list of strings, got \"*\""],
        ),
        (
            json!({"method": "svdquant", "skip_layers": [1]}),
            vec!["algorithm.skip_layers[0]: "],
        ),
        (
            json!({"method": "lsq", "learnable_amax": "both"}),
            vec!["learnable_amax must be \"pre\", \"post\" or a list"],
        ),
        (
            json!({"method": "lsq", "learnable_amax": ["pre", "pre"]}),
            vec!["learnable_amax must be"],
        ),
        (
            json!({"method": "lsq", "tied_amax": true}),
            vec!["algorithm: tied_amax needs learnable_amax"],
        ),
        (
            json!({"method": "lsq", "scale_algorithm": "gptq"}),
            vec!["expected one of the algorithms max, mse, local_hessian"],
        ),
        (
            json!({"method": "nvfp4_act_headroom", "weight_scale_algorithm": null}),
            vec!["expected one of the algorithms"],
        ),
        (
            json!({"method": "real_quantize", "additional_algorithm": "max"}),
            vec!["awq_lite, awq_clip, awq_full"],
        ),
        (
            json!({"method": "max", "shared_states": {"input": {}}}),
            vec!["unknown shared state \"input\""],
        ),
        (
            json!({"method": "max", "shared_states": {"weight_global_amax": {"pattern": []}}}),
            vec!["did you mean `patterns`?"],
        ),
        (shared(json!("a")), vec!["expected a list of strings"]),
        (
            shared(json!(["a", "(b"])),
            vec![
                "weight_global_amax.patterns[1]: invalid regex \"(b\": ",
                "unclosed group",
            ],
        ),
        (
            shared(json!(["(?=b)"])),
            vec!["invalid regex", "look-around"],
        ),
        (
            json!({"method": "gptq", "layerwise": true}),
            vec!["layerwise must be an object", "{\"enable\": true}"],
        ),
        (
            json!({"method": "gptq", "layerwise": {"enabled": true}}),
            vec!["unknown key of layerwise", "did you mean `enable`?"],
        ),
        (
            json!({"method": "gptq", "layerwise": {"save_every": 0}}),
            vec!["save_every must be a positive int, got 0"],
        ),
        (
            json!({"method": "gptq", "layerwise": {"checkpoint_dir": "/d"}}),
            vec!["checkpoint_dir requires \"enable\": true"],
        ),
        (
            json!({"method": "gptq", "layerwise": {"checkpoint_dir": 1, "enable": true}}),
            vec!["must be a string, got 1"],
        ),
        (
            json!({"method": "gptq", "layerwise": {"calib_mutates_weights": false}}),
            vec![
                "algorithm.layerwise: calib_mutates_weights cannot be false: gptq changes the weights",
            ],
        ),
    ];
    for (value, parts) in cases {
        let text = config_error(parse(&value));
        assert!(text.starts_with("algorithm"), "no path: {text}");
        assert_says(&text, &parts);
    }
}

#[test]
fn only_algorithms_that_keep_the_weights_may_say_so() {
    let keeping: Vec<&str> = Method::ALL
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| {
            parse(&json!({"method": name, "layerwise": {"calib_mutates_weights": false}})).is_ok()
        })
        .collect();
    assert_eq!(
        keeping,
        [
            "max",
            "mse",
            "local_hessian",
            "histogram",
            "nvfp4_act_headroom"
        ]
    );
}
