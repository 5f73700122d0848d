//! What a model refuses, and that it is left as it was.

mod owned;

use mq::apply;
use mq::calibrate;
use mq::config::QuantizeConfig;
use mq::error::{Error, Result};
use mq::model::{Context, LayerKind, LayerSpec, Model, Selector, SummaryFormat};
use mq::tensor::{DType, TensorView};
use owned::Owned;

fn model() -> Model {
    Model::new(std::sync::Arc::new(
        Context::new(1, Box::new(|_, _| {})).expect("one thread"),
    ))
}

fn spec(name: &str, kind: LayerKind, weight: TensorView) -> LayerSpec {
    LayerSpec {
        weight: Some(weight),
        ..LayerSpec::new(name, kind)
    }
}

fn quantize(model: &mut Model, config: &str) -> Result<()> {
    calibrate::quantize(model, &QuantizeConfig::parse(config)?, None)
}

/// An embedding and the head that reads the same memory, under different granularities.
#[test]
fn tied_weights_are_not_folded() {
    let mut weight = Owned::zeros(DType::F32, &[4, 8]);
    weight.bytes_mut()[0..4].copy_from_slice(&1.5f32.to_ne_bytes());
    let before = weight.view().to_f32();
    let mut model = model();
    model
        .add_layer(spec("embed", LayerKind::Embedding, weight.view_mut()))
        .expect("embed");
    model
        .add_layer(spec("head", LayerKind::Linear, weight.view_mut()))
        .expect("head");
    quantize(&mut model, "INT8_WEIGHT_ONLY_CFG").expect("weights only");
    let error = apply::fold_weight(&mut model, false).expect_err("shared memory");
    assert!(
        matches!(&error, Error::State(text) if text.contains("`embed` and `head` share memory")),
        "{error}"
    );
    assert_eq!(weight.view().to_f32(), before);
    // With both switched off there is nothing to write.
    let all = Selector::wildcard("*").expect("a pattern");
    model
        .matching(&all, false, |model, targets| {
            model.set_enabled(targets, false)
        })
        .expect("off");
    apply::fold_weight(&mut model, false).expect("nothing to fold");
}

#[test]
fn an_axis_that_a_weight_does_not_have_is_a_configuration_error() {
    let mut weight = Owned::zeros(DType::F32, &[4, 8]);
    let mut model = model();
    model
        .add_layer(spec("l", LayerKind::Linear, weight.view_mut()))
        .expect("l");
    let summary = model.summary(SummaryFormat::Json);
    for cfg in [
        r#"{"axis": 5}"#,
        r#"{"num_bits": 4, "block_sizes": {"-1": 4, "1": 8}}"#,
    ] {
        let config = format!(
            r#"{{"quant_cfg": [{{"quantizer_name": "*weight_quantizer", "cfg": {cfg}}}]}}"#
        );
        let error = quantize(&mut model, &config).expect_err("no such axis");
        assert!(
            matches!(&error, Error::Config(text) if text.contains("`l.weight_quantizer`")),
            "{error}"
        );
        assert_eq!(model.summary(SummaryFormat::Json), summary);
    }
}

#[test]
fn a_bias_of_another_length_is_refused() {
    let (mut weight, mut bias) = (
        Owned::zeros(DType::F32, &[4, 8]),
        Owned::zeros(DType::F32, &[5]),
    );
    let mut layer = spec("l", LayerKind::Linear, weight.view_mut());
    layer.bias = Some(bias.view_mut());
    let error = model().add_layer(layer).map(|_| ()).expect_err("5 for 4");
    assert!(
        error.to_string().contains("bias has 5 values, expected 4"),
        "{error}"
    );
}

#[test]
fn an_endless_pattern_is_refused_at_once() {
    let error = Selector::wildcard(&"[".repeat(1 << 20))
        .map(|_| ())
        .expect_err("a megabyte");
    assert!(
        matches!(&error, Error::Config(text) if text.len() < 200),
        "{error}"
    );
}
