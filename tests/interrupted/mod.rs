//! Calibrations that are stopped by their host, and the file that they leave.
#![allow(dead_code, reason = "no test file uses all of it")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::stack::{FP8, INT4_BLOCKS, INT8, INT8_ROWS, Part, Stack, assert_same};
use mq::config::QuantizeConfig;
use mq::error::{Error, Result};
use mq::model::{CalibrationOptions, Context, ContextSettings, SlotState};

pub const SMOOTHQUANT: &str = r#"{"method": "smoothquant", "alpha": 0.5}"#;

pub const CASES: [(&str, &str, &str); 7] = [
    (INT8_ROWS, INT8, r#""max""#),
    (INT8_ROWS, INT8, SMOOTHQUANT),
    (INT8_ROWS, INT8, r#""histogram""#),
    (INT4_BLOCKS, FP8, r#""awq_lite""#),
    (INT4_BLOCKS, "", r#""awq_full""#),
    (INT4_BLOCKS, INT8, r#"["mse", "awq_clip"]"#),
    (INT4_BLOCKS, INT8, r#"["max", "awq_lite"]"#),
];

/// A file of this test alone, removed when it goes.
pub struct ResumeFile(pub PathBuf);

impl ResumeFile {
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            "mq-resume-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, SeqCst)
        );
        let path = std::env::temp_dir().join(name);
        // Of an earlier process of the same number.
        let _ = std::fs::remove_file(&path);
        Self(path)
    }
}

impl Drop for ResumeFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

pub fn parts() -> Vec<Part> {
    vec![
        Part::linear("a", [24, 48], Some("x")),
        Part::linear("b", [16, 48], Some("x")),
        Part::linear("c", [8, 48], None),
        Part::linear("d", [8, 40], None),
    ]
}

/// What a run left.
pub struct Run {
    pub outcome: Result<()>,
    pub states: Vec<Arc<SlotState>>,
    pub forwards: usize,
}

#[derive(Clone, Copy)]
pub struct Settings<'a> {
    pub limit: u64,
    pub threads: usize,
    pub file: Option<&'a Path>,
    /// The progress callback stops the verb at this solve.
    pub stop_at: u64,
}

pub const PLAIN: Settings = Settings {
    limit: 0,
    threads: 1,
    file: None,
    stop_at: u64::MAX,
};

pub fn stack(settings: &Settings, parts: Vec<Part>) -> Stack {
    let (stop_at, solves) = (settings.stop_at, AtomicU64::new(0));
    let context = Context::with(ContextSettings {
        threads: settings.threads,
        gpu: None,
        memory_limit_bytes: settings.limit,
        log: Box::new(|_, _| {}),
        progress: Some(Box::new(move |progress| {
            let solved = progress.phase == "solve";
            i32::from(solved && solves.fetch_add(1, SeqCst) + 1 >= stop_at)
        })),
    });
    let mut stack = Stack::new(Arc::new(context.expect("threads")), parts);
    stack.model.set_calibration_options(CalibrationOptions {
        resume_file: settings.file.map(Path::to_owned),
        ..CalibrationOptions::default()
    });
    stack
}

pub fn run(settings: &Settings, config: &QuantizeConfig, parts: Vec<Part>) -> Run {
    let mut stack = stack(settings, parts);
    let before = stack.states();
    let outcome = stack.quantize(config);
    if outcome.is_err() {
        assert_same(&stack.states(), &before, "a verb that failed");
    }
    Run {
        outcome,
        states: stack.states(),
        forwards: stack.forwards,
    }
}

/// The limit under which every activation has a pass of its own.
pub fn tightest(config: &QuantizeConfig, parts: impl Fn() -> Vec<Part>) -> u64 {
    let mut limit = 1;
    loop {
        let settings = Settings { limit, ..PLAIN };
        match run(&settings, config, parts()).outcome {
            Err(Error::OutOfMemory(text)) => {
                let number = text
                    .split_once("needs ")
                    .and_then(|(_, t)| t.split_once(' '));
                limit = number.expect(&text).0.parse().expect("a number");
            }
            outcome => {
                outcome.expect("enough memory");
                return limit;
            }
        }
    }
}

pub fn is_stop(run: &Run) -> bool {
    matches!(
        run.outcome,
        Err(Error::Callback {
            what: "progress",
            code: 1
        })
    )
}
