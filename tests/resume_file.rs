//! What is in a resume file, or what became of it, never makes a result wrong.

mod interrupted;
mod owned;
mod stack;

use std::path::Path;
use std::sync::Arc;

use interrupted::{CASES, PLAIN, ResumeFile, Settings, parts, run};
use mq::config::QuantizeConfig;
use mq::error::Error;
use mq::model::SlotState;
use stack::{FP8, INT8, INT8_ROWS, Part, assert_same, change, config};

/// Small layers, of which the last one waits: a file in which everything else is finished, and the result.
fn nearly_finished(config: &QuantizeConfig) -> (ResumeFile, Vec<u8>, Vec<Arc<SlotState>>) {
    let whole = run(&PLAIN, config, small());
    let file = ResumeFile::new();
    for stop_at in 1.. {
        let settings = Settings {
            file: Some(&file.0),
            stop_at,
            ..PLAIN
        };
        let before = std::fs::read(&file.0).unwrap_or_default();
        if run(&settings, config, small()).outcome.is_ok() {
            return (file, before, whole.states);
        }
    }
    unreachable!()
}

fn small() -> Vec<Part> {
    vec![
        Part::linear("a", [2, 6], None),
        Part::linear("b", [3, 5], None),
        Part::linear("c", [2, 4], None),
    ]
}

#[test]
fn a_file_of_any_length_resumes_or_begins_anew() {
    for algorithm in [r#"["max", "awq_lite"]"#, r#""histogram""#] {
        let config = config(INT8_ROWS, INT8, algorithm);
        let (file, bytes, states) = nearly_finished(&config);
        assert!(bytes.len() > 600, "{} bytes", bytes.len());
        let settings = Settings {
            file: Some(&file.0),
            ..PLAIN
        };
        for length in 0..=bytes.len() {
            std::fs::write(&file.0, &bytes[..length]).expect("writes");
            let resumed = run(&settings, &config, small());
            resumed.outcome.as_ref().expect("begins anew at worst");
            assert_same(&resumed.states, &states, &format!("{length} bytes"));
            assert!(!file.0.exists());
        }
    }
}

#[test]
fn a_byte_that_is_wrong_is_noticed() {
    let config = config(INT8_ROWS, INT8, r#""awq_lite""#);
    let (file, bytes, states) = nearly_finished(&config);
    let settings = Settings {
        file: Some(&file.0),
        ..PLAIN
    };
    for at in 0..bytes.len() {
        let mut wrong = bytes.clone();
        wrong[at] ^= 1 << (at % 8);
        std::fs::write(&file.0, &wrong).expect("writes");
        let resumed = run(&settings, &config, small());
        if at < 16 {
            assert!(
                matches!(&resumed.outcome, Err(Error::State(text)) if text.contains("another model")),
                "{at}: {:?}",
                resumed.outcome
            );
            assert!(
                std::fs::read(&file.0).expect("still there") == wrong,
                "{at}"
            );
            continue;
        }
        resumed.outcome.as_ref().expect("what is wrong is left out");
        assert_same(&resumed.states, &states, &format!("byte {at}"));
    }
}

#[test]
fn a_file_of_something_else_is_refused_and_kept() {
    let awq = config(INT8_ROWS, INT8, r#""awq_lite""#);
    let (file, bytes, _) = nearly_finished(&awq);
    let settings = Settings {
        file: Some(&file.0),
        ..PLAIN
    };
    std::fs::write(&file.0, &bytes).expect("writes");
    let mut others = vec![
        (config(INT8_ROWS, INT8, r#""awq_full""#), small()),
        (
            config(
                INT8_ROWS,
                INT8,
                r#"{"method": "awq_lite", "alpha_step": 0.2}"#,
            ),
            small(),
        ),
        (config(INT8_ROWS, FP8, r#""awq_lite""#), small()),
        (config(INT8_ROWS, INT8, r#""awq_lite""#), parts()),
        (config(INT8_ROWS, INT8, r#""awq_lite""#), small()),
        (config(INT8_ROWS, INT8, r#""awq_lite""#), small()),
    ];
    others[4].1.pop();
    others[5].1[0].spec.expert_group = Some("experts".to_owned());
    for (config, parts) in others {
        let other = run(&settings, &config, parts);
        let Err(Error::State(text)) = &other.outcome else {
            panic!("{:?}", other.outcome);
        };
        assert!(text.contains(&file.0.display().to_string()), "{text}");
        assert_eq!(other.forwards, 0);
        assert!(std::fs::read(&file.0).expect("still there") == bytes);
    }
}

#[test]
fn weights_that_have_changed_are_refused() {
    let config = config(INT8_ROWS, INT8, r#""awq_lite""#);
    let (file, bytes, _) = nearly_finished(&config);
    std::fs::write(&file.0, &bytes).expect("writes");
    let mut changed = small();
    change(&mut changed[1].weight, |channel, w| match channel {
        3 => w * 1.000_001,
        _ => w,
    });
    let settings = Settings {
        file: Some(&file.0),
        ..PLAIN
    };
    let outcome = run(&settings, &config, changed).outcome;
    let Err(Error::State(text)) = &outcome else {
        panic!("{outcome:?}");
    };
    assert!(text.contains("`b.weight_quantizer`"), "{text}");
    assert!(std::fs::read(&file.0).expect("still there") == bytes);
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    for path in ["/nowhere/at/all", "/"] {
        for (weight, input, algorithm) in CASES {
            let settings = Settings {
                file: Some(Path::new(path)),
                ..PLAIN
            };
            let stopped = run(&settings, &config(weight, input, algorithm), parts());
            let Err(Error::State(text)) = &stopped.outcome else {
                panic!("{:?}", stopped.outcome);
            };
            assert!(text.contains(path), "{text}");
            assert_eq!(stopped.forwards, 0);
        }
    }
}

#[test]
fn a_run_that_kept_nothing_does_not_stand_in_the_way_of_another() {
    let file = ResumeFile::new();
    let settings = Settings {
        file: Some(&file.0),
        ..PLAIN
    };
    let nf4 = r#"{"num_bits": 4, "block_sizes": {"-1": 16, "scale_bits": 8, "scale_block_sizes": {"-1": 8}}}"#;
    let refused = run(&settings, &config(nf4, "", r#""awq_lite""#), small());
    assert!(
        matches!(refused.outcome, Err(Error::Config(_))),
        "{:?}",
        refused.outcome
    );
    let mended = run(&settings, &config(INT8_ROWS, "", r#""awq_lite""#), small());
    mended.outcome.expect("nothing was kept of the first");
}
