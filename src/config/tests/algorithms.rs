//! Algorithms: shapes, and the defaults of every field.

use serde_json::{Value, json};

use super::{assert_says, config_error};
use crate::config::{Algorithm, JsonPath, Method};
use crate::error::Error;

fn parse(value: &Value) -> Result<Vec<Algorithm>, Error> {
    Algorithm::parse(value, &JsonPath::root("algorithm"))
}

fn one(value: &Value) -> Algorithm {
    let mut read = parse(value).unwrap_or_else(|error| panic!("{value}: {error}"));
    assert_eq!(read.len(), 1, "{value}");
    read.remove(0)
}

/// The fields of spec section 6 with their defaults, beside those of all algorithms.
fn own_defaults(method: Method) -> Value {
    match method {
        Method::Max => json!({"distributed_sync": true, "sync_expert_weight_amax": false,
            "skip_forward_without_activation_calib": false, "shared_states": null}),
        Method::Mse => json!({"step_size": 0.1, "start_multiplier": 0.25, "stop_multiplier": 4.0,
            "fp8_scale_sweep": false, "distributed_sync": true, "shared_states": null}),
        Method::LocalHessian => {
            json!({"step_size": 0.1, "start_multiplier": 0.25, "stop_multiplier": 4.0,
            "fp8_scale_sweep": true, "distributed_sync": true, "shared_states": null, "block_size": 16, "debug": false})
        }
        Method::SmoothQuant => json!({"alpha": 1.0}),
        Method::AwqLite => json!({"alpha_step": 0.1, "debug": false}),
        Method::AwqClip => {
            json!({"max_co_batch_size": 1024, "max_tokens_per_batch": 64, "min_clip_ratio": 0.5,
            "shrink_step": 0.05, "debug": false})
        }
        Method::AwqFull => {
            json!({"alpha_step": 0.1, "max_co_batch_size": 1024, "max_tokens_per_batch": 64,
            "min_clip_ratio": 0.5, "shrink_step": 0.05, "debug": false})
        }
        Method::SvdQuant => json!({"lowrank": 32, "skip_layers": null}),
        Method::Gptq => json!({"perc_damp": 0.01, "block_size": 128, "fused": false}),
        Method::Nvfp4ActHeadroom => {
            json!({"anchor_percentile": 1.0, "upper_percentile": 99.99, "rho": 16384.0,
            "weight_scale_algorithm": one(&json!("max")).to_json()})
        }
        Method::Lsq => {
            json!({"learnable_amax": ["post"], "tied_amax": false, "quantize_pre_scale": true,
            "scale_algorithm": null})
        }
        Method::Histogram => {
            json!({"amax_method": "entropy", "percentile": 99.99, "num_bins": 2048, "stride": 1, "start_bin": 128})
        }
        Method::RealQuantize => json!({"additional_algorithm": ""}),
    }
}

#[test]
fn every_method_has_its_fields_and_defaults() {
    assert_eq!(Method::ALL.len(), 13);
    for (name, method) in Method::ALL {
        let read = one(&json!(name));
        assert_eq!(read.method, *method);
        let mut expected = own_defaults(*method);
        expected["moe_calib_experts_ratio"] = Value::Null;
        expected["layerwise"] = json!({
            "enable": false, "get_qdq_activations_from_prev_layer": *method == Method::Gptq,
            "checkpoint_dir": null, "save_every": 1, "calib_mutates_weights": true,
        });
        expected["layers"] = Value::Null;
        assert_eq!(Value::Object(read.fields.clone()), expected, "{name}");
        assert_eq!(one(&json!({ "method": name })), read);
        assert_eq!(
            one(&read.to_json()),
            read,
            "{name} does not survive to_json"
        );
    }
}

#[test]
fn all_shapes_are_read() {
    let methods = |value: Value| -> Vec<&str> {
        parse(&value)
            .unwrap()
            .iter()
            .map(|a| a.method.name())
            .collect()
    };
    assert!(methods(Value::Null).is_empty());
    assert!(methods(json!([])).is_empty());
    assert!(methods(json!([null])).is_empty());
    assert_eq!(methods(json!("awq")), ["awq_full"]);
    assert_eq!(methods(json!({"method": "awq"})), ["awq_full"]);
    assert_eq!(
        methods(json!(["max", null, {"method": "gptq"}])),
        ["max", "gptq"]
    );
}

#[test]
fn text_may_be_a_bare_name_json_or_nothing() {
    let methods = |text: &str| -> Vec<&str> {
        Algorithm::parse_text(text)
            .unwrap()
            .iter()
            .map(|a| a.method.name())
            .collect()
    };
    assert!(methods("").is_empty() && methods(" null ").is_empty());
    assert_eq!(methods(" max\n"), ["max"]);
    assert_eq!(methods("\"max\""), ["max"]);
    assert_eq!(methods("{\"method\": \"mse\"}"), ["mse"]);
    assert_eq!(methods("[\"max\", \"mse\"]"), ["max", "mse"]);
    assert_says(
        &config_error(Algorithm::parse_text("{\"method\"")),
        &["not valid JSON", "line 1"],
    );
    assert_says(
        &config_error(Algorithm::parse_text("maxx")),
        &["algorithm: Algorithm \"maxx\" not found"],
    );
}

#[test]
fn given_fields_replace_the_defaults() {
    let mse = one(&json!({"method": "mse", "step_size": 1, "fp8_scale_sweep": true}));
    assert_eq!(
        (&mse.fields["step_size"], &mse.fields["stop_multiplier"]),
        (&json!(1.0), &json!(4.0))
    );
    assert!(mse.flag("fp8_scale_sweep") && !mse.flag("no_such_field"));
    let lsq = one(&json!({"method": "lsq", "learnable_amax": "pre"}));
    assert_eq!(lsq.fields["learnable_amax"], json!(["pre"]));
    let tied = one(
        &json!({"method": "lsq", "learnable_amax": ["pre", "post"], "tied_amax": true, "scale_algorithm": "max"}),
    );
    assert_eq!(tied.fields["scale_algorithm"]["method"], "max");
    one(&json!({"method": "lsq", "learnable_amax": [], "tied_amax": true}));
    let real = one(
        &json!({"method": "real_quantize", "additional_algorithm": {"method": "awq_lite", "alpha_step": 0.5}}),
    );
    assert_eq!(
        real.fields["additional_algorithm"]["alpha_step"],
        json!(0.5)
    );
    let headroom =
        one(&json!({"method": "nvfp4_act_headroom", "weight_scale_algorithm": {"method": "mse"}}));
    assert_eq!(
        headroom.fields["weight_scale_algorithm"]["step_size"],
        json!(0.1)
    );
    one(&json!({"method": "svdquant", "skip_layers": ["*lm_head*"]}));
    one(
        &json!({"method": "max", "shared_states": {"weight_global_amax": {"patterns": [r"(.*)\.experts\.\d+\.(?:w1|w3)"]}}}),
    );
    one(&json!({"method": "max", "shared_states": {"weight_global_amax": {"patterns": []}}}));
    one(&json!({"method": "max", "shared_states": {"weight_global_amax": {}}}));
    let layered = one(
        &json!({"method": "gptq", "layerwise": {"enable": true, "checkpoint_dir": "/d", "save_every": 4}}),
    );
    assert_eq!(
        layered.fields["layerwise"]["get_qdq_activations_from_prev_layer"],
        json!(true)
    );
    one(&json!({"method": "mse", "layerwise": {"calib_mutates_weights": false}}));
    one(&json!({"method": "max", "layerwise": null, "moe_calib_experts_ratio": 1}));
}
