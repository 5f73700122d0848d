//! What an algorithm is, and which one a configuration names.

use std::sync::Arc;

use super::{awq, histogram, max, mse, smoothquant};
use crate::config::{Algorithm as AlgorithmConfig, Method, support};
use crate::error::{Error, Result};
use crate::kernels::Machine;
use crate::model::{Context, Layer, Model, Shared, Slot, SlotState};
use crate::observe::{AbsMax, Histogram, InputSummary};
use crate::plan::Planned;

/// What algorithms work with.
pub(super) struct Run<'a> {
    /// Threads and instruction set.
    pub machine: &'a Machine,
    /// For warnings.
    pub context: &'a Context,
    /// Whether the host wants to stop.
    pub shared: &'a Shared,
}

impl<'a> Run<'a> {
    /// Of a model's verb.
    pub fn new(shared: &'a Shared) -> Self {
        Self {
            machine: shared.context().machine(),
            context: shared.context(),
            shared,
        }
    }
}

/// New states of slots; nothing is applied before everything is known.
pub(super) type States = Vec<(Arc<Slot>, SlotState)>;

/// An algorithm: what it wants to know, which `Planned` says, and what it makes of it.
pub(super) trait Algorithm: Planned {
    /// This, as the planner sees it.
    fn as_planned(&self) -> &dyn Planned;

    /// Takes back what an earlier run left that this one starts without.
    fn prepare(&self, _: &Model) {}

    /// Tells the host of what it will pass over.
    fn announce(&self, _: &Model) {}

    /// Whether it has nothing to do without the host's forward.
    fn needs_forward(&self) -> bool {
        false
    }

    /// A weight that is treated alone.
    fn solve_weight(&self, run: &Run, slot: &Slot) -> Result<Option<SlotState>> {
        max::weight(run.machine, slot, &slot.state())
    }

    /// A quantizer that was observed alone.
    fn solve_absmax(&self, slot: &Slot, seen: &AbsMax) -> Option<SlotState> {
        max::solve(slot.role(), &slot.state(), seen)
    }

    /// The same from a histogram.
    fn solve_histogram(&self, _: &Run, _: &Slot, _: &Histogram) -> Result<Option<SlotState>> {
        Ok(None)
    }

    /// Quantizers of a layer that was observed as a whole. `input` is empty when no token passed.
    fn solve_layer(&self, _: &Run, _: &Arc<Layer>, _: &InputSummary) -> Result<States> {
        Ok(Vec::new())
    }

    /// A second look at a weight, when scales that weights share are known.
    fn refine_weight(&self, _: &Run, _: &Slot) -> Result<Option<SlotState>> {
        Ok(None)
    }
}

/// The algorithm that a configuration names.
pub(super) fn of(config: &AlgorithmConfig) -> Result<Box<dyn Algorithm>> {
    support::check_algorithm(config)?;
    let config = config.clone();
    Ok(match config.method {
        Method::Max => Box::new(max::Max { config }),
        Method::Mse => Box::new(mse::Mse { config }),
        Method::Histogram => Box::new(histogram::algorithm::HistogramAmax { config }),
        Method::SmoothQuant => Box::new(smoothquant::SmoothQuant { config }),
        Method::AwqLite | Method::AwqClip | Method::AwqFull => Box::new(awq::Awq { config }),
        Method::RealQuantize => match additional(&config)? {
            // What is packed afterwards is calibrated as any other weight.
            None => Box::new(max::Max { config }),
            Some(additional) => of(&additional)?,
        },
        other => return Err(Error::Unsupported(format!("algorithm {other}"))),
    })
}

/// What `real_quantize` runs before it packs. Its fields count, unlike in the reference.
fn additional(config: &AlgorithmConfig) -> Result<Option<AlgorithmConfig>> {
    let given = config.fields.get("additional_algorithm");
    match given.filter(|value| value.is_object()) {
        None => Ok(None),
        Some(value) => {
            let at = crate::config::JsonPath::root("algorithm");
            let at = at.key("additional_algorithm");
            Ok(AlgorithmConfig::parse(value, &at)?.pop())
        }
    }
}
