//! The search for a format of every layer, and what it found.

use std::ffi::c_char;
use std::mem::{offset_of, size_of};
use std::path::PathBuf;

use serde_json::Value;

use super::guard::{self, copy_out};
use super::model::{mq_model, with};
use super::options::{self, Versioned};
use super::search_host::{NoHost, mq_auto_quantize_fn, mq_layer_cost_fn, take_costs, take_host};
use super::status::mq_status;
use super::verb::check_flags;
use crate::auto_quantize::auto_quantize;
use crate::auto_quantize::constraints::Constraints;
use crate::auto_quantize::cost::LayerCost;
use crate::auto_quantize::host::Host;
use crate::auto_quantize::score::Method;
use crate::auto_quantize::search::Search;
use crate::auto_quantize::settings::{
    Settings, read_constraints, read_disabled_layers, read_formats, read_rules,
};
use crate::error::{Error, Result};

/// mq_auto_quantize_options.flags: tell of every choice through the log, as the reference does.
pub const MQ_AUTO_QUANTIZE_VERBOSE: u32 = 1;
/// mq_auto_quantize_options.flags: every layer that is not disabled gets one of the formats, even where `null` is
/// listed; without it a layer may always stay unquantized.
pub const MQ_AUTO_QUANTIZE_ALL_LAYERS: u32 = 2;
/// mq_auto_quantize_solve(): only tell; the model stays as it is.
pub const MQ_SOLVE_DRY_RUN: u32 = 1;

/// What mq_auto_quantize() is to do. Call mq_auto_quantize_options_init() before setting fields. Strings are only read
/// during the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mq_auto_quantize_options {
    /// sizeof(mq_auto_quantize_options) in the caller's header. Set by mq_auto_quantize_options_init().
    pub struct_size: u32,
    /// MQ_AUTO_QUANTIZE_* or 0 (default).
    pub flags: u32,
    /// JSON: {"effective_bits": 4.8} (bits of a weight's element on average, where 16 is unquantized), or
    /// {"max_cost": x} in the unit of the costs; optionally "cost_model" ("weight", or "active_moe": elements of
    /// experts count `active_moe_expert_ratio`) and "cost" ({"active_moe_expert_ratio": 0.25,
    /// "excluded_module_name_patterns": ["*lm_head*"]}: groups all of whose layers match cost nothing).
    /// NULL (default): {"effective_bits": 4.8}.
    pub constraints: *const c_char,
    /// JSON list of formats: names of presets, configuration objects as mq_quantize() takes them, or null (no
    /// quantization). Their patterns see bare names: "*weight_quantizer" reaches every searched layer, "*lm_head*"
    /// none. NULL (default): ["NVFP4_AWQ_LITE_CFG", "FP8_DEFAULT_CFG"].
    pub quantization_formats: *const c_char,
    /// JSON: a pattern, or a list of them, of names of layers that stay unquantized (and count with 16 bits), and
    /// with them the layers of their groups. NULL (default): none.
    pub disabled_layers: *const c_char,
    /// JSON list of regular expressions whose first captured group is the key of a group of layers that get one
    /// format; they go behind the default rules (q/k/v, gate/up, experts). {"prepend": [...]} puts them before, and
    /// {"replace": [...]} in the place of, the default ones. The first that matches the beginning of a layer's name
    /// counts; classes (`\d`, `\w`) are ASCII's. Layers of one `fused_group` or `expert_group` always get one format. NULL
    /// (default): the default rules.
    pub grouping_rules: *const c_char,
    /// How sensitive the loss is to a format: "gradient" (default; the reference's); "gram" (the squares of what changes
    /// in the outputs, expected from second moments; no backward pass) and "fisher" (the same, each output weighed with
    /// the mean square of its gradient; no layer is computed again), of linear layers; or "kl_div" (no backward
    /// pass, but a forward for every format of every group).
    pub method: *const c_char,
    /// Path of a file that keeps what the formats were calibrated to, and the scores after every step: a search that
    /// was killed, cancelled or failed goes on from there, and one that was finished is solved for other constraints
    /// without data. It stays when the verb succeeds. NULL (default): none.
    pub checkpoint: *const c_char,
    /// Batches that the formats are calibrated on; those with AWQ take a quarter, as in the reference. Default 512.
    pub num_calib_steps: u64,
    /// Batches that they are scored on. Default 128.
    pub num_score_steps: u64,
}
const _: () = assert!(size_of::<mq_auto_quantize_options>() == 72);
const _: () = assert!(offset_of!(mq_auto_quantize_options, constraints) == 8);
const _: () = assert!(offset_of!(mq_auto_quantize_options, num_score_steps) == 64);

