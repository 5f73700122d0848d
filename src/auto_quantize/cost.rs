//! What the formats of a group cost.

use super::constraints::{Budget, Constraints, CostModel};
use super::grouping::Group;
use super::recipe::{Recipe, UNQUANTIZED_BITS};
use crate::error::{Error, Result};
use crate::model::Layer;

/// A cost of the host's own: of a layer of that name, with so many elements of weight, under the format of that name.
pub type LayerCost<'a> = &'a mut dyn FnMut(&str, &str, u64) -> Result<f64>;

/// Costs of one group, by its candidates.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupCost {
    /// Of each candidate.
    pub candidates: Vec<f64>,
    /// Without quantization.
    pub uncompressed: f64,
    /// What an element counts.
    pub weight: f64,
}

/// Costs of all groups.
#[derive(Debug, Clone, PartialEq)]
pub struct Costs {
    /// One for each group.
    pub groups: Vec<GroupCost>,
    /// Of all groups without quantization.
    pub denominator: f64,
}

impl Costs {
    /// Counts `candidates` (positions in `recipes`, for each group).
    pub fn new(
        groups: &[Group],
        candidates: &[Vec<usize>],
        recipes: &[Recipe],
        constraints: &Constraints,
        own: &mut Option<LayerCost>,
    ) -> Result<Self> {
        let none = Recipe::none();
        let mut costs = Vec::with_capacity(groups.len());
        for (group, candidates) in groups.iter().zip(candidates) {
            let weight = weight(group, constraints);
            let mut cost = |recipe: &Recipe| -> Result<f64> {
                let layers = group
                    .layers
                    .iter()
                    .map(|layer| of_layer(layer, recipe, own));
                Ok(weight * layers.sum::<Result<f64>>()?)
            };
            let of_candidates = candidates.iter().map(|at| cost(&recipes[*at]));
            let of_candidates = of_candidates.collect::<Result<Vec<f64>>>()?;
            costs.push(GroupCost {
                candidates: of_candidates,
                uncompressed: cost(&none)?,
                weight,
            });
        }
        let denominator = costs.iter().map(|cost| cost.uncompressed).sum();
        if denominator <= 0.0 && matches!(constraints.budget, Budget::EffectiveBits(_)) {
            return Err(Error::Config(
                "no layer counts: everything is excluded from the cost or has no elements".into(),
            ));
        }
        Ok(Self {
            groups: costs,
            denominator,
        })
    }

    /// Bits of an element, on average, of a choice that costs so much.
    pub fn effective_bits(&self, cost: f64) -> f64 {
        match self.denominator > 0.0 {
            true => cost / self.denominator * UNQUANTIZED_BITS,
            false => 0.0,
        }
    }

    /// Refuses a budget that even the cheapest candidates exceed.
    pub fn check_reachable(&self, budget: Budget) -> Result<()> {
        let least = self.groups.iter().map(|cost| {
            cost.candidates
                .iter()
                .copied()
                .fold(f64::INFINITY, f64::min)
        });
        let least: f64 = least.sum();
        if least <= budget.limit(self.denominator) * (1.0 + 1e-12) {
            return Ok(());
        }
        Err(Error::Config(match budget {
            Budget::EffectiveBits(bits) => format!(
                "The effective_bits target {bits} is infeasible for the resolved module search spaces. The minimum \
                 achievable effective bits is {:.4}.",
                self.effective_bits(least)
            ),
            Budget::Cost(cost) => {
                format!(
                    "max_cost {cost} is infeasible: the cheapest formats of all layers cost {least} together"
                )
            }
        }))
    }
}

/// What an element of a group counts.
fn weight(group: &Group, constraints: &Constraints) -> f64 {
    let is_excluded = |layer: &Layer| {
        constraints
            .excluded
            .iter()
            .any(|pattern| pattern.matches(layer.name()))
    };
    if group.layers.iter().all(|layer| is_excluded(layer)) {
        return 0.0;
    }
    match constraints.cost_model {
        CostModel::ActiveMoe { expert_ratio }
            if group.layers.iter().any(|layer| is_expert(layer)) =>
        {
            expert_ratio
        }
        _ => 1.0,
    }
}

/// As the reference tells by the name; or the host has said so.
fn is_expert(layer: &Layer) -> bool {
    let name = layer.name();
    let named = name.split('.').any(|part| part == "experts") && !name.contains("shared_expert");
    named || layer.spec().expert_group.is_some()
}

fn of_layer(layer: &Layer, recipe: &Recipe, own: &mut Option<LayerCost>) -> Result<f64> {
    let elements = layer.spec().weight.map_or(0, |weight| weight.count());
    let Some(own) = own else {
        return Ok(elements as f64 * recipe.compression);
    };
    let cost = own(layer.name(), &recipe.name, elements as u64)?;
    match cost.is_finite() && cost >= 0.0 {
        true => Ok(cost),
        false => Err(Error::Numeric(format!(
            "the cost callback gave {cost} for `{}` under {}, expected a finite number from 0 on",
            layer.name(),
            recipe.name
        ))),
    }
}
