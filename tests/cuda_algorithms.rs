//! Every algorithm on a model whose tensors live on a GPU, beside the same model in host memory. Maxima, histograms and
//! what is searched in a weight alone are equal to the last bit; what comes from sums is within their error, and the
//! choices made by it are the same.

mod network;
mod on_gpu;
mod owned;
mod recorded;
mod safetensors_file;
mod there;

use std::sync::Arc;

use mq::auto_quantize::auto_quantize;
use mq::auto_quantize::host::Host;
use mq::auto_quantize::score::Method;
use mq::auto_quantize::settings::{Settings, read_constraints, read_formats};
use mq::error::{Error, Result};
use mq::tensor::{DType, TensorView};
use on_gpu::OnGpu;
use recorded::Recorded;
use there::{There, config, here, states};

const INT8: &str = r#""*weight_quantizer": {"num_bits": 8, "axis": 0}, "*input_quantizer": {"num_bits": 8, "axis": null}"#;
const INT4: &str =
    r#""*weight_quantizer": {"num_bits": 4, "block_sizes": {"-1": 16, "type": "static"}}"#;
const NVFP4: &str = r#""*weight_quantizer": {"num_bits": [2, 1], "block_sizes": {"-1": 16, "type": "static", "scale_bits": [4, 3]}}"#;

fn with(quantizers: &str, algorithm: &str) -> String {
    format!(
        r#"{{"quant_cfg": {{{quantizers}, "default": {{"enable": false}}}}, "algorithm": {algorithm}}}"#
    )
}

