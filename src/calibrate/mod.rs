//! Calibration: statistics and weights in, quantizer parameters out. One file per algorithm.

mod max;
pub mod mse;
mod shared_scale;

use crate::config::{Algorithm as AlgorithmConfig, Method, QuantizeConfig, support};
use crate::error::{Error, Result};
use crate::model::{Mode, Model, Observer, Slot, SlotState, allocate_own};
use crate::observe::AbsMax;
use crate::plan::{Needs, Plan};

/// Runs the host's calibration set once.
pub type Forward<'a> = &'a mut dyn FnMut() -> Result<()>;

/// An algorithm: what it wants to know, and what it makes of it.
trait Algorithm {
    /// Which statistics it needs at a slot.
    fn needs(&self, slot: &Slot) -> Needs;
    /// The slot's new state from its statistics; None leaves it.
    fn solve(&self, slot: &Slot, statistics: &AbsMax) -> Option<SlotState>;
}

fn algorithm(config: &AlgorithmConfig) -> Result<Box<dyn Algorithm>> {
    support::check_algorithm(config)?;
    match config.method {
        // What is packed afterwards is calibrated as any other weight.
        Method::Max | Method::RealQuantize => Ok(Box::new(max::Max)),
        other => Err(Error::Unsupported(format!("algorithm {other}"))),
    }
}

/// Applies a configuration and calibrates. On failure the model is as it was.
pub fn quantize(
    model: &mut Model,
    config: &QuantizeConfig,
    mut forward: Option<Forward>,
) -> Result<()> {
    support::check(config)?;
    model.transaction(|model| {
        model.configure(config)?;
        model.set_mode(Mode::Quantized);
        let name = config.preset.as_deref().unwrap_or("configuration");
        let enabled = model
            .slots()
            .iter()
            .filter(|slot| slot.state().is_enabled());
        let (enabled, all) = (enabled.count(), model.slots().len());
        run(model, &config.algorithm, &mut forward)?;
        model.context().info(&format!(
            "{name}: {enabled} of {all} quantizers enabled, {} algorithms run",
            config.algorithm.len()
        ));
        Ok(())
    })
}

/// Runs algorithms one after the other. On failure the model is as it was.
pub fn calibrate(
    model: &mut Model,
    algorithms: &[AlgorithmConfig],
    mut forward: Option<Forward>,
) -> Result<()> {
    model.check_quantized()?;
    model.transaction(|model| run(model, algorithms, &mut forward))
}

fn run(
    model: &mut Model,
    algorithms: &[AlgorithmConfig],
    forward: &mut Option<Forward>,
) -> Result<()> {
    // All of them are known before the first one runs.
    let packs = algorithms.iter().any(|a| a.method == Method::RealQuantize);
    let algorithms: Result<Vec<_>> = algorithms
        .iter()
        .map(|config| Ok((algorithm(config)?, shared_scale::Groups::of(config))))
        .collect();
    for (algorithm, groups) in algorithms? {
        let plan = Plan::new(model, |slot| algorithm.needs(slot));
        observe(model, &plan, forward)?;
        for (slot, statistics) in plan.weights.iter().chain(&plan.activations) {
            if let Some(state) = algorithm.solve(slot, statistics) {
                slot.replace(state.into());
            }
        }
        shared_scale::share(model, &groups);
        warn_about_unseen(model, &plan, forward.is_some());
    }
    if packs {
        // Last, so that nothing can fail after a weight has left the host's memory.
        let waits = |slot: &Slot| slot.packed().is_none() && slot.wants_packing();
        model.pack(waits, &mut allocate_own)?;
    }
    Ok(())
}

/// Collects what the plan asks for: the weights by ourselves, the rest through the host's forward,
/// which does not run when nothing waits for it.
fn observe(model: &Model, plan: &Plan, forward: &mut Option<Forward>) -> Result<()> {
    let cpu = model.context().cpu();
    for (slot, statistics) in &plan.weights {
        slot.with_seen_weight(|weight| statistics.observe(cpu, None, weight))?;
    }
    let Some(forward) = forward else {
        return Ok(());
    };
    if plan.forwards() == 0 {
        return Ok(());
    }
    for (slot, statistics) in &plan.activations {
        let observer: std::sync::Arc<dyn Observer> = statistics.clone();
        slot.set_observer(Some(observer));
    }
    model.take_failure();
    model.set_mode(Mode::Calibrating);
    let outcome = forward();
    model.set_mode(Mode::Quantized);
    for (slot, _) in &plan.activations {
        slot.set_observer(None);
    }
    // What went wrong in a tap says more than the callback's return value.
    match model.take_failure() {
        Some(failure) => Err(failure),
        None => outcome,
    }
}

fn warn_about_unseen(model: &Model, plan: &Plan, forwarded: bool) {
    let unseen: Vec<&str> = plan
        .activations
        .iter()
        .filter(|(slot, _)| {
            slot.state()
                .members()
                .iter()
                .any(|q| q.is_calibrated_by_data() && q.amax.is_none())
        })
        .map(|(slot, _)| slot.name())
        .collect();
    if let Some(first) = unseen.first() {
        let why = match forwarded {
            true => "saw no data in the forward",
            false => "were not calibrated, for there is no forward",
        };
        model.context().warn(&format!(
            "{} quantizers {why} and take their amax from every tensor: `{first}`{}",
            unseen.len(),
            if unseen.len() > 1 { ", ..." } else { "" }
        ));
    }
}
