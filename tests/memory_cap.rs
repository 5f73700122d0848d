//! A calibration takes no more memory than its plan says, and its results do not depend on the limit.

mod owned;
mod stack;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use mq::calibrate;
use mq::config::QuantizeConfig;
use mq::error::Error;
use mq::model::SlotState;
use stack::{FP8, INT4_BLOCKS, INT8, INT8_ROWS, NVFP4, Part, Stack, assert_same, config, context};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is the system's allocator, which is only counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), SeqCst) + layout.size();
        PEAK.fetch_max(live, SeqCst);
        // SAFETY: forwarded contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), SeqCst);
        // SAFETY: forwarded contract.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Seven layers of 192 to 768 channels; three read one activation, two another. The last one's activations
/// grow a millionfold from batch to batch.
fn parts() -> Vec<Part> {
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

struct Outcome {
    states: Vec<Arc<SlotState>>,
    forwards: usize,
    planned_forwards: usize,
    planned_peak: usize,
    /// The most that was held during the verb and not after it.
    peak: usize,
}

fn run(threads: usize, limit: u64, config: &QuantizeConfig) -> Result<Outcome, Error> {
    let mut stack = Stack::new(context(threads, limit).0, parts());
    let plan = calibrate::plan_quantize(&stack.model, config)?;
    PEAK.store(LIVE.load(SeqCst), SeqCst);
    stack.quantize(config)?;
    let peak = PEAK.load(SeqCst).saturating_sub(LIVE.load(SeqCst));
    let number = |key: &str| usize::try_from(plan[key].as_u64().expect(key)).expect("small");
    Ok(Outcome {
        states: stack.states(),
        forwards: stack.forwards,
        planned_forwards: number("forwards"),
        planned_peak: number("peak_bytes"),
        peak,
    })
}

/// The bytes that an error asks for.
fn bytes_needed(error: &Error) -> u64 {
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

/// One test, so that nothing else allocates meanwhile.
#[test]
fn a_calibration_stays_within_its_plan_and_its_limit() {
    let cases = [
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
        (
            "mse of static NVFP4",
            &NVFP4.replace("dynamic", "static"),
            "",
            r#""mse""#,
        ),
        (
            "histograms of weights",
            r#"{"num_bits": 8, "axis": null, "calibrator": "histogram"}"#,
            INT8,
            r#"{"method": "histogram", "amax_method": "mse", "stride": 64}"#,
        ),
        ("a list", INT4_BLOCKS, FP8, r#"["mse", "awq_lite"]"#),
    ];
    let weights = ["mse of rows", "mse of tensors", "histograms of weights"];
    // Whatever is made once for the whole process.
    run(3, 0, &config(INT4_BLOCKS, "", r#""awq_full""#)).expect("warm");
    let mut wrong = Vec::new();
    for (name, weight, input, algorithm) in cases {
        let config = config(weight, input, algorithm);
        let mut first: Option<Outcome> = None;
        for threads in [1, 3] {
            let mut check = |limit: u64, outcome: &Outcome| {
                let what = format!("{name}, {threads} threads, limit {limit}");
                assert_eq!(outcome.forwards, outcome.planned_forwards, "{what}");
                if outcome.peak > outcome.planned_peak {
                    wrong.push(format!(
                        "{what}: {} bytes, planned {}",
                        outcome.peak, outcome.planned_peak
                    ));
                }
                if limit > 0 {
                    assert!(outcome.planned_peak as u64 <= limit, "{what}");
                }
            };
            let unlimited = run(threads, 0, &config).expect(name);
            check(0, &unlimited);
            let first = first.get_or_insert_with(|| run(1, 0, &config).expect(name));
            assert_same(&unlimited.states, &first.states, name);
            let error = run(threads, 1, &config).map(|_| ());
            let mut least = bytes_needed(&error.expect_err("a byte is too little"));
            if name == "a list" {
                // The second algorithm asks for itself.
                let error = run(threads, least, &config).map(|_| ());
                least = bytes_needed(&error.expect_err("less than AWQ needs"));
            }
            let error = run(threads, least - 1, &config).map(|_| ());
            assert_eq!(
                bytes_needed(&error.expect_err("a byte too little")),
                least,
                "{name}"
            );
            let limited = run(threads, least, &config).expect("as much as was asked for");
            check(least, &limited);
            // Where a weight takes the most, all statistics may fit beside it.
            assert!(
                limited.forwards > 1 || limited.forwards == 0 || weights.contains(&name),
                "{name}: one pass under {least} bytes"
            );
            assert_same(&limited.states, &first.states, &format!("{name} in passes"));
            let middle = 2 * least;
            let limited = run(threads, middle, &config).expect("more than was asked for");
            check(middle, &limited);
            assert_same(
                &limited.states,
                &first.states,
                &format!("{name} in fewer passes"),
            );
        }
    }
    assert!(wrong.is_empty(), "more than planned:\n{}", wrong.join("\n"));
}
