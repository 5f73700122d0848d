//! A calibration takes no more memory than its plan says, and its results do not depend on the limit.

mod memory_cases;
mod owned;
mod stack;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use memory_cases::{bytes_needed, parts};
use mq::calibrate;
use mq::config::QuantizeConfig;
use mq::error::Error;
use mq::model::SlotState;
use stack::{INT4_BLOCKS, Stack, assert_same, config, context};

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

/// One test, so that nothing else allocates meanwhile.
#[test]
fn a_calibration_stays_within_its_plan_and_its_limit() {
    let weights = ["mse of rows", "mse of tensors", "histograms of weights"];
    // Whatever is made once for the whole process.
    run(3, 0, &config(INT4_BLOCKS, "", r#""awq_full""#)).expect("warm");
    let mut wrong = Vec::new();
    for (name, weight, input, algorithm) in memory_cases::cases() {
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
