//! The fields of every calibration algorithm: name, kind, default and range, in one table.

use std::fmt;

use serde_json::{Map, Value};

use super::algorithm::Method;
use super::field_values::{choice, layerwise, learnable_amax, nested, shared_states, strings};
use super::path::JsonPath;
use super::read::{boolean, invalid, number, positive, shown};
use crate::error::Result;

/// One field. The default is JSON text, so that a row of the table is a constant.
pub(super) struct Field {
    pub(super) name: &'static str,
    default: &'static str,
    kind: Kind,
}

/// An interval; `(` and `)` leave the end out, `[` and `]` include it.
pub(super) struct Range(char, f64, f64, char);

enum Kind {
    Flag,
    Number(Range),
    OptionalNumber(Range),
    /// An integer of at least 1.
    Count,
    /// One of these names.
    Choice(&'static [&'static str]),
    /// `null` or a list of shell patterns.
    Globs,
    /// The default as it is, or an algorithm among these.
    Algorithm(&'static [Method]),
    SharedStates,
    Layerwise,
    /// "pre", "post", or a list of them.
    LearnableAmax,
}
use Kind::{
    Algorithm as Nested, Choice, Count, Flag, Globs, LearnableAmax, Number, OptionalNumber,
    SharedStates,
};

const ANY_POSITIVE: Range = Range('(', 0.0, f64::INFINITY, ')');
const SHARE: Range = Range('(', 0.0, 1.0, ']');
const PERCENT: Range = Range('(', 0.0, 100.0, ']');

/// Algorithms that only choose the scales of weights.
pub(super) const WEIGHT_ALGORITHMS: &[Method] = &[Method::Max, Method::Mse, Method::LocalHessian];
const AWQ: &[Method] = &[Method::AwqLite, Method::AwqClip, Method::AwqFull];

const fn field(name: &'static str, kind: Kind, default: &'static str) -> Field {
    Field {
        name,
        default,
        kind,
    }
}

/// What every algorithm has.
const BASE: &[Field] = &[
    field("moe_calib_experts_ratio", OptionalNumber(SHARE), "null"),
    field("layerwise", Kind::Layerwise, "{}"),
    // mq's own: the layers that it is for.
    field("layers", Globs, "null"),
];

/// What every algorithm has beside that.
const FIELDS: &[(Method, &[Field])] = &[
    (
        Method::Max,
        &[
            field("distributed_sync", Flag, "true"),
            field("sync_expert_weight_amax", Flag, "false"),
            field("skip_forward_without_activation_calib", Flag, "false"),
            field("shared_states", SharedStates, "null"),
        ],
    ),
    (
        Method::Mse,
        &[
            field("step_size", Number(ANY_POSITIVE), "0.1"),
            field("start_multiplier", Number(ANY_POSITIVE), "0.25"),
            field("stop_multiplier", Number(ANY_POSITIVE), "4.0"),
            field("fp8_scale_sweep", Flag, "false"),
            field("distributed_sync", Flag, "true"),
            field("shared_states", SharedStates, "null"),
        ],
    ),
    (
        Method::LocalHessian,
        &[
            field("step_size", Number(ANY_POSITIVE), "0.1"),
            field("start_multiplier", Number(ANY_POSITIVE), "0.25"),
            field("stop_multiplier", Number(ANY_POSITIVE), "4.0"),
            field("fp8_scale_sweep", Flag, "true"),
            field("distributed_sync", Flag, "true"),
            field("shared_states", SharedStates, "null"),
            field("block_size", Count, "16"),
            field("debug", Flag, "false"),
        ],
    ),
    (
        Method::Histogram,
        &[
            field(
                "amax_method",
                Choice(&["entropy", "mse", "percentile"]),
                "entropy",
            ),
            field("percentile", Number(Range('[', 0.0, 100.0, ']')), "99.99"),
            field("num_bins", Count, "2048"),
            field("stride", Count, "1"),
            field("start_bin", Count, "128"),
        ],
    ),
    (
        Method::SmoothQuant,
        &[field("alpha", Number(Range('[', 0.0, 1.0, ']')), "1.0")],
    ),
    (Method::AwqLite, &[ALPHA_STEP, DEBUG]),
    (
        Method::AwqClip,
        &[
            MAX_CO_BATCH_SIZE,
            MAX_TOKENS_PER_BATCH,
            MIN_CLIP_RATIO,
            SHRINK_STEP,
            DEBUG,
        ],
    ),
    (
        Method::AwqFull,
        &[
            ALPHA_STEP,
            MAX_CO_BATCH_SIZE,
            MAX_TOKENS_PER_BATCH,
            MIN_CLIP_RATIO,
            SHRINK_STEP,
            DEBUG,
        ],
    ),
    (
        Method::SvdQuant,
        &[
            field("lowrank", Count, "32"),
            field("skip_layers", Globs, "null"),
        ],
    ),
    (
        Method::Gptq,
        &[
            field("perc_damp", Number(SHARE), "0.01"),
            field("block_size", Count, "128"),
            field("fused", Flag, "false"),
        ],
    ),
    (
        Method::Nvfp4ActHeadroom,
        &[
            field("anchor_percentile", Number(PERCENT), "1.0"),
            field("upper_percentile", Number(PERCENT), "99.99"),
            field("rho", Number(Range('(', 0.0, 28672.0, ')')), "16384.0"),
            field(
                "weight_scale_algorithm",
                Nested(WEIGHT_ALGORITHMS),
                "{\"method\": \"max\"}",
            ),
        ],
    ),
    (
        Method::Lsq,
        &[
            field("learnable_amax", LearnableAmax, "[\"post\"]"),
            field("tied_amax", Flag, "false"),
            field("quantize_pre_scale", Flag, "true"),
            field("scale_algorithm", Nested(WEIGHT_ALGORITHMS), "null"),
        ],
    ),
    (
        Method::RealQuantize,
        &[field("additional_algorithm", Nested(AWQ), "\"\"")],
    ),
];

