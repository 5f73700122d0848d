//! The reference's score: `Σ (g ∘ Δy)²` over the elements of a layer's output and over the batches, with Δy what a
//! format of this layer alone changes, and g the gradient of the loss; one forward and backward for each batch, all
//! formats at once. Not averaged: it grows with the batches, and with the square of the loss.

use std::cell::Cell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::activations::{Activation, Ended, InputTap, Store};
use super::tally::Tally;
use super::work::Work;
use super::{Resumed, Scores, Scoring, change};
use crate::auto_quantize::checkpoint::Checkpoint;
use crate::auto_quantize::formats::observed;
use crate::auto_quantize::host::{Host, fetch};
use crate::error::{Error, Result};
use crate::kernels::Machine;
use crate::model::{GradientObserver, Layer};
use crate::tensor::TensorView;

/// Adds the scores of the steps that are left.
pub(super) fn run(
    scoring: &Scoring,
    host: &mut dyn Host,
    from: Resumed,
    scores: &mut Scores,
    checkpoint: &mut Checkpoint,
) -> Result<()> {
    let watch = Watch::new(scoring)?;
    let outcome = watch.steps(scoring, host, from, scores, checkpoint);
    watch.leave();
    outcome
}

/// A layer whose formats are scored.
struct Scored {
    layer: Arc<Layer>,
    /// The layer in every shadow.
    candidates: Vec<Arc<Layer>>,
    group: usize,
    /// What it reads, and its place among the readers.
    activation: Arc<Activation>,
    reader: usize,
    /// Of the present step.
    tally: Mutex<Tally>,
}

impl Scored {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reads(&self, activation: &Arc<Activation>) -> bool {
        Arc::ptr_eq(&self.activation, activation)
    }
}

/// The taps of all layers that are scored.
struct Watch {
    scored: Vec<Arc<Scored>>,
    activations: Vec<Arc<Activation>>,
    store: Arc<Store>,
}

impl Watch {
    fn new(scoring: &Scoring) -> Result<Self> {
        let limit = scoring.model.context().memory_limit_bytes();
        let store = Arc::new(Store::new(limit.unwrap_or(u64::MAX)));
        let mut watch = Self {
            scored: Vec::new(),
            activations: Vec::new(),
            store,
        };
        let work = Arc::new(Mutex::new(Work::default()));
        for readers in scoring.readings() {
            let activation = Arc::new(Activation::new(
                readers[0].1.name(),
                readers.len(),
                &watch.store,
            ));
            watch.activations.push(Arc::clone(&activation));
            for (reader, (group, layer)) in readers.iter().enumerate() {
                let scored = Arc::new(Scored {
                    layer: Arc::clone(layer),
                    candidates: scoring.formats.layers_of(layer)?,
                    group: *group,
                    activation: Arc::clone(&activation),
                    reader,
                    tally: Mutex::new(Tally::new(scoring.formats.count())),
                });
                let weighed = Arc::clone(layer);
                layer.input_slot().set_observer(Some(Arc::new(InputTap {
                    activation: Arc::clone(&activation),
                    reader,
                    workspace: Box::new(move |x| change::workspace_bytes(&weighed, x)),
                })));
                layer.set_gradient_observer(Some(Arc::new(GradientTap {
                    scored: Arc::clone(&scored),
                    work: Arc::clone(&work),
                })));
                watch.scored.push(scored);
            }
        }
        Ok(watch)
    }

    /// Takes the taps away.
    fn leave(&self) {
        for scored in &self.scored {
            scored.layer.input_slot().set_observer(None);
            scored.layer.set_gradient_observer(None);
        }
    }

    fn steps(
        &self,
        scoring: &Scoring,
        host: &mut dyn Host,
        from: Resumed,
        scores: &mut Scores,
        checkpoint: &mut Checkpoint,
    ) -> Result<()> {
        let mut used = from.used;
        used.resize(self.scored.len(), false);
        for step in from.step..scoring.steps {
            self.step(scoring, host, step, &mut used)?;
            self.add_to(scores);
            scoring.end_step(step, scores, &used, checkpoint)?;
        }
        self.warn_of_unused(scoring, &used);
        Ok(())
    }

