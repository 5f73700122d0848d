//! A model of layers of many kinds whose formats are searched, in host memory or on a GPU: the same numbers in both.
#![allow(dead_code, reason = "no test file uses all of it")]

mod kind;
mod passes;
mod times;

use std::sync::Arc;

use mq::auto_quantize::auto_quantize;
use mq::auto_quantize::score::Method;
use mq::auto_quantize::search::Search;
use mq::auto_quantize::settings::{Settings, read_constraints, read_formats};
use mq::error::Result;
use mq::kernels::cuda::Gpu;
use mq::model::{Context, ContextSettings, Layer, LayerForward, LayerSpec, Model};

use kind::noise;
pub use kind::{Kind, convolutions, hosts, linears};
use passes::Passes;
pub use passes::Probe;
use times::Times;

use crate::on_gpu::{self, OnGpu, Place};
use crate::owned::Owned;

/// A weight, where it lives.
enum Weight {
    Host(Owned),
    Gpu(OnGpu),
}

/// The model.
pub struct Kinds {
    pub place: Place,
    pub model: Model,
    pub layers: Vec<(Arc<Layer>, Kind)>,
    weights: Vec<Weight>,
}

impl Kinds {
    /// In host memory.
    pub fn here(kinds: &[Kind]) -> Self {
        let context = Context::new(1, Box::new(|_, _| {})).expect("a thread");
        Self::new(Place::Host(Arc::new(context)), kinds)
    }

    /// On a GPU.
    pub fn there(gpu: &Arc<Gpu>, kinds: &[Kind]) -> Self {
        Self::there_apart(gpu, gpu, kinds)
    }

    /// The same, where the host's tensors are not of the library's memory.
    pub fn there_apart(hosts: &Arc<Gpu>, gpu: &Arc<Gpu>, kinds: &[Kind]) -> Self {
        let context = on_gpu::context(gpu);
        Self::new(Place::Gpu(Arc::clone(hosts), context), kinds)
    }

    /// The same, where the library may keep so many bytes of activations.
    pub fn there_within(gpu: &Arc<Gpu>, kinds: &[Kind], memory_limit_bytes: u64) -> Self {
        let settings = ContextSettings {
            threads: 1,
            memory_limit_bytes,
            log: Box::new(|_, _| {}),
            progress: None,
            gpu: Some(Arc::clone(gpu)),
        };
        let context = Arc::new(Context::with(settings).expect("one thread"));
        Self::new(Place::Gpu(Arc::clone(gpu), context), kinds)
    }

    /// Every layer is called a second time in each step, with another input.
    pub fn used_twice(mut self) -> Self {
        self.layers.extend_from_within(..);
        self
    }

    fn new(place: Place, kinds: &[Kind]) -> Self {
        let mut all = Self {
            model: Model::new(Arc::clone(place.context())),
            place,
            layers: Vec::new(),
            weights: Vec::new(),
        };
        for (seed, kind) in kinds.iter().enumerate() {
            let values = noise(kind.types[1], &kind.weight, seed + 40);
            let mut weight = match &all.place {
                Place::Host(_) => Weight::Host(values),
                Place::Gpu(gpu, _) => Weight::Gpu(OnGpu::copy_of(gpu, &values)),
            };
            let view = match &mut weight {
                Weight::Host(values) => values.view_mut(),
                Weight::Gpu(there) => there.view(),
            };
            let forward: Option<Arc<dyn LayerForward>> = match kind.is_hosts {
                true => Some(Arc::new(Times)),
                false => None,
            };
            let spec = LayerSpec {
                weight: Some(view),
                convolution: kind.moves,
                forward,
                ..LayerSpec::new(kind.name, kind.kind)
            };
            let layer = all.model.add_layer(spec).expect(kind.name);
            all.layers.push((layer, kind.clone()));
            all.weights.push(weight);
        }
        all
    }

    /// A search over as many batches as the settings ask for.
    pub fn search(&mut self, settings: Settings) -> Result<Search> {
        let mut host = self.passes();
        auto_quantize(&mut self.model, settings, &mut host, None)
    }

