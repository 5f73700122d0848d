//! A calibration that was stopped goes on where it was, and ends with the same bits.

mod interrupted;
mod owned;
mod stack;

use interrupted::{
    CASES, PLAIN, ResumeFile, Settings, is_stop, parts, run, stack as stack_with, tightest,
};
use mq::calibrate;
use mq::config::QuantizeConfig;
use mq::error::Error;
use stack::{assert_same, config, pass};

/// After so many solves: how many passes are done, and whether no pass has begun to be solved beyond them.
fn finished_passes(config: &QuantizeConfig, limit: u64) -> Vec<(usize, bool)> {
    let stack = stack_with(&Settings { limit, ..PLAIN }, parts());
    let plan = calibrate::plan_quantize(&stack.model, config).expect("a plan");
    let (mut all, mut passes) = (vec![(0, true)], 0);
    for algorithm in plan["without_data"].as_array().expect("algorithms") {
        let weights = algorithm["weights"].as_array().expect("weights").len();
        all.extend(vec![(passes, true); weights]);
        let of = plan["passes"].as_array().expect("passes").iter();
        for pass in of.filter(|pass| pass["algorithm"] == algorithm["algorithm"]) {
            let items = pass["observed"].as_array().expect("items").len();
            all.extend(vec![(passes, false); items - 1]);
            passes += 1;
            all.push((passes, true));
        }
    }
    all
}

#[test]
fn a_calibration_that_was_stopped_goes_on_and_ends_the_same() {
    for (weight, input, algorithm) in CASES {
        let config = config(weight, input, algorithm);
        let limit = tightest(&config, parts);
        let whole = run(&Settings { limit, ..PLAIN }, &config, parts());
        whole.outcome.as_ref().expect(algorithm);
        assert!(whole.forwards >= 2, "{algorithm}: {}", whole.forwards);
        let progress = finished_passes(&config, limit);
        for stop_at in 1.. {
            let what = format!("{algorithm}, stopped at {stop_at}");
            let file = ResumeFile::new();
            let settings = Settings {
                limit,
                file: Some(&file.0),
                ..PLAIN
            };
            let first = run(
                &Settings {
                    stop_at: stop_at as u64,
                    ..settings
                },
                &config,
                parts(),
            );
            if first.outcome.is_ok() {
                assert!(stop_at > 3, "{what}: nothing was stopped");
                assert_same(&first.states, &whole.states, &what);
                assert!(!file.0.exists(), "{what}");
                break;
            }
            assert!(is_stop(&first), "{what}: {:?}", first.outcome);
            assert!(file.0.exists(), "{what}");
            // Another process goes on.
            let second = run(&settings, &config, parts());
            second.outcome.as_ref().expect(&what);
            assert_same(&second.states, &whole.states, &what);
            // A pass is done when all of it is solved; what is left of one may go with the next.
            let (finished, is_boundary) = *progress.get(stop_at).expect("a solve");
            let rest = whole.forwards - finished;
            assert!(
                second.forwards <= rest,
                "{what}: {} forwards",
                second.forwards
            );
            assert!(
                second.forwards == rest || !is_boundary,
                "{what}: {} forwards",
                second.forwards
            );
            assert!(!file.0.exists(), "{what}");
        }
    }
}

#[test]
fn a_calibration_that_was_stopped_again_and_again_ends_the_same() {
    for (weight, input, algorithm) in CASES {
        let config = config(weight, input, algorithm);
        let limit = tightest(&config, parts);
        let whole = run(&Settings { limit, ..PLAIN }, &config, parts());
        let file = ResumeFile::new();
        let settings = Settings {
            limit,
            file: Some(&file.0),
            ..PLAIN
        };
        let mut forwards = 0;
        // Every run gets a step further, and then past the weights, which are found anew each time.
        for stop_at in 1..100 {
            let next = run(
                &Settings {
                    stop_at,
                    ..settings
                },
                &config,
                parts(),
            );
            forwards += next.forwards;
            if next.outcome.is_ok() {
                assert_same(&next.states, &whole.states, algorithm);
                break;
            }
            assert!(is_stop(&next), "{algorithm}: {:?}", next.outcome);
        }
        assert!(!file.0.exists(), "{algorithm}: it never ended");
        // Every stop may have cut a pass in two.
        assert!(forwards >= whole.forwards, "{algorithm}");
    }
}

#[test]
fn a_calibration_that_was_cancelled_in_a_tap_goes_on() {
    for (weight, input, algorithm) in CASES {
        let config = config(weight, input, algorithm);
        let limit = tightest(&config, parts);
        let whole = run(&Settings { limit, ..PLAIN }, &config, parts());
        for cancelled_pass in 1..=whole.forwards {
            let what = format!("{algorithm}, cancelled in forward {cancelled_pass}");
            let file = ResumeFile::new();
            let settings = Settings {
                limit,
                file: Some(&file.0),
                ..PLAIN
            };
            let mut stack = stack_with(&settings, parts());
            let before = stack.states();
            let shared = stack.model.shared();
            let (layers, own) = (&stack.layers, &stack.parts);
            let mut calls = 0;
            let mut forward = || {
                if calls + 1 == cancelled_pass {
                    shared.cancel();
                }
                pass(layers, own, &mut calls)
            };
            let outcome = calibrate::quantize(&mut stack.model, &config, Some(&mut forward));
            assert_eq!(outcome, Err(Error::Cancelled), "{what}");
            assert_same(&stack.states(), &before, &what);
            let second = run(&settings, &config, parts());
            second.outcome.as_ref().expect(&what);
            assert_same(&second.states, &whole.states, &what);
            assert_eq!(
                second.forwards,
                whole.forwards + 1 - cancelled_pass,
                "{what}"
            );
        }
    }
}

#[test]
fn experts_without_tokens_are_filled_after_a_stop_too() {
    let experts = || {
        let mut parts = parts();
        for part in &mut parts[2..] {
            part.spec.expert_group = Some("experts".to_owned());
        }
        parts[3].batches.clear();
        parts
    };
    for (weight, input, algorithm) in CASES {
        let config = config(weight, input, algorithm);
        for limit in [0, tightest(&config, experts)] {
            let whole = run(&Settings { limit, ..PLAIN }, &config, experts());
            whole.outcome.as_ref().expect(algorithm);
            for stop_at in 1.. {
                let what = format!("{algorithm}, limit {limit}, stopped at {stop_at}");
                let file = ResumeFile::new();
                let settings = Settings {
                    limit,
                    file: Some(&file.0),
                    ..PLAIN
                };
                let first = run(
                    &Settings {
                        stop_at,
                        ..settings
                    },
                    &config,
                    experts(),
                );
                if first.outcome.is_ok() {
                    break;
                }
                let second = run(&settings, &config, experts());
                second.outcome.as_ref().expect(&what);
                assert_same(&second.states, &whole.states, &what);
            }
        }
    }
}
