//! The checker: whether what a calibration left can be deployed. It reads, and changes nothing.

mod errors;
mod problems;
mod report;

use crate::error::Result;
use crate::model::Model;

pub use problems::{Kind, Problem, Severity};
pub use report::{Report, Summary};

/// Checks scales, groups, coverage and names of a quantized model, and measures the error of its quantizers.
pub fn check(model: &Model) -> Result<Report> {
    model.check_quantized()?;
    model.synchronize()?;
    let problems = problems::find(model);
    let errors = model.with_failures(errors::measure(model))?;
    Ok(Report::new(model, problems, errors))
}
