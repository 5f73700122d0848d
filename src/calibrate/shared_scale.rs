//! Gives weights that the runtime fuses one global scale: the largest amax of all of them.
//!
//! Only static NVFP4 blocks have use for it. Members of a declared fused group belong together; else the
//! names tell: q/k/v, gate/up and w1/w3 under one parent, as in the reference.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use regex::Regex;

use crate::model::{Kind, Model, Quantizer, SlotState};

/// The parent is the group, the rest the members.
static DEFAULT_GROUPS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    [
        "(?:q_proj|k_proj|v_proj)",
        "(?:gate_proj|up_proj)",
        "(?:w1|w3)",
    ]
    .iter()
    .filter_map(|members| Regex::new(&format!(r"^(?:(.*)\.)?{members}$")).ok())
    .collect()
});

/// What a layer shares its scale by: the rule and the group's name.
fn group(layer: &str, declared: Option<&str>) -> Option<(usize, String)> {
    if let Some(declared) = declared {
        return Some((DEFAULT_GROUPS.len(), declared.to_owned()));
    }
    DEFAULT_GROUPS.iter().enumerate().find_map(|(rule, regex)| {
        let parent = regex.captures(layer)?.get(1).map_or("", |m| m.as_str());
        Some((rule, parent.to_owned()))
    })
}

fn is_static_nvfp4(quantizer: &Quantizer) -> bool {
    quantizer.enabled && matches!(quantizer.kind(), Some(Kind::Nvfp4Static { .. }))
}

fn largest(quantizer: &Quantizer) -> Option<f32> {
    let amax = quantizer.amax.as_ref()?;
    amax.values().iter().copied().reduce(f32::max)
}

/// Sets the global amax of every static NVFP4 weight quantizer that has an amax.
pub fn share(model: &Model) {
    let mut highest: HashMap<(usize, String), f32> = HashMap::new();
    let mut members = Vec::new();
    for layer in model.layers() {
        let Some(slot) = layer.weight_slot().filter(|slot| slot.packed().is_none()) else {
            continue;
        };
        let group = group(layer.name(), layer.spec().fused_group.as_deref());
        let state = slot.state();
        for quantizer in state.members().iter().filter(|q| is_static_nvfp4(q)) {
            if let (Some(group), Some(amax)) = (&group, largest(quantizer)) {
                let highest = highest.entry(group.clone()).or_insert(0.0);
                *highest = highest.max(amax);
            }
        }
        members.push((slot, group));
    }
    for (slot, group) in members {
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

    #[test]
    fn names_tell_the_group() {
        let of = |name| group(name, None);
        assert_eq!(of("a.0.q_proj"), Some((0, "a.0".to_owned())));
        assert_eq!(of("a.0.v_proj"), of("a.0.k_proj"));
        assert_ne!(of("a.0.v_proj"), of("a.1.v_proj"));
        assert_eq!(of("up_proj"), of("gate_proj"));
        assert_ne!(of("a.w1"), of("a.gate_proj"));
        assert_eq!(of("a.down_proj"), None);
        assert_eq!(of("a.xq_proj"), None);
        assert_eq!(group("a.w1", Some("g")), group("b.w3", Some("g")));
    }
}
