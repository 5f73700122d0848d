//! A few linear layers with invented weights and activations, and a forward that passes them.
#![allow(dead_code, reason = "no test file uses all of it")]

use std::sync::{Arc, Mutex};

use mq::calibrate;
use mq::config::{Algorithm, QuantizeConfig};
use mq::error::{Error, Result};
use mq::model::{
    Context, ContextSettings, Layer, LayerKind, LayerSpec, LogLevel, Mode, Model, SlotState,
};
use mq::tensor::DType;

use crate::owned::Owned;

/// 4-bit integers in blocks of 32, of which 80 channels are no multiple.
pub const INT4_BLOCKS: &str = r#"{"num_bits": 4, "block_sizes": {"-1": 32}}"#;
pub const INT8: &str = r#"{"num_bits": 8, "axis": null}"#;
pub const INT8_ROWS: &str = r#"{"num_bits": 8, "axis": 0}"#;
pub const FP8: &str = r#"{"num_bits": [4, 3], "axis": null}"#;
pub const NVFP4: &str =
    r#"{"num_bits": [2, 1], "block_sizes": {"-1": 16, "type": "dynamic", "scale_bits": [4, 3]}}"#;

/// Weights and inputs in these formats (an empty one is off), calibrated by `algorithm`, which is JSON.
pub fn config(weight: &str, input: &str, algorithm: &str) -> QuantizeConfig {
    let entry = |name: &str, cfg: &str| match cfg {
        "" => String::new(),
        cfg => format!(r#", {{"quantizer_name": "*{name}_quantizer", "cfg": {cfg}}}"#),
    };
    let text = format!(
        r#"{{"quant_cfg": [{{"quantizer_name": "*", "enable": false}}{}{}], "algorithm": {algorithm}}}"#,
        entry("weight", weight),
        entry("input", input),
    );
    QuantizeConfig::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A context that keeps its warnings.
pub fn context(threads: usize, limit: u64) -> (Arc<Context>, Arc<Mutex<Vec<String>>>) {
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&warnings);
    let settings = ContextSettings {
        threads,
        gpu: None,
        memory_limit_bytes: limit,
        log: Box::new(move |level, text| {
            if level == LogLevel::Warning {
                kept.lock().expect("no panic").push(text.to_owned());
            }
        }),
        progress: None,
    };
    (
        Arc::new(Context::with(settings).expect("threads")),
        warnings,
    )
}

/// Values in (-1, 1) that look random; the same for the same seed.
pub fn noise(shape: &[usize], seed: u64) -> Owned {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(next).collect();
    of_values(shape, &values)
}

/// A float32 tensor.
pub fn of_values(shape: &[usize], values: &[f32]) -> Owned {
    let mut tensor = Owned::zeros(DType::F32, shape);
    for (element, value) in tensor.bytes_mut().chunks_exact_mut(4).zip(values) {
        element.copy_from_slice(&value.to_ne_bytes());
    }
    tensor
}

/// Changes every value of a float32 tensor, given its channel.
pub fn change(tensor: &mut Owned, change: impl Fn(usize, f32) -> f32) {
    let channels = tensor.shape.last().copied().unwrap_or(1);
    let values = tensor.view().to_f32();
    let changed: Vec<f32> = values
        .iter()
        .enumerate()
        .map(|(i, value)| change(i % channels, *value))
        .collect();
    *tensor = of_values(&tensor.shape.clone(), &changed);
}

/// Some channels are much larger than others, as in language models.
pub fn activations(shape: &[usize], seed: u64) -> Owned {
    let mut x = noise(shape, seed);
    change(&mut x, |channel, value| match channel % 11 {
        0 => 12.0 * value,
        1 | 2 => 0.1 * value,
        _ => value,
    });
    x
}

/// A layer and what passes it.
pub struct Part {
    /// The weight is set when it is registered.
    pub spec: LayerSpec,
    pub weight: Owned,
    pub batches: Vec<Owned>,
}

impl Part {
    /// A linear layer; layers that share an input have the same batches.
    pub fn linear(name: &str, [rows, channels]: [usize; 2], shared_input: Option<&str>) -> Self {
        let seed = |text: &str| text.bytes().fold(7u64, |seed, b| seed * 31 + u64::from(b));
        let input = seed(shared_input.unwrap_or(name)) + channels as u64;
        Self {
            spec: LayerSpec {
                shared_input_group: shared_input.map(str::to_owned),
                ..LayerSpec::new(name, LayerKind::Linear)
            },
            weight: noise(&[rows, channels], seed(name)),
            batches: (0..3)
                .map(|batch| {
                    activations(&[2, 5 + 4 * batch, channels], input + 1000 * batch as u64)
                })
                .collect(),
        }
    }

    /// The same in another type.
    pub fn cast(mut self, dtype: DType) -> Self {
        self.weight = self.weight.cast(dtype);
        self.batches = self.batches.iter().map(|x| x.cast(dtype)).collect();
        self
    }
}

/// The layers, registered; the memory of the weights is here.
pub struct Stack {
    pub model: Model,
    pub layers: Vec<Arc<Layer>>,
    pub parts: Vec<Part>,
    /// How often the forward has run.
    pub forwards: usize,
}

impl Stack {
    pub fn new(context: Arc<Context>, mut parts: Vec<Part>) -> Self {
        let mut model = Model::new(context);
        let mut layers = Vec::new();
        for part in &mut parts {
            part.spec.weight = Some(part.weight.view_mut());
            layers.push(model.add_layer(part.spec.clone()).expect("a new layer"));
        }
        Self {
            model,
            layers,
            parts,
            forwards: 0,
        }
    }

    /// Quantizes with a forward that passes every batch.
    pub fn quantize(&mut self, config: &QuantizeConfig) -> Result<()> {
        let (layers, parts, forwards) = (&self.layers, &self.parts, &mut self.forwards);
        let mut forward = || pass(layers, parts, forwards);
        calibrate::quantize(&mut self.model, config, Some(&mut forward))
    }

    /// Calibrates again, with the same data.
    pub fn calibrate(&mut self, algorithms: &str) -> Result<()> {
        let algorithms = Algorithm::parse_text(algorithms).expect("algorithms");
        let (layers, parts, forwards) = (&self.layers, &self.parts, &mut self.forwards);
        let mut forward = || pass(layers, parts, forwards);
        calibrate::calibrate(&mut self.model, &algorithms, Some(&mut forward))
    }

    /// Everything that is known of every quantizer.
    pub fn states(&self) -> Vec<Arc<SlotState>> {
        states(&self.model)
    }

    /// Every bit of the host's weights.
    pub fn weight_bytes(&mut self) -> Vec<Vec<u8>> {
        let parts = self.parts.iter_mut();
        parts.map(|part| part.weight.bytes_mut().to_vec()).collect()
    }
}

/// One forward: batch after batch, layer after layer.
pub fn pass(layers: &[Arc<Layer>], parts: &[Part], forwards: &mut usize) -> Result<()> {
    *forwards += 1;
    let batches = parts.iter().map(|part| part.batches.len()).max();
    for batch in 0..batches.unwrap_or(0) {
        for (layer, part) in layers.iter().zip(parts) {
            if let Some(x) = part.batches.get(batch) {
                layer.input(x.view(), None)?;
            }
        }
    }
    Ok(())
}

pub fn states(model: &Model) -> Vec<Arc<SlotState>> {
    model.slots().iter().map(|slot| slot.state()).collect()
}

/// The states are the same to the last bit (for none holds a NaN).
pub fn assert_same(got: &[Arc<SlotState>], want: &[Arc<SlotState>], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!(
            got == want,
            "{what}: slot {i} is\n{got:?}\nexpected\n{want:?}"
        );
    }
}

