//! A new weight in place of the registered one: what comes out is what the layer would use if it were that, in host
//! memory and on a GPU.

mod on_gpu;
mod owned;

use std::sync::Arc;

use mq::calibrate;
use mq::config::QuantizeConfig;
use mq::error::{Error, Result};
use mq::model::{Context, Layer, LayerKind, LayerSpec, Model, Scales, allocate_own};
use mq::tensor::{DType, TensorView};
use on_gpu::{OnGpu, Place, bits};
use owned::Owned;

const SHAPE: [usize; 2] = [24, 64];

/// Weight quantizers of every kind.
const QUANTIZERS: [&str; 11] = [
    r#"{"num_bits": 8, "axis": 0}"#,
    r#"{"num_bits": [4, 3]}"#,
    r#"{"num_bits": 4, "block_sizes": {"-1": 16, "type": "static"}}"#,
    r#"{"num_bits": [4, 3], "block_sizes": {"-1": 16, "-2": 8}}"#,
    r#"{"num_bits": [2, 1], "block_sizes": {"-1": 16, "type": "static", "scale_bits": [4, 3]}}"#,
    r#"{"num_bits": [2, 1], "block_sizes": {"-1": 16, "type": "dynamic", "scale_bits": [4, 3]}}"#,
    r#"{"num_bits": [4, 3], "block_sizes": {"-1": 32, "type": "dynamic", "scale_bits": [8, 0]}}"#,
    r#"{"num_bits": 8, "axis": 0, "rotate": {"enable": true, "mode": "rotate_back"}}"#,
    r#"[{"num_bits": 4, "block_sizes": {"-1": 16, "type": "static"}}, {"num_bits": [4, 3]}]"#,
    r#"{"num_bits": 4, "block_sizes": {"-1": 16, "type": "static", "scale_bits": 8, "scale_block_sizes": {"-1": 4}}}"#,
    r#"{"num_bits": 8, "axis": 0, "type": "dynamic"}"#,
];

fn weight(seed: usize, dtype: DType) -> Owned {
    let mut x = Owned::zeros(DType::F32, &SHAPE);
    for (i, value) in x.bytes_mut().chunks_exact_mut(4).enumerate() {
        let number = ((i * 7919 + seed * 104_729) % 1999) as f32 / 999.5 - 1.0;
        let number = number * (1.0 + seed as f32 * 0.7) * if i % 37 == 0 { 3.0 } else { 1.0 };
        value.copy_from_slice(&number.to_ne_bytes());
    }
    x.cast(dtype)
}

fn config(quantizer: &str) -> QuantizeConfig {
    let text = format!(
        r#"{{"quant_cfg": {{"*weight_quantizer": {quantizer}, "default": {{"enable": false}}}}, "algorithm": "max"}}"#
    );
    QuantizeConfig::parse(&text).expect(quantizer)
}

fn quantized(context: &Arc<Context>, weight: TensorView, quantizer: &str) -> (Model, Arc<Layer>) {
    let mut model = Model::new(Arc::clone(context));
    let spec = LayerSpec {
        weight: Some(weight),
        ..LayerSpec::new("fc", LayerKind::Linear)
    };
    let layer = model.add_layer(spec).expect("a layer");
    calibrate::quantize(&mut model, &config(quantizer), None).expect(quantizer);
    (model, layer)
}

/// What a layer with this weight uses of it.
fn used(layer: &Layer, place: &Place, dtype: DType) -> Vec<u32> {
    let mut out = Owned::zeros(dtype, &SHAPE);
    place
        .with(&mut out, |out| layer.weight_into(out))
        .expect("a weight");
    bits(&out)
}

fn amax(model: &Model) -> String {
    let slot = model.layers()[0].weight_slot().expect("a weight").state();
    let all = slot.members().iter().map(|q| format!("{:?}", q.amax));
    all.collect()
}

/// A tensor that stays where it is.
enum Kept {
    Host(Owned),
    Gpu(OnGpu),
}

impl Kept {
    fn new(place: &Place, x: Owned) -> Self {
        match place {
            Place::Host(_) => Self::Host(x),
            Place::Gpu(gpu, _) => Self::Gpu(OnGpu::copy_of(gpu, &x)),
        }
    }

    fn view(&mut self) -> TensorView {
        match self {
            Self::Host(x) => x.view_mut(),
            Self::Gpu(x) => x.view(),
        }
    }

    fn write(&mut self, x: &Owned) {
        match self {
            Self::Host(own) => own.bytes_mut().copy_from_slice(x.clone().bytes_mut()),
            Self::Gpu(own) => own.write(x),
        }
    }

    fn bits(&self) -> Vec<u32> {
        match self {
            Self::Host(x) => bits(x),
            Self::Gpu(x) => x.bits(),
        }
    }
}

#[test]
fn kept_scales_are_those_of_the_calibration() {
    for place in Place::all(2) {
        for (i, quantizer) in QUANTIZERS.iter().enumerate() {
            let dtype = [DType::F32, DType::BF16, DType::F16][i % 3];
            let what = format!("{quantizer} on {}", place.name());
            let mut registered = Kept::new(&place, weight(0, dtype));
            let (model, layer) = quantized(place.context(), registered.view(), quantizer);
            let before = amax(&model);
            let mut new = Kept::new(&place, weight(1, dtype));
            let mut out = Kept::new(&place, Owned::zeros(dtype, &SHAPE));
            layer
                .requantize_into(new.view(), Scales::Keep, out.view())
                .expect(&what);
            assert!(
                new.bits() == bits(&weight(1, dtype)),
                "{what}: the source stays"
            );
            assert!(registered.bits() == bits(&weight(0, dtype)), "{what}");
            // In place.
            let there = new.view();
            layer
                .requantize_into(there, Scales::Keep, there)
                .expect(&what);
            assert!(new.bits() == out.bits(), "{what}");
            registered.write(&weight(1, dtype));
            assert!(used(&layer, &place, dtype) == out.bits(), "{what}");
            model.fetch_refreshed_scales().expect(&what);
            assert_eq!(amax(&model), before, "{what}");
        }
    }
}

