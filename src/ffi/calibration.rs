//! Around a calibration: what it will take, how it works, how it is stopped, and whether its result is sound.

use std::ffi::c_char;
use std::mem::{offset_of, size_of};
use std::path::PathBuf;

use super::guard::{self, copy_out, enter};
use super::model::{mq_model, with};
use super::options::{self, Versioned};
use super::status::mq_status;
use super::verb::report;
use crate::apply;
use crate::calibrate;
use crate::check;
use crate::config::{Algorithm, Method, QuantizeConfig};
use crate::error::Error;
use crate::model::CalibrationOptions;

/// How the calibrations of a model work, beside their algorithm. Call mq_calibration_options_init() before
/// setting fields. Strings are copied.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mq_calibration_options {
    /// sizeof(mq_calibration_options) in the caller's header. Set by mq_calibration_options_init().
    pub struct_size: u32,
    /// Must be zero.
    pub reserved: u32,
    /// A calibration fails with MQ_ERR_STATE when fewer tokens than this pass an enabled quantizer of
    /// activations; the text names those. 0 (default): none is refused, and those that no token reached
    /// are filled: from the other experts of their `expert_group`, else from the layers of their
    /// `shared_input_group` or `fused_group`, else they stay without an amax and quantize dynamically.
    pub min_tokens: u64,
    /// Path of a file that keeps what a calibration has finished: one that was killed, cancelled or failed
    /// goes on from there when the same verb is called on the same model again. It is removed when the verb
    /// succeeds. NULL (default): none.
    pub resume_file: *const c_char,
}
const _: () = assert!(size_of::<mq_calibration_options>() == 24);
const _: () = assert!(offset_of!(mq_calibration_options, resume_file) == 16);

// SAFETY: repr(C); integers and a pointer, of which all-zero is valid and anything else is the caller's
// promise (contract of mq_calibration_options).
unsafe impl Versioned for mq_calibration_options {
    const MIN_SIZE: usize = 24;
    const NAME: &'static str = "mq_calibration_options";
    fn defaults() -> Self {
        Self {
            struct_size: size_of::<Self>() as u32,
            reserved: 0,
            min_tokens: 0,
            resume_file: std::ptr::null(),
        }
    }
}

/// Fills `options` with the defaults, never writing past `struct_size` bytes.
///
/// @param[out] options      Struct to fill.
/// @param[in]  struct_size  sizeof(mq_calibration_options) in the caller's header.
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT when `options` is NULL or `struct_size` too small.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_calibration_options_init(
    options: *mut mq_calibration_options,
    struct_size: u32,
) -> mq_status {
    // SAFETY: contract above.
    unsafe { options::init(options, struct_size) }
}

/// Sets how the calibrations of a model work from now on.
///
/// @param[in] model    Any model.
/// @param[in] options  How they work; NULL means the defaults.
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT; MQ_ERR_BUSY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_model_set_calibration_options(
    model: *mut mq_model,
    options: *const mq_calibration_options,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        with(model, |_, model| {
            let given = match options.is_null() {
                true => mq_calibration_options::defaults(),
                false => options::read(options)?,
            };
            if given.reserved != 0 {
                return Err(Error::InvalidArgument(format!(
                    "mq_calibration_options: reserved is {}, expected 0",
                    given.reserved
                )));
            }
            let path = guard::text_or_null(given.resume_file, "options.resume_file")?;
            if path.is_some_and(str::is_empty) {
                return Err(Error::InvalidArgument(
                    "options.resume_file is empty; pass NULL for none".into(),
                ));
            }
            model.set_calibration_options(CalibrationOptions {
                min_tokens: given.min_tokens,
                resume_file: path.map(PathBuf::from),
            });
            Ok(())
        })
    }
}

