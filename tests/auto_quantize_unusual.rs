//! Searches of models that are used in unusual ways: a layer twice in a step, experts that no token reaches, weights
//! that overflow.

mod network;
mod owned;
mod recorded;
mod safetensors_file;
mod searched;

use std::sync::Arc;

use mq::auto_quantize::auto_quantize;
use mq::auto_quantize::host::Host;
use mq::auto_quantize::score::Method;
use mq::auto_quantize::search::Search;
use mq::auto_quantize::settings::Settings;
use mq::calibrate;
use mq::config::QuantizeConfig;
use mq::error::{Error, Result};
use mq::model::{Layer, LayerKind, LayerSpec, Mode, Model};
use mq::tensor::{DType, TensorView};
use owned::Owned;
use searched::{context, file, settings};

const INPUTS: usize = 16;
const OUTPUTS: usize = 17;

/// Numbers between -1 and 1 without any pattern that a format would like.
fn noise(shape: &[usize], seed: usize) -> Owned {
    let mut owned = Owned::zeros(DType::F32, shape);
    for (i, value) in owned.bytes_mut().chunks_exact_mut(4).enumerate() {
        let number = ((i * 37 + seed * 101) as f32 * 0.7311).sin();
        value.copy_from_slice(&number.to_ne_bytes());
    }
    owned
}

/// Linear layers of one size, of which a step uses some.
struct Small {
    model: Model,
    layers: Vec<Arc<Layer>>,
    weights: Vec<Owned>,
}

impl Small {
    fn new(
        context: Arc<mq::model::Context>,
        names: &[&str],
        describe: impl Fn(&str, &mut LayerSpec),
    ) -> Self {
        let mut small = Self {
            model: Model::new(context),
            layers: Vec::new(),
            weights: Vec::new(),
        };
        for (i, name) in names.iter().enumerate() {
            let mut weight = noise(&[OUTPUTS, INPUTS], i);
            let mut spec = LayerSpec {
                weight: Some(weight.view_mut()),
                ..LayerSpec::new(*name, LayerKind::Linear)
            };
            describe(name, &mut spec);
            small.layers.push(small.model.add_layer(spec).expect(name));
            small.weights.push(weight);
        }
        small
    }

    fn search(&mut self, settings: Settings, uses: &[(usize, usize)]) -> Result<Search> {
        let mut host = Uses {
            layers: self.layers.clone(),
            uses: uses.to_vec(),
            scale: 1.0,
            passes: 0,
            logits: noise(&[1, OUTPUTS], 0),
        };
        auto_quantize(&mut self.model, settings, &mut host, None)
    }

    fn states(&self) -> Vec<String> {
        let slots = self.model.slots().iter();
        slots.map(|slot| format!("{:?}", slot.state())).collect()
    }
}

/// A host that uses layers with so many tokens each, in that order, in every step.
struct Uses {
    layers: Vec<Arc<Layer>>,
    uses: Vec<(usize, usize)>,
    /// What inputs are multiplied with.
    scale: f32,
    passes: usize,
    logits: Owned,
}

impl Host for Uses {
    fn data(&mut self, _: u64) -> Result<bool> {
        Ok(true)
    }

    /// The logits are the sum of the layers' outputs for the first token.
    fn forward(&mut self, step: u64) -> Result<()> {
        self.passes += 1;
        assert!(self.passes < 500, "a search that never ends");
        let mut sums = [0.0f32; OUTPUTS];
        for (call, (layer, tokens)) in self.uses.iter().enumerate() {
            let layer = &self.layers[*layer];
            let mut x = noise(&[*tokens, INPUTS], 7 + call + 5 * step as usize);
            for value in x.bytes_mut().chunks_exact_mut(4) {
                let number = f32::from_ne_bytes([value[0], value[1], value[2], value[3]]);
                value.copy_from_slice(&(number * self.scale).to_ne_bytes());
            }
            let place = x.view_mut();
            layer.input(place, Some(place))?;
            let mut weight = Owned::zeros(DType::F32, &[OUTPUTS, INPUTS]);
            layer.weight_into(weight.view_mut())?;
            let (x, weight) = (x.view().to_f32(), weight.view().to_f32());
            for (sum, row) in sums.iter_mut().zip(weight.chunks_exact(INPUTS)) {
                *sum += x.iter().zip(row).map(|(x, w)| x * w).sum::<f32>();
            }
        }
        let logits = self.logits.bytes_mut().chunks_exact_mut(4);
        for (place, sum) in logits.zip(sums) {
            place.copy_from_slice(&sum.to_ne_bytes());
        }
        Ok(())
    }

    fn forward_backward(&mut self, step: u64) -> Result<f64> {
        self.forward(step)?;
        for (call, (layer, tokens)) in self.uses.iter().enumerate().rev() {
            let g = noise(&[*tokens, OUTPUTS], 3 + call);
            self.layers[*layer].gradient(g.view())?;
        }
        Ok(1.0)
    }

    fn check_backward(&self) -> Result<()> {
        Ok(())
    }

    fn logits(&mut self, _: u64) -> Result<TensorView> {
        Ok(self.logits.view())
    }

