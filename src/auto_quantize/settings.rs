//! What a search is asked to do, read from the caller's texts.

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::constraints::{Constraints, read_patterns};
use super::grouping::{Placement, Rules};
use super::recipe::{self, Recipe};
use super::score::Method;
use crate::config::Pattern;
use crate::error::{Error, Result};

/// The formats when the caller names none: those of reference 0.47.
const DEFAULT_FORMATS: [&str; 2] = ["NVFP4_AWQ_LITE_CFG", "FP8_DEFAULT_CFG"];

/// A search.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the choice may cost.
    pub constraints: Constraints,
    /// From the most to the least compressed; the last one is no quantization.
    pub recipes: Vec<Recipe>,
    /// Whether a layer may stay as it is.
    pub allow_no_quant: bool,
    /// Batches that formats are calibrated on.
    pub num_calib_steps: u64,
    /// Batches that formats are scored on.
    pub num_score_steps: u64,
    /// Tell of every choice.
    pub verbose: bool,
    /// Layers that stay as they are, with their groups.
    pub disabled_layers: Vec<Pattern>,
    /// How sensitivity is measured.
    pub method: Method,
    /// Which layers belong together.
    pub rules: Rules,
    /// File that keeps the search.
    pub checkpoint: Option<PathBuf>,
}

impl Settings {
    /// A search with the reference's defaults.
    pub fn new() -> Result<Self> {
        Ok(Self {
            constraints: Constraints::read(&Value::Null)?,
            recipes: read_formats(None)?,
            allow_no_quant: true,
            num_calib_steps: 512,
            num_score_steps: 128,
            verbose: false,
            disabled_layers: Vec::new(),
            method: Method::Gradient,
            rules: Rules::new(&[], Placement::Append)?,
            checkpoint: None,
        })
    }
}

/// Reads a list of formats: presets' names, configurations, and null. They come out in order, and end with no
/// quantization, named or not.
pub fn read_formats(text: Option<&str>) -> Result<Vec<Recipe>> {
    let given = match text {
        None => DEFAULT_FORMATS
            .iter()
            .map(|name| Value::from(*name))
            .collect(),
        Some(text) => json(text, "quantization_formats")?,
    };
    let Value::Array(items) = given else {
        return Err(Error::Config("quantization_formats must be a list.".into()));
    };
    let mut recipes: Vec<Recipe> = Vec::new();
    for (position, item) in items.iter().enumerate() {
        let recipe = Recipe::read(item, position)?;
        if !recipe.is_none() && !recipes.iter().any(|known| known.is_same(&recipe)) {
            recipes.push(recipe);
        }
    }
    if recipes.is_empty() {
        return Err(Error::Config(
            "quantization_formats holds no format, expected one or more, such as [\"INT4_AWQ_CFG\", \"INT8_DEFAULT_CFG\"]"
                .into(),
        ));
    }
    recipes.push(Recipe::none());
    recipe::sort(&mut recipes);
    Ok(recipes)
}

/// Reads a pattern or a list of them, as JSON.
pub fn read_disabled_layers(text: Option<&str>) -> Result<Vec<Pattern>> {
    match text {
        None => Ok(Vec::new()),
        Some(text) => match json(text, "disabled_layers")? {
            Value::Null => Ok(Vec::new()),
            value => read_patterns(&value, "disabled_layers"),
        },
    }
}

/// Reads constraints, as JSON.
pub fn read_constraints(text: Option<&str>) -> Result<Constraints> {
    match text {
        None => Constraints::read(&Value::Null),
        Some(text) => Constraints::read(&json(text, "constraints")?),
    }
}

/// Reads a list of rules, which go behind the defaults, or `{"append" | "prepend" | "replace": [...]}`.
pub fn read_rules(text: Option<&str>) -> Result<Rules> {
    const PLACEMENTS: [(&str, Placement); 3] = [
        ("append", Placement::Append),
        ("prepend", Placement::Prepend),
        ("replace", Placement::Replace),
    ];
    let Some(text) = text else {
        return Rules::new(&[], Placement::Append);
    };
    let invalid = |value: &Value| {
        Error::Config(format!(
            "grouping_rules are {value}, expected a list of regular expressions, or one of {{\"append\": [...]}}, \
             {{\"prepend\": [...]}}, {{\"replace\": [...]}}"
        ))
    };
    let given = json(text, "grouping_rules")?;
    let only = |map: &Map<String, Value>| {
        let (key, value) = map.iter().next().filter(|_| map.len() == 1)?;
        let (_, placement) = PLACEMENTS.iter().find(|(name, _)| name == key)?;
        Some((value.clone(), *placement))
    };
    let (list, placement) = match &given {
        Value::Array(_) => (given.clone(), Placement::Append),
        Value::Object(map) => only(map).ok_or_else(|| invalid(&given))?,
        _ => return Err(invalid(&given)),
    };
    let rules = list
        .as_array()
        .map(|rules| rules.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
    Rules::new(&rules.flatten().ok_or_else(|| invalid(&given))?, placement)
}

fn json(text: &str, what: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|error| {
        Error::Config(format!("{what} is not valid JSON: {error}; found {text:?}"))
    })
}
