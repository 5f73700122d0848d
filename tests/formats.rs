//! Worked examples of the formats, through the same call a host makes.

mod owned;

use mq::calibrate;
use mq::config::QuantizeConfig;
use mq::error::{Error, Result};
use mq::model::{Context, LayerKind, LayerSpec, Model, fake_quant_once};
use mq::tensor::DType;
use owned::Owned;
use serde_json::{Value, json};

fn context() -> std::sync::Arc<Context> {
    std::sync::Arc::new(Context::new(2, Box::new(|_, _| {})).expect("two threads"))
}

fn tensor(shape: &[usize], values: &[f32]) -> Owned {
    let mut tensor = Owned::zeros(DType::F32, shape);
    for (element, value) in tensor.bytes_mut().chunks_exact_mut(4).zip(values) {
        element.copy_from_slice(&value.to_ne_bytes());
    }
    tensor
}

fn once(attributes: Value, shape: &[usize], values: &[f32], amax: Option<f32>) -> Result<Vec<f32>> {
    let x = tensor(shape, values);
    let amax = amax.map(|amax| tensor(&[], &[amax]));
    let mut out = Owned::zeros(DType::F32, shape);
    let view = amax.as_ref().map(Owned::view);
    fake_quant_once(
        &context(),
        x.view(),
        &attributes.to_string(),
        view,
        out.view_mut(),
    )?;
    Ok(out.view().to_f32())
}

#[track_caller]
fn assert_near(got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        assert!(
            (g - w).abs() <= 1e-6 * w.abs().max(1e-3),
            "{got:?}, expected {want:?}"
        );
    }
}

const LINE: [f32; 9] = [-3.0, -2.99, -1.0, 0.0, 0.004, 0.011811, 1.5, 2.0, 5.0];

#[test]
fn integers_under_an_amax_of_two() {
    let int8 = once(json!({"num_bits": 8}), &[9], &LINE, Some(2.0)).expect("int8");
    let low = -2.015_748;
    assert_near(
        &int8,
        &[
            low,
            low,
            -1.007_874,
            0.0,
            0.0,
            0.015_748_03,
            1.496_063,
            2.0,
            2.0,
        ],
    );
    let narrow = once(
        json!({"num_bits": 8, "narrow_range": true}),
        &[9],
        &LINE,
        Some(2.0),
    );
    assert_near(&narrow.expect("narrow")[..2], &[-2.0, -2.0]);
    let int4 = once(json!({"num_bits": 4}), &[9], &LINE, Some(2.0)).expect("int4");
    let low = -2.285_714_4;
    assert_near(
        &int4,
        &[low, low, -1.142_857_2, 0.0, 0.0, 0.0, 1.428_571_5, 2.0, 2.0],
    );
}

#[test]
fn e4m3_under_an_amax_of_two_and_of_zero() {
    let fp8 = once(json!({"num_bits": [4, 3]}), &[9], &LINE, Some(2.0)).expect("fp8");
    assert_near(
        &[fp8[0], fp8[4], fp8[5], fp8[6]],
        &[-2.0, 0.003_906_25, 0.012_276_786, 1.428_571_5],
    );
    // An amax of zero acts as 1.
    let zero = once(
        json!({"num_bits": [4, 3]}),
        &[3],
        &[-3.0, 0.5, 0.0],
        Some(0.0),
    );
    assert_near(&zero.expect("zero"), &[-1.0, 0.5, 0.0]);
}

#[test]
fn static_blocks_pad_the_last_axis_and_keep_zero_blocks() {
    let x = [1.0, -2.0, 3.0, -4.0, 5.0, 0.0, 0.0, 0.0, 0.0, -0.7];
    let blocks = json!({"num_bits": 4, "block_sizes": {"-1": 4, "type": "static"}});
    let y = once(blocks, &[2, 5], &x, None).expect("blocks");
    assert_near(
        &y,
        &[
            1.142_857, -2.285_714, 2.857_143, -4.0, 5.0, 0.0, 0.0, 0.0, 0.0, -0.7,
        ],
    );
}

#[test]
fn an_affine_quantizer_takes_the_mean_off_and_adds_it_again() {
    let x = [1.0, 2.0, 3.0, 6.0, 10.0, 10.0, 11.0, 13.0];
    for kind in ["static", "dynamic"] {
        let attributes = json!({"num_bits": 8, "bias": {"-1": null, "type": kind}});
        let y = once(attributes, &[2, 4], &x, Some(3.0)).expect("affine");
        assert_near(
            &y,
            &[
                0.992_126, 2.007_874, 3.0, 6.0, 10.007_874, 10.007_874, 11.0, 13.007_874,
            ],
        );
    }
}

