//! SmoothQuant and AWQ against the reference's own results on a small network. Cases are counted.
//!
//! Scales agree to 1e-5; a searched parameter is the reference's, or one whose loss, under the reference's own
//! loss in float64, is not larger by more than 1e-6.

mod network;
mod owned;
mod safetensors_file;

use std::sync::Arc;

use mq::model::{Context, Quantizer};
use mq::tensor::DType;
use network::{BATCHES, Network, check_output, config_of};
use owned::Owned;
use safetensors_file::Tensors;
use serde_json::Value;

fn context(threads: usize) -> Arc<Context> {
    Arc::new(Context::new(threads, Box::new(|_, _| {})).expect("threads"))
}

fn golden() -> (Tensors<'static>, Vec<Value>) {
    let tensors = Tensors::parse(include_bytes!("data/golden/algorithms.safetensors"));
    let text = include_str!("data/golden/algorithms.json");
    let doc: Value = serde_json::from_str(text).expect("golden JSON");
    let cases = doc["cases"].as_array().expect("cases").clone();
    assert_eq!(cases.len(), 17, "the golden file lost its cases");
    (tensors, cases)
}

fn case<'a>(cases: &'a [Value], name: &str) -> &'a Value {
    cases.iter().find(|case| case["name"] == name).expect(name)
}

fn assert_close(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (got - want).abs();
        assert!(
            error <= 1e-5 * want.abs(),
            "{what}[{i}]: {got:e}, expected {want:e}"
        );
    }
}

/// The squared error that the reference's clip search adds up for one block of one row.
fn clip_loss(
    tensors: &Tensors,
    layer: &str,
    pqs: &[f32],
    weight: &[f32],
    row: (usize, usize),
    block: usize,
    amax: f32,
) -> f64 {
    let (inputs, at) = row;
    let start = at % inputs.div_ceil(block) * block;
    let row = at / inputs.div_ceil(block);
    let end = (start + block).min(inputs);
    let scale = 7.0 / amax;
    let delta: Vec<f64> = (start..end)
        .map(|i| {
            let w = weight[row * inputs + i];
            f64::from((w * scale).round_ties_even().clamp(-8.0, 7.0) / scale - w)
        })
        .collect();
    let mut loss = 0.0;
    for batch in 0..BATCHES {
        let x = tensors.get(&format!("x.{layer}.{batch}")).view().to_f32();
        let tokens = x.len() / inputs;
        let step = (tokens / 64).max(1);
        let mut sum = 0.0;
        let mut count = 0;
        for token in (0..tokens).step_by(step) {
            let products = delta.iter().zip(start..end);
            let y: f64 = products
                .map(|(d, i)| d * f64::from(x[token * inputs + i] * pqs[i]))
                .sum();
            sum += y * y;
            count += 1;
        }
        loss += sum / f64::from(count);
    }
    loss
}

/// What was compared, so that a file that lost cases fails.
#[derive(Debug, Default, PartialEq)]
struct Compared {
    quantizers: usize,
    scales: usize,
    weights: usize,
    outputs: usize,
    /// Clipped blocks that differ from the reference's but are as good.
    other_blocks: usize,
}

fn compare(name: &str, shares: bool) -> Compared {
    let (tensors, cases) = golden();
    let case = case(&cases, name);
    let mut network = Network::new(context(2), &tensors, DType::F32, shares);
    network.quantize(&config_of(case)).expect(name);
    assert!(
        network.forwards <= 1,
        "{name}: {} forwards",
        network.forwards
    );
    let clips = name.contains("clip") || name.contains("full");
    let mut compared = Compared::default();
    let listed = case["quantizers"].as_object().expect("quantizers");
    for slot in network.model.slots() {
        let state = slot.state();
        for (i, q) in state.members().iter().enumerate() {
            let member = match state.members().len() {
                1 => slot.name().to_owned(),
                _ => format!("{}.{i}", slot.name()),
            };
            let Some(want) = listed.get(&member) else {
                continue;
            };
            let what = format!("{name} {member}");
            assert_eq!(q.enabled, want["enabled"] == true, "{what}");
            compared.quantizers += 1;
            check_scale(
                &tensors,
                &mut compared,
                q,
                want,
                &what,
                &slot.name().ends_with("input_quantizer"),
            );
            let Some(key) = want["amax"].as_str() else {
                continue;
            };
            let want = tensors.get(key);
            let amax = q.amax.clone().unwrap_or_else(|| panic!("{what}: no amax"));
            assert_eq!(amax.shape(), want.shape, "{what}");
            let want = want.view().to_f32();
            if clips && member.ends_with("weight_quantizer") {
                let layer = member
                    .strip_suffix(".weight_quantizer")
                    .expect("a weight's");
                compared.other_blocks += check_clipped(&network, layer, amax.values(), &want);
            } else {
                assert_close(amax.values(), &want, &what);
            }
        }
    }
    for (layer, weight) in &network.layers {
        if let Some(want) = tensors.find(&format!("{name}.{}.weight_fq", layer.name())) {
            let mut got = Owned::zeros(weight.dtype, &weight.shape);
            layer.weight_into(got.view_mut()).expect(name);
            let (got, want) = (got.view().to_f32(), want.view().to_f32());
            let off = got
                .iter()
                .zip(&want)
                .filter(|(g, w)| (*g - *w).abs() > 1e-5 * w.abs());
            let off = off.count();
            assert!(
                off * 1000 <= got.len(),
                "{name} {}: {off} of {} values",
                layer.name(),
                got.len()
            );
            compared.weights += 1;
        }
        if let Some(want) = tensors.find(&format!("{name}.{}.y0", layer.name())) {
            check_output(&tensors, layer, weight, &want, 2e-3);
            compared.outputs += 1;
        }
    }
    compared
}

