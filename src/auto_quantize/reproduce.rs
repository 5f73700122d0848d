//! The configuration with which `quantize` arrives at a choice of a search.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::search::{Choice, Search};
use crate::model::{Role, SlotState};

impl Search {
    /// Names every quantizer of the choice with its attributes, and the algorithms of its formats, each with the layers
    /// it is for where there are several.
    pub fn config(&self, choice: &Choice) -> Value {
        let mut entries = vec![json!({"quantizer_name": "*", "enable": false})];
        // Algorithms in the order of the formats, and their layers.
        let mut algorithms: Vec<(Vec<Value>, Vec<Value>)> = Vec::new();
        for recipe in 0..self.formats.count() {
            let Some(config) = &self.formats.recipes[recipe].config else {
                continue;
            };
            let chosen = self
                .groups
                .iter()
                .zip(&choice.recipes)
                .filter(|(_, chosen)| **chosen == recipe);
            let layers: Vec<_> = chosen.flat_map(|(group, _)| &group.layers).collect();
            if layers.is_empty() {
                continue;
            }
            let slots = layers.iter().flat_map(|layer| layer.slots());
            let names: HashSet<&str> = slots.map(|slot| slot.name()).collect();
            for (slot, state) in self.formats.configured(recipe) {
                let quantizes =
                    matches!(slot.role(), Role::Input | Role::Weight) && state.is_enabled();
                if quantizes && names.contains(slot.name()) {
                    entries.push(entry(slot.name(), state));
                }
            }
            let names: Vec<Value> = layers
                .iter()
                .map(|layer| escaped(layer.name()).into())
                .collect();
            let own: Vec<Value> = config
                .algorithm
                .iter()
                .map(|algorithm| algorithm.to_json())
                .collect();
            match algorithms.iter_mut().find(|(known, _)| *known == own) {
                Some((_, layers)) => layers.extend(names),
                None => algorithms.push((own, names)),
            }
        }
        json!({"quant_cfg": entries, "algorithm": algorithm(algorithms)})
    }
}

fn algorithm(mut algorithms: Vec<(Vec<Value>, Vec<Value>)>) -> Value {
    if algorithms.len() <= 1 {
        let mut only = algorithms.pop().map(|(own, _)| own).unwrap_or_default();
        return match only.len() {
            0 => Value::Null,
            1 => only.remove(0),
            _ => Value::Array(only),
        };
    }
    let scoped = algorithms.into_iter().flat_map(|(own, layers)| {
        own.into_iter().map(move |algorithm| {
            let mut scoped = match algorithm {
                Value::Object(map) => map,
                _ => Map::new(),
            };
            scoped.insert("layers".to_owned(), layers.clone().into());
            Value::Object(scoped)
        })
    });
    scoped.collect()
}

fn entry(name: &str, state: &SlotState) -> Value {
    let one = |q: &crate::model::Quantizer| {
        let mut attributes = q.attributes.to_json();
        if let Value::Object(map) = &mut attributes {
            map.remove("enable");
        }
        attributes
    };
    let cfg = match state {
        SlotState::Single(q) => one(q),
        SlotState::Sequential(members) => members.iter().map(|q| one(q)).collect(),
    };
    json!({"quantizer_name": escaped(name), "cfg": cfg, "enable": true})
}

/// A pattern that matches nothing but `name`.
fn escaped(name: &str) -> String {
    let literal = |c: char| match c {
        '*' | '?' | '[' => format!("[{c}]"),
        c => c.to_string(),
    };
    name.chars().map(literal).collect()
}
