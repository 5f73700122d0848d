//! Fake quantization of one tensor without a model.

use super::amax::{self, Amax};
use super::attributes::parse_cfg;
use super::context::Context;
use super::quantization::apply;
use super::quantizer::Quantizer;
use crate::config::Cfg;
use crate::error::{Error, Result};
use crate::kernels::copy;
use crate::tensor::TensorView;

/// Fake-quantizes `x` into `out` under JSON attributes, with a given amax or the tensor's own.
pub fn fake_quant_once(
    context: &Context,
    x: TensorView,
    attributes: &str,
    amax: Option<TensorView>,
    out: TensorView,
) -> Result<()> {
    x.check_out(&out).map_err(Error::InvalidArgument)?;
    let machine = context.machine();
    machine.check_place(&x)?;
    machine.check_place(&out)?;
    let cfg = parse_cfg(attributes)?;
    let members = match cfg {
        Cfg::One(one) => vec![*one],
        Cfg::Sequential(members) => members,
    };
    if amax.is_some() && members.len() > 1 {
        return Err(Error::InvalidArgument(
            "amax must be NULL for a list of attributes".into(),
        ));
    }
    if members.iter().any(|member| member.rotate.enable) {
        return Err(Error::Unsupported(
            "rotate without a model; register a quantizer and let the tensor pass it".into(),
        ));
    }
    let mut from = x;
    for attributes in members {
        let mut quantizer = Quantizer::new(attributes);
        if let Some(amax) = &amax {
            machine.check_place(amax)?;
            let values = amax.host_values().map_err(Error::InvalidArgument)?;
            amax::check_values(&values, "x")?;
            quantizer.amax = Some(Amax::new(values, amax.shape().dims()));
        }
        if quantizer.enabled {
            // Without a model there is no state that could be wrong: the arguments do not fit.
            apply(machine, &quantizer, "x", &from, &out).map_err(|error| match error {
                Error::State(text) => Error::InvalidArgument(text),
                other => other,
            })?;
        } else {
            copy::run(machine, &from, &out);
        }
        from = out;
    }
    Ok(machine.take_failure()?)
}
