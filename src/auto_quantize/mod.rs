//! The format of every layer, searched: calibrates each format, scores how sensitive the loss is to it, and chooses
//! the best formats that a budget allows.
//!
//! `settings` (with `recipe`, `constraints`, `grouping`) is what is asked; `cost` counts; `formats` holds the model
//! under every format, `score` the sensitivities; `knapsack` chooses, `search` keeps and applies what was found,
//! `state` and `reproduce` write it down. `checkpoint` survives the process.

mod checkpoint;
pub mod constraints;
pub mod cost;
pub mod formats;
pub mod grouping;
pub mod host;
pub mod knapsack;
pub mod recipe;
mod reproduce;
pub mod score;
pub mod search;
pub mod settings;
mod state;

use checkpoint::Checkpoint;
use cost::{Costs, LayerCost};
use formats::Formats;
use host::Host;
use score::Scoring;
use search::{Choice, Search};
use settings::Settings;

use crate::error::{Error, Result};
use crate::model::{Mode, Model};

/// Searches the format of every layer, and leaves the model calibrated with the best choice. On failure it is as it
/// was.
pub fn auto_quantize(
    model: &mut Model,
    settings: Settings,
    host: &mut dyn Host,
    mut own_cost: Option<LayerCost>,
) -> Result<Search> {
    model.shared().clear_cancel();
    check(model, &settings)?;
    let groups = grouping::groups(model, &settings.rules, &settings.disabled_layers)?;
    let mut formats = Formats::new(model, &groups, settings.recipes.clone())?;
    let candidates = candidates(&groups, &formats, settings.allow_no_quant);
    let has_own_costs = own_cost.is_some();
    let costs = Costs::new(
        &groups,
        &candidates,
        &formats.recipes,
        &settings.constraints,
        &mut own_cost,
    )?;
    settings.constraints.check_bits(&formats.recipes)?;
    costs.check_reachable(settings.constraints.budget)?;
    let cost_model = match has_own_costs {
        true => "callback",
        false => settings.constraints.cost_model.name(),
    };
    if settings.verbose {
        model
            .context()
            .info(&format!("AutoQuantize cost model: {cost_model}"));
    }
    let description = checkpoint::describe(
        model,
        &groups,
        &formats,
        &[
            settings.method.name(),
            &settings.num_calib_steps.to_string(),
            &settings.num_score_steps.to_string(),
        ],
    );
    let mut checkpoint = Checkpoint::open(settings.checkpoint.as_deref(), &description)?;
    let any = groups.iter().any(|group| !group.is_disabled);
    if any && !checkpoint.is_scored(settings.num_score_steps) {
        score::check_host(settings.method, host)?;
    }
    let (scores, best) = model.transaction(|model| {
        let restored = checkpoint.restore_formats(model, &formats)?;
        let is_restored = |recipe: usize| restored[recipe];
        formats.calibrate(model, host, settings.num_calib_steps, &is_restored)?;
        checkpoint.keep_formats(&formats, &is_restored)?;
        let scoring = Scoring {
            model,
            formats: &formats,
            groups: &groups,
            steps: settings.num_score_steps,
        };
        let by_recipe = scoring.run(settings.method, host, &mut checkpoint)?;
        // A host that was told to stop in the last callback, too.
        model.shared().check_cancelled()?;
        let scores = of_candidates(&by_recipe, &candidates);
        let best: Choice = search::choose(
            &settings,
            &formats,
            &candidates,
            &scores,
            &costs,
            &settings.constraints,
        )?;
        search::put_into_effect(model, &formats, &groups, &best.recipes)?;
        Ok((scores, best))
    })?;
    search::tell(model, &settings, &formats, &groups, &best);
    Ok(Search {
        settings,
        formats,
        groups,
        candidates,
        scores,
        costs,
        has_own_costs,
        best,
    })
}

fn check(model: &Model, settings: &Settings) -> Result<()> {
    if model.mode() != Mode::Registered {
        return Err(Error::State(
            "the model is quantized already: a search begins with a model that is not (mq_auto_quantize_solve() makes \
             another choice of a search that was made)"
                .into(),
        ));
    }
    for (steps, what) in [
        (settings.num_calib_steps, "num_calib_steps"),
        (settings.num_score_steps, "num_score_steps"),
    ] {
        if steps == 0 {
            return Err(Error::InvalidArgument(format!(
                "{what} is 0, expected 1 or more"
            )));
        }
    }
    Ok(())
}

/// The recipes that each group may get.
fn candidates(
    groups: &[grouping::Group],
    formats: &Formats,
    allow_no_quant: bool,
) -> Vec<Vec<usize>> {
    let none = formats.none();
    let of = |group: &grouping::Group| match (group.is_disabled, allow_no_quant) {
        (true, _) => vec![none],
        (false, true) => (0..=none).collect(),
        (false, false) => (0..none).collect(),
    };
    groups.iter().map(of).collect()
}

/// Scores by candidate, none above the one before.
fn of_candidates(by_recipe: &[Vec<f64>], candidates: &[Vec<usize>]) -> Vec<Vec<f64>> {
    let of = |(scores, candidates): (&Vec<f64>, &Vec<usize>)| {
        let mut scores: Vec<f64> = candidates.iter().map(|recipe| scores[*recipe]).collect();
        score::make_monotone(&mut scores);
        scores
    };
    by_recipe.iter().zip(candidates).map(of).collect()
}
