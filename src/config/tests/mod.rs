//! Tests of the configuration language.

mod algorithm_rules;
mod algorithms;
mod attribute_rules;
mod attributes;
mod damage;
mod entries;
mod entry_rules;
mod messages;
mod patterns;
mod presets;
mod schema;
mod support;

use serde_json::Value;

use super::{Attributes, JsonPath, QuantizeConfig};
use crate::error::Error;

fn attributes(json: &Value) -> Result<Attributes, Error> {
    Attributes::from_json(json, &JsonPath::root("cfg"))
}

/// Parses a configuration that has to be valid.
fn config(json: &Value) -> QuantizeConfig {
    QuantizeConfig::from_value(json).unwrap_or_else(|error| panic!("{json}: {error}"))
}

/// The text of a configuration error; any other outcome fails the test.
fn config_error<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Config(text)) => {
            assert!(!text.contains('\n'), "not one line: {text}");
            text
        }
        other => panic!("expected a configuration error, got {other:?}"),
    }
}

/// The text of an "unsupported" error; any other outcome fails the test.
fn unsupported<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Unsupported(text)) => text,
        other => panic!("expected an unsupported error, got {other:?}"),
    }
}

/// Fails unless `text` contains every one of `parts`.
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}
