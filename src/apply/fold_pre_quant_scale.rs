//! Moves the `pre_quant_scale` of activations into what produces them, so that it costs nothing at run time:
//! the gain of a norm, or the rows of a linear layer.
//!
//! All registered readers of the activation get the same factors, the mean of theirs, as in the reference.
//! A weight whose factors change keeps the clipping of its blocks: its amax changes as its largest
//! magnitudes do.

use std::sync::Arc;

use crate::calibrate::rebalance;
use crate::error::{Error, Result};
use crate::kernels::row_scale::{self, Factors};
use crate::kernels::{Machine, absmax, fetch};
use crate::model::{Layer, LayerKind, Model, Norm, Slot};
use crate::tensor::TensorView;

/// Where the factors of some layers go.
enum Producer {
    Norm(Norm),
    Layer(Arc<Layer>),
}

/// An activation: what produces it, who reads it, and the factors it gets.
struct Activation {
    producer: Producer,
    readers: Vec<Arc<Layer>>,
    factors: Vec<f32>,
}

/// Folds wherever the host has named a producer; returns how many layers no longer scale their input.
///
/// Everything that can fail is tried before anything of the host's is written.
pub fn fold_pre_quant_scale(model: &mut Model) -> Result<usize> {
    model.check_quantized()?;
    let activations = activations(model)?;
    check_apart(&activations)?;
    // What taps on a GPU have left to be reported must not come in between.
    model.synchronize()?;
    for activation in &activations {
        check(model, activation)?;
    }
    model.transaction(|model| {
        let mut folded = 0;
        for activation in &activations {
            rebalance::readers(model, &activation.readers, &activation.factors)?;
            folded += activation.readers.len();
        }
        for activation in &activations {
            if let Producer::Layer(layer) = &activation.producer {
                rebalance::producer(model, layer, &activation.factors)?;
            }
        }
        if folded > 0 {
            rebalance::share(model);
        }
        let machine = model.context().machine();
        let factors = activations
            .iter()
            .map(|activation| Factors::new(machine, &activation.factors));
        let factors = factors.collect::<std::result::Result<Vec<_>, _>>()?;
        // Only the host's memory is left: nothing there asks for memory, or can fail but for a launch.
        model.refresh_gpu()?;
        for (activation, factors) in activations.iter().zip(&factors) {
            match &activation.producer {
                Producer::Norm(norm) => {
                    row_scale::gain(machine, &norm.gain, factors, norm.adds_one);
                    if let Some(bias) = &norm.bias {
                        row_scale::gain(machine, bias, factors, false);
                    }
                }
                Producer::Layer(layer) => rebalance::scale_rows(machine, layer, factors),
            }
        }
        Ok(folded)
    })
}

/// The activations that have a producer and a reader with factors.
fn activations(model: &Model) -> Result<Vec<Activation>> {
    let mut found: Vec<(usize, Activation)> = Vec::new();
    for layer in model.layers() {
        let spec = layer.spec();
        let (key, producer) = match (&spec.norm, &spec.producer) {
            (Some(norm), _) => (norm.gain.address() as usize, Producer::Norm(*norm)),
            (None, Some(name)) => {
                let producer = model.find_layer(name).map_err(|_| {
                    Error::NotFound(format!(
                        "layer `{name}`, which `{}` names as its producer",
                        layer.name()
                    ))
                })?;
                (Arc::as_ptr(&producer) as usize, Producer::Layer(producer))
            }
            (None, None) => continue,
        };
        match found.iter_mut().find(|(other, _)| *other == key) {
            Some((_, activation)) => {
                check_same(
                    &activation.producer,
                    &producer,
                    &activation.readers[0],
                    layer,
                )?;
                activation.readers.push(Arc::clone(layer));
            }
            None => {
                let readers = vec![Arc::clone(layer)];
                let factors = Vec::new();
                found.push((
                    key,
                    Activation {
                        producer,
                        readers,
                        factors,
                    },
                ));
            }
        }
    }
    let mut activations: Vec<Activation> = found.into_iter().map(|(_, a)| a).collect();
    activations.retain(|activation| activation.readers.iter().any(|r| factors_of(r).is_some()));
    for activation in &mut activations {
        activation.factors = mean(&activation.readers)?;
    }
    Ok(activations)
}

/// Layers that name the same gain must mean the same norm.
fn check_same(one: &Producer, other: &Producer, first: &Layer, layer: &Layer) -> Result<()> {
    let (Producer::Norm(one), Producer::Norm(other)) = (one, other) else {
        return Ok(());
    };
    let bias = |norm: &Norm| {
        norm.bias
            .map(|bias| (bias.address() as usize, bias.dtype()))
    };
    let gain = |norm: &Norm| (norm.gain.dtype(), *norm.gain.shape());
    if gain(one) == gain(other) && bias(one) == bias(other) && one.adds_one == other.adds_one {
        return Ok(());
    }
    Err(Error::State(format!(
        "`{}` and `{}` name the same norm_gain, but another type, norm_bias or norm_flags; they must describe the \
         same norm",
        first.name(),
        layer.name()
    )))
}

/// Nothing that folding writes to may share memory with anything else of it.
fn check_apart(activations: &[Activation]) -> Result<()> {
    let mut written: Vec<(&str, TensorView)> = Vec::new();
    for activation in activations {
        let reader = activation.readers[0].name();
        let tensors = match &activation.producer {
            Producer::Norm(norm) => vec![Some(norm.gain), norm.bias],
            Producer::Layer(layer) => vec![layer.spec().weight, layer.spec().bias],
        };
        written.extend(tensors.into_iter().flatten().map(|tensor| (reader, tensor)));
    }
    for (i, (reader, tensor)) in written.iter().enumerate() {
        if let Some((other, _)) = written[..i]
            .iter()
            .find(|(_, other)| other.overlaps(tensor))
        {
            return Err(Error::State(format!(
                "what comes before `{reader}` and before `{other}` shares memory, and folding would write to it twice"
            )));
        }
    }
    Ok(())
}

