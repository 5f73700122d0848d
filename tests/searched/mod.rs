//! Searches over the recorded network that tests start, and what they compare afterwards.
#![allow(dead_code, reason = "no test file uses all of it")]

use std::path::PathBuf;
use std::sync::Arc;

use mq::auto_quantize::auto_quantize;
use mq::auto_quantize::score::Method;
use mq::auto_quantize::search::Search;
use mq::auto_quantize::settings::{Settings, read_constraints, read_formats};
use mq::error::Result;
use mq::model::{Context, ContextSettings, Model};
use mq::tensor::DType;

use crate::network::Network;
use crate::owned::Owned;
use crate::recorded::Recorded;
use crate::safetensors_file::Tensors;

static TENSORS: &[u8] = include_bytes!("../data/golden/algorithms.safetensors");

/// INT8, and INT4 in blocks that fit the small network; neither balances channels.
pub const FORMATS: &str = r#"["INT8_DEFAULT_CFG", {"quant_cfg": {
    "*weight_quantizer": {"num_bits": 4, "block_sizes": {"-1": 16, "type": "static"}},
    "*input_quantizer": {"enable": false}, "default": {"enable": false}}, "algorithm": "max"}]"#;

/// AWQ and SmoothQuant, whose factors the weights carry.
pub const BALANCED: &str = r#"["INT8_SMOOTHQUANT_CFG", {"quant_cfg": {
    "*weight_quantizer": {"num_bits": 4, "block_sizes": {"-1": 16, "type": "static"}},
    "*input_quantizer": {"enable": false}, "default": {"enable": false}},
    "algorithm": {"method": "awq_lite", "alpha_step": 0.25}}]"#;

pub fn context(threads: usize, memory_limit_bytes: u64) -> Arc<Context> {
    let settings = ContextSettings {
        threads,
        memory_limit_bytes,
        log: Box::new(|_, _| {}),
        progress: None,
        gpu: None,
    };
    Arc::new(Context::with(settings).expect("threads"))
}

pub fn settings(formats: &str, bits: f64) -> Settings {
    Settings {
        constraints: read_constraints(Some(&format!(r#"{{"effective_bits": {bits}}}"#)))
            .expect("constraints"),
        recipes: read_formats(Some(formats)).expect("formats"),
        num_calib_steps: 4,
        num_score_steps: 4,
        ..Settings::new().expect("defaults")
    }
}

/// A network whose model is apart, so that a host can read the one while a search changes the other.
pub struct Apart {
    pub network: Network<'static>,
    pub model: Model,
}

impl Apart {
    pub fn new(context: Arc<Context>, shares: bool) -> Self {
        let tensors = Box::leak(Box::new(Tensors::parse(TENSORS)));
        let mut network = Network::new(Arc::clone(&context), tensors, DType::F32, shares);
        let model = std::mem::replace(&mut network.model, Model::new(context));
        Self { network, model }
    }

    pub fn search(
        &mut self,
        settings: Settings,
        change: impl FnOnce(&mut Recorded),
    ) -> Result<Search> {
        let mut host = Recorded::new(&self.network);
        change(&mut host);
        auto_quantize(&mut self.model, settings, &mut host, None)
    }

    /// What every quantizer holds.
    pub fn states(&self) -> Vec<String> {
        self.model
            .slots()
            .iter()
            .map(|slot| format!("{:?}", slot.state()))
            .collect()
    }

    /// Every weight as its layer uses it.
    pub fn weights(&self) -> Vec<Vec<u32>> {
        let of = |(layer, weight): &(Arc<mq::model::Layer>, Owned)| {
            let mut out = Owned::zeros(weight.dtype, &weight.shape);
            layer.weight_into(out.view_mut()).expect("a weight");
            out.view().to_f32().iter().map(|w| w.to_bits()).collect()
        };
        self.network.layers.iter().map(of).collect()
    }
}

pub fn plain(method: Method) -> String {
    let settings = Settings {
        method,
        ..settings(FORMATS, 7.0)
    };
    let mut apart = Apart::new(context(1, 0), true);
    apart
        .search(settings, |_| {})
        .expect("a search")
        .to_json()
        .to_string()
}

pub fn file(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("mq-{}-{name}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}
