//! The verbs: quantize, calibrate, fold, and the wildcard verbs.

use std::ffi::c_char;

use super::callback::{
    mq_amax_fn, mq_filter_fn, mq_forward_fn, take_amax, take_filter, take_forward,
};
use super::guard::{self, copy_out};
use super::model::{mq_model, with};
use super::status::mq_status;
use crate::apply;
use crate::calibrate;
use crate::config::{Algorithm, QuantizeConfig};
use crate::error::{Error, Result};
use crate::model::{Model, Selector, SummaryFormat};

/// A wildcard or filter that selects nothing is no error.
pub const MQ_ALLOW_NO_MATCH: u32 = 1;
/// mq_set_quantizer_attributes(): attributes that are not given go back to their defaults.
pub const MQ_REPLACE_ATTRIBUTES: u32 = 2;

/// mq_fold_weight(): the weight quantizers keep their amax.
pub const MQ_FOLD_KEEP_ATTRIBUTES: u32 = 1;

/// One line for each quantizer, as the reference prints it.
pub const MQ_SUMMARY_TEXT: i32 = 0;
/// A JSON object with everything about layers and quantizers.
pub const MQ_SUMMARY_JSON: i32 = 1;

/// Gives the model's quantizers their formats and calibrates them.
///
/// @param[in] model    Model whose layers are registered. May be quantized already: the
///                     configuration is then applied on top.
/// @param[in] config   Name of a preset ("INT8_DEFAULT_CFG"), or JSON: an object with "quant_cfg" (a
///                     list of entries, or a mapping) and "algorithm", as the reference takes it.
/// @param[in] forward  Runs the calibration set; not called when no quantizer waits for it. NULL:
///                     weights are calibrated, activation quantizers stay without amax and quantize
///                     dynamically; SmoothQuant and AWQ answer MQ_ERR_INVALID_ARGUMENT.
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL or a model without quantizers; MQ_ERR_CONFIG, also for an
///         algorithm that does not fit a quantizer's format, and
///         when no enabling entry matches anything; MQ_ERR_UNSUPPORTED naming the preset, format or
///         algorithm; MQ_ERR_NUMERIC, naming the layer, for NaN or Inf in a weight or activation;
///         MQ_ERR_CALLBACK; MQ_ERR_CANCELLED after mq_cancel(); MQ_ERR_OUT_OF_MEMORY when the context's memory
///         limit is too low for one layer alone (the text says what it needs); MQ_ERR_STATE when the forward
///         passes no token through any tap, other numbers of tokens in a later pass, or different ones
///         through layers of one shared_input_group, when a quantizer saw fewer than `min_tokens`, and for a
///         resume file of something else; MQ_ERR_BUSY. On failure the model is exactly as before the call.
///
/// What mq_auto_quantize() found before is forgotten.
///
/// The forward runs once for each pass that mq_plan() tells. The host's weights are not written to: what
/// SmoothQuant and AWQ multiply them with is applied by mq_layer_weight(), and written by mq_fold_weight() or
/// mq_compress().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_quantize(
    model: *mut mq_model,
    config: *const c_char,
    forward: *const mq_forward_fn,
) -> mq_status {
    // SAFETY: contract above; ownership of the user data is taken before anything can fail.
    unsafe {
        let forward = take_forward(forward);
        with(model, |handle, model| {
            if let Some(forward) = &forward {
                forward.check()?;
            }
            let config = QuantizeConfig::parse(guard::text(config, "config")?)?;
            let mut run = forward.as_ref().map(|forward| move || forward.run());
            calibrate::quantize(
                model,
                &config,
                run.as_mut()
                    .map(|run| run as &mut dyn FnMut() -> Result<()>),
            )?;
            handle.forget_search();
            Ok(())
        })
    }
}

/// Calibrates the enabled quantizers of a quantized model.
///
/// @param[in] model      Model that went through mq_quantize().
/// @param[in] algorithm  "max", or JSON: a string, {"method": ..., ...}, a list of those run one after
///                       the other, or null. NULL, "" and null: none.
/// @param[in] forward    As in mq_quantize().
/// @return as mq_quantize(); MQ_ERR_STATE before mq_quantize(). On failure the model is exactly as
///         before the call.
///
/// As in the reference, a second calibration takes the maximum over both data sets;
/// mq_reset_amax() starts anew.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_calibrate(
    model: *mut mq_model,
    algorithm: *const c_char,
    forward: *const mq_forward_fn,
) -> mq_status {
    // SAFETY: contract above; ownership of the user data is taken before anything can fail.
    unsafe {
        let forward = take_forward(forward);
        with(model, |_, model| {
            if let Some(forward) = &forward {
                forward.check()?;
            }
            let text = guard::text_or_null(algorithm, "algorithm")?.unwrap_or("");
            let algorithms = Algorithm::parse_text(text)?;
            let mut run = forward.as_ref().map(|forward| move || forward.run());
            calibrate::calibrate(
                model,
                &algorithms,
                run.as_mut()
                    .map(|run| run as &mut dyn FnMut() -> Result<()>),
            )
        })
    }
}

