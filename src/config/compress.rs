//! What `compress` packs: a mapping from pattern to true or false.

use super::path::JsonPath;
use super::pattern::Pattern;
use super::quantize::json;
use super::read::{boolean, object};
use crate::error::Result;

/// What the JSON text is called in messages.
const ROOT: &str = "config";

/// Which weight quantizers are packed: later patterns win, `"default"` comes first.
#[derive(Debug, Clone, PartialEq)]
pub struct CompressConfig {
    default: Option<bool>,
    patterns: Vec<(Pattern, bool)>,
}

impl CompressConfig {
    /// Every weight.
    pub fn all() -> Self {
        Self {
            default: Some(true),
            patterns: Vec::new(),
        }
    }

    /// Reads a JSON object such as `{"default": true, "*lm_head*": false}`.
    pub fn parse(text: &str) -> Result<Self> {
        let at = &JsonPath::root(ROOT);
        let value = json(text)?;
        let map = object(
            &value,
            "an object from pattern to true or false, such as {\"default\": true, \"*lm_head*\": false}",
            at,
        )?;
        let mut read = Self {
            default: None,
            patterns: Vec::with_capacity(map.len()),
        };
        for (key, value) in map {
            let flag = boolean(value, &at.key(key))?;
            match key.as_str() {
                "default" => read.default = Some(flag),
                glob => read.patterns.push((Pattern::new(glob)?, flag)),
            }
        }
        Ok(read)
    }

    /// Whether the quantizer of that name is to be packed; None when nothing is said about it.
    pub fn packs(&self, name: &str) -> Option<bool> {
        let last = self
            .patterns
            .iter()
            .rev()
            .find(|(pattern, _)| pattern.matches_quantizer(name));
        last.map(|(_, flag)| *flag).or(self.default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn later_patterns_win_and_the_default_comes_first() {
        let text = r#"{"*": true, "*b*": false, "a.b*": true, "default": false}"#;
        let config = CompressConfig::parse(text).unwrap();
        assert_eq!(config.packs("a.weight_quantizer"), Some(true));
        assert_eq!(config.packs("b.weight_quantizer"), Some(false));
        assert_eq!(config.packs("a.b.weight_quantizer"), Some(true));
        let some = CompressConfig::parse(r#"{"a*": true}"#).unwrap();
        assert_eq!(some.packs("a"), Some(true));
        assert_eq!(some.packs("b"), None);
        assert_eq!(CompressConfig::all().packs("b"), Some(true));
        let default = CompressConfig::parse(r#"{"default": false}"#).unwrap();
        assert_eq!(default.packs("b"), Some(false));
    }

    #[test]
    fn anything_but_booleans_is_refused_with_its_place() {
        for (text, part) in [
            (
                r#"{"*": 1}"#,
                "config[\"*\"]: * must be true or false, got 1",
            ),
            (r#"{"default": null}"#, "config.default: default must be"),
            (r#"{"compress": {"*": true}}"#, "config.compress: compress"),
            ("[]", "config: expected an object from pattern"),
            ("true", "config: expected an object from pattern"),
            ("{", "not valid JSON"),
            ("", "not valid JSON"),
        ] {
            match CompressConfig::parse(text) {
                Err(Error::Config(found)) => assert!(found.contains(part), "{found}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }
}
