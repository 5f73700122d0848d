//! Which layers get one format: those that a rule maps to the same key, those that the runtime fuses, and the experts
//! whose inputs it gathers.
//!
//! A rule is a regular expression whose first captured group is the key; the first rule that matches the beginning
//! of a layer's name counts. A layer that no rule matches is alone, unless the host has declared its group.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use regex::bytes::Regex;

use crate::config::{Pattern, expression};
use crate::error::{Error, Result};
use crate::model::{Layer, LayerKind, Model};

/// The rules of reference 0.47, which include those of 0.21: attention, experts in their namings, MLPs. A second
/// element is appended to the key.
const DEFAULTS: [(&str, &str); 9] = [
    (r"^(.*?)\.(q_proj|k_proj|v_proj)$", ""),
    (
        r"^(.*?\.mlp\.experts)\.\d+\.(gate_proj|up_proj|down_proj)$",
        "",
    ),
    (r"^(.*?\.mixer\.experts)\.\d+\.(up_proj|down_proj)$", ""),
    (
        r"^(.*?\.mlp\.experts\.local_experts)\.\d+\.(linear_fc1|linear_fc2)$",
        "",
    ),
    (r"^(.*?)\.(gate_proj|up_proj)$", ""),
    (r"^(.*?)\.(\d+\.(w1|w2|w3))$", ""),
    (r"^(.*?)\.((w1_linear|w2_linear|w3_linear)\.\d+)$", ""),
    (r"^(.*?)\.linear_attn\.(in_proj_qkv|in_proj_z)$", "/qkvz"),
    (r"^(.*?)\.linear_attn\.(in_proj_b|in_proj_a)$", "/ba"),
];

/// Rules in the order in which they are tried.
#[derive(Debug, Clone)]
pub struct Rules(Vec<Rule>);

#[derive(Debug, Clone)]
struct Rule {
    text: String,
    regex: Regex,
    suffix: &'static str,
}

/// Where rules of the caller's go among the defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Behind them.
    Append,
    /// Before them.
    Prepend,
    /// In their place.
    Replace,
}

impl Rules {
    /// The defaults with rules of the caller's.
    pub fn new(own: &[&str], placement: Placement) -> Result<Self> {
        let own: Vec<Rule> = own
            .iter()
            .map(|text| Rule::new(text, ""))
            .collect::<Result<_>>()?;
        let defaults = || {
            DEFAULTS
                .iter()
                .map(|(text, suffix)| Rule::new(text, suffix))
        };
        let defaults = || defaults().collect::<Result<Vec<Rule>>>();
        Ok(Self(match placement {
            Placement::Append => [defaults()?, own].concat(),
            Placement::Prepend => [own, defaults()?].concat(),
            Placement::Replace => own,
        }))
    }

    /// The expressions, in order.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|rule| rule.text.as_str())
    }

    /// What the first rule that matches makes of a name.
    fn key(&self, name: &str) -> Option<String> {
        self.0.iter().find_map(|rule| {
            let captures = rule.regex.captures(name.as_bytes())?;
            let key = String::from_utf8_lossy(captures.get(1)?.as_bytes()).into_owned();
            Some(key + rule.suffix)
        })
    }
}

impl Rule {
    fn new(text: &str, suffix: &'static str) -> Result<Self> {
        // From the beginning of a name on, as Python's re.match.
        let regex = expression(&format!(r"\A(?:{text})")).map_err(|why| {
            let why = why.strip_prefix("error: ").unwrap_or(&why);
            Error::Config(format!(
                "grouping rule {text:?} is no regular expression: {why}"
            ))
        })?;
        if regex.captures_len() < 2 {
            return Err(Error::Config(format!(
                "grouping rule {text:?} captures nothing; put what names the group in parentheses, as in {:?}",
                DEFAULTS[0].0
            )));
        }
        Ok(Self {
            text: text.to_owned(),
            regex,
            suffix,
        })
    }
}

