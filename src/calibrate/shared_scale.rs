//! Gives weights that the runtime fuses one global scale: the largest amax of all of them.
//!
//! Only static NVFP4 blocks have use for it. Members of a declared fused group belong together; else the
//! names tell: q/k/v, gate/up and w1/w3 under one parent, as in the reference.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use regex::bytes::Regex;
use serde_json::Value;

use crate::config::{Algorithm as AlgorithmConfig, expression};
use crate::model::{Kind, Model, Quantizer, SlotState};

/// Names of layers that share a scale when they have the same first captured group.
const DEFAULT_PATTERNS: [&str; 3] = [
    r"(?:(.*)\.)?(?:q_proj|k_proj|v_proj)",
    r"(?:(.*)\.)?(?:gate_proj|up_proj)",
    r"(?:(.*)\.)?(?:w1|w3)",
];

/// Which layers share a scale by their name.
pub struct Groups(Vec<Regex>);

impl Groups {
    /// The groups that an algorithm's `shared_states` asks for, or the default ones. The configuration has
    /// checked the patterns.
    pub fn of(config: &AlgorithmConfig) -> Self {
        let given = &config.fields.get("shared_states").unwrap_or(&Value::Null)["weight_global_amax"]
            ["patterns"];
        let patterns: Vec<&str> = match given.as_array() {
            Some(list) => list.iter().filter_map(Value::as_str).collect(),
            None => DEFAULT_PATTERNS.to_vec(),
        };
        Self::of_patterns(&patterns)
    }

    fn of_patterns(patterns: &[&str]) -> Self {
        let whole = |pattern: &&str| expression(&format!("^(?:{pattern})$")).ok();
        Self(patterns.iter().filter_map(whole).collect())
    }

    /// The default groups.
    pub fn by_default() -> Self {
        Self::of_patterns(&DEFAULT_PATTERNS)
    }

    /// What a layer shares its scale by: the rule and the group's name.
    fn find(&self, layer: &str, declared: Option<&str>) -> Option<(usize, Vec<u8>)> {
        if let Some(declared) = declared {
            return Some((self.0.len(), declared.as_bytes().to_vec()));
        }
        self.0.iter().enumerate().find_map(|(rule, regex)| {
            let captures = regex.captures(layer.as_bytes())?;
            let group = captures.get(1).map_or(&[][..], |m| m.as_bytes());
            Some((rule, group.to_vec()))
        })
    }
}

fn is_static_nvfp4(quantizer: &Quantizer) -> bool {
    quantizer.enabled && matches!(quantizer.kind(), Some(Kind::Nvfp4Static { .. }))
}

fn largest(quantizer: &Quantizer) -> Option<f32> {
    let amax = quantizer.amax.as_ref()?;
    amax.values().iter().copied().reduce(f32::max)
}

/// Sets the global amax of every static NVFP4 weight quantizer that has an amax, of the layers for which `concerns` is
/// true and those that share theirs with them. An algorithm for some layers must leave the others as they are: the amax
/// of a block that was searched is no longer its largest value.
pub fn share(model: &Model, groups: &Groups, concerns: &dyn Fn(&str) -> bool) {
    let mut highest: HashMap<(usize, Vec<u8>), f32> = HashMap::new();
    let mut concerned = HashSet::new();
    let mut members = Vec::new();
    for layer in model.layers() {
        let Some(slot) = layer.weight_slot() else {
            continue;
        };
        let group = groups.find(layer.name(), layer.spec().fused_group.as_deref());
        let is_concerned = concerns(layer.name());
        if let Some(group) = group.as_ref().filter(|_| is_concerned) {
            concerned.insert(group.clone());
        }
        let state = slot.state();
        for quantizer in state.members().iter().filter(|q| is_static_nvfp4(q)) {
            if let (Some(group), Some(amax)) = (&group, largest(quantizer)) {
                let highest = highest.entry(group.clone()).or_insert(0.0);
                *highest = highest.max(amax);
            }
        }
        // A packed weight counts, but its own scale is what it was packed with.
        if slot.packed().is_none() {
            members.push((slot, group, is_concerned));
        }
    }
    for (slot, group, is_concerned) in members {
        let with_one = group
            .as_ref()
            .is_some_and(|group| concerned.contains(group));
        if !is_concerned && !with_one {
            continue;
        }
        let shared = group.and_then(|group| highest.get(&group).copied());
        let state = slot.state();
        if state.members().iter().any(|q| is_static_nvfp4(q)) {
            let state: SlotState = state.map(|quantizer| match is_static_nvfp4(quantizer) {
                true => Arc::new(Quantizer {
                    global_amax: shared.or(largest(quantizer)),
                    ..(**quantizer).clone()
                }),
                false => Arc::clone(quantizer),
            });
            slot.replace(Arc::new(state));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(algorithm: &str) -> Groups {
        let parsed = AlgorithmConfig::parse_text(algorithm).expect("valid");
        Groups::of(&parsed[0])
    }

    #[test]
    fn names_tell_the_group() {
        let groups = groups("max");
        let of = |name| groups.find(name, None);
        assert_eq!(of("a.0.q_proj"), Some((0, b"a.0".to_vec())));
        assert_eq!(of("a.0.v_proj"), of("a.0.k_proj"));
        assert_ne!(of("a.0.v_proj"), of("a.1.v_proj"));
        assert_eq!(of("up_proj"), of("gate_proj"));
        assert_ne!(of("a.w1"), of("a.gate_proj"));
        assert_eq!(of("a.down_proj"), None);
        assert_eq!(of("a.xq_proj"), None);
        assert_eq!(
            groups.find("a.w1", Some("g")),
            groups.find("b.w3", Some("g"))
        );
    }

    #[test]
    fn patterns_of_the_algorithm_replace_the_default_ones() {
        let with = |patterns: &str| {
            groups(&format!(
                r#"{{"method": "max", "shared_states": {{"weight_global_amax": {{"patterns": {patterns}}}}}}}"#
            ))
        };
        assert_eq!(with("[]").find("a.q_proj", None), None);
        let own = with(r#"["(.*)_[ab]"]"#);
        assert_eq!(own.find("x_a", None), own.find("x_b", None));
        assert_eq!(own.find("a.q_proj", None), None);
    }
}
