//! Calibrates several shadows of one model, each with algorithms of its own, over the same runs of the host's
//! forward: what one pass can bring to all of them it brings at once, as far as the memory limit allows.

use std::collections::HashMap;

use super::algorithm::{self, Algorithm};
use super::observe::SharedStatistics;
use super::resume::Journal;
use super::run::Stage;
use crate::config::Algorithm as AlgorithmConfig;
use crate::error::{Error, Result};
use crate::model::{Mode, Model};
use crate::plan::Pass;

/// A shadow, configured, and what to run on it.
pub struct Lane<'a> {
    /// The shadow.
    pub model: &'a Model,
    /// Its algorithms, one after the other.
    pub algorithms: &'a [AlgorithmConfig],
    /// Batches that it is given: lanes that are given as many see the same data.
    pub steps: u64,
}

/// Runs the algorithms of all lanes. `forward` gets the positions of the lanes whose taps wait, and brings them the
/// calibration data. On failure the shadows are of no use.
pub fn calibrate(lanes: &[Lane], forward: &mut dyn FnMut(&[usize]) -> Result<()>) -> Result<()> {
    let built = lanes
        .iter()
        .map(|lane| lane.algorithms.iter().map(algorithm::of).collect());
    let built: Vec<Vec<Box<dyn Algorithm>>> = built.collect::<Result<_>>()?;
    let limit = lanes
        .first()
        .and_then(|lane| lane.model.context().memory_limit_bytes());
    let mut journal = Journal::none();
    let mut running = Vec::with_capacity(lanes.len());
    for (lane, algorithms) in lanes.iter().zip(&built) {
        running.push(Running {
            model: lane.model,
            algorithms: algorithms.iter(),
            stage: None,
        });
    }
    loop {
        for lane in &mut running {
            lane.advance(&mut journal)?;
        }
        let admitted = admitted(&running, limit.unwrap_or(u64::MAX));
        if admitted.is_empty() {
            return Ok(());
        }
        let mut shared: HashMap<u64, SharedStatistics> = HashMap::new();
        let mut watches = Vec::with_capacity(admitted.len());
        for &at in &admitted {
            let shared = shared.entry(lanes[at].steps).or_default();
            let stage = running[at].stage.as_ref();
            let watch = stage.map(|stage| stage.watch(shared)).transpose()?;
            watches.push(watch.flatten());
        }
        drop(shared);
        let models = || admitted.iter().map(|at| running[*at].model);
        let outcome = observed(models, || forward(&admitted));
        for (&at, watch) in admitted.iter().zip(watches) {
            if let (Some(stage), Some(watch)) = (&mut running[at].stage, watch) {
                stage.collect(watch, outcome.clone(), &mut journal)?;
            }
        }
    }
}

struct Running<'a> {
    model: &'a Model,
    algorithms: std::slice::Iter<'a, Box<dyn Algorithm>>,
    stage: Option<Stage<'a>>,
}

impl Running<'_> {
    /// Goes on to the next pass that is needed, over as many algorithms as it takes.
    fn advance(&mut self, journal: &mut Journal) -> Result<()> {
        loop {
            match self.stage.take() {
                Some(stage) if stage.next_pass().is_some() => {
                    self.stage = Some(stage);
                    return Ok(());
                }
                Some(stage) => stage.finish(journal)?,
                None => match self.algorithms.next() {
                    None => return Ok(()),
                    Some(algorithm) => {
                        self.stage = Some(Stage::begin(self.model, &**algorithm, journal, true)?);
                    }
                },
            }
        }
    }
}

/// The lanes whose next passes fit the memory together; the first that waits always does.
fn admitted(running: &[Running], limit: u64) -> Vec<usize> {
    let (mut statistics, mut workspace) = (0, 0);
    let mut admitted = Vec::new();
    for (at, lane) in running.iter().enumerate() {
        let Some(pass) = lane.stage.as_ref().and_then(Stage::next_pass) else {
            continue;
        };
        let Pass {
            statistics_bytes,
            workspace_bytes,
            ..
        } = pass;
        let with = (
            statistics + statistics_bytes,
            workspace.max(*workspace_bytes),
        );
        if admitted.is_empty() || with.0 + with.1 <= limit {
            (statistics, workspace) = with;
            admitted.push(at);
        }
    }
    admitted
}

/// Runs `forward` while the taps of `models` observe.
fn observed<'a, I: Iterator<Item = &'a Model>>(
    models: impl Fn() -> I,
    forward: impl FnOnce() -> Result<()>,
) -> Result<()> {
    for model in models() {
        model.take_failure();
        model.set_mode(Mode::Calibrating);
    }
    let outcome = forward();
    let mut failure: Option<Error> = None;
    for model in models() {
        model.set_mode(Mode::Quantized);
        failure = failure.or(model.take_failure());
    }
    match failure {
        Some(failure) => Err(failure),
        None => outcome,
    }
}