// SAFETY: repr(C); integers and pointers, of which all-zero is valid and anything else is the caller's promise
// (contract of mq_auto_quantize_options).
unsafe impl Versioned for mq_auto_quantize_options {
    const MIN_SIZE: usize = 72;
    const NAME: &'static str = "mq_auto_quantize_options";
    fn defaults() -> Self {
        Self {
            struct_size: size_of::<Self>() as u32,
            flags: 0,
            constraints: std::ptr::null(),
            quantization_formats: std::ptr::null(),
            disabled_layers: std::ptr::null(),
            grouping_rules: std::ptr::null(),
            method: std::ptr::null(),
            checkpoint: std::ptr::null(),
            num_calib_steps: 512,
            num_score_steps: 128,
        }
    }
}

/// Fills `options` with the defaults, never writing past `struct_size` bytes.
///
/// @param[out] options      Struct to fill.
/// @param[in]  struct_size  sizeof(mq_auto_quantize_options) in the caller's header.
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT when `options` is NULL or `struct_size` too small.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_auto_quantize_options_init(
    options: *mut mq_auto_quantize_options,
    struct_size: u32,
) -> mq_status {
    // SAFETY: contract above.
    unsafe { options::init(options, struct_size) }
}

/// Searches the format of every layer: calibrates each format, scores how sensitive the loss is to it, and leaves the
/// model calibrated with the formats of the least total score that the constraints allow (the optimum, proven).
///
/// Searched are linear layers, convolutions, and others with a weight and a `forward` in their mq_layer_desc; all other
/// quantizers are off afterwards. The forward runs once over the calibration steps for all formats (more often under a
/// memory limit, or for algorithms that need it), and forward and backward once over the scoring steps.
///
/// @param[in] model    Model that is not quantized yet.
/// @param[in] options  What to do; NULL means the defaults.
/// @param[in] host     Data, forward and backward. NULL, or without functions, only when the checkpoint is complete.
/// @param[in] cost     What layers cost; NULL: elements of their weights times bits, over 16.
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL, a callback that is missing, a gradient or input of a wrong shape;
///         MQ_ERR_CONFIG for constraints, formats, rules or patterns that are not valid, and for a budget below
///         what the most compressed formats reach (the text says how much that is); MQ_ERR_UNSUPPORTED as
///         mq_quantize(); MQ_ERR_STATE for a model that is quantized, data that ends early, a backward pass without
///         mq_layer_grad(), and a checkpoint of another search; MQ_ERR_NUMERIC for a loss, gradient, activation,
///         weight or cost that is NaN or Inf; MQ_ERR_OUT_OF_MEMORY, saying what one layer needs; MQ_ERR_CALLBACK;
///         MQ_ERR_CANCELLED; MQ_ERR_BUSY. On failure the model is exactly as before the call.
///
/// The score of a format of a group is the sum of `(dL/dy * change of y)^2` over the elements of the outputs of its
/// layers and over the steps, as the reference's; it is never above that of a format with fewer bits. The same bytes
/// for every number of threads.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_auto_quantize(
    model: *mut mq_model,
    options: *const mq_auto_quantize_options,
    host: *const mq_auto_quantize_fn,
    cost: *const mq_layer_cost_fn,
) -> mq_status {
    // SAFETY: contract above; ownership of the user data is taken before anything can fail.
    unsafe {
        let (host, costs) = (take_host(host), take_costs(cost));
        with(model, |handle, model| {
            let given = match options.is_null() {
                true => mq_auto_quantize_options::defaults(),
                false => options::read(options)?,
            };
            let settings = settings(&given)?;
            let mut host: Box<dyn Host> = match host {
                Some(host) => Box::new(host),
                None => Box::new(NoHost),
            };
            let mut cost = costs.map(|costs| {
                move |layer: &str, format: &str, elements: u64| costs.of(layer, format, elements)
            });
            let cost = cost.as_mut().map(|cost| cost as LayerCost);
            let found = auto_quantize(model, settings, &mut *host, cost)?;
            *handle.search.lock().map_err(|_| Error::Poisoned)? = Some(found);
            Ok(())
        })
    }
}

