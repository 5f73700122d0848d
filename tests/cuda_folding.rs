//! `fold_pre_quant_scale` of norms and layers in device memory: the bits of those in host memory, written and calibrated.
//! Whatever fails before is found before anything is written, by `fold_weight` as well.

mod network;
mod on_gpu;
mod owned;
mod safetensors_file;
mod scarce;
mod stack;
mod there;

use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use mq::apply::{fold_pre_quant_scale, fold_weight};
use mq::calibrate;
use mq::config::QuantizeConfig;
use mq::error::{Error, Result};
use mq::kernels::cuda::Gpu;
use mq::model::{Context, Layer, LayerKind, LayerSpec, Model, Norm};
use mq::tensor::{DType, TensorView};
use on_gpu::{OnGpu, bits};
use owned::Owned;
use scarce::{PLENTY, Scarce};
use stack::{INT4_BLOCKS, INT8, INT8_ROWS, activations, config, noise};

const SMOOTHQUANT: &str = r#"{"method": "smoothquant", "alpha": 0.5}"#;

/// The host's tensors: a norm with two readers, one of which produces what a third layer reads.
fn tensors(dtype: DType, adds_one: bool) -> Vec<(&'static str, Owned)> {
    let mut gain = noise(&[64], 1);
    let one = if adds_one { 0.0 } else { 1.0 };
    stack::change(&mut gain, |channel, g| g * 0.3 + one + (channel % 5) as f32);
    let all = [
        ("gain", gain),
        ("shift", noise(&[64], 2)),
        ("q", noise(&[24, 64], 3)),
        ("up", noise(&[96, 64], 4)),
        ("up bias", noise(&[96], 5)),
        ("down", noise(&[32, 96], 6)),
    ];
    all.map(|(name, x)| (name, x.cast(dtype))).into()
}

