//! One pass of the host's forward, with statistics hanging in the slots.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::Forward;
use crate::error::{Error, Result};
use crate::kernels::Machine;
use crate::model::{Mode, Model, Observer, Slot};
use crate::observe::{
    AbsMax, Gate, Histogram, HistogramStatistic, InputNeeds, InputStatistics, Sample, Statistic,
    Tap,
};
use crate::plan::{Item, Pass, Plan, SlotNeeds};
use crate::tensor::TensorView;

/// An item with what was seen of it.
pub(super) struct Seen {
    /// What was observed.
    pub item: Item,
    /// What was collected.
    pub statistic: Arc<Statistic>,
    /// Tokens that passed the tap of each of the item's slots.
    pub tokens: Vec<u64>,
    /// Some of them.
    pub sample: Arc<Sample>,
}

/// Tokens that passed the taps of every item in the first pass, which every further one must repeat.
#[derive(Default)]
pub(super) struct Witnesses(Vec<Vec<u64>>);

/// The taps of one pass.
pub(super) struct Watch {
    /// Those of the pass first, then those that are only counted.
    watched: Vec<Watched>,
    /// How many are of the pass.
    mine: usize,
    /// How many of the plan's items come before those of the pass.
    before: usize,
    passers: Passers,
}

/// Slots that wait for nothing: whether any tensor passes them tells a forward without taps from one whose tokens went
/// elsewhere.
struct Passers {
    slots: Vec<Arc<Slot>>,
    passed: Arc<AtomicBool>,
}

impl Passers {
    fn watch(&self) {
        for slot in &self.slots {
            slot.set_observer(Some(Arc::new(Passed(Arc::clone(&self.passed)))));
        }
    }

    fn leave(&self) {
        self.slots.iter().for_each(|slot| slot.set_observer(None));
    }
}

struct Passed(Arc<AtomicBool>);

impl Observer for Passed {
    fn observe(&self, _: &Machine, _: Option<usize>, _: &TensorView) -> Result<()> {
        self.0.store(true, Relaxed);
        Ok(())
    }
}

/// Statistics of inputs that shadows of one model collect together, because they see the same data and want to know the
/// same of it.
#[derive(Default)]
pub(super) struct SharedStatistics(HashMap<(Vec<String>, InputNeeds), Watched>);

impl SharedStatistics {
    /// What is collected of an item already, or will be from now on.
    fn watched(&mut self, item: &Item) -> Result<Watched> {
        let slots = item.slots();
        let changes = |slot: &Arc<Slot>| slot.state().members().iter().any(|q| q.changes_input());
        let Item::Layers(_, needs) = item else {
            return Ok(Watched::new(item.clone(), statistic(item)?));
        };
        if slots.iter().any(changes) {
            return Ok(Watched::new(item.clone(), statistic(item)?));
        }
        let key = (
            slots.iter().map(|slot| slot.name().to_owned()).collect(),
            *needs,
        );
        if let Some(known) = self.0.get(&key) {
            return Ok(Watched {
                item: item.clone(),
                ..known.clone()
            });
        }
        let watched = Watched::new(item.clone(), statistic(item)?);
        self.0.insert(key, watched.clone());
        Ok(watched)
    }
}

/// Hangs what a pass of the plan asks for in the slots, but for what is collected in `shared`. What others ask for is
/// only counted.
pub(super) fn watch(
    model: &Model,
    plan: &Plan,
    pass: usize,
    shared: &mut SharedStatistics,
) -> Result<Watch> {
    let mut watched = Vec::new();
    for item in &plan.passes[pass].items {
        watched.push(shared.watched(item)?);
    }
    let mine = watched.len();
    let others = plan.passes.iter().enumerate().filter(|(i, _)| *i != pass);
    let others = others.flat_map(|(_, pass)| &pass.items).chain(&plan.done);
    watched.extend(others.map(|item| Watched::new(item.clone(), Statistic::Count)));
    let items = |pass: &Pass| pass.items.len();
    let wait: HashSet<*const Slot> = watched
        .iter()
        .flat_map(|watched| watched.item.slots())
        .map(|slot| Arc::as_ptr(&slot))
        .collect();
    let others = model
        .slots()
        .iter()
        .filter(|slot| !wait.contains(&Arc::as_ptr(slot)));
    let passers = Passers {
        slots: others.cloned().collect(),
        passed: Arc::default(),
    };
    passers.watch();
    Ok(Watch {
        passers,
        watched,
        mine,
        before: plan.passes[..pass].iter().map(items).sum(),
    })
}