/// # Safety
/// The contract of mq_auto_quantize_options.
unsafe fn settings(given: &mq_auto_quantize_options) -> Result<Settings> {
    check_flags(
        given.flags,
        MQ_AUTO_QUANTIZE_VERBOSE | MQ_AUTO_QUANTIZE_ALL_LAYERS,
    )?;
    // SAFETY: contract above.
    let text = |raw, what| unsafe { guard::text_or_null(raw, what) };
    let checkpoint = text(given.checkpoint, "options.checkpoint")?;
    if checkpoint.is_some_and(str::is_empty) {
        return Err(Error::InvalidArgument(
            "options.checkpoint is empty; pass NULL for none".into(),
        ));
    }
    Ok(Settings {
        constraints: read_constraints(text(given.constraints, "options.constraints")?)?,
        recipes: read_formats(text(
            given.quantization_formats,
            "options.quantization_formats",
        )?)?,
        allow_no_quant: given.flags & MQ_AUTO_QUANTIZE_ALL_LAYERS == 0,
        num_calib_steps: given.num_calib_steps,
        num_score_steps: given.num_score_steps,
        verbose: given.flags & MQ_AUTO_QUANTIZE_VERBOSE != 0,
        disabled_layers: read_disabled_layers(text(
            given.disabled_layers,
            "options.disabled_layers",
        )?)?,
        method: Method::read(text(given.method, "options.method")?.unwrap_or("gradient"))?,
        rules: read_rules(text(given.grouping_rules, "options.grouping_rules")?)?,
        checkpoint: checkpoint.map(PathBuf::from),
    })
}

/// Solves the search of a model anew for other constraints, without data, and puts the choice into effect.
///
/// @param[in]  model        Model that went through mq_auto_quantize(), whose weights are not folded or compressed.
/// @param[in]  constraints  As in mq_auto_quantize_options; with MQ_SOLVE_DRY_RUN also a list of them. After a search
///                          with a cost callback only the budget may change.
/// @param[in]  flags        0 or MQ_SOLVE_DRY_RUN.
/// @param[out] buffer       Receives at most `capacity - 1` bytes of JSON and a NUL; NULL when `capacity` is 0.
/// @param[in]  capacity     Bytes of `buffer`.
/// @param[out] length       Length of the whole text without the NUL, also when it did not fit. May be NULL.
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT; MQ_ERR_CONFIG as mq_auto_quantize(); MQ_ERR_STATE without a search, and for
///         weights that are folded or compressed; MQ_ERR_BUSY. On failure the model is exactly as before the call.
///
/// The object: "best" of mq_auto_quantize_state(); a list of those for a list.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_auto_quantize_solve(
    model: *mut mq_model,
    constraints: *const c_char,
    flags: u32,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        with(model, |handle, model| {
            check_flags(flags, MQ_SOLVE_DRY_RUN)?;
            let text = guard::text(constraints, "constraints")?;
            let mut search = handle.search.lock().map_err(|_| Error::Poisoned)?;
            let search = search.as_mut().ok_or_else(no_search)?;
            let dry = flags & MQ_SOLVE_DRY_RUN != 0;
            let wanted = !buffer.is_null() || !length.is_null();
            if buffer.is_null() && capacity > 0 {
                return Err(Error::InvalidArgument(format!(
                    "buffer is NULL but capacity is {capacity}"
                )));
            }
            let told = match dry {
                true => told(search, text)?,
                false => {
                    let choice = search.solve(&read_constraints(Some(text))?)?;
                    let told = search.choice_json(&choice);
                    search.apply(model, choice)?;
                    told
                }
            };
            match wanted {
                true => copy_out(&told.to_string(), buffer, capacity, length),
                false => Ok(()),
            }
        })
    }
}