/// Layers that get one format.
pub struct Group {
    /// In the order of registration; never empty.
    pub layers: Vec<Arc<Layer>>,
    /// A layer of it is not to be quantized, so none is.
    pub is_disabled: bool,
}

impl Group {
    /// The name of its first layer.
    pub fn name(&self) -> &str {
        self.layers[0].name()
    }

    /// The name that results have.
    pub fn key(&self) -> String {
        format!("{}.quant_recipe", self.name())
    }
}

/// What layers have in common that get one format.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key<'a> {
    /// A rule makes the same of their names.
    Rule(String),
    /// The runtime computes them as one product.
    Fused(&'a str),
    /// The runtime gathers what enters them.
    Experts(&'a str),
}

/// The groups of a model, in the order of their first layers.
pub fn groups(model: &Model, rules: &Rules, disabled: &[Pattern]) -> Result<Vec<Group>> {
    let mut groups: Vec<Group> = Vec::new();
    let mut places: HashMap<Key, usize> = HashMap::new();
    for layer in model.layers().iter().filter(|layer| is_searched(layer)) {
        let spec = layer.spec();
        let keys = [
            rules.key(layer.name()).map(Key::Rule),
            spec.fused_group.as_deref().map(Key::Fused),
            spec.expert_group.as_deref().map(Key::Experts),
        ];
        let keys = || keys.iter().flatten();
        let known: BTreeSet<usize> = keys().filter_map(|key| places.get(key)).copied().collect();
        let at = known.first().copied().unwrap_or(groups.len());
        if at == groups.len() {
            groups.push(Group {
                layers: Vec::new(),
                is_disabled: false,
            });
        }
        // What a rule keeps apart belongs together after all: later groups join the first.
        for joins in known.into_iter().skip(1) {
            let layers = std::mem::take(&mut groups[joins].layers);
            groups[at].layers.extend(layers);
            let moved = places.values_mut().filter(|place| **place == joins);
            moved.for_each(|place| *place = at);
        }
        groups[at].layers.push(Arc::clone(layer));
        places.extend(keys().map(|key| (key.clone(), at)));
    }
    groups.retain(|group| !group.layers.is_empty());
    let order: HashMap<*const Layer, usize> = model
        .layers()
        .iter()
        .enumerate()
        .map(|(i, layer)| (Arc::as_ptr(layer), i))
        .collect();
    for group in &mut groups {
        group
            .layers
            .sort_by_key(|layer| order.get(&Arc::as_ptr(layer)));
        let mut names = group.layers.iter().map(|layer| layer.name());
        group.is_disabled = names.any(|name| disabled.iter().any(|pattern| pattern.matches(name)));
    }
    groups.sort_by_key(|group| order.get(&Arc::as_ptr(&group.layers[0])));
    check_disabled(model, disabled)?;
    match groups.is_empty() {
        false => Ok(groups),
        true => Err(Error::InvalidArgument(
            "the model has no layers to search formats for: linear ones, convolutions, or others with a weight and a \
             forward callback"
                .into(),
        )),
    }
}

/// Whether formats are searched for a layer: its output must be computable under them.
fn is_searched(layer: &Layer) -> bool {
    let spec = layer.spec();
    match spec.kind {
        LayerKind::Linear | LayerKind::Conv { .. } => true,
        LayerKind::ConvTranspose { .. } | LayerKind::Generic => {
            spec.weight.is_some() && spec.forward.is_some()
        }
        LayerKind::Embedding => false,
    }
}

/// A pattern that matches nothing is a misspelling more often than not.
fn check_disabled(model: &Model, disabled: &[Pattern]) -> Result<()> {
    for pattern in disabled {
        let mut layers = model.layers().iter();
        if !layers.any(|layer| pattern.matches(layer.name())) {
            model.context().warn(&format!(
                "disabled_layers: `{}` matches no layer",
                pattern.as_str()
            ));
        }
    }
    Ok(())
}
