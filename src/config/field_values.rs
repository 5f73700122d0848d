//! Reads the fields of algorithms that are more than a number or a flag.

use serde_json::{Map, Value, json};

use super::algorithm::{Algorithm, Method};
use super::algorithm_fields::WEIGHT_ALGORITHMS;
use super::expression::expression;
use super::path::JsonPath;
use super::read::{boolean, invalid, object, positive, quoted, shown, string, unknown};
use crate::error::Result;

/// One of `names`.
pub(super) fn choice(value: &Value, names: &[&str], field: &str, at: &JsonPath) -> Result<Value> {
    match value.as_str() {
        Some(name) if names.contains(&name) => Ok(value.clone()),
        _ => Err(invalid(
            at,
            format_args!(
                "{field} must be one of {}, got {}",
                names.join(", "),
                shown(value)
            ),
        )),
    }
}

/// A list of strings.
pub(super) fn strings<'v>(value: &'v Value, at: &JsonPath) -> Result<Vec<&'v str>> {
    let items = value.as_array().ok_or_else(|| {
        invalid(
            at,
            format_args!("expected a list of strings, got {}", shown(value)),
        )
    })?;
    items
        .iter()
        .enumerate()
        .map(|(i, item)| string(item, &at.index(i)))
        .collect()
}

/// An algorithm among `methods`, completed.
pub(super) fn nested(value: &Value, methods: &[Method], at: &JsonPath) -> Result<Value> {
    let read = Algorithm::parse(value, at)?;
    match read.as_slice() {
        [only] if methods.contains(&only.method) => Ok(only.to_json()),
        _ => {
            let names: Vec<&str> = methods.iter().map(|method| method.name()).collect();
            let text = format!("expected one of the algorithms {}", names.join(", "));
            Err(invalid(at, format_args!("{text}, got {}", shown(value))))
        }
    }
}

/// "pre", "post" or a list of them, always stored as a list.
pub(super) fn learnable_amax(value: &Value, at: &JsonPath) -> Result<Value> {
    let names = if value.is_string() {
        vec![string(value, at)?]
    } else {
        strings(value, at)?
    };
    let known = names.iter().all(|name| ["pre", "post"].contains(name));
    let twice = (1..names.len()).any(|i| names[..i].contains(&names[i]));
    if !known || twice {
        let text = "learnable_amax must be \"pre\", \"post\" or a list of them";
        return Err(invalid(at, format_args!("{text}, got {}", shown(value))));
    }
    Ok(json!(names))
}

/// `{"weight_global_amax": {"patterns": [...]}}`, stored as given: an absent list means the
/// reference's default groups, an empty one no groups.
pub(super) fn shared_states(value: &Value, at: &JsonPath) -> Result<Value> {
    for (kind, state) in object(value, "an object such as {\"weight_global_amax\": {}}", at)? {
        if kind != "weight_global_amax" {
            return Err(unknown("shared state", kind, &["weight_global_amax"], at));
        }
        let at = &at.key(kind);
        for (key, patterns) in object(state, "an object such as {\"patterns\": []}", at)? {
            if key != "patterns" {
                return Err(unknown("key of a shared state", key, &["patterns"], at));
            }
            let at = &at.key(key);
            if patterns.is_null() {
                continue;
            }
            for (i, pattern) in strings(patterns, at)?.into_iter().enumerate() {
                check_regex(pattern, &at.index(i))?;
            }
        }
    }
    Ok(value.clone())
}

fn check_regex(pattern: &str, at: &JsonPath) -> Result<()> {
    let compiled = expression(pattern);
    compiled
        .map(drop)
        .map_err(|why| invalid(at, format_args!("invalid regex {}: {why}", quoted(pattern))))
}

/// The `layerwise` object, completed; `null` is all its defaults.
pub(super) fn layerwise(value: &Value, method: Method, at: &JsonPath) -> Result<Value> {
    let none = Map::new();
    let given = match value {
        Value::Null => &none,
        Value::Bool(enable) => {
            return Err(invalid(
                at,
                format_args!("layerwise must be an object, write {{\"enable\": {enable}}}"),
            ));
        }
        _ => object(value, "a layerwise object such as {\"enable\": true}", at)?,
    };
    let mut read = Map::from_iter([
        ("enable".to_owned(), json!(false)),
        // GPTQ corrects what the layers before it have spoilt.
        (
            "get_qdq_activations_from_prev_layer".to_owned(),
            json!(method == Method::Gptq),
        ),
        ("checkpoint_dir".to_owned(), Value::Null),
        ("save_every".to_owned(), json!(1)),
        ("calib_mutates_weights".to_owned(), json!(true)),
    ]);
    for (key, value) in given {
        let field = &at.key(key);
        match key.as_str() {
            "checkpoint_dir" if value.is_null() => {}
            "checkpoint_dir" => drop(string(value, field)?),
            "save_every" => drop(positive(value, field)?),
            _ if read.contains_key(key) => drop(boolean(value, field)?),
            _ => {
                let known: Vec<&str> = read.keys().map(String::as_str).collect();
                return Err(unknown("key of layerwise", key, &known, at));
            }
        }
        read.insert(key.clone(), value.clone());
    }
    if !read["checkpoint_dir"].is_null() && read["enable"] == json!(false) {
        return Err(invalid(
            at,
            "checkpoint_dir requires \"enable\": true; set it or remove checkpoint_dir",
        ));
    }
    let keeps_weights = WEIGHT_ALGORITHMS.contains(&method)
        || matches!(method, Method::Nvfp4ActHeadroom | Method::Histogram);
    if read["calib_mutates_weights"] == json!(false) && !keeps_weights {
        return Err(invalid(
            at,
            format_args!("calib_mutates_weights cannot be false: {method} changes the weights"),
        ));
    }
    Ok(Value::Object(read))
}