/// The best choice for constraints, or for each of a list.
fn told(search: &Search, text: &str) -> Result<Value> {
    let best = |constraints: &Constraints| Ok(search.choice_json(&search.solve(constraints)?));
    match serde_json::from_str(text) {
        Ok(Value::Array(all)) => all
            .iter()
            .map(|constraints| best(&Constraints::read(constraints)?))
            .collect(),
        _ => best(&read_constraints(Some(text))?),
    }
}

/// What mq_auto_quantize() found, as JSON.
///
/// @param[in]  model     Model that went through mq_auto_quantize().
/// @param[out] buffer    Receives at most `capacity - 1` bytes of JSON and a NUL; NULL when `capacity` is 0.
/// @param[in]  capacity  Bytes of `buffer`.
/// @param[out] length    Length of the whole text without the NUL, also when it did not fit. May be NULL when
///                       `buffer` is not.
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT; MQ_ERR_STATE without a search; MQ_ERR_BUSY.
///
/// The object has the reference's keys: "method", "cost_model", "cost", "cost_denominator", "disabled_layers",
/// "candidate_stats" (by the name of the first layer of the group and ".quant_recipe": {"formats", "scores", "costs", "module_names",
/// "cost_weight", "uncompressed_cost", ...}, in ascending bits), "quantizer_states" (in short), "best" ({"recipe",
/// "constraints": {"effective_bits", "cost"}, "score", "is_satisfied"}); and "constraints", "grouping_rules",
/// "num_calib_steps", "num_score_steps", and "curve": the optimum over all budgets, a list of {"cost",
/// "effective_bits", "score"}. `python -m mq.report` makes a page of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_auto_quantize_state(
    model: *mut mq_model,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        with(model, |handle, _| {
            let search = handle.search.lock().map_err(|_| Error::Poisoned)?;
            let state = search.as_ref().ok_or_else(no_search)?.to_json();
            copy_out(&state.to_string(), buffer, capacity, length)
        })
    }
}

/// The configuration that gives mq_quantize() the choice of a search.
///
/// @param[in]  model        Model that went through mq_auto_quantize().
/// @param[in]  constraints  As in mq_auto_quantize_solve(); NULL: the choice that is in effect.
/// @param[out] buffer       As in mq_auto_quantize_state().
/// @param[in]  capacity     As in mq_auto_quantize_state().
/// @param[out] length       As in mq_auto_quantize_state().
/// @return as mq_auto_quantize_solve() with MQ_SOLVE_DRY_RUN.
///
/// An object with "quant_cfg" (a list that names every quantizer) and "algorithm": the algorithm of the formats, or,
/// where they have several, a list of them each with the "layers" it is for. Its forward is mq_quantize()'s: all
/// algorithms see all of the data.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_auto_quantize_config(
    model: *mut mq_model,
    constraints: *const c_char,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        with(model, |handle, _| {
            let search = handle.search.lock().map_err(|_| Error::Poisoned)?;
            let search = search.as_ref().ok_or_else(no_search)?;
            let config = match guard::text_or_null(constraints, "constraints")? {
                None => search.config(search.best()),
                Some(text) => search.config(&search.solve(&read_constraints(Some(text))?)?),
            };
            copy_out(&config.to_string(), buffer, capacity, length)
        })
    }
}

fn no_search() -> Error {
    Error::State("the model has no search; call mq_auto_quantize() first".into())
}