    /// Runs one step as often as the memory asks for.
    fn step(
        &self,
        scoring: &Scoring,
        host: &mut dyn Host,
        step: u64,
        used: &mut [bool],
    ) -> Result<()> {
        let mut any = false;
        self.activations
            .iter()
            .for_each(|activation| activation.begin_step());
        loop {
            let mut loss = 0.0;
            fetch(scoring.model, host, step, scoring.steps, "num_score_steps")?;
            observed(scoring.model, || {
                loss = host.forward_backward(step)?;
                Ok(())
            })?;
            // A host that was told to stop may end its pass with any value.
            scoring.model.shared().check_cancelled()?;
            super::check_loss(loss, step)?;
            // The taps put work on a GPU's stream; this is where it is waited for.
            let mut scored = self.scored.iter();
            scored.try_for_each(|scored| scored.tally().settle(scored.layer.name()))?;
            for activation in &self.activations {
                let ended = activation.end_run();
                let all = self.scored.iter().zip(used.iter_mut());
                for (scored, used) in all.filter(|(scored, _)| scored.reads(activation)) {
                    let (called, answered) = match &ended {
                        Ended::Now(readers) => readers[scored.reader],
                        Ended::PutOff => {
                            scored.tally().clear();
                            continue;
                        }
                        Ended::Before => continue,
                    };
                    // Before anything is kept: a score of zero would call every format of it lossless.
                    if called && !answered {
                        return Err(super::forgotten_gradient(scored.layer.name()));
                    }
                    *used |= called;
                    any |= called;
                }
            }
            if !self
                .activations
                .iter()
                .any(|activation| activation.is_waiting())
            {
                return match any {
                    true => Ok(()),
                    false => Err(super::no_inputs(scoring)),
                };
            }
            self.store.trim();
        }
    }

    /// Adds the sums of a step in the order of the layers, whichever came first.
    fn add_to(&self, scores: &mut Scores) {
        for scored in &self.scored {
            let found = scored.tally().take();
            for (score, sum) in scores[scored.group].iter_mut().zip(found) {
                *score += sum;
            }
        }
    }

    /// A layer that no step used may be an expert that no token reached, or a forgotten tap.
    fn warn_of_unused(&self, scoring: &Scoring, used: &[bool]) {
        let unused = self.scored.iter().zip(used).filter(|(_, used)| !**used);
        let unused: Vec<&str> = unused.map(|(scored, _)| scored.layer.name()).collect();
        if let Some(first) = unused.first() {
            scoring.model.context().warn(&format!(
                "{} layers were not used in any of the {} steps that score: their formats count as lossless: `{first}`{}",
                unused.len(),
                scoring.steps,
                if unused.len() > 1 { ", ..." } else { "" }
            ));
        }
    }
}

/// The tap of the gradient at a layer's output.
struct GradientTap {
    scored: Arc<Scored>,
    /// One layer is scored at a time, on all threads.
    work: Arc<Mutex<Work>>,
}

impl GradientObserver for GradientTap {
    fn observe(&self, machine: &Machine, g: &TensorView) -> Result<()> {
        let scored = &self.scored;
        let _inside = Inside::enter(scored.layer.name())?;
        let Some(kept) = scored
            .activation
            .leave(scored.reader, scored.layer.name())?
        else {
            return Ok(());
        };
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        change::add_scores(
            machine,
            &scored.layer,
            &scored.candidates,
            [&kept.view, g],
            &mut work,
            &mut scored.tally(),
        )
    }
}

thread_local! {
    /// Whether this thread is scoring a layer.
    static SCORING: Cell<bool> = const { Cell::new(false) };
}

/// A thread that is scoring a layer: a host that computes one for it must not ask for another meanwhile, which would
/// wait for this one.
struct Inside;

impl Inside {
    fn enter(layer: &str) -> Result<Self> {
        match SCORING.replace(true) {
            false => Ok(Self),
            true => Err(Error::State(format!(
                "layer `{layer}`: mq_layer_grad() was called inside the forward callback of a layer, which mq_layer_grad() \
                 itself had called"
            ))),
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        SCORING.set(false);
    }
}
