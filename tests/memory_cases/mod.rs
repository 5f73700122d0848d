//! Calibrations of a few layers whose memory is measured, in host memory and on a GPU.

use mq::error::Error;

use crate::stack::{self, FP8, INT4_BLOCKS, INT8, INT8_ROWS, NVFP4, Part};

const NVFP4_STATIC: &str =
    r#"{"num_bits": [2, 1], "block_sizes": {"-1": 16, "type": "static", "scale_bits": [4, 3]}}"#;

/// Seven layers of 192 to 768 channels; three read one activation, two another. The last one's activations
/// grow a millionfold from batch to batch.
pub fn parts() -> Vec<Part> {
    let mut parts = vec![
        Part::linear("q_proj", [96, 192], Some("qkv")),
        Part::linear("k_proj", [64, 192], Some("qkv")),
        Part::linear("v_proj", [33, 192], Some("qkv")),
        Part::linear("gate_proj", [100, 320], Some("mlp")),
        Part::linear("up_proj", [100, 320], Some("mlp")),
        Part::linear("down_proj", [80, 768], None),
        Part::linear("head", [50, 250], None),
    ];
    for (batch, x) in parts[6].batches.iter_mut().enumerate() {
        let size = 1e-6 * 1e6f32.powi(batch as i32);
        stack::change(x, |_, value| size * value);
    }
    parts
}

/// A name, the formats of weights and inputs, the algorithm.
pub fn cases() -> [(&'static str, &'static str, &'static str, &'static str); 19] {
    [
        ("max", INT8_ROWS, INT8, r#""max""#),
        (
            "max of channels",
            INT8_ROWS,
            r#"{"num_bits": 8, "axis": -1}"#,
            r#""max""#,
        ),
        (
            "smoothquant",
            INT8_ROWS,
            INT8,
            r#"{"method": "smoothquant", "alpha": 0.5}"#,
        ),
        ("awq_lite", INT4_BLOCKS, "", r#""awq_lite""#),
        ("awq_lite with an input", INT4_BLOCKS, FP8, r#""awq_lite""#),
        (
            "awq_lite, rows",
            INT8_ROWS,
            "",
            r#"{"method": "awq_lite", "alpha_step": 0.25}"#,
        ),
        ("awq_clip", INT4_BLOCKS, "", r#""awq_clip""#),
        ("awq_full", INT4_BLOCKS, "", r#""awq_full""#),
        ("awq_full, NVFP4", NVFP4, NVFP4, r#""awq_full""#),
        ("entropy", INT8_ROWS, INT8, r#""histogram""#),
        (
            "mse",
            INT8_ROWS,
            INT8,
            r#"{"method": "histogram", "amax_method": "mse", "stride": 8}"#,
        ),
        (
            "percentile",
            INT8_ROWS,
            INT8,
            r#"{"method": "histogram", "amax_method": "percentile"}"#,
        ),
        ("mse of blocks", INT4_BLOCKS, "", r#""mse""#),
        ("mse of rows", INT8_ROWS, INT8, r#""mse""#),
        ("mse of tensors", FP8, FP8, r#""mse""#),
        ("mse of NVFP4", NVFP4, "", r#""mse""#),
        ("mse of static NVFP4", NVFP4_STATIC, "", r#""mse""#),
        (
            "histograms of weights",
            r#"{"num_bits": 8, "axis": null, "calibrator": "histogram"}"#,
            INT8,
            r#"{"method": "histogram", "amax_method": "mse", "stride": 64}"#,
        ),
        ("a list", INT4_BLOCKS, FP8, r#"["mse", "awq_lite"]"#),
    ]
}

/// The bytes that an error asks for.
pub fn bytes_needed(error: &Error) -> u64 {
    let Error::OutOfMemory(text) = error else {
        panic!("{error}");
    };
    let (_, number) = text.split_once("needs ").expect("says what it needs");
    let (number, _) = number.split_once(" bytes").expect("in bytes");
    assert!(
        text.ends_with(&format!("set it to {number} or more")),
        "{text}"
    );
    number.parse().expect("a number")
}