fn factors_of(layer: &Layer) -> Option<Arc<[f32]>> {
    let state = layer.input_slot().state();
    state.members().first()?.pre_quant_scale.clone()
}

/// The mean of the readers' factors; one that has none counts as it is once it has: all alike.
fn mean(readers: &[Arc<Layer>]) -> Result<Vec<f32>> {
    let all: Vec<Arc<[f32]>> = readers.iter().filter_map(|r| factors_of(r)).collect();
    let channels = all[0].len();
    for reader in readers {
        let inputs = reader.input_slot().channels().unwrap_or(channels);
        if inputs != channels || all.iter().any(|factors| factors.len() != channels) {
            return Err(Error::State(format!(
                "`{}` has {inputs} inputs, but others that read the same norm or layer have {channels}",
                reader.name()
            )));
        }
    }
    if all.iter().all(|factors| *factors == all[0]) {
        return Ok(all[0].to_vec());
    }
    let mean =
        |i: usize| all.iter().map(|factors| f64::from(factors[i])).sum::<f64>() / all.len() as f64;
    Ok((0..channels).map(|i| mean(i) as f32).collect())
}

/// Refuses what could not be carried out.
fn check(model: &Model, activation: &Activation) -> Result<()> {
    let factors = &activation.factors;
    for reader in &activation.readers {
        let changes = factors_of(reader).as_deref() != Some(&factors[..]);
        if changes
            && reader
                .weight_slot()
                .is_some_and(|slot| slot.packed().is_some())
        {
            return Err(Error::State(format!(
                "`{}`: its weight is compressed with other factors than those of the layers beside it; fold before \
                 mq_compress()",
                reader.name()
            )));
        }
        let is_folded = |slot: &Arc<Slot>| slot.state().members().iter().any(|q| q.is_folded);
        if changes && reader.weight_slot().is_some_and(is_folded) {
            return Err(Error::State(format!(
                "`{}`: its weight is folded already, with other factors than those of the layers beside it; fold the \
                 pre_quant_scale first",
                reader.name()
            )));
        }
    }
    match &activation.producer {
        Producer::Norm(norm) => {
            let machine = model.context().machine();
            check_gain(
                machine,
                &norm.gain,
                factors,
                norm.adds_one,
                &activation.readers[0],
            )?;
            let bias = norm.bias.as_ref();
            bias.map_or(Ok(()), |bias| {
                check_gain(machine, bias, factors, false, &activation.readers[0])
            })
        }
        Producer::Layer(layer) => check_layer(model, layer, factors),
    }
}

fn check_gain(
    machine: &Machine,
    gain: &TensorView,
    factors: &[f32],
    adds_one: bool,
    reader: &Layer,
) -> Result<()> {
    let mut memory = Vec::new();
    let values = fetch::to_host(machine, gain, &mut memory).to_f32();
    let scaled = values
        .iter()
        .zip(factors)
        .map(|(g, p)| row_scale::scaled(*g, *p, adds_one));
    let stored: Vec<f32> = scaled.map(|value| gain.dtype().round(value)).collect();
    match stored.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(i) => Err(Error::Numeric(format!(
            "the norm before `{}`: its value {} at {i} times the factor {} is no finite {}",
            reader.name(),
            values[i],
            factors[i],
            gain.dtype()
        ))),
    }
}

fn check_layer(model: &Model, layer: &Layer, factors: &[f32]) -> Result<()> {
    let name = layer.name();
    let state = |text: String| Err(Error::State(format!("producer `{name}`: {text}")));
    let Some((slot, weight)) = layer
        .weight_slot()
        .and_then(|slot| Some((slot, slot.weight()?)))
    else {
        return state(
            "its weight is compressed, or it has none; fold before mq_compress()".to_owned(),
        );
    };
    let rows = weight.shape().dims().first().copied().unwrap_or(0);
    if layer.spec().kind != LayerKind::Linear || rows != factors.len() {
        return state(format!(
            "its output has {rows} channels, but what reads it has {}",
            factors.len()
        ));
    }
    let states = slot.state();
    if states.members().iter().any(|q| q.is_folded) {
        return state("its weight is folded already; fold the pre_quant_scale first".to_owned());
    }
    if layer.output_slot().state().is_enabled() {
        return state(
            "its output quantizer is enabled, and was calibrated to the output as it is".to_owned(),
        );
    }
    let tensors = [Some(weight), layer.spec().bias.as_ref()];
    for tensor in tensors.into_iter().flatten() {
        let largest = absmax::of_tensor(model.context().machine(), tensor);
        let highest = factors.iter().copied().fold(0.0, f32::max);
        if !tensor.dtype().round(largest * highest).is_finite() {
            return Err(Error::Numeric(format!(
                "producer `{name}`: {largest} times a factor of {highest} is no finite {}",
                tensor.dtype()
            )));
        }
    }
    let shares = |other: &Arc<Layer>| {
        let memory = other.weight_slot().and_then(|slot| slot.weight());
        other.name() != name && memory.is_some_and(|memory| memory.overlaps(weight))
    };
    match model.layers().iter().find(|other| shares(other)) {
        None => Ok(()),
        Some(other) => state(format!(
            "its weight shares memory with that of `{}`",
            other.name()
        )),
    }
}