    fn check_logits(&self) -> Result<()> {
        Ok(())
    }
}

fn by(method: Method) -> Settings {
    Settings {
        method,
        ..settings(r#"["INT8_WEIGHT_ONLY_CFG"]"#, 9.0)
    }
}

/// FP8 whose inputs need no data.
fn dynamic(method: Method) -> Settings {
    Settings {
        method,
        ..settings(
            r#"[{"quant_cfg": {"*weight_quantizer": {"num_bits": [4, 3], "type": "dynamic"},
                "*input_quantizer": {"num_bits": [4, 3], "type": "dynamic"}}, "algorithm": "max"}]"#,
            9.0,
        )
    }
}

/// Both inputs are wanted before the first gradient comes: a run of its own does not help.
#[test]
fn a_layer_used_twice_needs_memory_for_both_inputs() {
    let names = ["a", "b"];
    let uses = [(0, 4), (1, 4), (0, 6), (1, 2), (0, 4)];
    let want = Small::new(context(1, 0), &names, |_, _| {})
        .search(dynamic(Method::Gradient), &uses)
        .expect("without a limit")
        .to_json();
    let mut refused = 0;
    let mut served = 0;
    for limit in (1_000..8_000).step_by(50) {
        let mut small = Small::new(context(1, limit), &names, |_, _| {});
        let before = small.states();
        match small.search(dynamic(Method::Gradient), &uses) {
            Ok(found) => {
                assert_eq!(found.to_json(), want, "{limit}");
                served += 1;
            }
            Err(Error::OutOfMemory(text)) => {
                assert!(text.contains("memory_limit_bytes"), "{text}");
                assert_eq!(small.states(), before);
                refused += 1;
            }
            Err(other) => panic!("{limit}: {other}"),
        }
    }
    assert!(
        refused > 5 && served > 5,
        "{refused} refused, {served} served"
    );
}

#[test]
fn experts_without_tokens_get_neither_input_nor_gradient() {
    for method in [
        Method::Gradient,
        Method::Fisher,
        Method::Gram,
        Method::KlDiv,
    ] {
        let uses = [(0, 4), (1, 0), (2, 3)];
        let mut small = Small::new(context(2, 0), &["a", "idle", "c"], |_, _| {});
        let found = small.search(dynamic(method), &uses).expect("a search");
        let stats = found.to_json()["candidate_stats"].clone();
        assert_eq!(stats["idle.quant_recipe"]["scores"][0], 0.0, "{method:?}");
        assert!(stats["a.quant_recipe"]["scores"][0].as_f64() > Some(0.0));
    }
}

/// Under a limit, a pass may watch nothing but layers that no token reached.
#[test]
fn idle_layers_may_have_a_pass_of_their_own() {
    let uses = [(0, 4), (2, 3)];
    let names = ["a", "idle", "c"];
    for method in [Method::Gram, Method::Fisher] {
        let want = Small::new(context(1, 0), &names, |_, _| {})
            .search(dynamic(method), &uses)
            .expect("without a limit")
            .to_json();
        let mut served = 0;
        for limit in (5_000..2_000_000).step_by(45_000) {
            match Small::new(context(1, limit), &names, |_, _| {}).search(dynamic(method), &uses) {
                Ok(found) => assert_eq!(found.to_json(), want, "{limit}"),
                Err(Error::OutOfMemory(_)) => continue,
                Err(other) => panic!("{limit}: {other}"),
            }
            served += 1;
        }
        assert!(served > 2, "{served}");
        let error = Small::new(context(1, 0), &names, |_, _| {}).search(dynamic(method), &[]);
        let error = error.err().expect("no tap at all");
        assert!(matches!(error, Error::State(_)), "{error}");
    }
}

