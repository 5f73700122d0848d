//! A search as JSON, with the keys of the reference's state and a few of mq's own.

use serde_json::{Map, Value, json};

use super::constraints::{Budget, Constraints, CostModel};
use super::search::{Choice, Search};
use crate::config::Pattern;
use crate::model::{Role, Slot};

impl Search {
    /// The state: what was asked, every score and cost, the choice, and the curve of scores over budgets.
    pub fn to_json(&self) -> Value {
        let constraints = &self.settings.constraints;
        let ratio = match constraints.cost_model {
            CostModel::ActiveMoe { expert_ratio } => Some(expert_ratio),
            CostModel::Weight => None,
        };
        let curve: Vec<Value> = self
            .curve()
            .into_iter()
            .map(
                |(cost, bits, score)| json!({"cost": cost, "effective_bits": bits, "score": score}),
            )
            .collect();
        json!({
            "mq_version": env!("CARGO_PKG_VERSION"),
            "method": self.settings.method.name(),
            "cost_model": if self.has_own_costs { "callback" } else { constraints.cost_model.name() },
            "cost": {
                "excluded_module_name_patterns": globs(&constraints.excluded),
                "active_moe_expert_ratio": ratio,
            },
            "active_moe_expert_ratio": ratio,
            "cost_denominator": self.costs.denominator,
            "quantization_formats": self.formats.recipes.iter().map(|recipe| recipe.label()).collect::<Vec<_>>(),
            "quantization_formats_signature":
                self.formats.recipes.iter().map(|recipe| recipe.signature()).collect::<Vec<_>>(),
            "fixed_quantization_config": null,
            "fixed_quantization_config_signature": null,
            "module_search_space_signature": null,
            "grouping_rules": self.settings.rules.texts().collect::<Vec<_>>(),
            "disabled_layers": globs(&self.settings.disabled_layers),
            "num_calib_steps": self.settings.num_calib_steps,
            "num_score_steps": self.settings.num_score_steps,
            "constraints": budget(&self.best.constraints),
            "candidate_stats": self.candidate_stats(),
            "quantizer_states": self.quantizer_states(),
            "best": self.choice_json(&self.best),
            "curve": curve,
        })
    }

    /// A choice as the state has it under `best`.
    pub fn choice_json(&self, choice: &Choice) -> Value {
        let chosen = self.groups.iter().zip(&choice.recipes);
        let recipe: Map<String, Value> = chosen
            .map(|(group, recipe)| (group.key(), self.formats.recipes[*recipe].label().into()))
            .collect();
        json!({
            "recipe": recipe,
            "constraints": {"effective_bits": choice.effective_bits, "cost": choice.cost},
            "score": choice.score,
            "is_satisfied": true,
            "gap": choice.gap,
        })
    }

    fn candidate_stats(&self) -> Map<String, Value> {
        let groups = self.groups.iter().enumerate();
        groups
            .map(|(at, group)| {
                let candidates = self.candidates[at].iter();
                let labels: Vec<String> = candidates
                    .map(|recipe| self.formats.recipes[*recipe].label())
                    .collect();
                let names: Vec<&str> = group.layers.iter().map(|layer| layer.name()).collect();
                let attributes: Map<String, Value> = names
                    .iter()
                    .map(|name| {
                        let of_layer =
                            json!(["input_quantizer", "weight_quantizer", "output_quantizer"]);
                        ((*name).to_owned(), of_layer)
                    })
                    .collect();
                let cost = &self.costs.groups[at];
                let stats = json!({
                    "formats": labels,
                    "scores": self.scores[at],
                    "costs": cost.candidates,
                    "module_names": names,
                    "quantizer_attrs": attributes,
                    "cost_weight": cost.weight,
                    "allow_no_quant": self.candidates[at].contains(&self.formats.none()),
                    "is_fixed": self.candidates[at].len() == 1,
                    "uncompressed_cost": cost.uncompressed,
                });
                (group.key(), stats)
            })
            .collect()
    }

    /// What each format was calibrated to, in short; the values themselves are in the checkpoint.
    fn quantizer_states(&self) -> Map<String, Value> {
        let formats = self.formats.quantizing();
        formats
            .map(|(recipe, shadow)| {
                let slots = shadow.slots().iter();
                let slots = slots.filter(|slot| matches!(slot.role(), Role::Input | Role::Weight));
                let states: Map<String, Value> = slots
                    .map(|slot| (slot.name().to_owned(), in_short(slot)))
                    .collect();
                (self.formats.recipes[recipe].label(), Value::Object(states))
            })
            .collect()
    }
}

fn in_short(slot: &Slot) -> Value {
    let state = slot.state();
    let members = state.members().iter().map(|q| {
        let amax = q.amax.as_ref().map(|amax| {
            let values = amax.values().iter().copied();
            let (least, most) = (values.clone().fold(f32::INFINITY, f32::min), values.fold(0.0, f32::max));
            json!({"shape": amax.shape(), "min": least, "max": most})
        });
        json!({
            "enabled": q.enabled,
            "amax": amax,
            "pre_quant_scale": q.pre_quant_scale.as_ref().map(|scale| json!({"channels": scale.len()})),
        })
    });
    members.collect()
}

fn globs(patterns: &[Pattern]) -> Vec<&str> {
    patterns.iter().map(Pattern::as_str).collect()
}

fn budget(constraints: &Constraints) -> Value {
    match constraints.budget {
        Budget::EffectiveBits(bits) => json!({"effective_bits": bits}),
        Budget::Cost(cost) => json!({"max_cost": cost}),
    }
}
