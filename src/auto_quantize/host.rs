//! What the search asks of the host: data, forward and backward passes.

use crate::error::{Error, Result};
use crate::model::Model;
use crate::tensor::TensorView;

/// The host's side of a search. All calls are made on the thread of the verb.
pub trait Host {
    /// Makes batch `step` the current one; false when there is none.
    fn data(&mut self, step: u64) -> Result<bool>;

    /// Runs the model over the current batch.
    fn forward(&mut self, step: u64) -> Result<()>;

    /// Runs the model over the current batch and back, and returns the loss.
    fn forward_backward(&mut self, step: u64) -> Result<f64>;

    /// Errors when it cannot run back.
    fn check_backward(&self) -> Result<()>;

    /// The logits `[.., classes]` of the last forward; they live until the next call.
    fn logits(&mut self, step: u64) -> Result<TensorView>;

    /// Errors when it cannot tell the logits.
    fn check_logits(&self) -> Result<()>;
}

/// Makes batch `step` of `steps` the current one.
pub fn fetch(model: &Model, host: &mut dyn Host, step: u64, steps: u64, what: &str) -> Result<()> {
    model.shared().check_cancelled()?;
    match host.data(step)? {
        true => Ok(()),
        false if step == 0 => Err(Error::State(format!(
            "the data callback has no batch 0 for {what}; every pass begins with batch 0 again, so data that can be \
             read only once will not do"
        ))),
        false => Err(Error::State(format!(
            "the data callback has no batch {step}, but {what} asks for {steps} batches; set it to {step} or bring more"
        ))),
    }
}