fn check_scale(
    tensors: &Tensors,
    compared: &mut Compared,
    q: &Quantizer,
    want: &Value,
    what: &str,
    is_input: &bool,
) {
    match want["pre_quant_scale"].as_str() {
        Some(key) => {
            let got = q
                .pre_quant_scale
                .as_deref()
                .unwrap_or_else(|| panic!("{what}: no scale"));
            assert_close(got, &tensors.get(key).view().to_f32(), what);
            compared.scales += 1;
        }
        // The weight's quantizer keeps the inverse until it is folded.
        None if *is_input => assert_eq!(q.pre_quant_scale, None, "{what}"),
        None => {}
    }
}

/// Clipped blocks are the reference's, or as good; returns how many are others.
fn check_clipped(network: &Network, layer: &str, got: &[f32], want: &[f32]) -> usize {
    let (handle, weight) = network
        .layers
        .iter()
        .find(|(other, _)| other.name() == layer)
        .expect(layer);
    let inputs = weight.shape[1];
    let pqs = handle.input_slot().state().members()[0]
        .pre_quant_scale
        .clone();
    let pqs = pqs.map_or(vec![1.0; inputs], |pqs| pqs.to_vec());
    let plain = weight.view().to_f32();
    let seen: Vec<f32> = plain
        .iter()
        .enumerate()
        .map(|(i, w)| w / pqs[i % inputs])
        .collect();
    let mut others = 0;
    for (at, (got, want)) in got.iter().zip(want).enumerate() {
        if (got - want).abs() <= 1e-5 * want.abs() {
            continue;
        }
        others += 1;
        let loss = |amax| clip_loss(network.tensors, layer, &pqs, &seen, (inputs, at), 32, amax);
        let (mine, theirs) = (loss(*got), loss(*want));
        assert!(
            mine <= theirs * (1.0 + 1e-6),
            "{layer} block {at}: amax {got} has loss {mine:e}, the reference's {want} {theirs:e}"
        );
    }
    others
}

/// Compares with and without shared statistics; `quantizers`, `scales` and `outputs` are what the file has.
fn matches(name: &str, quantizers: usize, scales: usize, outputs: usize, other_blocks: usize) {
    for shares in [false, true] {
        let compared = compare(name, shares);
        let want = Compared {
            quantizers,
            scales,
            weights: 15,
            outputs,
            other_blocks: compared.other_blocks,
        };
        assert_eq!(compared, want, "{name}");
        assert!(compared.other_blocks <= other_blocks, "{compared:?}");
    }
}

#[test]
fn smoothquant_matches() {
    matches("int8_smoothquant", 28, 14, 15, 0);
    matches("int8_smoothquant_05", 28, 14, 0, 0);
}

#[test]
fn awq_scales_match() {
    matches("int4_awq_lite", 28, 14, 15, 0);
    matches("int4_awq_lite_005", 28, 14, 0, 0);
    matches("w4a8_awq", 42, 14, 15, 0);
}

#[test]
fn awq_clipping_matches() {
    // A few blocks have candidates whose losses differ by less than float32 can tell.
    matches("int4_awq_clip", 14, 0, 0, 10);
    matches("int4_awq_full", 28, 14, 0, 10);
}

#[test]
fn mse_matches() {
    matches("int4_mse", 14, 0, 0, 0);
    matches("int8_mse", 28, 0, 0, 0);
}
