//! Carries one algorithm out: weights, then pass after pass of the host's forward; states are applied when
//! all are known.

use std::collections::HashSet;
use std::sync::Arc;

use super::Forward;
use super::algorithm::{Algorithm, Run, States};
use super::observe::{self, Seen, Witnesses};
use super::resume::Journal;
use super::sample_error::SampleError;
use super::{coverage, fused, shared_scale};
use crate::error::{Error, Result};
use crate::model::{CalibrationRecord, Model, Progress, Quantizer, Role, Slot, SlotState};
use crate::observe::{InputSummary, Statistic};
use crate::plan::{Item, Plan};

/// Runs one algorithm. On failure the caller restores a snapshot.
pub(super) fn run(
    model: &mut Model,
    algorithm: &dyn Algorithm,
    journal: &mut Journal,
    forward: &mut Option<Forward>,
) -> Result<()> {
    let method = algorithm.config().method.name();
    check_forward(algorithm, forward.is_some())?;
    algorithm.prepare(model);
    algorithm.announce(model);
    let mut states = journal.restore(model)?;
    let plan = {
        let done: HashSet<*const Slot> = states.iter().map(|(slot, _)| Arc::as_ptr(slot)).collect();
        let is_done = |slot: &Slot| done.contains(&std::ptr::from_ref(slot));
        Plan::new(model, algorithm.as_planned(), &is_done)?
    };
    let shared = model.shared();
    let run = Run::new(&shared);
    let mut steps = Steps::new(&run, &plan, forward.is_some());
    for slot in &plan.weights {
        if let Some(state) = algorithm.solve_weight(&run, slot)? {
            let state = recorded(&state, method, None);
            states.push((Arc::clone(slot), state));
        }
        steps.done(slot.name())?;
    }
    if let Some(forward) = forward {
        let mut witnesses = Witnesses::default();
        for i in 0..plan.passes.len() {
            steps.observing(i, plan.passes.len())?;
            let seen = observe::pass(model, &plan, i, &mut witnesses, forward)?;
            steps.observing(i + 1, plan.passes.len())?;
            for seen in seen {
                let solved = solve(&run, algorithm, &seen)?;
                journal.keep(solved.iter().map(|(slot, state)| (slot, state)))?;
                states.extend(solved);
                steps.done(seen.item.slots()[0].name())?;
            }
        }
    }
    for (slot, state) in states {
        slot.replace(Arc::new(state));
    }
    finish(model, algorithm, &run, journal, &plan, forward.is_some())
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
    let groups = shared_scale::Groups::of(algorithm.config());
    if forwarded && plan.items().next().is_some() {
        coverage::fill(model)?;
    }
    fused::share(model);
    shared_scale::share(model, &groups);
    journal.begin_refining();
    let weights = model
        .slots()
        .iter()
        .filter(|slot| slot.role() == Role::Weight);
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
    let (rows, channels) = seen.sample.take();
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
            let summary: InputSummary = input.take(run.cpu);
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
struct Steps<'a> {
    run: &'a Run<'a>,
    done: u64,
    total: u64,
}

impl<'a> Steps<'a> {
    fn new(run: &'a Run<'a>, plan: &Plan, forwarded: bool) -> Self {
        let passes = plan.passes.iter().filter(|_| forwarded);
        let observed = passes.map(|pass| pass.items.len());
        let total = plan.weights.len() + observed.sum::<usize>();
        Self {
            run,
            done: 0,
            total: total as u64,
        }
    }

    /// A weight or an activation is solved.
    fn done(&mut self, name: &str) -> Result<()> {
        self.done += 1;
        self.run.shared.check_cancelled()?;
        self.run.context.progress(&Progress {
            phase: "solve",
            done: self.done,
            total: self.total,
            layer: name,
        })
    }

    /// So many passes of the forward are over.
    fn observing(&self, done: usize, total: usize) -> Result<()> {
        self.run.shared.check_cancelled()?;
        self.run.context.progress(&Progress {
            phase: "observe",
            done: done as u64,
            total: total as u64,
            layer: "",
        })
    }
}