const ALPHA_STEP: Field = field("alpha_step", Number(SHARE), "0.1");
const MAX_CO_BATCH_SIZE: Field = field("max_co_batch_size", Count, "1024");
const MAX_TOKENS_PER_BATCH: Field = field("max_tokens_per_batch", Count, "64");
const MIN_CLIP_RATIO: Field = field("min_clip_ratio", Number(Range('(', 0.0, 1.0, ')')), "0.5");
const SHRINK_STEP: Field = field("shrink_step", Number(SHARE), "0.05");
const DEBUG: Field = field("debug", Flag, "false");

/// The fields of `method`, its own first.
pub(super) fn of(method: Method) -> impl Iterator<Item = &'static Field> {
    let own = FIELDS
        .iter()
        .filter(move |(of, _)| *of == method)
        .flat_map(|(_, fields)| fields.iter());
    own.chain(BASE)
}

impl Field {
    /// The default as a value.
    pub(super) fn default_value(&self) -> Value {
        // A test reads every row; what is not JSON there is text.
        serde_json::from_str(self.default).unwrap_or_else(|_| Value::from(self.default))
    }

    /// Checks one value and completes it.
    pub(super) fn read(&self, value: &Value, method: Method, at: &JsonPath) -> Result<Value> {
        match &self.kind {
            Flag => boolean(value, at).map(Value::from),
            Number(range) => self.number(value, range, at),
            OptionalNumber(_) | Globs | SharedStates if value.is_null() => Ok(Value::Null),
            OptionalNumber(range) => self.number(value, range, at),
            Count => positive(value, at).map(Value::from),
            Choice(names) => choice(value, names, self.name, at),
            Globs => strings(value, at).map(|_| value.clone()),
            Nested(_) if *value == self.default_value() && !value.is_object() => Ok(value.clone()),
            Nested(methods) => nested(value, methods, at),
            SharedStates => shared_states(value, at),
            Kind::Layerwise => layerwise(value, method, at),
            LearnableAmax => learnable_amax(value, at),
        }
    }

    fn number(&self, value: &Value, range: &Range, at: &JsonPath) -> Result<Value> {
        let read = number(value, at)?;
        if !range.contains(read) {
            let text = format!("{} must be {range}, got {}", self.name, shown(value));
            return Err(invalid(
                at,
                format_args!("{text} (default {})", self.default),
            ));
        }
        Ok(read.into())
    }
}

impl Range {
    fn contains(&self, number: f64) -> bool {
        let Self(left, low, high, right) = *self;
        let above = if left == '[' {
            number >= low
        } else {
            number > low
        };
        let below = if right == ']' {
            number <= high
        } else {
            number < high
        };
        above && below
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(left, low, high, right) = *self;
        if high.is_finite() {
            write!(f, "in {left}{low}, {high}{right}")
        } else {
            write!(f, "greater than {low}")
        }
    }
}

/// The rules that concern more than one field.
pub(super) fn check_together(
    method: Method,
    fields: &Map<String, Value>,
    at: &JsonPath,
) -> Result<()> {
    let tied = fields
        .get("tied_amax")
        .and_then(Value::as_bool)
        .unwrap_or(false);
    let learnable = fields
        .get("learnable_amax")
        .and_then(Value::as_array)
        .map_or(0, Vec::len);
    if method == Method::Lsq && tied && learnable == 1 {
        let text = "tied_amax needs learnable_amax to be [] or [\"pre\", \"post\"]";
        return Err(invalid(at, text));
    }
    Ok(())
}
