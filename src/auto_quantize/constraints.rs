//! What a choice of formats may cost, and how costs are counted.

use serde_json::{Map, Value};

use super::recipe::{Recipe, UNQUANTIZED_BITS};
use crate::config::Pattern;
use crate::error::{Error, Result};

/// Bits of a weight's element on average, when the caller says nothing; as the reference's documentation has it.
pub const DEFAULT_EFFECTIVE_BITS: f64 = 4.8;

const KEYS: [&str; 4] = ["effective_bits", "max_cost", "cost_model", "cost"];
const COST_KEYS: [&str; 2] = ["excluded_module_name_patterns", "active_moe_expert_ratio"];

/// How much a choice may cost at most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// So many bits of an element, out of 16: a fraction of what no quantization costs.
    EffectiveBits(f64),
    /// In the units of the costs.
    Cost(f64),
}

impl Budget {
    /// In the units of the costs, of which no quantization takes `denominator`.
    pub fn limit(self, denominator: f64) -> f64 {
        match self {
            Self::EffectiveBits(bits) => denominator * bits / UNQUANTIZED_BITS,
            Self::Cost(cost) => cost,
        }
    }
}

/// What an element of a layer's weight counts.
#[derive(Debug, Clone, PartialEq)]
pub enum CostModel {
    /// One.
    Weight,
    /// One, but those of experts only as often as they are active.
    ActiveMoe {
        /// The fraction of experts that a token activates.
        expert_ratio: f64,
    },
}

impl CostModel {
    /// The name in constraints.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::ActiveMoe { .. } => "active_moe",
        }
    }
}

/// The constraints of a search.
#[derive(Debug, Clone, PartialEq)]
pub struct Constraints {
    /// What the choice may cost.
    pub budget: Budget,
    /// What is counted.
    pub cost_model: CostModel,
    /// Layers that are not counted: groups all of whose names match.
    pub excluded: Vec<Pattern>,
}

impl Constraints {
    /// Reads `{"effective_bits": 4.8}` and its further keys. Null and `{}`: the default.
    pub fn read(value: &Value) -> Result<Self> {
        let empty = Map::new();
        let map = match value {
            Value::Null => &empty,
            Value::Object(map) => map,
            other => {
                return Err(config(format!(
                    "constraints are {other}, expected an object such as {{\"effective_bits\": 4.8}}"
                )));
            }
        };
        check_keys(map, &KEYS, "Unsupported auto_quantize constraints")?;
        let budget = match (map.get("effective_bits"), map.get("max_cost")) {
            (None | Some(Value::Null), None) => Budget::EffectiveBits(DEFAULT_EFFECTIVE_BITS),
            (Some(bits), None) => Budget::EffectiveBits(number(bits, "effective_bits")?),
            (None, Some(cost)) => Budget::Cost(number(cost, "max_cost")?),
            (Some(_), Some(_)) => {
                return Err(config(
                    "effective_bits and max_cost are both given; give one budget".to_owned(),
                ));
            }
        };
        match budget {
            Budget::EffectiveBits(bits) if !(bits > 0.0 && bits <= UNQUANTIZED_BITS) => {
                return Err(config(format!(
                    "effective_bits should be between 0 and 16. Got {bits}"
                )));
            }
            Budget::Cost(cost) if cost < 0.0 => {
                return Err(config(format!("max_cost is {cost}, expected 0 or more")));
            }
            _ => {}
        }
        let cost = match map.get("cost") {
            None | Some(Value::Null) => &empty,
            Some(Value::Object(cost)) => cost,
            Some(other) => return Err(config(format!("cost is {other}, expected an object"))),
        };
        check_keys(cost, &COST_KEYS, "Unsupported keys of cost")?;
        Ok(Self {
            budget,
            cost_model: cost_model(map, cost)?,
            excluded: match cost.get(COST_KEYS[0]) {
                None | Some(Value::Null) => Vec::new(),
                Some(patterns) => read_patterns(patterns, COST_KEYS[0])?,
            },
        })
    }

    /// Refuses bits that the most compressed format is above, with the reference's words.
    pub fn check_bits(&self, recipes: &[Recipe]) -> Result<()> {
        let (Budget::EffectiveBits(bits), Some(least)) = (self.budget, recipes.first()) else {
            return Ok(());
        };
        let num_bits = least.effective_bits().floor();
        match bits < num_bits {
            false => Ok(()),
            true => Err(config(format!(
                "The effective_bits {bits} constraint cannot be lower than the num_bits of most aggressive quantization \
                 format for this search which is {} whose num_bits = {num_bits}.",
                least.label()
            ))),
        }
    }
}

fn cost_model(map: &Map<String, Value>, cost: &Map<String, Value>) -> Result<CostModel> {
    let ratio = match cost.get(COST_KEYS[1]) {
        None | Some(Value::Null) => None,
        Some(ratio) => Some(number(ratio, COST_KEYS[1])?),
    };
    if let Some(ratio) = ratio.filter(|ratio| !(*ratio > 0.0 && *ratio <= 1.0)) {
        return Err(config(format!(
            "active_moe_expert_ratio is {ratio}, expected above 0 and at most 1"
        )));
    }
    match map.get("cost_model") {
        None | Some(Value::Null) => Ok(CostModel::Weight),
        Some(Value::String(name)) if name == "weight" => Ok(CostModel::Weight),
        Some(Value::String(name)) if name == "active_moe" => match ratio {
            Some(expert_ratio) => Ok(CostModel::ActiveMoe { expert_ratio }),
            None => Err(config(
                "Could not infer active_moe_expert_ratio: give it in cost, as experts per token / experts, such as \
                 {\"cost_model\": \"active_moe\", \"cost\": {\"active_moe_expert_ratio\": 0.25}}"
                    .to_owned(),
            )),
        },
        Some(other) => Err(config(format!("cost_model is {other}, expected \"weight\" or \"active_moe\""))),
    }
}

/// Reads a pattern or a list of them.
pub fn read_patterns(value: &Value, what: &str) -> Result<Vec<Pattern>> {
    let one = std::slice::from_ref(value);
    let items = match value {
        Value::Array(items) => items.as_slice(),
        _ => one,
    };
    let read = |item: &Value| match item {
        Value::String(glob) => Pattern::new(glob),
        other => Err(config(format!(
            "{what} holds {other}, expected patterns such as \"*lm_head*\""
        ))),
    };
    items.iter().map(read).collect()
}

fn check_keys(map: &Map<String, Value>, known: &[&str], what: &str) -> Result<()> {
    match map.keys().find(|key| !known.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => Err(config(format!(
            "{what}: {key:?}{}",
            crate::config::hint(key, known)
        ))),
    }
}

fn number(value: &Value, what: &str) -> Result<f64> {
    value
        .as_f64()
        .filter(|number| number.is_finite())
        .ok_or_else(|| config(format!("{what} is {value}, expected a number")))
}

fn config(text: String) -> Error {
    Error::Config(text)
}
