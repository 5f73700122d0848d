//! The search against the reference's own: costs exactly, scores to 1e-4, and the choice equal or better. Cases are
//! counted.

mod network;
mod owned;
mod recorded;
mod safetensors_file;

use std::sync::Arc;

use mq::auto_quantize::auto_quantize;
use mq::auto_quantize::search::Search;
use mq::auto_quantize::settings::{Settings, read_constraints, read_formats};
use mq::model::Context;
use mq::tensor::DType;
use network::Network;
use recorded::Recorded;
use safetensors_file::Tensors;
use serde_json::{Value, json};

fn golden() -> Vec<Value> {
    let doc: Value =
        serde_json::from_str(include_str!("data/golden/auto_quantize.json")).expect("golden JSON");
    let cases = doc["cases"].as_array().expect("cases").clone();
    assert_eq!(cases.len(), 4, "the golden file lost its cases");
    cases
}

fn context() -> Arc<Context> {
    Arc::new(Context::new(2, Box::new(|_, _| {})).expect("threads"))
}

/// The formats of a case, their blocks of 128 replaced as the golden file says.
fn formats(case: &Value) -> String {
    let names = case["formats"].as_array().expect("formats");
    let block = case["block_size_override"].to_string();
    let read = |name: &Value| {
        let text = mq::config::presets::json(name.as_str().expect("a name")).expect("a preset");
        let changed = text.replace(":128", &format!(":{block}"));
        match changed == text {
            true => name.clone(),
            false => serde_json::from_str(&changed).expect("JSON"),
        }
    };
    Value::from(names.iter().map(read).collect::<Vec<_>>()).to_string()
}

fn settings(case: &Value) -> Settings {
    let constraints = json!({"effective_bits": case["effective_bits"]}).to_string();
    Settings {
        constraints: read_constraints(Some(&constraints)).expect("constraints"),
        recipes: read_formats(Some(&formats(case))).expect("formats"),
        num_calib_steps: 4,
        num_score_steps: 4,
        ..Settings::new().expect("defaults")
    }
}

fn search(case: &Value, shares: bool, scale: f32) -> Search {
    let tensors = Tensors::parse(include_bytes!("data/golden/algorithms.safetensors"));
    let mut network = Network::new(context(), &tensors, DType::F32, shares);
    let mut model = std::mem::replace(&mut network.model, mq::model::Model::new(context()));
    let mut host = Recorded::new(&network);
    host.scale = scale;
    let found = auto_quantize(&mut model, settings(case), &mut host, None).expect("a search");
    assert_eq!(
        host.calls[1], 4,
        "one forward over the calibration steps for all formats"
    );
    assert_eq!(host.calls[2], 4, "one forward and backward for each step");
    found
}

/// Whether a group has the layer that another is called by.
fn holds(stats: &Value, group: &str) -> bool {
    let mut names = stats["module_names"].as_array().expect("names").iter();
    names.any(|name| name.as_str() == group.strip_suffix(".quant_recipe"))
}

#[test]
fn scores_costs_and_choices_are_the_references() {
    let mut compared = 0;
    for case in golden() {
        let name = case["name"].as_str().expect("a name");
        let found = search(&case, true, 1.0).to_json();
        let stats = case["candidate_stats"].as_object().expect("stats");
        let own = found["candidate_stats"].as_object().expect("stats");
        assert_eq!(own.len(), stats.len(), "{name}");
        // The test registers k before q: a group is called by whichever comes first.
        let same = |group: &str| {
            own.iter()
                .find(|(_, stats)| holds(stats, group))
                .expect(group)
        };
        for (group, want) in stats {
            let got = same(group).1;
            assert_eq!(got["costs"], want["costs"], "{name} {group}");
            assert_eq!(got["formats"], want["formats"], "{name} {group}");
            let scores = got["scores"].as_array().expect("scores");
            for (got, want) in scores
                .iter()
                .zip(want["scores"].as_array().expect("scores"))
            {
                let (got, want) = (
                    got.as_f64().expect("a number"),
                    want.as_f64().expect("a number"),
                );
                assert!(
                    (got - want).abs() <= 1e-4 * want,
                    "{name} {group}: {got:e}, expected {want:e}"
                );
                compared += 1;
            }
        }
        let want_score = case["score"].as_f64().expect("a score");
        let best = &found["best"];
        let score = best["score"].as_f64().expect("a score");
        assert!(
            score <= want_score * (1.0 + 1e-4),
            "{name}: {score:e}, the reference's {want_score:e}"
        );
        let bits = best["constraints"]["effective_bits"]
            .as_f64()
            .expect("bits");
        assert!(
            bits <= case["effective_bits"].as_f64().expect("bits") * (1.0 + 1e-9),
            "{name}: {bits}"
        );
        if (score - want_score).abs() <= 1e-4 * want_score {
            for (group, want) in case["best"].as_object().expect("a choice") {
                assert_eq!(&best["recipe"][same(group).0], want, "{name} {group}");
            }
        }
    }
    assert_eq!(compared, 9 * (3 + 3 + 3 + 2));
}

/// In two of the cases the reference's solver misses the optimum; that was found by trying every choice.
#[test]
fn the_optimum_is_found_where_the_reference_misses_it() {
    for (name, optimum) in [("w4_int8_none_8.0", 9.6728e-05), ("int8_sq_11", 5.4261e-06)] {
        let case = golden()
            .into_iter()
            .find(|case| case["name"] == name)
            .expect(name);
        let score = search(&case, false, 1.0).best().score;
        assert!(
            (score - optimum).abs() <= 2e-4 * optimum,
            "{name}: {score:e}"
        );
    }
}

/// Tiny gradients, as a mean over many elements gives them, do not change what is chosen.
#[test]
fn scores_scaled_by_1e_18_pick_the_same_formats() {
    for case in golden() {
        let (plain, tiny) = (search(&case, true, 1.0), search(&case, true, 1e-9));
        assert_eq!(
            plain.best().recipes,
            tiny.best().recipes,
            "{}",
            case["name"]
        );
        let ratio = tiny.best().score / plain.best().score;
        assert!((ratio / 1e-18 - 1.0).abs() < 1e-4, "{ratio:e}");
    }
}