/// A format that overflows is no lossless one.
#[test]
fn statistics_that_overflow_are_an_error() {
    for method in [Method::Gram, Method::Fisher] {
        let mut small = Small::new(context(1, 0), &["a"], |_, _| {});
        let before = small.states();
        let mut host = Uses {
            layers: small.layers.clone(),
            uses: vec![(0, 4)],
            scale: 5e19,
            passes: 0,
            logits: noise(&[1, OUTPUTS], 0),
        };
        let formats = settings(r#"["INT8_WEIGHT_ONLY_CFG"]"#, 9.0);
        let asked = Settings { method, ..formats };
        let error = auto_quantize(&mut small.model, asked, &mut host, None)
            .err()
            .expect("an overflow");
        assert!(matches!(error, Error::Numeric(_)), "{error}");
        assert_eq!(small.states(), before);
        assert_eq!(small.model.mode(), Mode::Registered);
    }
}

/// A format's factors must not stay in what the next one is compared with.
#[test]
fn a_divergence_is_measured_from_the_unquantized_model_also_after_resuming() {
    let uses = [(0, 4), (1, 4), (2, 4)];
    let names = ["a", "b", "c"];
    let formats = r#"["INT8_SMOOTHQUANT_CFG"]"#;
    let search = |fails: Option<usize>, path: Option<&std::path::Path>| {
        let mut small = Small::new(context(1, 0), &names, |_, _| {});
        let asked = Settings {
            method: Method::KlDiv,
            checkpoint: path.map(Into::into),
            ..settings(formats, 9.0)
        };
        let mut host = FailsAt {
            inner: Uses {
                layers: small.layers.clone(),
                uses: uses.to_vec(),
                scale: 1.0,
                passes: 0,
                logits: noise(&[1, OUTPUTS], 0),
            },
            fails,
        };
        auto_quantize(&mut small.model, asked, &mut host, None).map(|found| found.to_json())
    };
    let want = search(None, None).expect("a search");
    let path = file("divergence");
    for fails in [5, 6, 9, 12, 13] {
        search(Some(fails), Some(&path)).expect_err("it was to fail");
        let found = search(None, Some(&path)).expect("the rest");
        assert_eq!(found, want, "{fails}");
        std::fs::remove_file(&path).expect("a checkpoint stays");
    }
}

/// Fails in one of its forwards.
struct FailsAt {
    inner: Uses,
    fails: Option<usize>,
}

impl Host for FailsAt {
    fn data(&mut self, step: u64) -> Result<bool> {
        self.inner.data(step)
    }

    fn forward(&mut self, step: u64) -> Result<()> {
        self.inner.forward(step)?;
        match self.fails == Some(self.inner.passes) {
            false => Ok(()),
            true => Err(Error::Callback {
                what: "forward",
                code: 3,
            }),
        }
    }

    fn forward_backward(&mut self, step: u64) -> Result<f64> {
        self.inner.forward_backward(step)
    }

    fn check_backward(&self) -> Result<()> {
        Ok(())
    }

    fn logits(&mut self, step: u64) -> Result<TensorView> {
        self.inner.logits(step)
    }

    fn check_logits(&self) -> Result<()> {
        Ok(())
    }
}

#[test]
fn experts_whose_inputs_are_gathered_get_one_format() {
    let names = ["e0.up", "e0.down", "e1.up", "e1.down", "alone"];
    let mut small = Small::new(context(1, 0), &names, |name, spec| {
        let projection = name.split('.').next_back().filter(|_| name.contains('.'));
        spec.expert_group = projection.map(Into::into);
    });
    let uses: Vec<(usize, usize)> = (0..names.len()).map(|layer| (layer, 4)).collect();
    let found = small.search(by(Method::Gradient), &uses).expect("a search");
    let groups = found.to_json()["candidate_stats"].clone();
    let groups: Vec<&String> = groups.as_object().expect("groups").keys().collect();
    assert_eq!(
        groups,
        [
            "e0.up.quant_recipe",
            "e0.down.quant_recipe",
            "alone.quant_recipe"
        ]
    );
}

/// The only layers whose inputs are quantized saw no tokens in the search; the configuration of its choice must be
/// accepted all the same.
#[test]
fn a_configuration_whose_quantized_inputs_all_stay_idle_is_carried_out() {
    let config = QuantizeConfig::parse(
        r#"{"quant_cfg": {"idle.input_quantizer": {"num_bits": 8, "axis": null},
            "*weight_quantizer": {"num_bits": 8, "axis": 0}, "default": {"enable": false}}, "algorithm": "max"}"#,
    )
    .expect("valid");
    let quantize = |uses: &[(usize, usize)]| {
        let mut small = Small::new(context(1, 0), &["a", "idle"], |_, _| {});
        let mut host = Uses {
            layers: small.layers.clone(),
            uses: uses.to_vec(),
            scale: 1.0,
            passes: 0,
            logits: noise(&[1, OUTPUTS], 0),
        };
        calibrate::quantize(&mut small.model, &config, Some(&mut || host.forward(0)))
    };
    quantize(&[(0, 4)]).expect("tokens went elsewhere");
    quantize(&[(0, 0)]).expect_err("no tokens went anywhere");
    quantize(&[]).expect_err("no tap at all");
}

/// An algorithm for some layers leaves what another one found for others.
#[test]
fn algorithms_for_parts_of_a_model_do_not_disturb_each_other() {
    const FORMATS: [&str; 2] = [
        r#"{"num_bits": [2, 1], "block_sizes": {"-1": 16, "type": "static", "scale_bits": [4, 3]}}"#,
        r#"{"num_bits": 4, "block_sizes": {"-1": 8, "type": "static"}}"#,
    ];
    for attributes in FORMATS {
        let states = |algorithm: &str| {
            let text = format!(
                r#"{{"quant_cfg": {{"*weight_quantizer": {attributes}, "default": {{"enable": false}}}},
                    "algorithm": {algorithm}}}"#
            );
            let config = QuantizeConfig::parse(&text).expect("valid");
            let mut small = Small::new(context(1, 0), &["a", "b"], |_, _| {});
            let mut forward = || Ok(());
            calibrate::quantize(&mut small.model, &config, Some(&mut forward)).expect("quantized");
            small.states()
        };
        let mse = r#"{"method": "mse", "layers": ["a"]}"#;
        let max = r#"{"method": "max", "layers": ["b"]}"#;
        let one = states(&format!("[{mse}, {max}]"));
        let other = states(&format!("[{max}, {mse}]"));
        assert_eq!(one, other, "{attributes}");
    }
}