    /// The same, with a number at the second element of a layer's gradient.
    pub fn search_spoiled(
        &mut self,
        settings: Settings,
        layer: usize,
        value: f32,
    ) -> Result<Search> {
        let mut host = self.passes();
        host.spoil = Some((layer, value));
        auto_quantize(&mut self.model, settings, &mut host, None)
    }

    fn passes(&self) -> Passes {
        Passes {
            place: match &self.place {
                Place::Host(context) => Place::Host(Arc::clone(context)),
                Place::Gpu(gpu, context) => Place::Gpu(Arc::clone(gpu), Arc::clone(context)),
            },
            layers: self.layers.clone(),
            spoil: None,
            apart: None,
            probe: None,
            is_probed: false,
            logits: None,
        }
    }

    /// The same, with the gradient of a layer in host memory.
    pub fn search_apart(&mut self, settings: Settings, layer: usize) -> Result<Search> {
        let mut host = self.passes();
        host.apart = Some(layer);
        auto_quantize(&mut self.model, settings, &mut host, None)
    }

    /// The same, with what `probe` reads around every tap of the passes that have gradients.
    pub fn search_probed(&mut self, settings: Settings, probe: Arc<Probe>) -> Result<Search> {
        let mut host = self.passes();
        host.probe = Some(probe);
        auto_quantize(&mut self.model, settings, &mut host, None)
    }

    /// What every quantizer holds.
    pub fn states(&self) -> Vec<String> {
        let slots = self.model.slots().iter();
        slots.map(|slot| format!("{:?}", slot.state())).collect()
    }
}

/// A search of two formats, one with quantized inputs; `bits` is the budget.
pub fn settings(method: Method, formats: &str, bits: f64) -> Settings {
    Settings {
        method,
        constraints: read_constraints(Some(&format!(r#"{{"effective_bits": {bits}}}"#)))
            .expect("constraints"),
        recipes: read_formats(Some(formats)).expect("formats"),
        num_calib_steps: 2,
        num_score_steps: 2,
        ..Settings::new().expect("defaults")
    }
}

/// INT8, and INT4 that leaves inputs as they are.
pub const FORMATS: &str = r#"["INT8_DEFAULT_CFG", {"quant_cfg": {
    "*weight_quantizer": {"num_bits": 4, "axis": 0}, "*input_quantizer": {"enable": false},
    "default": {"enable": false}}, "algorithm": "max"}]"#;

/// Those that multiply inputs, and divide weights.
pub const BALANCED: &str = r#"["INT8_SMOOTHQUANT_CFG", {"quant_cfg": {
    "*weight_quantizer": {"num_bits": 4, "block_sizes": {"-1": 16, "type": "static"}},
    "*input_quantizer": {"num_bits": [4, 3], "type": "dynamic"}, "default": {"enable": false}},
    "algorithm": {"method": "awq_lite", "alpha_step": 0.5}}]"#;

/// Both searches choose the same; their scores differ by `bound` of each at most.
pub fn assert_alike(got: &Search, want: &Search, bound: f64, what: &str) {
    let (got, want) = (got.to_json(), want.to_json());
    assert_eq!(got["best"]["recipe"], want["best"]["recipe"], "{what}");
    let stats = want["candidate_stats"].as_object().expect("stats");
    let mut compared = 0;
    for (group, stats) in stats {
        let scores = stats["scores"].as_array().expect("scores");
        for (at, want) in scores.iter().enumerate() {
            let want = want.as_f64().expect("a score");
            let got = got["candidate_stats"][group]["scores"][at].as_f64();
            let got = got.expect("a score");
            assert!(
                (got - want).abs() <= bound * want.abs(),
                "{what} {group} {at}: {got:e} {want:e}"
            );
            compared += usize::from(want > 0.0);
        }
    }
    assert!(compared >= 2 * stats.len(), "{what}: scores of nothing");
}