/// Writes the fake-quantized weights over the host's, and disables the weight quantizers.
///
/// @param[in] model  Model that went through mq_quantize().
/// @param[in] flags  0 or MQ_FOLD_KEEP_ATTRIBUTES.
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for an unknown flag; MQ_ERR_STATE before mq_quantize(), or when
///         two layers share the memory of a weight that would be written; MQ_ERR_NUMERIC for NaN or Inf in a weight, or negative values under `unsigned`; MQ_ERR_BUSY. On
///         failure no weight is changed.
///
/// Layers whose weight quantizer is disabled, and neither scales nor rotates, stay as they are, so folding
/// twice changes nothing. The folded weight equals what mq_layer_weight() gave before, bit for bit. With
/// MQ_FOLD_KEEP_ATTRIBUTES the quantizers keep their amax. Compressed weights are passed over. mq writes to the host's weights: no tap of
/// these layers may run meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_fold_weight(model: *mut mq_model, flags: u32) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        with(model, |_, model| {
            check_flags(flags, MQ_FOLD_KEEP_ATTRIBUTES)?;
            apply::fold_weight(model, flags & MQ_FOLD_KEEP_ATTRIBUTES != 0)
        })
    }
}

/// Enables the quantizers whose dotted name matches a wildcard (Python's fnmatch over the whole name).
///
/// @param[in]  model     Model that went through mq_quantize().
/// @param[in]  wildcard  Such as "*input_quantizer" or "model.layers.[01].*".
/// @param[in]  flags     0 or MQ_ALLOW_NO_MATCH.
/// @param[out] matched   Number of quantizers that matched; a sequential one counts once. May be NULL.
///                       Untouched on failure.
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL or an unknown flag; MQ_ERR_NOT_FOUND when
///         nothing matches; MQ_ERR_CONFIG for a wildcard of over 4096 bytes; MQ_ERR_STATE before
///         mq_quantize(); MQ_ERR_BUSY.
///
/// The input quantizer of an embedding (it reads indices) matches, but stays disabled.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_enable_quantizer(
    model: *mut mq_model,
    wildcard: *const c_char,
    flags: u32,
    matched: *mut usize,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        by_wildcard(model, wildcard, flags, matched, |model, select| {
            model.set_enabled(select, true)
        })
    }
}

/// Disables the quantizers whose dotted name matches a wildcard, and stops their rotation.
///
/// @param[in]  model     Model that went through mq_quantize().
/// @param[in]  wildcard  As in mq_enable_quantizer().
/// @param[in]  flags     0 or MQ_ALLOW_NO_MATCH.
/// @param[out] matched   As in mq_enable_quantizer().
/// @return as mq_enable_quantizer().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_disable_quantizer(
    model: *mut mq_model,
    wildcard: *const c_char,
    flags: u32,
    matched: *mut usize,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        by_wildcard(model, wildcard, flags, matched, |model, select| {
            model.set_enabled(select, false)
        })
    }
}

/// Enables the quantizers that a filter selects.
///
/// @param[in]  model    Model that went through mq_quantize().
/// @param[in]  filter   Called once for each quantizer.
/// @param[in]  flags    0 or MQ_ALLOW_NO_MATCH.
/// @param[out] matched  As in mq_enable_quantizer().
/// @return as mq_enable_quantizer(); MQ_ERR_CALLBACK, and nothing changes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_enable_quantizer_if(
    model: *mut mq_model,
    filter: *const mq_filter_fn,
    flags: u32,
    matched: *mut usize,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        by_filter(model, filter, flags, matched, |model, select| {
            model.set_enabled(select, true)
        })
    }
}

/// Disables the quantizers that a filter selects; as mq_enable_quantizer_if().
///
/// @param[in]  model    Model that went through mq_quantize().
/// @param[in]  filter   Called once for each quantizer.
/// @param[in]  flags    0 or MQ_ALLOW_NO_MATCH.
/// @param[out] matched  As in mq_enable_quantizer().
/// @return as mq_enable_quantizer_if().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_disable_quantizer_if(
    model: *mut mq_model,
    filter: *const mq_filter_fn,
    flags: u32,
    matched: *mut usize,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        by_filter(model, filter, flags, matched, |model, select| {
            model.set_enabled(select, false)
        })
    }
}