/// The mean is that of the batches' means, the amax that of what is left without the mean so far.
#[test]
fn a_static_bias_is_calibrated_batch_by_batch() {
    let mut model = Model::new(context());
    let slot = model
        .add_quantizer("k_bmm_quantizer", None)
        .expect("a new name");
    let cfg = json!({"num_bits": 8, "bias": {"-1": null, "type": "static"}});
    let config = json!({"quant_cfg": [{"quantizer_name": "*", "cfg": cfg}], "algorithm": "max"});
    let config = QuantizeConfig::parse(&config.to_string()).expect("valid");
    let batches = [tensor(&[1, 2], &[1.0, 3.0]), tensor(&[1, 2], &[5.0, 9.0])];
    let mut forward = || {
        batches
            .iter()
            .try_for_each(|x| slot.forward(None, x.view(), None))
    };
    calibrate::quantize(&mut model, &config, Some(&mut forward)).expect("calibrates");
    let one = slot.one(None).expect("single");
    // Means 2 and 7; |x - bias| is 1, then with the bias at 4.5 it is 4.5.
    assert_eq!(one.bias_value.as_ref().expect("a bias").values(), [4.5]);
    assert_eq!(one.amax.as_ref().expect("an amax").values(), [4.5]);
}

#[test]
fn a_rotation_and_back_leaves_what_is_not_quantized() {
    let x: Vec<f32> = (1..=8).map(|i| i as f32).collect();
    let rotate = json!({"num_bits": 8, "rotate": {"enable": true, "mode": "rotate_back"}});
    let mut model = Model::new(context());
    let slot = model.add_quantizer("q", None).expect("a new name");
    let config = json!({"quant_cfg": [{"quantizer_name": "q", "cfg": rotate, "enable": true}]});
    let config = QuantizeConfig::parse(&config.to_string()).expect("valid");
    calibrate::quantize(&mut model, &config, None).expect("quantizes");
    let (x, mut y) = (tensor(&[8], &x), Owned::zeros(DType::F32, &[8]));
    slot.forward(None, x.view(), Some(y.view_mut()))
        .expect("rotates");
    for (y, x) in y.view().to_f32().iter().zip(x.view().to_f32()) {
        assert!((y - x).abs() < 0.2, "{y} {x}");
    }
    // Rotated, the amax is that of the first coefficient.
    let mut forward = || slot.forward(None, x.view(), None);
    let max = mq::config::Algorithm::parse_text("max").expect("valid");
    calibrate::calibrate(&mut model, &max, Some(&mut forward)).expect("calibrates");
    let amax = slot
        .one(None)
        .expect("single")
        .amax
        .clone()
        .expect("an amax");
    assert_near(amax.values(), &[12.727_922]);
}

#[test]
fn a_group_that_cannot_be_rotated_is_named() {
    let mut model = Model::new(context());
    let slot = model.add_quantizer("q", None).expect("a new name");
    let cfg = json!({"num_bits": 8, "rotate": true});
    let config = json!({"quant_cfg": [{"quantizer_name": "q", "cfg": cfg}]});
    let config = QuantizeConfig::parse(&config.to_string()).expect("valid");
    calibrate::quantize(&mut model, &config, None).expect("quantizes");
    let (x, mut y) = (tensor(&[7], &[1.0; 7]), Owned::zeros(DType::F32, &[7]));
    let error = slot
        .forward(None, x.view(), Some(y.view_mut()))
        .expect_err("7 is odd");
    assert!(
        error
            .to_string()
            .contains("`q`: cannot rotate a last axis of 7"),
        "{error}"
    );
}

fn static_nvfp4(four_over_six: bool) -> Value {
    let mut blocks = json!({"-1": 16, "type": "static", "scale_bits": [4, 3]});
    if four_over_six {
        blocks["four_over_six"] = json!(true);
    }
    json!({"num_bits": [2, 1], "block_sizes": blocks})
}

const TWO_BLOCKS: [f32; 32] = [
    0.1, -0.7, 1.0, 3.3, -5.2, 0.0, 6.1, 0.01, 0.3, -0.3, 2.2, -2.6, 4.4, 5.0, -0.05, 1.6, //
    0.01, 0.02, -0.03, 0.04, 0.05, -0.06, 0.07, 0.08, 0.09, 0.1, -0.11, 0.12, 0.13, 0.14, 0.15,
    0.16,
];