#[test]
fn maxima_histograms_and_searches_in_weights_are_equal() {
    let Some(gpu) = on_gpu::gpu(std::ptr::null_mut(), None) else {
        return;
    };
    for (quantizers, algorithm) in [
        (INT8, r#"{"method": "mse"}"#),
        (INT4, r#"{"method": "mse"}"#),
        (NVFP4, r#"{"method": "mse", "fp8_scale_sweep": true}"#),
        (INT8, r#"{"method": "histogram", "amax_method": "entropy"}"#),
        (INT8, r#"{"method": "histogram", "amax_method": "mse"}"#),
        (
            INT8,
            r#"{"method": "histogram", "amax_method": "percentile"}"#,
        ),
        (INT8, r#"{"method": "smoothquant", "alpha": 0.6}"#),
    ] {
        let text = with(quantizers, algorithm);
        let Ok(config) = mq::config::QuantizeConfig::parse(&text) else {
            panic!("{text} is not valid");
        };
        let mut near = here(DType::F32);
        let mut far = There::new(Arc::clone(&gpu), &near, DType::F32);
        near.quantize(&config).expect(&text);
        far.quantize(&config).expect(&text);
        assert_eq!(far.states(), states(&near.model), "{text}");
    }
}

/// The factors are those of the same alpha, whose sums may differ in the last bits.
#[test]
fn awq_finds_the_same_factors() {
    let Some(gpu) = on_gpu::gpu(std::ptr::null_mut(), None) else {
        return;
    };
    for algorithm in ["awq_lite", "awq_clip", "awq_full"] {
        let text = with(INT4, &format!("{algorithm:?}"));
        let mut near = here(DType::BF16);
        let mut far = There::new(Arc::clone(&gpu), &near, DType::BF16);
        near.quantize(&config(&text)).expect(&text);
        far.quantize(&config(&text)).expect(&text);
        for (a, b) in near.model.slots().iter().zip(far.model.slots()) {
            let (a_state, b_state) = (a.state(), b.state());
            for (p, q) in a_state.members().iter().zip(b_state.members()) {
                let what = format!("{text} {}", a.name());
                let close = |a: &[f32], b: &[f32]| {
                    assert_eq!(a.len(), b.len(), "{what}");
                    for (a, b) in a.iter().zip(b) {
                        assert!((a - b).abs() <= 1e-5 * a.abs(), "{what}: {a} {b}");
                    }
                };
                let factors = [p, q].map(|q| q.pre_quant_scale.clone().unwrap_or_default());
                close(&factors[0], &factors[1]);
                let amax = [p, q].map(|q| q.amax.clone());
                if let [Some(a), Some(b)] = &amax {
                    close(a.values(), b.values());
                }
                assert_eq!(amax[0].is_some(), amax[1].is_some(), "{what}");
            }
        }
    }
}

/// Plays the recording back from device memory.
struct FromGpu<'a> {
    inner: Recorded<'a>,
    there: Vec<(Arc<mq::model::Layer>, DType)>,
    gpu: Arc<mq::kernels::cuda::Gpu>,
}

impl FromGpu<'_> {
    fn tensor(&self, kind: &str, layer: &str, step: u64, dtype: DType) -> OnGpu {
        let name = format!("{kind}.{layer}.{step}");
        OnGpu::copy_of(
            &self.gpu,
            &self.inner.network.tensors.get(&name).cast(dtype),
        )
    }
}

impl Host for FromGpu<'_> {
    fn data(&mut self, step: u64) -> Result<bool> {
        self.inner.data(step)
    }

    fn forward(&mut self, step: u64) -> Result<()> {
        for (layer, dtype) in &self.there {
            let x = self.tensor("x", layer.name(), step, *dtype);
            layer.input(x.view(), None)?;
        }
        Ok(())
    }

    fn forward_backward(&mut self, step: u64) -> Result<f64> {
        self.forward(step)?;
        for (layer, dtype) in self.there.iter().rev() {
            let g = self.tensor("grad", layer.name(), step, *dtype);
            layer.gradient(g.view())?;
        }
        Ok(1.0)
    }

    fn check_backward(&self) -> Result<()> {
        Ok(())
    }

    fn logits(&mut self, _: u64) -> Result<TensorView> {
        Err(Error::Internal("no logits were recorded".into()))
    }

    fn check_logits(&self) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_search_by_gradients_has_the_same_scores_and_choice() {
    let Some(gpu) = on_gpu::gpu(std::ptr::null_mut(), None) else {
        return;
    };
    let formats = format!(r#"["INT8_DEFAULT_CFG", {}]"#, with(INT4, r#""max""#));
    for method in [Method::Gradient, Method::Fisher, Method::Gram] {
        let settings = || Settings {
            constraints: read_constraints(Some(r#"{"effective_bits": 7.0}"#)).expect("valid"),
            recipes: read_formats(Some(&formats)).expect("formats"),
            num_calib_steps: 4,
            num_score_steps: 4,
            method,
            ..Settings::new().expect("defaults")
        };
        let mut near = here(DType::F32);
        let mut far = There::new(Arc::clone(&gpu), &near, DType::F32);
        let context = Arc::new(mq::model::Context::new(1, Box::new(|_, _| {})).expect("a thread"));
        let mut model = std::mem::replace(&mut near.model, mq::model::Model::new(context));
        let mut host = Recorded::new(&near);
        let want = auto_quantize(&mut model, settings(), &mut host, None)
            .expect("in host memory")
            .to_json();
        let layers = far.layers.iter();
        let mut host = FromGpu {
            inner: Recorded::new(&near),
            there: layers
                .map(|(layer, weight)| (Arc::clone(layer), weight.view().dtype()))
                .collect(),
            gpu: Arc::clone(&gpu),
        };
        let got = auto_quantize(&mut far.model, settings(), &mut host, None)
            .unwrap_or_else(|error| panic!("{method:?}: {error}"))
            .to_json();
        assert_eq!(got["best"]["recipe"], want["best"]["recipe"], "{method:?}");
        for (group, stats) in want["candidate_stats"].as_object().expect("stats") {
            let own = &got["candidate_stats"][group];
            for (at, score) in stats["scores"]
                .as_array()
                .expect("scores")
                .iter()
                .enumerate()
            {
                let (got, want) = (
                    own["scores"][at].as_f64().expect("a score"),
                    score.as_f64().expect("a score"),
                );
                assert!(
                    (got - want).abs() <= 1e-4 * want.abs(),
                    "{method:?} {group} {at}: {got:e} {want:e}"
                );
            }
        }
    }
}