/// What passes the layers.
fn inputs(dtype: DType) -> [(&'static str, Owned); 3] {
    let x = activations(&[7, 64], 8).cast(dtype);
    let y = activations(&[7, 96], 9).cast(dtype);
    [("q", x.clone()), ("up", x), ("down", y)]
}

/// The model over tensors that lie anywhere.
fn model(
    context: Arc<Context>,
    adds_one: bool,
    tensor: impl Fn(&str) -> TensorView,
) -> (Model, Vec<Arc<Layer>>) {
    let mut model = Model::new(context);
    let norm = Norm {
        gain: tensor("gain"),
        bias: Some(tensor("shift")),
        adds_one,
    };
    let spec = |name: &str| LayerSpec {
        weight: Some(tensor(name)),
        ..LayerSpec::new(name, LayerKind::Linear)
    };
    let read = |name: &str| LayerSpec {
        norm: Some(norm),
        shared_input_group: Some("x".to_owned()),
        ..spec(name)
    };
    let specs = [
        read("q"),
        LayerSpec {
            bias: Some(tensor("up bias")),
            ..read("up")
        },
        LayerSpec {
            producer: Some("up".to_owned()),
            ..spec("down")
        },
    ];
    let layers = specs.map(|spec| model.add_layer(spec).expect("a layer"));
    (model, layers.into())
}

/// A model in host memory and the same on the GPU, calibrated.
struct Both {
    near: (Model, Vec<Arc<Layer>>),
    far: (Model, Vec<Arc<Layer>>),
    here: Vec<(&'static str, Owned)>,
    there: Vec<(&'static str, OnGpu)>,
    inputs: [(&'static str, Owned); 3],
    inputs_there: Vec<OnGpu>,
}

impl Both {
    fn new(gpu: &Arc<Gpu>, dtype: DType, adds_one: bool) -> Self {
        Self::calibrated(gpu, dtype, adds_one, &config(INT8_ROWS, INT8, SMOOTHQUANT))
    }

    fn calibrated(gpu: &Arc<Gpu>, dtype: DType, adds_one: bool, config: &QuantizeConfig) -> Self {
        let mut here = tensors(dtype, adds_one);
        let there: Vec<(&str, OnGpu)> = here
            .iter()
            .map(|(name, x)| (*name, OnGpu::copy_of(gpu, x)))
            .collect();
        let views: Vec<(&str, TensorView)> = here
            .iter_mut()
            .map(|(name, x)| (*name, x.view_mut()))
            .collect();
        let named = |name: &str| views.iter().find(|(n, _)| *n == name).expect("named").1;
        let named_there = |name: &str| {
            there
                .iter()
                .find(|(n, _)| *n == name)
                .expect("named")
                .1
                .view()
        };
        let host = Context::new(1, Box::new(|_, _| {})).expect("one thread");
        let inputs = inputs(dtype);
        let inputs_there = inputs.iter().map(|(_, x)| OnGpu::copy_of(gpu, x)).collect();
        let mut both = Self {
            near: model(Arc::new(host), adds_one, named),
            far: model(on_gpu::context(gpu), adds_one, named_there),
            here,
            there,
            inputs,
            inputs_there,
        };
        let layers = both.near.1.iter().zip(&both.inputs);
        let mut forward = || {
            layers
                .clone()
                .try_for_each(|(l, (_, x))| l.input(x.view(), None))
        };
        calibrate::quantize(&mut both.near.0, config, Some(&mut forward)).expect("quantizes");
        let layers = both.far.1.iter().zip(&both.inputs_there);
        let mut forward = || {
            layers
                .clone()
                .try_for_each(|(l, x)| l.input(x.view(), None))
        };
        calibrate::quantize(&mut both.far.0, config, Some(&mut forward)).expect("quantizes");
        both
    }

    /// Tensors, states, and what taps give are the same bits.
    #[track_caller]
    fn assert_same(&mut self, gpu: &Arc<Gpu>, what: &str) {
        assert_eq!(
            there::states(&self.far.0),
            there::states(&self.near.0),
            "{what}"
        );
        for ((name, near), (_, far)) in self.here.iter().zip(&self.there) {
            assert_eq!(far.bits(), bits(near), "{what}: {name}");
        }
        for (i, (near, far)) in self.near.1.iter().zip(&self.far.1).enumerate() {
            let what = format!("{what}: {}", near.name());
            let (_, x) = &self.inputs[i];
            let mut seen = Owned::zeros(x.dtype, &x.shape);
            let seen_there = OnGpu::copy_of(gpu, &seen);
            near.input(x.view(), Some(seen.view_mut())).expect(&what);
            let x = self.inputs_there[i].view();
            far.input(x, Some(seen_there.view())).expect(&what);
            assert_eq!(seen_there.bits(), bits(&seen), "{what}");
            let shape = near
                .spec()
                .weight
                .expect("a weight")
                .shape()
                .dims()
                .to_vec();
            let mut w = Owned::zeros(self.inputs[i].1.dtype, &shape);
            let w_there = OnGpu::copy_of(gpu, &w);
            near.weight_into(w.view_mut()).expect(&what);
            far.weight_into(w_there.view()).expect(&what);
            assert_eq!(w_there.bits(), bits(&w), "{what}");
        }
    }
}

#[test]
fn norms_and_producers_are_written_as_in_host_memory() {
    let Some(gpu) = on_gpu::gpu(null_mut(), None) else {
        return;
    };
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for adds_one in [false, true] {
            let what = format!("{dtype} {adds_one}");
            let mut both = Both::new(&gpu, dtype, adds_one);
            both.assert_same(&gpu, &format!("{what} before"));
            let before: Vec<Vec<u32>> = both.here.iter().map(|(_, x)| bits(x)).collect();
            assert_eq!(fold_pre_quant_scale(&mut both.near.0), Ok(3), "{what}");
            assert_eq!(fold_pre_quant_scale(&mut both.far.0), Ok(3), "{what}");
            both.assert_same(&gpu, &what);
            for ((name, x), before) in both.here.iter().zip(before) {
                let is_written = ["gain", "shift", "up", "up bias"].contains(name);
                assert_eq!(bits(x) != before, is_written, "{what}: {name}");
            }
            assert_eq!(
                fold_pre_quant_scale(&mut both.far.0),
                Ok(0),
                "{what}: twice"
            );
        }
    }
}

#[test]
fn what_would_overflow_is_found_before_anything_is_written() {
    let Some(gpu) = on_gpu::gpu(null_mut(), None) else {
        return;
    };
    let mut both = Both::new(&gpu, DType::F16, false);
    let large = stack::of_values(&[64], &[60000.0; 64]);
    for (model, layers) in [&mut both.near, &mut both.far] {
        for layer in &layers[..2] {
            let slot = Arc::clone(layer.input_slot());
            let set = model.set_pre_quant_scale(&slot, None, Some(large.view()));
            set.expect("fits");
        }
        let outcome = fold_pre_quant_scale(model);
        assert!(matches!(outcome, Err(Error::Numeric(_))), "{outcome:?}");
    }
    both.assert_same(&gpu, "as before");
    let unwritten = tensors(DType::F16, false);
    for ((name, now), (_, then)) in both.here.iter().zip(&unwritten) {
        assert_eq!(bits(now), bits(then), "{name}");
    }
}

const DYNAMIC: &str = r#"{"num_bits": 8, "type": "dynamic"}"#;

/// A verb that folds.
type Fold = fn(&mut Model) -> Result<()>;

const FOLDS: [(&str, Fold); 2] = [
    ("fold_pre_quant_scale", |model| {
        fold_pre_quant_scale(model).map(|_| ())
    }),
    ("fold_weight", |model| fold_weight(model, false)),
];

impl Both {
    /// Nothing of the host's that lies on the GPU has been written to.
    #[track_caller]
    fn assert_unwritten(&self, dtype: DType, what: &str) {
        for ((name, now), (_, then)) in self.there.iter().zip(&tensors(dtype, false)) {
            assert_eq!(now.bits(), bits(then), "{what}: {name}");
        }
    }
}

#[test]
fn when_device_memory_runs_out_nothing_is_written() {
    let Some(pool) = on_gpu::gpu(null_mut(), None) else {
        return;
    };
    let live = Arc::new(AtomicI64::new(0));
    for (name, fold) in FOLDS {
        for (weight, input, algorithm) in [
            (INT8_ROWS, INT8, SMOOTHQUANT),
            (INT4_BLOCKS, DYNAMIC, r#""awq_lite""#),
        ] {
            let config = config(weight, input, algorithm);
            let mut refused = 0;
            for allowed in 0..200 {
                let what = format!("{name} of {algorithm} with {allowed}");
                let (memory, left) = Scarce::new(&pool, &live);
                let gpu = on_gpu::gpu(null_mut(), Some(memory)).expect("as before");
                let mut both = Both::calibrated(&gpu, DType::BF16, false, &config);
                let before = there::states(&both.far.0);
                left.store(allowed, SeqCst);
                let outcome = fold(&mut both.far.0);
                left.store(PLENTY, SeqCst);
                let is_done = outcome.is_ok();
                if !is_done {
                    refused += 1;
                    assert!(matches!(outcome, Err(Error::OutOfMemory(_))), "{outcome:?}");
                    both.assert_unwritten(DType::BF16, &what);
                    assert_eq!(there::states(&both.far.0), before, "{what}");
                    fold(&mut both.far.0).expect("with memory");
                }
                fold(&mut both.near.0).expect("in host memory");
                both.assert_same(&gpu, &what);
                if is_done {
                    break;
                }
            }
            assert!((3..199).contains(&refused), "{name}: {refused}");
        }
    }
    assert_eq!(live.load(SeqCst), 0, "everything was given back");
}

/// What a tap has met and nobody has been told yet is told before anything is written.
#[test]
fn a_nan_that_a_tap_has_met_comes_before_the_writing() {
    let Some(gpu) = on_gpu::gpu(null_mut(), None) else {
        return;
    };
    let config = config(INT4_BLOCKS, DYNAMIC, r#""awq_lite""#);
    for (name, fold) in FOLDS {
        let mut both = Both::calibrated(&gpu, DType::F32, false, &config);
        let spoilt = OnGpu::copy_of(&gpu, &stack::of_values(&[1, 64], &[f32::NAN; 64]));
        let tapped = both.far.1[0].input(spoilt.view(), Some(spoilt.view()));
        tapped.expect("told later");
        let error = fold(&mut both.far.0).expect_err(name);
        assert!(matches!(error, Error::Numeric(_)), "{name}: {error}");
        assert!(error.to_string().contains("q.input_quantizer"), "{error}");
        both.assert_unwritten(DType::F32, name);
        fold(&mut both.far.0).expect("told once");
        fold(&mut both.near.0).expect("in host memory");
        both.assert_same(&gpu, name);
    }
}