/// What mq_quantize() or mq_calibrate() would do, before anything runs: per pass of the forward which layers,
/// which statistics, and how many bytes.
///
/// @param[in]  model     Any model with layers, for a configuration; one that went through mq_quantize(), for
///                       an algorithm. It stays as it is.
/// @param[in]  config    What mq_quantize() takes (a preset or an object with "quant_cfg"), or what
///                       mq_calibrate() takes (an algorithm, or a list of them).
/// @param[out] buffer    Receives at most `capacity - 1` bytes of JSON and a NUL; NULL when `capacity` is 0.
/// @param[in]  capacity  Bytes of `buffer`.
/// @param[out] length    Length of the whole text without the NUL, also when it did not fit. May be NULL when
///                       `buffer` is not.
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT; MQ_ERR_CONFIG and MQ_ERR_UNSUPPORTED as the verbs;
///         MQ_ERR_OUT_OF_MEMORY when the context's memory limit is too low for one layer alone (the text says
///         what it needs); MQ_ERR_STATE for an algorithm before mq_quantize(); MQ_ERR_BUSY.
///
/// The object: "forwards" (how often the forward runs), "peak_bytes" (the most memory of all passes),
/// "memory_limit_bytes", "passes" (a list of {"algorithm", "peak_bytes", "statistics_bytes", "workspace_bytes",
/// "observed": [{"layers" or "quantizers", "channels", "statistics", "bytes"}]}), and "without_data" (weights
/// that need no pass, by algorithm). Bytes are an upper bound. Quantizers whose amax has a shape of its own count once that shape is
/// known; histograms whose range grows take more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_plan(
    model: *mut mq_model,
    config: *const c_char,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        with(model, |_, model| {
            let text = guard::text(config, "config")?;
            let plan = match is_algorithm(text) {
                true => calibrate::plan_calibrate(model, &Algorithm::parse_text(text)?)?,
                false => calibrate::plan_quantize(model, &QuantizeConfig::parse(text)?)?,
            };
            copy_out(&plan.to_string(), buffer, capacity, length)
        })
    }
}

/// Whether a text is an algorithm and not a configuration: the name of one, an object with "method", or a list.
fn is_algorithm(text: &str) -> bool {
    let text = text.trim();
    let is_name = |name: &str| Method::ALL.iter().any(|(known, _)| *known == name) || name == "awq";
    if is_name(text) || matches!(text, "" | "null") {
        return true;
    }
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(serde_json::Value::Object(map)) => map.contains_key("method"),
        Ok(serde_json::Value::String(name)) => is_name(&name),
        Ok(serde_json::Value::Array(_)) => true,
        _ => false,
    }
}

/// What mq_check() found, in numbers. Set `struct_size` to sizeof(mq_check_report) before the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mq_check_report {
    /// sizeof(mq_check_report) in the caller's header.
    pub struct_size: u32,
    /// Problems that make scales wrong: not finite, not positive, or different within a group that is computed
    /// as one; names that lead nowhere.
    pub errors: u32,
    /// Problems that do not: quantizers that no token reached, a group of one, an amax of zero.
    pub warnings: u32,
    /// Quantizers of the model; a sequential one counts once.
    pub quantizers: u32,
    /// Those that are enabled.
    pub enabled: u32,
    /// Enabled quantizers of activations that no token reached in their calibration.
    pub unseen: u32,
    /// The fewest tokens that an enabled quantizer of activations saw; UINT64_MAX when none was calibrated.
    pub fewest_tokens: u64,
}
const _: () = assert!(size_of::<mq_check_report>() == 32);
const _: () = assert!(offset_of!(mq_check_report, fewest_tokens) == 24);

