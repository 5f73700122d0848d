//! Calibration: statistics and weights in, quantizer parameters out. One file or folder per algorithm.

mod algorithm;
mod awq;
mod balance;
mod coverage;
mod fused;
pub mod histogram;
mod max;
pub mod mse;
mod observe;
pub(crate) mod rebalance;
pub(crate) mod resume;
mod run;
mod sample_error;
mod shared_scale;
mod smoothquant;
pub mod together;

use serde_json::Value;

use crate::config::{Algorithm as AlgorithmConfig, Method, QuantizeConfig, support};
use crate::error::Result;
use crate::model::{Mode, Model, Slot, allocate_own};
use crate::plan::{self, Plan};

/// Runs the host's calibration set once.
pub type Forward<'a> = &'a mut dyn FnMut() -> Result<()>;

/// Applies a configuration and calibrates. On failure the model is as it was.
pub fn quantize(
    model: &mut Model,
    config: &QuantizeConfig,
    mut forward: Option<Forward>,
) -> Result<()> {
    model.shared().clear_cancel();
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
        run_all(model, &config.algorithm, &mut forward)?;
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
    model.shared().clear_cancel();
    model.check_quantized()?;
    model.transaction(|model| run_all(model, algorithms, &mut forward))
}

/// What [`quantize`] would do, without doing it. The model stays as it is, also for taps that run meanwhile.
pub fn plan_quantize(model: &Model, config: &QuantizeConfig) -> Result<Value> {
    support::check(config)?;
    let mut shadow = model.shadow()?;
    shadow.configure(config)?;
    plan_all(&shadow, &config.algorithm)
}

/// What [`calibrate`] would do, without doing it; as [`plan_quantize`].
pub fn plan_calibrate(model: &Model, algorithms: &[AlgorithmConfig]) -> Result<Value> {
    model.check_quantized()?;
    plan_all(&model.shadow()?, algorithms)
}

fn plan_all(model: &Model, algorithms: &[AlgorithmConfig]) -> Result<Value> {
    let mut plans = Vec::new();
    for config in algorithms {
        let algorithm = algorithm::of(config)?;
        algorithm.prepare(model);
        let plan = Plan::new(model, algorithm.as_planned(), &|_| false)?;
        plans.push((config.method.name(), plan));
    }
    Ok(plan::report(model.context(), &plans))
}

fn run_all(
    model: &mut Model,
    algorithms: &[AlgorithmConfig],
    forward: &mut Option<Forward>,
) -> Result<()> {
    // All of them are known before the first one runs.
    let packs = algorithms.iter().any(|a| a.method == Method::RealQuantize);
    let built: Result<Vec<_>> = algorithms.iter().map(algorithm::of).collect();
    let built = built?;
    // What a later one cannot do is known too, not only after hours of passes for the first.
    for later in built.iter().skip(1) {
        run::check_forward(&**later, forward.is_some())?;
        Plan::new(model, later.as_planned(), &|_| false)?;
    }
    let mut resume = resume::Journal::open(model, algorithms)?;
    for (i, algorithm) in built.iter().enumerate() {
        resume.begin(i);
        run::run(model, &**algorithm, &mut resume, forward)?;
    }
    if packs {
        // Last, so that nothing can fail after a weight has left the host's memory.
        let waits = |slot: &Slot| slot.packed().is_none() && slot.wants_packing();
        model.pack(waits, &mut allocate_own)?;
    }
    resume.finish(model);
    Ok(())
}
