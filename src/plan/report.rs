//! A plan as JSON, for the host to look at before it starts.

use serde_json::{Value, json};

use super::needs::SlotNeeds;
use super::{Item, Plan};
use crate::model::Context;
use crate::observe::InputNeeds;

/// The plans of algorithms that run one after the other: per pass which layers, which statistics and how
/// many bytes; how often the forward runs; the highest memory.
pub fn report(context: &Context, plans: &[(&str, Plan)]) -> Value {
    let mut passes = Vec::new();
    let mut peak = 0;
    for (algorithm, plan) in plans {
        peak = peak.max(plan.weights_bytes);
        for pass in &plan.passes {
            peak = peak.max(pass.peak_bytes());
            let observed: Vec<Value> = pass.items.iter().map(item).collect();
            passes.push(json!({
                "algorithm": algorithm,
                "statistics_bytes": pass.statistics_bytes,
                "workspace_bytes": pass.workspace_bytes,
                "peak_bytes": pass.peak_bytes(),
                "observed": observed,
            }));
        }
    }
    let weights: Vec<Value> = plans
        .iter()
        .map(|(algorithm, plan)| {
            let names: Vec<&str> = plan.weights.iter().map(|slot| slot.name()).collect();
            json!({"algorithm": algorithm, "weights": names})
        })
        .collect();
    json!({
        "forwards": passes.len(),
        "peak_bytes": peak,
        "memory_limit_bytes": context.memory_limit_bytes(),
        "without_data": weights,
        "passes": passes,
    })
}

fn item(item: &Item) -> Value {
    let statistics = match item {
        Item::Slots(_, SlotNeeds::Nothing) => vec![],
        Item::Slots(_, SlotNeeds::AbsMax) => vec!["max"],
        Item::Slots(_, SlotNeeds::Histogram { .. }) => vec!["histogram"],
        Item::Layers(_, needs) => input_statistics(needs),
    };
    let names: Vec<String> = match item {
        Item::Slots(slots, _) => slots.iter().map(|slot| slot.name().to_owned()).collect(),
        Item::Layers(layers, _) => layers.iter().map(|layer| layer.name().to_owned()).collect(),
    };
    let what = match item {
        Item::Slots(..) => "quantizers",
        Item::Layers(..) => "layers",
    };
    json!({
        what: names,
        "channels": item.channels(),
        "statistics": statistics,
        "bytes": item.statistics_bytes(),
    })
}

fn input_statistics(needs: &InputNeeds) -> Vec<&'static str> {
    let asked = [
        ("max", true),
        ("mean_abs", needs.mean_abs),
        ("gram", needs.gram),
        ("gram_blocks", needs.blocks.is_some()),
    ];
    let asked = asked.into_iter().filter(|(_, asked)| *asked);
    asked.map(|(name, _)| name).collect()
}
