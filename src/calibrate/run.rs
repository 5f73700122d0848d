//! Carries one algorithm out: weights, then pass after pass of the host's forward; states are applied when
//! all are known.

use std::collections::HashSet;
use std::sync::Arc;

use super::Forward;
use super::algorithm::{Algorithm, Run, States};
use super::observe::{self, Seen, SharedStatistics, Watch, Witnesses};
use super::resume::Journal;
use super::sample_error::SampleError;
use super::{coverage, fused, shared_scale};
use crate::error::{Error, Result};
use crate::model::{CalibrationRecord, Model, Progress, Quantizer, Role, Shared, Slot, SlotState};
use crate::observe::Statistic;
use crate::plan::{Item, Pass, Plan};

/// Runs one algorithm. On failure the caller restores a snapshot.
pub(super) fn run(
    model: &Model,
    algorithm: &dyn Algorithm,
    journal: &mut Journal,
    forward: &mut Option<Forward>,
) -> Result<()> {
    let mut stage = Stage::begin(model, algorithm, journal, forward.is_some())?;
    while let Some(forward) = forward
        && let Some(watch) = stage.watch(&mut SharedStatistics::default())?
    {
        let outcome = observe::run(model, forward);
        stage.collect(watch, outcome, journal)?;
    }
    stage.finish(journal)
}

/// An algorithm that is being carried out, from one pass of the forward to the next.
pub(super) struct Stage<'a> {
    model: &'a Model,
    algorithm: &'a dyn Algorithm,
    shared: Arc<Shared>,
    plan: Plan,
    /// Passes that are over.
    passes: usize,
    witnesses: Witnesses,
    /// What was found; nothing is applied before everything is known.
    states: States,
    steps: Steps,
    forwarded: bool,
}

impl<'a> Stage<'a> {
    /// Plans, and treats what needs no forward.
    pub fn begin(
        model: &'a Model,
        algorithm: &'a dyn Algorithm,
        journal: &mut Journal,
        forwarded: bool,
    ) -> Result<Self> {
        check_forward(algorithm, forwarded)?;
        algorithm.prepare(model);
        algorithm.announce(model);
        let states = journal.restore(model)?;
        let plan = {
            let done: HashSet<*const Slot> =
                states.iter().map(|(slot, _)| Arc::as_ptr(slot)).collect();
            let is_done = |slot: &Slot| done.contains(&std::ptr::from_ref(slot));
            Plan::new(model, algorithm.as_planned(), &is_done)?
        };
        let mut stage = Self {
            model,
            algorithm,
            shared: model.shared(),
            steps: Steps::new(&plan, forwarded),
            plan,
            passes: 0,
            witnesses: Witnesses::default(),
            states,
            forwarded,
        };
        let shared = Arc::clone(&stage.shared);
        let run = Run::new(&shared);
        for slot in &stage.plan.weights {
            if let Some(state) = algorithm.solve_weight(&run, slot)? {
                let state = recorded(&state, algorithm.config().method.name(), None);
                stage.states.push((Arc::clone(slot), state));
            }
            stage.steps.done(&run, slot.name())?;
        }
        Ok(stage)
    }

    /// The pass that the forward is to run for next.
    pub fn next_pass(&self) -> Option<&Pass> {
        self.plan.passes.get(self.passes)
    }

    /// Hangs the taps of the next pass in the slots, but for what somebody else of `shared` collects already. None: no
    /// pass is left.
    pub fn watch(&self, shared: &mut SharedStatistics) -> Result<Option<Watch>> {
        if self.next_pass().is_none() {
            return Ok(None);
        }
        let run = Run::new(&self.shared);
        self.steps
            .observing(&run, self.passes, self.plan.passes.len())?;
        observe::watch(self.model, &self.plan, self.passes, shared).map(Some)
    }

    /// The forward has run, with that outcome: takes what was seen, and solves it.
    pub fn collect(
        &mut self,
        watch: Watch,
        outcome: Result<()>,
        journal: &mut Journal,
    ) -> Result<()> {
        let seen = observe::collect(self.model, watch, outcome, &mut self.witnesses)?;
        let run = Run::new(&self.shared);
        self.passes += 1;
        self.steps
            .observing(&run, self.passes, self.plan.passes.len())?;
        for seen in seen {
            let solved = solve(&run, self.algorithm, &seen)?;
            journal.keep(solved.iter().map(|(slot, state)| (slot, state)))?;
            self.states.extend(solved);
            self.steps.done(&run, seen.item.slots()[0].name())?;
        }
        Ok(())
    }

    /// Gives the quantizers what was found.
    pub fn finish(self, journal: &mut Journal) -> Result<()> {
        for (slot, state) in self.states {
            slot.replace(Arc::new(state));
        }
        let run = Run::new(&self.shared);
        finish(
            self.model,
            self.algorithm,
            &run,
            journal,
            &self.plan,
            self.forwarded,
        )
    }
}

/// Refuses to start without the forward that an algorithm needs.
pub(super) fn check_forward(algorithm: &dyn Algorithm, is_there: bool) -> Result<()> {
    match algorithm.needs_forward() && !is_there {
        false => Ok(()),
        true => Err(Error::InvalidArgument(format!(
            "forward is NULL, but {} needs a pass over calibration data",
            algorithm.config().method
        ))),
    }
}