/// Changes attributes of the quantizers whose dotted name matches a wildcard.
///
/// @param[in]  model       Model that went through mq_quantize().
/// @param[in]  wildcard    As in mq_enable_quantizer().
/// @param[in]  attributes  JSON: an attribute object ({"num_bits": 4}), or a list of them. Without
///                         MQ_REPLACE_ATTRIBUTES only the given keys change, an object goes to every
///                         member of a sequential quantizer, and a list needs a sequential one of
///                         that length. With it, an object makes a plain quantizer and a list a
///                         sequential one.
/// @param[in]  flags       0, or MQ_ALLOW_NO_MATCH | MQ_REPLACE_ATTRIBUTES.
/// @param[out] matched     As in mq_enable_quantizer().
/// @return as mq_enable_quantizer(); MQ_ERR_CONFIG; MQ_ERR_UNSUPPORTED. On failure nothing changes.
///
/// The amax stays where the granularity (axis, block_sizes) does; else the quantizer has none until it
/// is calibrated or set again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_set_quantizer_attributes(
    model: *mut mq_model,
    wildcard: *const c_char,
    attributes: *const c_char,
    flags: u32,
    matched: *mut usize,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        with(model, |_, model| {
            check_flags(flags, MQ_ALLOW_NO_MATCH | MQ_REPLACE_ATTRIBUTES)?;
            let select = Selector::wildcard(guard::text(wildcard, "wildcard")?)?;
            let attributes = guard::text(attributes, "attributes")?;
            let replace = flags & MQ_REPLACE_ATTRIBUTES != 0;
            let count =
                model.matching(&select, flags & MQ_ALLOW_NO_MATCH != 0, |model, targets| {
                    model.set_attributes(targets, attributes, replace)
                })?;
            report(matched, count);
            Ok(())
        })
    }
}

/// Changes attributes of the quantizers that a filter selects; as mq_set_quantizer_attributes().
///
/// @param[in]  model       Model that went through mq_quantize().
/// @param[in]  filter      Called once for each quantizer.
/// @param[in]  attributes  As in mq_set_quantizer_attributes().
/// @param[in]  flags       As in mq_set_quantizer_attributes().
/// @param[out] matched     As in mq_enable_quantizer().
/// @return as mq_set_quantizer_attributes(); MQ_ERR_CALLBACK. On failure nothing changes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_set_quantizer_attributes_if(
    model: *mut mq_model,
    filter: *const mq_filter_fn,
    attributes: *const c_char,
    flags: u32,
    matched: *mut usize,
) -> mq_status {
    // SAFETY: contract above; ownership of the user data is taken before anything can fail.
    unsafe {
        let filter = take_filter(filter);
        with(model, |_, model| {
            check_flags(flags, MQ_ALLOW_NO_MATCH | MQ_REPLACE_ATTRIBUTES)?;
            let filter = filter.ok_or_else(|| Error::InvalidArgument("filter is NULL".into()))?;
            let mut selects = |name: &str| filter.selects(name);
            let select = Selector::filter(&mut selects);
            let attributes = guard::text(attributes, "attributes")?;
            let replace = flags & MQ_REPLACE_ATTRIBUTES != 0;
            let count =
                model.matching(&select, flags & MQ_ALLOW_NO_MATCH != 0, |model, targets| {
                    model.set_attributes(targets, attributes, replace)
                })?;
            report(matched, count);
            Ok(())
        })
    }
}

/// Lets the host change the amax of the quantizers whose dotted name matches a wildcard.
///
/// @param[in]  model     Model that went through mq_quantize().
/// @param[in]  wildcard  As in mq_enable_quantizer(). Quantizers without an amax are passed over.
/// @param[in]  process   Changes the values in place.
/// @param[in]  flags     0 or MQ_ALLOW_NO_MATCH.
/// @param[out] matched   Number of quantizers that matched and have an amax, members of sequential ones
///                       one by one. May be NULL. Untouched on failure.
/// @return as mq_enable_quantizer(), MQ_ERR_NOT_FOUND also when none that matches has an amax;
///         MQ_ERR_NUMERIC when a value ends negative, NaN or Inf;
///         MQ_ERR_CALLBACK. On failure nothing changes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_postprocess_amax(
    model: *mut mq_model,
    wildcard: *const c_char,
    process: *const mq_amax_fn,
    flags: u32,
    matched: *mut usize,
) -> mq_status {
    // SAFETY: contract above; ownership of the user data is taken before anything can fail.
    unsafe {
        let process = take_amax(process);
        by_wildcard(model, wildcard, flags, matched, |model, targets| {
            let process =
                process.ok_or_else(|| Error::InvalidArgument("process is NULL".into()))?;
            let allow_none = flags & MQ_ALLOW_NO_MATCH != 0;
            model.postprocess_amax(targets, allow_none, &mut |name, amax| {
                process.process(name, amax)
            })
        })
    }
}