/// What a failed verb must not have changed.
pub struct Before {
    states: Vec<Arc<SlotState>>,
    weights: Vec<Vec<u8>>,
    mode: Mode,
}

pub fn before(stack: &mut Stack) -> Before {
    Before {
        states: stack.states(),
        weights: stack.weight_bytes(),
        mode: stack.model.mode(),
    }
}

pub fn assert_unchanged(stack: &mut Stack, before: &Before, what: &str) {
    assert_same(&stack.states(), &before.states, what);
    assert!(stack.weight_bytes() == before.weights, "{what}: weights");
    assert_eq!(stack.model.mode(), before.mode, "{what}");
    // Nothing is left hanging in the taps, and they work.
    pass(&stack.layers, &stack.parts, &mut 0)
        .or_else(|error| match &error {
            Error::Numeric(_) => Ok(()),
            _ => Err(error),
        })
        .expect(what);
}

/// Three layers, of which two read one activation.
pub fn three_layers() -> Vec<Part> {
    vec![
        Part::linear("a", [24, 80], Some("x")),
        Part::linear("b", [16, 80], Some("x")),
        Part::linear("c", [8, 48], None),
    ]
}

/// `x Wᵀ` in float64.
pub fn product(x: &[f32], w: &[f32], channels: usize) -> Vec<f64> {
    let mut y = Vec::new();
    for x in x.chunks_exact(channels) {
        for w in w.chunks_exact(channels) {
            let products = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
            y.push(products.sum());
        }
    }
    y
}