/// What comes after the states are known: shared scales, second looks, quantizers no token reached.
fn finish(
    model: &Model,
    algorithm: &dyn Algorithm,
    run: &Run,
    journal: &mut Journal,
    plan: &Plan,
    forwarded: bool,
) -> Result<()> {
    let config = algorithm.config();
    if forwarded && plan.items().next().is_some() {
        coverage::fill(model, config)?;
    }
    fused::share(model);
    let concerns = |layer: &str| config.concerns(layer);
    shared_scale::share(model, &shared_scale::Groups::of(config), &concerns);
    journal.begin_refining();
    let weights = model
        .slots()
        .iter()
        .filter(|slot| slot.role() == Role::Weight && config.concerns(slot.owner()));
    for slot in weights.filter(|slot| slot.packed().is_none()) {
        let state = match journal.state_of(slot)? {
            Some(state) => Some(state),
            None => {
                let state = algorithm.refine_weight(run, slot)?;
                if let Some(state) = &state {
                    journal.keep([(slot, state)])?;
                }
                state
            }
        };
        if let Some(state) = state {
            slot.replace(Arc::new(state));
        }
        run.shared.check_cancelled()?;
    }
    // A second look may have told apart what is to be one.
    fused::share(model);
    coverage::warn_about_unseen(model, plan, forwarded);
    Ok(())
}

fn solve(run: &Run, algorithm: &dyn Algorithm, seen: &Seen) -> Result<States> {
    run.shared.check_cancelled()?;
    let method = algorithm.config().method.name();
    let tokens = |slot: &Arc<Slot>| {
        let slots = seen.item.slots();
        let most = seen.tokens.iter().copied().max().unwrap_or(0);
        // A reader of a shared activation saw it, whoever's tap it passed.
        let is_there = slots.iter().any(|other| Arc::ptr_eq(other, slot));
        if is_there { most } else { 0 }
    };
    let mut states = States::new();
    let (rows, channels) = seen.sample.rows();
    let mut sample = SampleError {
        run,
        rows,
        channels,
    };
    match (&seen.item, &*seen.statistic) {
        (Item::Slots(slots, _), statistic) => {
            for slot in slots {
                let state = match statistic {
                    Statistic::AbsMax(absmax) => algorithm.solve_absmax(slot, absmax),
                    Statistic::Histogram(histogram) => histogram
                        .with(|histogram| algorithm.solve_histogram(run, slot, histogram))?,
                    Statistic::Count | Statistic::Input(_) => None,
                };
                let state = state.unwrap_or_else(|| without_record(&slot.state()));
                let state = sample.noted(slot, state);
                let state = recorded(&state, method, Some(tokens(slot)));
                states.push((Arc::clone(slot), state));
            }
        }
        (Item::Layers(layers, _), Statistic::Input(input)) => {
            let summary = input.summary(run.machine);
            for layer in layers {
                run.shared.check_cancelled()?;
                for (slot, state) in algorithm.solve_layer(run, layer, &summary)? {
                    let state = sample.noted(&slot, state);
                    let state = recorded(&state, method, Some(summary.tokens));
                    states.push((slot, state));
                }
            }
        }
        _ => {}
    }
    Ok(states)
}

/// The state without what an earlier calibration saw.
fn without_record(state: &SlotState) -> SlotState {
    state.map(|q| {
        Arc::new(Quantizer {
            record: None,
            ..(**q).clone()
        })
    })
}

/// The state with a note of what its calibration saw; an error that the algorithm noted stays.
fn recorded(state: &SlotState, algorithm: &'static str, tokens: Option<u64>) -> SlotState {
    state.map(|q| {
        let record = CalibrationRecord {
            algorithm,
            tokens,
            filled_from: None,
            error: q.record.as_ref().and_then(|record| record.error),
        };
        Arc::new(Quantizer {
            record: Some(Arc::new(record)),
            ..(**q).clone()
        })
    })
}

/// Tells the host how far the algorithm has come.
struct Steps {
    done: u64,
    total: u64,
}

impl Steps {
    fn new(plan: &Plan, forwarded: bool) -> Self {
        let passes = plan.passes.iter().filter(|_| forwarded);
        let observed = passes.map(|pass| pass.items.len());
        let total = plan.weights.len() + observed.sum::<usize>();
        Self {
            done: 0,
            total: total as u64,
        }
    }

    /// A weight or an activation is solved.
    fn done(&mut self, run: &Run, name: &str) -> Result<()> {
        self.done += 1;
        run.shared.check_cancelled()?;
        run.context.progress(&Progress {
            phase: "solve",
            done: self.done,
            total: self.total,
            layer: name,
        })
    }

    /// So many passes of the forward are over.
    fn observing(&self, run: &Run, done: usize, total: usize) -> Result<()> {
        run.shared.check_cancelled()?;
        run.context.progress(&Progress {
            phase: "observe",
            done: done as u64,
            total: total as u64,
            layer: "",
        })
    }
}