/// Forgets the amax and the collected statistics of the quantizers whose name matches a wildcard.
///
/// @param[in]  model     Model that went through mq_quantize().
/// @param[in]  wildcard  As in mq_enable_quantizer().
/// @param[in]  flags     0 or MQ_ALLOW_NO_MATCH.
/// @param[out] matched   As in mq_enable_quantizer().
/// @return as mq_enable_quantizer().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_reset_amax(
    model: *mut mq_model,
    wildcard: *const c_char,
    flags: u32,
    matched: *mut usize,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        by_wildcard(model, wildcard, flags, matched, |model, targets| {
            model.reset_amax(targets)
        })
    }
}

/// Describes every quantizer, as text or JSON. Prints nothing: the text is the caller's.
///
/// @param[in]  model     Any model.
/// @param[in]  format    MQ_SUMMARY_TEXT or MQ_SUMMARY_JSON.
/// @param[out] buffer    Receives at most `capacity - 1` bytes and a NUL; NULL when `capacity` is 0.
/// @param[in]  capacity  Bytes of `buffer`.
/// @param[out] length    Length of the whole text without the NUL, also when it did not fit. May be
///                       NULL when `buffer` is not.
/// @return MQ_OK; MQ_ERR_INVALID_ARGUMENT; MQ_ERR_BUSY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_print_quant_summary(
    model: *const mq_model,
    format: i32,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> mq_status {
    // SAFETY: contract above.
    unsafe {
        with(model, |_, model| {
            let format = match format {
                MQ_SUMMARY_TEXT => SummaryFormat::Text,
                MQ_SUMMARY_JSON => SummaryFormat::Json,
                other => {
                    return Err(Error::InvalidArgument(format!(
                        "format is {other}, expected MQ_SUMMARY_TEXT (0) or MQ_SUMMARY_JSON (1)"
                    )));
                }
            };
            copy_out(&model.summary(format), buffer, capacity, length)
        })
    }
}

pub(super) fn check_flags(flags: u32, known: u32) -> Result<()> {
    match flags & !known {
        0 => Ok(()),
        unknown => Err(Error::InvalidArgument(format!(
            "flags holds the unknown bits {unknown:#x}"
        ))),
    }
}

/// # Safety
/// `matched` is NULL or writable.
pub(super) unsafe fn report(matched: *mut usize, count: usize) {
    // SAFETY: contract above.
    if let Some(matched) = unsafe { matched.as_mut() } {
        *matched = count;
    }
}

/// # Safety
/// The contract of the exported functions that call it.
unsafe fn by_wildcard(
    model: *mut mq_model,
    wildcard: *const c_char,
    flags: u32,
    matched: *mut usize,
    verb: impl FnOnce(&mut Model, &[crate::model::Target]) -> Result<usize>,
) -> mq_status {
    // SAFETY: forwarded contract.
    unsafe {
        with(model, |_, model| {
            check_flags(flags, MQ_ALLOW_NO_MATCH)?;
            let select = Selector::wildcard(guard::text(wildcard, "wildcard")?)?;
            let count = model.matching(&select, flags & MQ_ALLOW_NO_MATCH != 0, verb)?;
            report(matched, count);
            Ok(())
        })
    }
}

/// # Safety
/// The contract of the exported functions that call it.
unsafe fn by_filter(
    model: *mut mq_model,
    filter: *const mq_filter_fn,
    flags: u32,
    matched: *mut usize,
    verb: impl FnOnce(&mut Model, &[crate::model::Target]) -> Result<usize>,
) -> mq_status {
    // SAFETY: forwarded contract; ownership of the user data is taken before anything can fail.
    unsafe {
        let filter = take_filter(filter);
        with(model, |_, model| {
            check_flags(flags, MQ_ALLOW_NO_MATCH)?;
            let filter = filter.ok_or_else(|| Error::InvalidArgument("filter is NULL".into()))?;
            let mut selects = |name: &str| filter.selects(name);
            let select = Selector::filter(&mut selects);
            let count = model.matching(&select, flags & MQ_ALLOW_NO_MATCH != 0, verb)?;
            report(matched, count);
            Ok(())
        })
    }
}