#[test]
fn refreshed_scales_are_those_of_a_calibration_to_the_new_weight() {
    for place in Place::all(2) {
        for (i, quantizer) in QUANTIZERS.iter().enumerate() {
            let dtype = [DType::BF16, DType::F16, DType::F32][i % 3];
            let what = format!("{quantizer} on {}", place.name());
            let mut registered = Kept::new(&place, weight(0, dtype));
            let (model, layer) = quantized(place.context(), registered.view(), quantizer);
            for seed in [1, 2] {
                let mut fresh = Kept::new(&place, weight(seed, dtype));
                let (other, expected) = quantized(place.context(), fresh.view(), quantizer);
                let want = used(&expected, &place, dtype);
                let mut new = Kept::new(&place, weight(seed, dtype));
                let mut out = Kept::new(&place, Owned::zeros(dtype, &SHAPE));
                layer
                    .requantize_into(new.view(), Scales::Refresh, out.view())
                    .expect(&what);
                assert!(out.bits() == want, "{what}");
                let there = new.view();
                layer
                    .requantize_into(there, Scales::Refresh, there)
                    .expect(&what);
                assert!(new.bits() == want, "{what}, in place");
                // Taps see them, and the host does once it looks.
                registered.write(&weight(seed, dtype));
                assert!(used(&layer, &place, dtype) == want, "{what}");
                model.fetch_refreshed_scales().expect(&what);
                assert_eq!(amax(&model), amax(&other), "{what}");
                assert!(used(&layer, &place, dtype) == want, "{what}");
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    for place in Place::all(1) {
        let dtype = DType::F32;
        let mut registered = Kept::new(&place, weight(0, dtype));
        let mut model = Model::new(Arc::clone(place.context()));
        let spec = LayerSpec {
            weight: Some(registered.view()),
            ..LayerSpec::new("fc", LayerKind::Linear)
        };
        let layer = model.add_layer(spec).expect("a layer");
        let mut new = Kept::new(&place, weight(1, dtype));
        let mut out = Kept::new(&place, Owned::zeros(dtype, &SHAPE));
        let refused = |outcome: Result<()>, says: &str| {
            let error = outcome.expect_err(says).to_string();
            assert!(error.contains(says) && error.contains("fc"), "{error}");
        };
        let (new, out) = (new.view(), out.view());
        let keep = |weight, out| layer.requantize_into(weight, Scales::Keep, out);
        refused(keep(new, out), "not quantized yet");
        let per_channel = r#"{"num_bits": 8, "axis": 0}"#;
        calibrate::quantize(&mut model, &config(per_channel), None).expect("quantized");
        refused(keep(new.rows(0, 8).expect("rows"), out), "expected float32");
        refused(keep(new, out.rows(0, 8).expect("rows")), "out is float32");
        let mut half = Kept::new(&place, weight(1, DType::F16));
        refused(keep(half.view(), out), "weight is float16");
        let mut elsewhere = weight(1, dtype);
        if matches!(place, Place::Gpu(..)) {
            refused(keep(elsewhere.view_mut(), out), "weight is on host memory");
            refused(keep(new, elsewhere.view_mut()), "out is on host memory");
        }
        let affine = r#"{"num_bits": 8, "axis": 0, "bias": {"-1": null, "type": "static"}}"#;
        calibrate::quantize(&mut model, &config(affine), None).expect("quantized");
        keep(new, out).expect("kept");
        let refreshed = layer.requantize_into(new, Scales::Refresh, out);
        refused(refreshed, "affine quantizer");
        calibrate::quantize(&mut model, &config(per_channel), None).expect("quantized");
        model.pack(|_| true, &mut allocate_own).expect("packed");
        refused(keep(new, out), "compressed");
    }
}

#[test]
fn a_weight_that_is_not_finite_gives_no_scales() {
    for place in Place::all(1) {
        let mut registered = Kept::new(&place, weight(0, DType::F32));
        let quantizer = r#"{"num_bits": 8, "axis": 0}"#;
        let (model, layer) = quantized(place.context(), registered.view(), quantizer);
        let before = amax(&model);
        let mut spoilt = weight(1, DType::F32);
        spoilt.bytes_mut()[..4].copy_from_slice(&f32::NAN.to_ne_bytes());
        let mut spoilt = Kept::new(&place, spoilt);
        let mut out = Kept::new(&place, Owned::zeros(DType::F32, &SHAPE));
        let outcome = layer.requantize_into(spoilt.view(), Scales::Refresh, out.view());
        // On a GPU nothing is waited for: it is said later, until there are scales again.
        let outcome = match place {
            Place::Host(_) => outcome,
            Place::Gpu(..) => outcome.and_then(|()| model.synchronize()),
        };
        assert!(matches!(outcome, Err(Error::Numeric(_))), "{outcome:?}");
        if matches!(place, Place::Gpu(..)) {
            let fetched = model.fetch_refreshed_scales();
            assert!(matches!(fetched, Err(Error::Numeric(_))), "{fetched:?}");
        }
        assert_eq!(amax(&model), before);
        let mut good = Kept::new(&place, weight(2, DType::F32));
        layer
            .requantize_into(good.view(), Scales::Refresh, out.view())
            .expect("finite");
        model.fetch_refreshed_scales().expect("finite");
        assert_ne!(amax(&model), before);
    }
}
