//! A finished search: scores and costs of every format of every group, the choice for a budget, and the calibrated
//! formats to put it into effect with.

use super::constraints::Constraints;
use super::cost::{Costs, LayerCost};
use super::formats::Formats;
use super::grouping::Group;
use super::knapsack::{self, Candidate};
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::model::{Mode, Model};

/// Budgets for which the curve of score versus cost is solved.
const CURVE_POINTS: usize = 65;

/// What a search found.
pub struct Search {
    pub(super) settings: Settings,
    pub(super) formats: Formats,
    pub(super) groups: Vec<Group>,
    /// For each group, positions of the recipes that it may get.
    pub(super) candidates: Vec<Vec<usize>>,
    /// By group and candidate; none is above the one before.
    pub(super) scores: Vec<Vec<f64>>,
    pub(super) costs: Costs,
    /// The costs are the host's.
    pub(super) has_own_costs: bool,
    /// The choice that is in effect.
    pub(super) best: Choice,
}

/// A format for every group.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// What it was made for.
    pub constraints: Constraints,
    /// Positions of recipes, one for each group.
    pub recipes: Vec<usize>,
    /// Of all groups.
    pub score: f64,
    /// Of all groups.
    pub cost: f64,
    /// Of an element, on average.
    pub effective_bits: f64,
    /// How much lower the score could be, relative to it: rounding, but for problems that are too hard to finish.
    pub gap: f64,
}

impl Search {
    /// The choice that is in effect.
    pub fn best(&self) -> &Choice {
        &self.best
    }

    /// The best choice under constraints, as far as they only change the budget, or costs that mq counts itself.
    pub fn solve(&self, constraints: &Constraints) -> Result<Choice> {
        let before = &self.settings.constraints;
        let same =
            constraints.cost_model == before.cost_model && constraints.excluded == before.excluded;
        if same {
            return choose(
                &self.settings,
                &self.formats,
                &self.candidates,
                &self.scores,
                &self.costs,
                constraints,
            );
        }
        if self.has_own_costs {
            return Err(Error::Config(
                "the costs of this search are the cost callback's: only effective_bits or max_cost can change".into(),
            ));
        }
        let (groups, recipes) = (&self.groups, &self.formats.recipes);
        let mut none: Option<LayerCost> = None;
        let costs = Costs::new(groups, &self.candidates, recipes, constraints, &mut none)?;
        choose(
            &self.settings,
            &self.formats,
            &self.candidates,
            &self.scores,
            &costs,
            constraints,
        )
    }

    /// Puts a choice of this search into effect. On failure the model is as it was.
    pub fn apply(&mut self, model: &mut Model, choice: Choice) -> Result<()> {
        check_unchanged(model)?;
        model.transaction(|model| {
            put_into_effect(model, &self.formats, &self.groups, &choice.recipes)
        })?;
        tell(model, &self.settings, &self.formats, &self.groups, &choice);
        self.best = choice;
        Ok(())
    }

    /// The best choices for budgets from the least to the largest that is of use, as (cost, effective bits, score).
    pub fn curve(&self) -> Vec<(f64, f64, f64)> {
        let problem = problem(&self.scores, &self.costs);
        let points = knapsack::curve(&problem, CURVE_POINTS);
        let point = |solution: &knapsack::Solution| {
            (
                solution.cost,
                self.costs.effective_bits(solution.cost),
                solution.score,
            )
        };
        points.iter().map(point).collect()
    }
}

fn problem(scores: &[Vec<f64>], costs: &Costs) -> Vec<Vec<Candidate>> {
    let group = |(scores, costs): (&Vec<f64>, &super::cost::GroupCost)| {
        let pairs = scores.iter().zip(&costs.candidates);
        pairs
            .map(|(score, cost)| Candidate {
                cost: *cost,
                score: *score,
            })
            .collect()
    };
    scores.iter().zip(&costs.groups).map(group).collect()
}

/// The best choice under constraints.
pub(super) fn choose(
    settings: &Settings,
    formats: &Formats,
    candidates: &[Vec<usize>],
    scores: &[Vec<f64>],
    costs: &Costs,
    constraints: &Constraints,
) -> Result<Choice> {
    constraints.check_bits(&formats.recipes)?;
    costs.check_reachable(constraints.budget)?;
    let limit = constraints.budget.limit(costs.denominator);
    let solution = knapsack::solve(&problem(scores, costs), limit).ok_or_else(|| {
        // Costs are the same sums as in the check before.
        Error::Internal(format!(
            "no choice costs at most {limit} ({})",
            settings.method.name()
        ))
    })?;
    let chosen = solution.choice.iter().zip(candidates);
    Ok(Choice {
        constraints: constraints.clone(),
        recipes: chosen.map(|(at, candidates)| candidates[*at]).collect(),
        score: solution.score,
        cost: solution.cost,
        effective_bits: costs.effective_bits(solution.cost),
        gap: solution.gap,
    })
}

/// Gives every quantizer what its group's recipe was calibrated to; whatever is in no group is off.
pub(super) fn put_into_effect(
    model: &Model,
    formats: &Formats,
    groups: &[Group],
    recipes: &[usize],
) -> Result<()> {
    for slot in model.slots() {
        slot.replace(formats.state(formats.none(), slot)?);
    }
    for (group, recipe) in groups.iter().zip(recipes) {
        for slot in group.layers.iter().flat_map(|layer| layer.slots()) {
            slot.replace(formats.state(*recipe, slot)?);
        }
    }
    model.set_mode(Mode::Quantized);
    Ok(())
}

/// Says what was chosen, in the reference's words when all of it is wanted.
pub(super) fn tell(
    model: &Model,
    settings: &Settings,
    formats: &Formats,
    groups: &[Group],
    choice: &Choice,
) {
    let context = model.context();
    if settings.verbose {
        for (group, recipe) in groups.iter().zip(&choice.recipes) {
            let label = formats.recipes[*recipe].label();
            context.info(&format!(
                "AutoQuantize best recipe for {}: {label}",
                group.key()
            ));
        }
    }
    context.info(&format!(
        "AutoQuantize effective bits: {:.2}",
        choice.effective_bits
    ));
}

/// A weight that was written to or packed is no longer the one that was searched.
fn check_unchanged(model: &Model) -> Result<()> {
    for slot in model.slots() {
        let state = slot.state();
        let is_folded = state.members().iter().any(|q| q.is_folded);
        if is_folded || slot.packed().is_some() {
            return Err(Error::State(format!(
                "`{}`: its weight is {}; another choice needs the weights as they were searched",
                slot.name(),
                if is_folded { "folded" } else { "compressed" }
            )));
        }
    }
    Ok(())
}
