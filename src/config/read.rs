//! Reads single JSON values with messages that quote the value, its place and the nearest valid name.

use std::fmt;

use serde_json::{Map, Value};

use super::path::JsonPath;
use crate::error::{Error, Result};

/// Lists of valid names longer than this are left out of a message that already has a suggestion.
const SHORT_LIST: usize = 13;

/// Longer lists than this are left out in any case.
const LONG_LIST: usize = 24;

/// How alike (Jaro-Winkler) two names must be for one to be suggested in place of the other.
const ALIKE: f64 = 0.8;

/// Declares an enum whose values have names in the configuration.
macro_rules! named_enum {
    ($(#[$meta:meta])* pub enum $name:ident {
        $($(#[$variant_meta:meta])* $variant:ident = $text:literal,)+
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl $name {
            /// Every value with its name in the configuration.
            pub const ALL: &'static [(&'static str, Self)] = &[$(($text, Self::$variant),)+];

            /// The name in the configuration.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}
pub(super) use named_enum;

/// A configuration error at one place.
pub(super) fn invalid(at: &JsonPath, text: impl fmt::Display) -> Error {
    Error::Config(format!("{at}: {text}"))
}

/// The value as JSON, shortened: a message is one line.
pub(super) fn shown(value: &Value) -> String {
    const LIMIT: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// A name as a message quotes it.
pub(super) fn quoted(name: &str) -> String {
    shown(&Value::from(name))
}

fn key_of<'a>(at: &JsonPath<'a>) -> &'a str {
    at.last_key().unwrap_or("value")
}

fn expected(what: &str, value: &Value, at: &JsonPath) -> Error {
    invalid(
        at,
        format_args!("{} must be {what}, got {}", key_of(at), shown(value)),
    )
}

/// `true` or `false`, and nothing that merely behaves like it.
pub(super) fn boolean(value: &Value, at: &JsonPath) -> Result<bool> {
    value
        .as_bool()
        .ok_or_else(|| expected("true or false", value, at))
}

/// An integer of at least 1. `8.0` is not one.
pub(super) fn positive(value: &Value, at: &JsonPath) -> Result<u64> {
    match value.as_u64() {
        Some(number) if number > 0 => Ok(number),
        _ => Err(expected("a positive int", value, at)),
    }
}

/// A number; JSON knows no NaN and no infinity.
pub(super) fn number(value: &Value, at: &JsonPath) -> Result<f64> {
    value
        .as_f64()
        .ok_or_else(|| expected("a number", value, at))
}

/// A string.
pub(super) fn string<'v>(value: &'v Value, at: &JsonPath) -> Result<&'v str> {
    value
        .as_str()
        .ok_or_else(|| expected("a string", value, at))
}

/// An object; `what` says of what.
pub(super) fn object<'v>(
    value: &'v Value,
    what: &str,
    at: &JsonPath,
) -> Result<&'v Map<String, Value>> {
    value
        .as_object()
        .ok_or_else(|| invalid(at, format_args!("expected {what}, got {}", shown(value))))
}

/// `null` is absence; anything else is read.
pub(super) fn optional<T>(
    value: &Value,
    at: &JsonPath,
    read: impl FnOnce(&Value, &JsonPath) -> Result<T>,
) -> Result<Option<T>> {
    if value.is_null() {
        Ok(None)
    } else {
        read(value, at).map(Some)
    }
}

/// One of a few names.
pub(super) fn one_of<T: Copy>(value: &Value, at: &JsonPath, choices: &[(&str, T)]) -> Result<T> {
    if let Some((_, choice)) = choices
        .iter()
        .find(|(name, _)| value.as_str() == Some(name))
    {
        return Ok(*choice);
    }
    let names: Vec<String> = choices.iter().map(|(name, _)| quoted(name)).collect();
    Err(expected(&names.join(" or "), value, at))
}

/// The key of an object that has no such key.
pub(super) fn unknown(what: &str, word: &str, valid: &[&str], at: &JsonPath) -> Error {
    invalid(
        at,
        format_args!("unknown {what} {}{}", quoted(word), hint(word, valid)),
    )
}

/// The end of a message about a wrong name: the nearest valid one, and all of them if they are few.
pub(crate) fn hint(word: &str, valid: &[&str]) -> String {
    let nearest = nearest(word, valid);
    let suggestion = nearest
        .map(|name| format!("; did you mean `{name}`?"))
        .unwrap_or_default();
    let bound = if nearest.is_some() {
        SHORT_LIST
    } else {
        LONG_LIST
    };
    let list = match valid.len() <= bound {
        true => format!("; valid: {}", valid.join(", ")),
        false => String::new(),
    };
    suggestion + &list
}

fn nearest<'n>(word: &str, valid: &[&'n str]) -> Option<&'n str> {
    let word = word.to_lowercase();
    let likeness = |name: &str| {
        let name = name.to_lowercase();
        let whole = strsim::jaro_winkler(&word, &name);
        // `bits` for `num_bits` is near, though few letters stand at the same place.
        let part = word.len() >= 3 && (name.contains(&word) || word.contains(&name));
        if part { whole.max(ALIKE) } else { whole }
    };
    let scored = valid.iter().map(|&name| (likeness(name), name));
    let best = scored
        .filter(|(score, _)| *score >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    best.map(|(_, name)| name)
}