#[test]
fn nvfp4_blocks_as_in_the_specification() {
    let attributes = json!({"num_bits": [2, 1], "block_sizes": {"-1": 16, "type": "dynamic", "scale_bits": [4, 3]}});
    let y = once(attributes, &[32], &TWO_BLOCKS, Some(6.1)).expect("nvfp4");
    let want = [
        0.0,
        -0.508_333_3,
        1.016_666_7,
        3.05,
        -6.1,
        0.0,
        6.1,
        0.0,
        0.508_333_3,
        -0.508_333_3,
        2.033_333_3,
        -3.05,
        4.066_666_6,
        4.066_666_6,
        0.0,
        1.525,
    ];
    assert_near(&y[..16], &want);
}

/// The scale of the second block is 0.0272 at 448 and 0.0258 at 256: its largest value tells.
#[test]
fn four_over_six_normalizes_block_scales_to_256() {
    let largest = |four_over_six| {
        let y = once(static_nvfp4(four_over_six), &[32], &TWO_BLOCKS, None).expect("static");
        y[31] / 6.0
    };
    assert_near(&[largest(false)], &[0.027_232_14]);
    assert_near(&[largest(true)], &[0.025_813_8]);
}

/// q and k share the larger amax, another layer does not.
#[test]
fn fused_weights_share_their_global_amax() {
    let mut model = Model::new(context());
    let mut weights = Vec::new();
    for (name, scale) in [("a.q_proj", 1.0), ("a.k_proj", 4.0), ("a.o_proj", 2.0)] {
        let values: Vec<f32> = TWO_BLOCKS.iter().map(|x| x * scale).collect();
        let mut weight = tensor(&[2, 16], &values);
        let spec = LayerSpec {
            weight: Some(weight.view_mut()),
            ..LayerSpec::new(name, LayerKind::Linear)
        };
        model.add_layer(spec).expect("a new name");
        weights.push(weight);
    }
    let entry = json!({"quantizer_name": "*weight_quantizer", "cfg": static_nvfp4(false)});
    let config = json!({"quant_cfg": [entry], "algorithm": "max"}).to_string();
    calibrate::quantize(
        &mut model,
        &QuantizeConfig::parse(&config).expect("valid"),
        None,
    )
    .expect("max");
    let global = |name: &str| {
        let layer = model.find_layer(name).expect("registered");
        let slot = layer
            .weight_slot()
            .expect("a weight")
            .one(None)
            .expect("single");
        slot.global_amax.expect("shared")
    };
    assert_eq!(global("a.q_proj"), 6.1 * 4.0);
    assert_eq!(global("a.k_proj"), 6.1 * 4.0);
    assert_eq!(global("a.o_proj"), 6.1 * 2.0);
}

#[test]
fn bad_blocks_and_values_are_refused() {
    let blocks = |axis: &str, size: u32| json!({"num_bits": [4, 3], "block_sizes": {axis: size, "type": "dynamic", "scale_bits": [8, 0]}});
    let error = once(blocks("-1", 24), &[2, 48], &[1.0; 96], None).expect_err("24");
    assert!(
        matches!(error, Error::Unsupported(_)) && error.to_string().contains("8, 16 or 32"),
        "{error}"
    );
    let error = once(blocks("0", 32), &[32, 3], &[1.0; 96], None).expect_err("off the last axis");
    assert!(
        error
            .to_string()
            .contains("dynamic blocks lie along the last axis"),
        "{error}"
    );
    let nvfp4 = json!({"num_bits": [2, 1], "block_sizes": {"-1": 16, "type": "dynamic", "scale_bits": [4, 3]}});
    let mut x = [1.0; 16];
    x[3] = f32::INFINITY;
    let error = once(nvfp4, &[16], &x, None).expect_err("an infinite scale");
    assert!(
        matches!(error, Error::Numeric(_)) && error.to_string().contains("inf at [3]"),
        "{error}"
    );
    // MX has a definition for every value: an infinity counts as the largest float, NaN as the largest element.
    let y = once(blocks("-1", 16), &[16], &x, None).expect("mx");
    assert!(y[3] > 1e38 && y[0] == 0.0, "{y:?}");
}

#[test]
fn zero_and_subnormal_blocks_have_a_result() {
    for format in [
        json!({"num_bits": [2, 1], "block_sizes": {"-1": 16, "type": "dynamic", "scale_bits": [8, 0]}}),
        json!({"num_bits": [2, 1], "block_sizes": {"-1": 16, "type": "dynamic", "scale_bits": [4, 3]}}),
        static_nvfp4(false),
        json!({"num_bits": 4, "block_sizes": {"-1": 16}}),
    ] {
        assert_eq!(
            once(format.clone(), &[32], &[0.0; 32], None).expect("zeros"),
            [0.0; 32]
        );
        let tiny = [f32::from_bits(3); 32];
        let y = once(format, &[32], &tiny, None).expect("subnormal");
        assert!(y.iter().all(|y| y.is_finite() && y.abs() <= 1e-30), "{y:?}");
    }
}
