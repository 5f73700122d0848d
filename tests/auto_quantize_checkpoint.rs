//! The file that keeps a search: going on after a failure, and what it refuses to go on with.

mod network;
mod owned;
mod recorded;
mod safetensors_file;
mod searched;

use std::sync::Arc;

use mq::auto_quantize::auto_quantize;
use mq::auto_quantize::score::Method;
use mq::auto_quantize::settings::{Settings, read_constraints};
use mq::error::Error;
use mq::model::Context;
use recorded::Recorded;
use searched::{Apart, BALANCED, FORMATS, context, file, plain, settings};

#[test]
fn a_search_that_fails_goes_on_from_its_checkpoint() {
    for formats in [FORMATS, BALANCED] {
        let path = file("search");
        let kept = Settings {
            checkpoint: Some(path.clone()),
            ..settings(formats, 7.0)
        };
        let mut whole = Apart::new(context(2, 0), true);
        let want = whole
            .search(settings(formats, 7.0), |_| {})
            .expect("a search")
            .to_json()
            .to_string();
        let mut apart = Apart::new(context(2, 0), true);
        let before = apart.states();
        let error = apart
            .search(kept.clone(), |host| host.fails_at = Some(2))
            .err()
            .expect("a failure");
        assert!(matches!(error, Error::Callback { code: 7, .. }), "{error}");
        assert_eq!(
            apart.states(),
            before,
            "a failed search must leave the model as it was"
        );
        let mut host = Recorded::new(&apart.network);
        let found =
            auto_quantize(&mut apart.model, kept.clone(), &mut host, None).expect("the rest");
        assert_eq!(
            host.calls[1..],
            [0, 2],
            "no calibration, and two of four steps"
        );
        assert_eq!(found.to_json().to_string(), want);
        assert_eq!(apart.weights(), whole.weights());
        // A finished one needs no data at all, whatever the budget.
        let other = Settings {
            constraints: read_constraints(Some(r#"{"effective_bits": 9}"#)).expect("constraints"),
            ..kept
        };
        let mut third = Apart::new(context(2, 0), true);
        let found = third
            .search(other, |host| host.batches = 0)
            .expect("no data");
        let mut direct = Apart::new(context(2, 0), true);
        let want = direct
            .search(settings(formats, 9.0), |_| {})
            .expect("a search");
        assert_eq!(found.to_json().to_string(), want.to_json().to_string());
        assert_eq!(third.weights(), direct.weights());
        std::fs::remove_file(path).expect("a checkpoint stays");
    }
}

#[test]
fn a_checkpoint_of_another_search_or_of_other_weights_is_refused_and_one_cut_off_is_used_as_far_as_it_goes()
 {
    let path = file("cut");
    let kept = |bits: f64, formats: &str| Settings {
        checkpoint: Some(path.clone()),
        ..settings(formats, bits)
    };
    let mut whole = Apart::new(context(1, 0), true);
    let want = whole
        .search(kept(7.0, FORMATS), |_| {})
        .expect("a search")
        .to_json()
        .to_string();
    let bytes = std::fs::read(&path).expect("a checkpoint");
    let mut other = Apart::new(context(1, 0), true);
    let error = other
        .search(kept(7.0, BALANCED), |_| {})
        .err()
        .expect("other formats");
    assert!(
        error
            .to_string()
            .contains("Use a different checkpoint path"),
        "{error}"
    );
    let mut changed = Apart::new(context(1, 0), true);
    changed.network.layers[3].1.bytes_mut()[5] ^= 1;
    let error = changed
        .search(kept(7.0, FORMATS), |_| {})
        .err()
        .expect("other weights");
    assert!(error.to_string().contains("weight of"), "{error}");
    for cut in [
        0,
        7,
        15,
        16,
        17,
        1000,
        bytes.len() / 2,
        bytes.len() - 1,
        bytes.len(),
    ] {
        std::fs::write(&path, &bytes[..cut]).expect("a file");
        let mut apart = Apart::new(context(1, 0), true);
        let found = apart.search(kept(7.0, FORMATS), |_| {}).expect("a search");
        assert_eq!(found.to_json().to_string(), want, "{cut}");
    }
    let mut flipped = bytes.clone();
    flipped[2000] ^= 0x40;
    std::fs::write(&path, &flipped).expect("a file");
    let mut apart = Apart::new(context(1, 0), true);
    assert_eq!(
        apart
            .search(kept(7.0, FORMATS), |_| {})
            .expect("a search")
            .to_json()
            .to_string(),
        want
    );
    std::fs::remove_file(path).expect("it is there");
}

/// What a host forgot must not be in the checkpoint as scores of zero.
#[test]
fn a_search_that_missed_a_gradient_leaves_nothing_that_a_right_one_would_trust() {
    let path = file("forgotten");
    let kept = Settings {
        checkpoint: Some(path.clone()),
        ..settings(FORMATS, 7.0)
    };
    let mut apart = Apart::new(context(1, 0), true);
    let error = apart
        .search(kept.clone(), |host| host.without_gradient = Some("lm_head"))
        .err()
        .expect("a forgotten tap");
    assert!(error.to_string().contains("`lm_head` was used"), "{error}");
    let mut host = Recorded::new(&apart.network);
    let found = auto_quantize(&mut apart.model, kept, &mut host, None).expect("a search");
    assert_eq!(host.calls[2], 4, "every step again");
    assert_eq!(found.to_json().to_string(), plain(Method::Gradient));
    std::fs::remove_file(path).expect("a checkpoint stays");
}

#[test]
fn layers_that_only_some_steps_use_are_not_warned_of_also_after_resuming() {
    let said: Arc<std::sync::Mutex<Vec<String>>> = Arc::default();
    let keep = Arc::clone(&said);
    let log = move |level: mq::model::LogLevel, text: &str| {
        if level == mq::model::LogLevel::Warning {
            keep.lock().expect("one thread").push(text.to_owned());
        }
    };
    let context = Arc::new(Context::new(1, Box::new(log)).expect("threads"));
    let path = file("unused");
    let kept = Settings {
        checkpoint: Some(path.clone()),
        ..settings(r#"["INT8_WEIGHT_ONLY_CFG"]"#, 9.0)
    };
    let mut apart = Apart::new(Arc::clone(&context), true);
    let stopped = apart.search(kept.clone(), |host| {
        host.absent = Some(("lm_head", 2));
        host.fails_at = Some(2);
    });
    stopped.err().expect("stopped");
    apart
        .search(kept.clone(), |host| host.absent = Some(("lm_head", 2)))
        .expect("the rest");
    assert_eq!(said.lock().expect("one thread").as_slice(), [""; 0]);
    std::fs::remove_file(&path).expect("a checkpoint stays");
    let mut never = Apart::new(context, true);
    never
        .search(kept, |host| host.absent = Some(("lm_head", 0)))
        .expect("a search");
    let said = said.lock().expect("one thread").join("\n");
    assert!(
        said.contains("1 layers were not used in any of the 4 steps"),
        "{said}"
    );
    std::fs::remove_file(path).expect("a checkpoint stays");
}