/// Takes the taps away, and what they saw in a forward of that outcome.
pub(super) fn collect(
    model: &Model,
    watch: Watch,
    outcome: Result<()>,
    witnesses: &mut Witnesses,
) -> Result<Vec<Seen>> {
    let watched = &watch.watched;
    for watched in watched {
        watched.leave();
    }
    watch.passers.leave();
    // A host that was told to stop may end its forward with any value.
    model.shared().check_cancelled()?;
    outcome?;
    let reached = |watched: &Watched| watched.gate.tokens().iter().any(|n| *n > 0);
    // Where others saw tokens, these are of experts that none reached.
    if !watched.iter().any(reached) && !watch.passers.passed.load(Relaxed) {
        return Err(Error::State(format!(
            "the forward passed no tokens through the taps of the {} quantizers that wait for them (the first is \
             `{}`); call mq_layer_input() and the like in it",
            watched.len(),
            watched[0].item.slots()[0].name()
        )));
    }
    witnesses.check(&watch)?;
    for watched in &watch.watched[..watch.mine] {
        watched.statistic.settle()?;
        watched.sample.settle()?;
    }
    let mut seen = Vec::new();
    for watched in watch.watched.into_iter().take(watch.mine) {
        let one = Seen {
            item: watched.item,
            statistic: watched.statistic,
            tokens: watched.gate.tokens(),
            sample: watched.sample,
        };
        check_shared(&one)?;
        seen.push(one);
    }
    Ok(seen)
}

impl Witnesses {
    /// Compares with the first pass, in the order of the plan's items; remembers, if this is the first.
    fn check(&mut self, watch: &Watch) -> Result<()> {
        // Those of the pass come first among the watched.
        let mut in_order: Vec<&Watched> = watch.watched[watch.mine..].iter().collect();
        in_order.splice(watch.before..watch.before, &watch.watched[..watch.mine]);
        let now = in_order.iter().map(|watched| watched.gate.tokens());
        if self.0.is_empty() {
            self.0 = now.collect();
            return Ok(());
        }
        let mut pairs = in_order.iter().zip(self.0.iter().zip(now));
        pairs.try_for_each(|(watched, (before, now))| check_repeats(&watched.item, before, &now))
    }
}

/// An item whose slots have taps.
#[derive(Clone)]
struct Watched {
    item: Item,
    gate: Arc<Gate>,
    statistic: Arc<Statistic>,
    sample: Arc<Sample>,
}

impl Watched {
    fn new(item: Item, statistic: Statistic) -> Self {
        let slots = item.slots();
        let watched = Self {
            item,
            gate: Arc::new(Gate::new(slots.len())),
            statistic: Arc::new(statistic),
            sample: Arc::default(),
        };
        for (place, slot) in slots.iter().enumerate() {
            let tap: Arc<dyn Observer> = Arc::new(Tap {
                gate: Arc::clone(&watched.gate),
                place,
                statistic: Arc::clone(&watched.statistic),
                sample: Arc::clone(&watched.sample),
            });
            slot.set_observer(Some(tap));
        }
        watched
    }

    /// Takes the taps away.
    fn leave(&self) {
        for slot in self.item.slots() {
            slot.set_observer(None);
        }
    }
}

/// An empty statistic for an item.
fn statistic(item: &Item) -> Result<Statistic> {
    let slot: Arc<Slot> = Arc::clone(&item.slots()[0]);
    Ok(match item {
        Item::Slots(_, SlotNeeds::Histogram { num_bins }) => {
            let histogram = Histogram::new(*num_bins)
                .map_err(|text| Error::Config(format!("`{}`: {text}", slot.name())))?;
            let unsigned = slot.state().members().iter().any(|q| q.attributes.unsigned);
            Statistic::Histogram(HistogramStatistic::new(slot.name(), unsigned, histogram))
        }
        Item::Slots(..) => match AbsMax::new(&slot) {
            Some(absmax) => Statistic::AbsMax(absmax),
            None => Statistic::Count,
        },
        Item::Layers(_, needs) => {
            let channels = item.channels().unwrap_or(0);
            Statistic::Input(InputStatistics::new(slot.name(), channels, *needs)?)
        }
    })
}

/// Runs the host's forward while taps observe.
pub(super) fn run(model: &Model, forward: &mut Forward) -> Result<()> {
    model.take_failure();
    model.set_mode(Mode::Calibrating);
    let outcome = forward();
    model.set_mode(Mode::Quantized);
    model.failure_or(outcome)
}

/// Layers that are said to read the same activation must have seen the same tokens, or none.
fn check_shared(seen: &Seen) -> Result<()> {
    let slots = seen.item.slots();
    let reached = || slots.iter().zip(&seen.tokens).filter(|(_, n)| **n > 0);
    let Some((first, tokens)) = reached().next() else {
        return Ok(());
    };
    match reached().find(|(_, other)| *other != tokens) {
        None => Ok(()),
        Some((slot, other)) => Err(Error::State(format!(
            "`{}` and `{}` are declared to read the same activation (shared_input_group), but {tokens} and {other} \
             tokens passed their taps",
            first.name(),
            slot.name()
        ))),
    }
}

fn check_repeats(item: &Item, before: &[u64], now: &[u64]) -> Result<()> {
    let slots = item.slots();
    let mut pairs = slots.iter().zip(before.iter().zip(now));
    match pairs.find(|(_, (before, now))| before != now) {
        None => Ok(()),
        Some((slot, (before, now))) => Err(Error::State(format!(
            "`{}`: {before} tokens passed in the first forward, {now} in a later one; a forward must bring the same \
             data every time",
            slot.name()
        ))),
    }
}
