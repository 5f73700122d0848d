//! `docs/config.schema.json` says what the code says: keys, defaults and names.

use serde_json::Value;

use crate::config::algorithm_fields;
use crate::config::{
    Attributes, BiasMethod, Calibrator, HighPrecisionDtype, Method, QuantType, QuantizeConfig,
    RotateMode, presets,
};
use crate::error::Error;

fn definitions() -> Value {
    // Part of the test, which may run where the sources are not (scripts/cuda_bundle.sh).
    let text = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/docs/config.schema.json"
    ));
    let mut schema: Value = serde_json::from_str(text).unwrap();
    schema["$defs"].take()
}

fn keys(object: &Value) -> Vec<&str> {
    object
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn presets_are_those_of_the_library() {
    let schema = definitions();
    let listed: Vec<&str> = schema["preset"]["enum"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(listed, presets::names().collect::<Vec<_>>());
}

#[test]
fn attributes_have_the_same_keys_and_defaults() {
    let schema = definitions();
    let listed = &schema["attributes"]["properties"];
    let defaults = Attributes::default().to_json();
    assert_eq!(keys(listed), keys(&defaults));
    for (key, default) in defaults.as_object().unwrap() {
        assert_eq!(listed[key].get("default"), Some(default), "{key}");
    }
}

#[test]
fn names_of_choices_are_the_same() {
    fn names<T>(choices: &[(&'static str, T)]) -> Value {
        choices.iter().map(|(name, _)| *name).collect()
    }
    let schema = definitions();
    let attributes = &schema["attributes"]["properties"];
    assert_eq!(attributes["type"]["enum"], names(QuantType::ALL));
    assert_eq!(attributes["calibrator"]["enum"], names(Calibrator::ALL));
    assert_eq!(
        attributes["trt_high_precision_dtype"]["enum"],
        names(HighPrecisionDtype::ALL)
    );
    assert_eq!(
        schema["blockSizes"]["properties"]["type"]["enum"],
        names(QuantType::ALL)
    );
    assert_eq!(
        schema["bias"]["properties"]["method"]["enum"],
        names(BiasMethod::ALL)
    );
    assert_eq!(
        schema["rotate"]["properties"]["mode"]["enum"],
        names(RotateMode::ALL)
    );
}

#[test]
fn algorithms_have_the_same_fields_and_defaults() {
    let schema = definitions();
    let base = &schema["algorithmBase"]["properties"];
    for (name, method) in Method::ALL {
        let own = &schema[name]["properties"];
        let mut listed = keys(own);
        assert_eq!(listed.remove(0), "method", "{name}");
        listed.extend(keys(base));
        let fields: Vec<_> = algorithm_fields::of(*method).collect();
        let known: Vec<&str> = fields.iter().map(|field| field.name).collect();
        assert_eq!(listed, known, "{name}");
        for field in fields {
            let listed = own.get(field.name).or(base.get(field.name)).unwrap();
            assert_eq!(
                listed.get("default"),
                Some(&field.default_value()),
                "{name}.{}",
                field.name
            );
        }
    }
}

/// The Python test holds the schema against the same file.
#[test]
fn the_library_judges_the_examples_as_the_schema_does() {
    let examples: Value = serde_json::from_str(include_str!("examples.json")).unwrap();
    let (good, bad) = (&examples["good"], &examples["bad"]);
    assert!(
        keys(good).len() >= 23 && keys(bad).len() >= 49,
        "the file lost its examples"
    );
    for (name, config) in good.as_object().unwrap() {
        let read = QuantizeConfig::from_value(config);
        assert!(!matches!(read, Err(Error::Config(_))), "{name}: {read:?}");
    }
    for (name, config) in bad.as_object().unwrap() {
        assert!(
            QuantizeConfig::from_value(config).is_err(),
            "{name}: {config}"
        );
    }
}
