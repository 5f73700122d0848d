//! Wrong configurations, with the text they are answered with.

use serde_json::{Value, json};

use super::{assert_says, config_error};
use crate::config::QuantizeConfig;

fn error(quant_cfg: Value) -> String {
    config_error(QuantizeConfig::from_value(&json!({"quant_cfg": quant_cfg})))
}

#[test]
fn wrong_entries_say_where_and_why() {
    let attribute = "must specify at least one quantizer attribute";
    let scoped = "For 'nn.*' scoped format, value must be a mapping";
    let cases = [
        (
            json!([{"quantizer_name": "*"}]),
            vec!["quant_cfg[0]: ", "must specify 'cfg', 'enable', or both"],
        ),
        (
            json!([{"quantizer_name": "*", "cfg": {}}]),
            vec!["quant_cfg[0].cfg: ", attribute],
        ),
        (
            json!([{"quantizer_name": "*", "cfg": [], "enable": true}]),
            vec![attribute],
        ),
        (
            json!([{"quantizer_name": "*", "cfg": [{}]}]),
            vec![attribute, "got [{}]"],
        ),
        (
            json!([{"quantizer_name": "*", "cfg": {"enable": true}}]),
            vec!["quant_cfg[0].cfg: Cannot specify only"],
        ),
        (
            json!([{"quantizer_name": "*", "cfg": [{"num_bits": 4}, {"enable": true}]}]),
            vec!["quant_cfg[0].cfg[1]: "],
        ),
        (
            json!([{"quantizer_name": "*", "cfg": {"num_bits": 4, "enable": false}}]),
            vec!["false in cfg but true"],
        ),
        (
            json!([{"quantizer_name": "*", "cfg": [{"num_bits": 4, "enable": true}], "enable": false}]),
            vec!["quant_cfg[0].cfg[0]: ", "true in cfg but false"],
        ),
        (
            json!([{"quantizer_name": "*", "cfg": {"num_bitz": 4}}]),
            vec!["quant_cfg[0].cfg: ", "did you mean `num_bits`?"],
        ),
        (
            json!([{"quantizer_name": "*", "cfg": 8}]),
            vec!["quant_cfg[0].cfg: expected an object of attributes, got 8"],
        ),
        (
            json!([{"quantizer_name": "*", "enabled": false}]),
            vec!["unknown key of an entry", "did you mean `enable`?"],
        ),
        (
            json!([{"quantizer_name": "*", "enable": 0}]),
            vec!["quant_cfg[0].enable: ", "true or false, got 0"],
        ),
        (
            json!([{"quantizer_name": "*", "enable": null}]),
            vec!["true or false, got null"],
        ),
        (
            json!([{"quantizer_name": 3, "enable": true}]),
            vec!["quantizer_name must be a string, got 3"],
        ),
        (
            json!([{"quantizer_name": "", "enable": true}]),
            vec!["quantizer_name is empty"],
        ),
        (
            json!([{"quantizer_name": "*", "enable": true, "parent_class": 1}]),
            vec!["parent_class must be a string"],
        ),
        (
            json!([{"quantizer_nam": "*", "enable": false}]),
            vec!["Invalid quant_cfg entry", "did you mean `quantizer_name`?"],
        ),
        (
            json!([{"quantiser_name": "*"}]),
            vec!["Invalid quant_cfg entry", "did you mean `quantizer_name`?"],
        ),
        (
            json!([{"enable": false}]),
            vec!["Invalid quant_cfg entry", "{\"enable\":false}"],
        ),
        (
            json!([{"*a": {"num_bits": 8}, "*b": {"num_bits": 8}}]),
            vec!["Invalid quant_cfg entry"],
        ),
        (json!([{}]), vec!["Invalid quant_cfg entry"]),
        (
            json!(["*"]),
            vec!["quant_cfg[0]: expected an entry", "got \"*\""],
        ),
        (json!({"*": {}}), vec!["quant_cfg[\"*\"]: ", attribute]),
        (json!({"*": []}), vec![attribute]),
        (
            json!({"*": false}),
            vec!["expected attributes, a list of them, or {\"enable\": false}, got false"],
        ),
        (
            json!({"*": {"enable": "no"}}),
            vec!["quant_cfg[\"*\"].enable: ", "got \"no\""],
        ),
        (
            json!({"*": {"enable": true, "bias": {"enable": true}}}),
            vec!["quant_cfg[\"*\"].bias: ", "Cannot specify only"],
        ),
        (
            json!({"nn.Linear": false}),
            vec!["quant_cfg[\"nn.Linear\"]: ", scoped],
        ),
        (
            json!({"nn.Linear": {"enable": false}}),
            vec![scoped, "got {\"enable\":false}"],
        ),
        (
            json!("*"),
            vec!["quant_cfg must be a sequence of entries (or a legacy flat mapping), got \"*\""],
        ),
        (Value::Null, vec!["quant_cfg must be a sequence of entries"]),
    ];
    for (quant_cfg, parts) in cases {
        let text = error(quant_cfg);
        assert!(text.starts_with("quant_cfg"), "no path: {text}");
        assert_says(&text, &parts);
    }
}

#[test]
fn wrong_texts_say_where_and_why() {
    let cases = [
        ("", vec!["empty"]),
        ("  \n", vec!["empty"]),
        (
            "[]",
            vec![
                "top level: expected the name of a preset or an object",
                "got []",
            ],
        ),
        (
            "{\"quant_cfg\": [}",
            vec!["not valid JSON", "line 1 column 16"],
        ),
        (
            "{\n \"quant_cfg\": nul }",
            vec!["not valid JSON", "line 2 column"],
        ),
        ("{'quant_cfg': []}", vec!["not valid JSON", "json.dumps()"]),
        (
            "{\"quant_cfg\": {\"*\": {\"enable\": False}}}",
            vec!["not valid JSON", "json.dumps()"],
        ),
        ("{} {}", vec!["not valid JSON", "line 1 column 4"]),
        (
            "{\"quant_config\": []}",
            vec![
                "top level: unknown key",
                "did you mean `quant_cfg`?",
                "valid: quant_cfg, algorithm",
            ],
        ),
        (
            "{\"effective_bits\": 17}",
            vec!["effective_bits must be in (0, 16], got 17"],
        ),
        (
            "{\"algorithm\": \"maxx\"}",
            vec![
                "algorithm: Algorithm \"maxx\" not found",
                "did you mean `max`?",
            ],
        ),
        (
            "{\"algorithm\": [\"max\", {\"method\": 1}]}",
            vec!["algorithm[1].method: "],
        ),
    ];
    for (text, parts) in cases {
        assert_says(&config_error(QuantizeConfig::parse(text)), &parts);
    }
    let deep = "[".repeat(100_000);
    assert_says(
        &config_error(QuantizeConfig::parse(&deep)),
        &["not valid JSON", "recursion limit"],
    );
}
