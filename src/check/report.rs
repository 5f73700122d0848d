//! What the checker found, as numbers and as JSON.

use serde_json::{Value, json};

use super::problems::{Problem, Severity};
use crate::model::{Model, QuantizationError, Role, Slot};

/// The report in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Quantizers of the model.
    pub quantizers: usize,
    /// Those that are enabled.
    pub enabled: usize,
    /// Problems that make the scales wrong.
    pub errors: usize,
    /// Problems that do not.
    pub warnings: usize,
    /// Enabled quantizers of activations that no token reached.
    pub unseen: usize,
    /// The fewest tokens that an enabled quantizer of activations saw; `u64::MAX` when none was calibrated.
    pub fewest_tokens: u64,
}

/// Everything that was found.
pub struct Report {
    /// In numbers.
    pub summary: Summary,
    /// One by one.
    pub problems: Vec<Problem>,
    quantizers: Vec<Value>,
}

impl Report {
    pub(super) fn new(
        model: &Model,
        problems: Vec<Problem>,
        errors: Vec<Option<QuantizationError>>,
    ) -> Self {
        let of = |severity| problems.iter().filter(|p| p.severity == severity).count();
        let enabled = || {
            model
                .slots()
                .iter()
                .filter(|slot| slot.state().is_enabled())
        };
        let seen: Vec<u64> = enabled()
            .filter(|slot| slot.role() != Role::Weight)
            .filter_map(|slot| tokens(slot))
            .collect();
        let quantizers = model.slots().iter().zip(errors);
        Self {
            summary: Summary {
                quantizers: model.slots().len(),
                enabled: enabled().count(),
                errors: of(Severity::Error),
                warnings: of(Severity::Warning),
                unseen: seen.iter().filter(|tokens| **tokens == 0).count(),
                fewest_tokens: seen.iter().copied().min().unwrap_or(u64::MAX),
            },
            quantizers: quantizers
                .map(|(slot, error)| quantizer(slot, error))
                .collect(),
            problems,
        }
    }

    /// The report as JSON.
    pub fn to_json(&self) -> Value {
        let problems: Vec<Value> = self.problems.iter().map(problem).collect();
        let summary = &self.summary;
        json!({
            "quantizers_total": summary.quantizers,
            "quantizers_enabled": summary.enabled,
            "errors": summary.errors,
            "warnings": summary.warnings,
            "unseen": summary.unseen,
            "fewest_tokens": Some(summary.fewest_tokens).filter(|tokens| *tokens != u64::MAX),
            "problems": problems,
            "quantizers": self.quantizers,
        })
    }
}

fn tokens(slot: &Slot) -> Option<u64> {
    let state = slot.state();
    let records = state.members().iter().filter_map(|q| q.record.as_ref());
    records.filter_map(|record| record.tokens).max()
}

fn problem(problem: &Problem) -> Value {
    let severity = match problem.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    json!({
        "severity": severity,
        "kind": problem.kind.name(),
        "name": problem.name,
        "text": problem.text,
    })
}

fn quantizer(slot: &Slot, error: Option<QuantizationError>) -> Value {
    let state = slot.state();
    let record = state.members().iter().find_map(|q| q.record.as_deref());
    let error = error.map(|e| json!({"of": e.of.name(), "before": e.before, "after": e.after}));
    json!({
        "name": slot.name(),
        "enabled": state.is_enabled(),
        "algorithm": record.map(|record| record.algorithm),
        "tokens": record.and_then(|record| record.tokens),
        "filled_from": record.and_then(|record| record.filled_from.as_deref()),
        "error": error,
    })
}