/// Checks whether what a calibration left can be deployed: every scale finite, positive and in range, one
/// scale for what is computed as one, every quantizer reached by data, every name resolved. Measures the
/// error of the quantizers. Changes nothing.
///
/// @param[in]  model     Model that went through mq_quantize().
/// @param[out] result    The numbers; `struct_size` set by the caller. NULL: not wanted. Untouched on failure.
/// @param[out] buffer    Receives at most `capacity - 1` bytes of JSON and a NUL; NULL when `capacity` is 0.
/// @param[in]  capacity  Bytes of `buffer`.
/// @param[out] length    Length of the whole text without the NUL, also when it did not fit. May be NULL when
///                       `result` or `buffer` is not.
/// @return MQ_OK when it could be checked, whatever was found; MQ_ERR_INVALID_ARGUMENT; MQ_ERR_NUMERIC for
///         NaN or Inf in a weight; MQ_ERR_STATE before mq_quantize(); MQ_ERR_OUT_OF_MEMORY (it takes a copy
///         of the largest weight); MQ_ERR_BUSY.
///
/// The object: the numbers, "problems" (a list of {"severity", "kind", "name", "text"}), and "quantizers" (a list of
/// {"name", "enabled", "algorithm", "tokens", "filled_from", "error": {"of", "before", "after"}}). An error is
/// `|quantized - original|^2 / |original|^2` of the tensor itself ("tensor") or of the layer's output over the calibration tokens
/// ("output"), before (with the largest magnitudes and no factors) and after the calibration.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_check(
    model: *const mq_model,
    result: *mut mq_check_report,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        with(model, |_, model| {
            if let Some(result) = result.as_ref()
                && (result.struct_size as usize) < size_of::<mq_check_report>()
            {
                return Err(Error::InvalidArgument(format!(
                    "mq_check_report: struct_size is {}, expected at least {}",
                    result.struct_size,
                    size_of::<mq_check_report>()
                )));
            }
            let found = check::check(model)?;
            if result.is_null() || !buffer.is_null() || !length.is_null() || capacity > 0 {
                copy_out(&found.to_json().to_string(), buffer, capacity, length)?;
            }
            if let Some(result) = result.as_mut() {
                let summary = &found.summary;
                let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
                *result = mq_check_report {
                    struct_size: result.struct_size,
                    errors: count(summary.errors),
                    warnings: count(summary.warnings),
                    quantizers: count(summary.quantizers),
                    enabled: count(summary.enabled),
                    unseen: count(summary.unseen),
                    fewest_tokens: summary.fewest_tokens,
                };
            }
            Ok(())
        })
    }
}

/// Moves what SmoothQuant and AWQ multiply activations with into what produces them, so that it costs nothing
/// at run time: the gain (and bias) of the norm, or the rows (and bias) of the linear layer, that the
/// mq_layer_desc of the readers names. All registered readers of an activation get the same factors, the mean
/// of theirs; a weight whose factors change is scaled and calibrated accordingly. Where the factors differed
/// much, the mean serves each layer less well than its own: measure the model again after it.
/// Call it before mq_fold_weight() and mq_compress().
///
/// @param[in]  model   Model that went through mq_quantize(). mq writes to norms and weights of the host's: no
///                     tap may run meanwhile.
/// @param[in]  flags   Must be 0.
/// @param[out] folded  Number of layers whose input is no longer multiplied. May be NULL. Untouched on failure.
/// @return MQ_OK, also when nothing was to be folded; MQ_ERR_INVALID_ARGUMENT; MQ_ERR_NOT_FOUND for a producer
///         that is no layer; MQ_ERR_STATE before mq_quantize(), for layers of different sizes, and for weights
///         that are folded, compressed or shared so that they cannot change any more; MQ_ERR_NUMERIC when a value would leave
///         the range of its type; MQ_ERR_BUSY. On failure nothing is changed.
///
/// The weights' own factors (the inverse) stay with their quantizers: mq_layer_weight() applies them, and
/// mq_fold_weight() or mq_compress() write them down.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_fold_pre_quant_scale(
    model: *mut mq_model,
    flags: u32,
    folded: *mut usize,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        with(model, |_, model| {
            super::verb::check_flags(flags, 0)?;
            let count = apply::fold_pre_quant_scale(model)?;
            report(folded, count);
            Ok(())
        })
    }
}

/// Stops the verb that is running on a model, soon: between two layers, between parts of a large layer, and
/// at the next tap, which answers MQ_ERR_CANCELLED. The verb answers MQ_ERR_CANCELLED, with the model as it
/// was.
///
/// @param[in] model  Any model; not while or after it is destroyed.
/// @return MQ_OK, also when no verb is running (the next one is not affected); MQ_ERR_INVALID_ARGUMENT.
///
/// Threads: may be called from any thread, also from a callback of the verb.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_cancel(model: *const mq_model) -> mq_status {
    enter(|| {
        // SAFETY: NULL or a live handle (contract).
        let model = unsafe { model.as_ref() };
        let model = model.ok_or_else(|| Error::InvalidArgument("model is NULL".into()))?;
        model.shared.cancel();
        Ok(())
    })
}
