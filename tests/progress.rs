//! What a host hears of a calibration, and that it can stop it at every word.

mod owned;
mod stack;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use mq::error::{Error, Result};
use mq::model::{Context, ContextSettings};
use stack::{
    FP8, INT4_BLOCKS, INT8, INT8_ROWS, Stack, assert_unchanged, before, config, three_layers,
};

const CASES: [(&str, &str, &str); 6] = [
    (INT8_ROWS, INT8, r#""max""#),
    (
        INT8_ROWS,
        INT8,
        r#"{"method": "smoothquant", "alpha": 0.5}"#,
    ),
    (INT8_ROWS, INT8, r#""histogram""#),
    (INT4_BLOCKS, FP8, r#""awq_full""#),
    (INT4_BLOCKS, INT8, r#""mse""#),
    (INT4_BLOCKS, INT8, r#"["max", "awq_lite"]"#),
];

/// One call of the host's: phase, done, total, layer.
type Heard = (&'static str, u64, u64, String);

/// A model whose host stops at some call, counted from 1, and remembers all of them.
fn stack(stop_at: usize) -> (Stack, Arc<Mutex<Vec<Heard>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let (kept, calls) = (Arc::clone(&heard), AtomicUsize::new(0));
    let context = Context::with(ContextSettings {
        threads: 2,
        gpu: None,
        memory_limit_bytes: 0,
        log: Box::new(|_, _| {}),
        progress: Some(Box::new(move |progress| {
            let one = (
                progress.phase,
                progress.done,
                progress.total,
                progress.layer.to_owned(),
            );
            kept.lock().expect("no panic").push(one);
            match calls.fetch_add(1, SeqCst) + 1 == stop_at {
                true => 42,
                false => 0,
            }
        })),
    });
    let stack = Stack::new(Arc::new(context.expect("threads")), three_layers());
    (stack, heard)
}

fn run(stack: &mut Stack, case: (&str, &str, &str)) -> Result<()> {
    stack.quantize(&config(case.0, case.1, case.2))
}

#[test]
fn every_phase_counts_up_to_its_total() {
    for case in CASES {
        let (mut stack, heard) = stack(0);
        run(&mut stack, case).expect(case.2);
        let heard = heard.lock().expect("no panic");
        for phase in ["observe", "solve"] {
            let mut next = 0;
            for (_, done, total, layer) in heard.iter().filter(|(of, ..)| *of == phase) {
                assert!(done <= total, "{case:?}: {heard:?}");
                assert!(*done == next || *done == next + 1, "{case:?}: {heard:?}");
                assert_eq!(layer.is_empty(), phase == "observe", "{case:?}: {heard:?}");
                // The next algorithm of a list begins anew.
                next = if done == total { 0 } else { *done };
            }
            assert_eq!(
                next, 0,
                "{case:?}: {phase} did not reach its total: {heard:?}"
            );
        }
    }
}

#[test]
fn a_host_that_stops_at_any_call_finds_everything_as_it_was() {
    for case in CASES {
        for stop_at in 1.. {
            let what = format!("{case:?}, stopped at call {stop_at}");
            let (mut stack, heard) = stack(stop_at);
            let unchanged = before(&mut stack);
            let outcome = run(&mut stack, case);
            let calls = heard.lock().expect("no panic").len();
            if calls < stop_at {
                outcome.expect(&what);
                break;
            }
            let error = outcome.expect_err(&what);
            let is_right = matches!(
                error,
                Error::Callback {
                    what: "progress",
                    code: 42
                }
            );
            assert!(is_right, "{what}: {error}");
            assert_eq!(calls, stop_at, "{what}: nothing is said after that");
            assert_unchanged(&mut stack, &unchanged, &what);
        }
    }
}
