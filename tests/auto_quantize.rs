//! What a search promises beside its numbers: the same result for any threads, memory and order of the gradients;
//! other budgets; the configuration that reproduces it; the model as it was after a failure.

mod network;
mod owned;
mod recorded;
mod safetensors_file;
mod searched;

use mq::auto_quantize::auto_quantize;
use mq::auto_quantize::score::Method;
use mq::auto_quantize::search::Search;
use mq::auto_quantize::settings::{
    Settings, read_constraints, read_disabled_layers, read_formats, read_rules,
};
use mq::calibrate;
use mq::config::QuantizeConfig;
use mq::error::Error;
use mq::model::Mode;
use proptest::prelude::*;
use recorded::Recorded;
use searched::{Apart, BALANCED, FORMATS, context, file, plain, settings};
use serde_json::Value;

#[test]
fn threads_shared_inputs_and_the_order_of_gradients_change_nothing() {
    for method in [Method::Gradient, Method::Gram, Method::Fisher] {
        let want = plain(method);
        for (threads, shares, forward_order) in [(3, true, false), (2, false, true)] {
            let settings = Settings {
                method,
                ..settings(FORMATS, 7.0)
            };
            let mut apart = Apart::new(context(threads, 0), shares);
            let found = apart.search(settings, |host| host.forward_order = forward_order);
            assert_eq!(
                found.expect("a search").to_json().to_string(),
                want,
                "{method:?} {threads} {shares}"
            );
        }
    }
}

/// Calibrated without a limit, for that takes more than scoring does on so few tokens.
#[test]
fn a_memory_limit_changes_nothing_but_the_number_of_passes() {
    for (method, limit) in [(Method::Gradient, 80_000), (Method::Fisher, 2_000_000)] {
        let path = file(method.name());
        let kept = Settings {
            method,
            checkpoint: Some(path.clone()),
            ..settings(FORMATS, 7.0)
        };
        let mut apart = Apart::new(context(2, 0), true);
        let stopped = apart.search(kept.clone(), |host| host.fails_at = Some(0));
        stopped.err().expect("stopped before it scores");
        let mut apart = Apart::new(context(2, limit), true);
        let mut host = Recorded::new(&apart.network);
        let found = auto_quantize(&mut apart.model, kept, &mut host, None).expect("a search");
        assert!(host.calls[2] >= 8, "{method:?}: {} passes", host.calls[2]);
        assert_eq!(found.to_json().to_string(), plain(method), "{method:?}");
        std::fs::remove_file(path).expect("a checkpoint stays");
    }
}

#[test]
fn a_limit_below_one_layer_is_refused_with_what_it_takes() {
    for (method, limit) in [(Method::Gradient, 20_000), (Method::Gram, 120_000)] {
        let settings = Settings {
            method,
            ..settings(r#"["INT8_WEIGHT_ONLY_CFG"]"#, 9.0)
        };
        let mut apart = Apart::new(context(2, limit), true);
        let before = apart.states();
        let error = apart
            .search(settings, |_| {})
            .err()
            .expect("too little memory");
        assert!(matches!(error, Error::OutOfMemory(_)), "{error}");
        assert!(error.to_string().contains("memory_limit_bytes"), "{error}");
        assert_eq!(apart.states(), before);
        assert_eq!(apart.model.mode(), Mode::Registered);
    }
}

#[test]
fn every_method_has_a_name_that_the_state_tells() {
    for method in Method::ALL {
        assert_eq!(Method::read(method.name()).expect("its own name"), method);
    }
    for name in ["gradient", "gram", "fisher"] {
        let settings = Settings {
            method: Method::read(name).expect("a method"),
            ..settings(FORMATS, 7.0)
        };
        let mut apart = Apart::new(context(1, 0), true);
        let found = apart.search(settings, |_| {}).expect("a search");
        assert_eq!(found.to_json()["method"], name);
    }
    assert!(Method::read("hessian").is_err());
}

/// With gradients that are all one, the reference's score of a format of weights is what the Gram matrix says.
#[test]
fn a_gram_score_is_the_sum_of_squares_that_it_stands_for() {
    let ones = Settings {
        recipes: read_formats(Some(FORMATS)).expect("formats"),
        ..settings(FORMATS, 9.0)
    };
    let mut apart = Apart::new(context(2, 0), true);
    let replayed = apart
        .search(ones.clone(), |host| host.constant = Some(1.0))
        .expect("a search")
        .to_json();
    for (method, scale) in [(Method::Gram, 1.0), (Method::Fisher, 0.25)] {
        let settings = Settings {
            method,
            ..ones.clone()
        };
        let mut apart = Apart::new(context(2, 0), true);
        let found = apart
            .search(settings, |host| host.constant = Some(0.5))
            .expect("a search")
            .to_json();
        let mut compared = 0;
        for (group, stats) in replayed["candidate_stats"].as_object().expect("stats") {
            let pair = |at: usize| {
                let of = |state: &Value| {
                    state["candidate_stats"][group]["scores"][at]
                        .as_f64()
                        .expect("a score")
                };
                let of_stats = stats["scores"][at].as_f64().expect("a score");
                (of(&found) / scale, of_stats)
            };
            // Weights alone: exact but for rounding.
            let (got, want) = pair(0);
            assert!(
                (got - want).abs() <= 1e-3 * want,
                "{method:?} {group}: {got:e} {want:e}"
            );
            // Errors of the input, taken as independent: near.
            let (got, want) = pair(1);
            assert!(
                got <= 1.3 * want && want <= 1.3 * got,
                "{method:?} {group}: {got:e} {want:e}"
            );
            compared += 1;
        }
        assert_eq!(compared, 9);
    }
}

#[test]
fn other_budgets_are_solved_and_put_into_effect_without_data() {
    let mut apart = Apart::new(context(2, 0), true);
    let mut search = apart
        .search(settings(BALANCED, 7.0), |_| {})
        .expect("a search");
    let mut last = f64::INFINITY;
    for bits in [4.0, 5.0, 6.5, 8.0, 10.0, 16.0] {
        let constraints =
            read_constraints(Some(&format!(r#"{{"effective_bits": {bits}}}"#))).expect("valid");
        let choice = search.solve(&constraints).expect("a choice");
        assert!(
            choice.effective_bits <= bits && choice.score <= last,
            "{bits}"
        );
        last = choice.score;
        search.apply(&mut apart.model, choice).expect("applied");
        let mut direct = Apart::new(context(2, 0), true);
        direct
            .search(settings(BALANCED, bits), |_| {})
            .expect("a search");
        assert_eq!(apart.weights(), direct.weights(), "{bits}");
        assert_eq!(apart.states(), direct.states(), "{bits}");
    }
    assert_eq!(last, 0.0, "16 bits leave everything as it is");
    let four = read_constraints(Some(r#"{"effective_bits": 4.5}"#)).expect("valid");
    let choice = search.solve(&four).expect("a choice");
    search
        .apply(&mut apart.model, choice.clone())
        .expect("applied");
    mq::apply::fold_weight(&mut apart.model, false).expect("folded");
    let before = apart.states();
    let error = search
        .apply(&mut apart.model, choice)
        .expect_err("folded weights");
    assert!(error.to_string().contains("folded"), "{error}");
    assert_eq!(apart.states(), before);
}

/// The choice again, by `quantize` with the configuration of the search.
#[test]
fn the_configuration_of_a_choice_reproduces_it() {
    for formats in [FORMATS, BALANCED] {
        // One batch, for AWQ sees a quarter of them.
        let one = Settings {
            num_calib_steps: 1,
            ..settings(formats, 7.0)
        };
        let mut apart = Apart::new(context(2, 0), true);
        let search = apart.search(one, |_| {}).expect("a search");
        let text = search.config(search.best()).to_string();
        let config = QuantizeConfig::parse(&text).expect("a configuration");
        let mut again = Apart::new(context(2, 0), true);
        let (layers, tensors) = (&again.network.layers, again.network.tensors);
        let mut forward = || {
            layers.iter().try_for_each(|(layer, _)| {
                layer.input(tensors.get(&format!("x.{}.0", layer.name())).view(), None)
            })
        };
        calibrate::quantize(&mut again.model, &config, Some(&mut forward)).expect("quantized");
        assert_eq!(again.weights(), apart.weights(), "{text}");
        for (got, want) in again.model.slots().iter().zip(apart.model.slots()) {
            let (got_state, want_state) = (got.state(), want.state());
            for (got_q, want_q) in got_state.members().iter().zip(want_state.members()) {
                assert_eq!(got_q.enabled, want_q.enabled, "{}", got.name());
                if got_q.enabled {
                    assert_eq!(got_q.amax, want_q.amax, "{}", got.name());
                    assert_eq!(
                        got_q.pre_quant_scale,
                        want_q.pre_quant_scale,
                        "{}",
                        got.name()
                    );
                }
            }
        }
    }
}

fn groups(found: &Search) -> Vec<Vec<String>> {
    let state = found.to_json();
    let stats = state["candidate_stats"].as_object().expect("stats");
    let names = |stats: &Value| {
        let names = stats["module_names"].as_array().expect("names").iter();
        names
            .map(|name| name.as_str().expect("a name").to_owned())
            .collect()
    };
    stats.values().map(names).collect()
}

#[test]
fn rules_and_disabled_layers_decide_what_belongs_together() {
    let mut apart = Apart::new(context(1, 0), true);
    let rules = Settings {
        rules: read_rules(Some(r#"{"prepend": ["^(.*?)\\.mlp"]}"#)).expect("rules"),
        disabled_layers: read_disabled_layers(Some(r#"["*1.self_attn.v_proj"]"#))
            .expect("patterns"),
        ..settings(FORMATS, 9.0)
    };
    let found = apart.search(rules, |_| {}).expect("a search");
    let all = groups(&found);
    let with = |name: &str| {
        all.iter()
            .find(|group| group.iter().any(|own| own == name))
            .expect(name)
            .clone()
    };
    assert_eq!(with("layers.0.mlp.down_proj").len(), 3);
    assert_eq!(with("layers.0.self_attn.q_proj").len(), 3);
    assert_eq!(with("lm_head").len(), 1);
    let state = found.to_json();
    let key = "layers.1.self_attn.k_proj.quant_recipe";
    assert_eq!(state["best"]["recipe"][key], "NONE(effective-bits: 16.0)");
    assert_eq!(
        state["candidate_stats"][key]["scores"],
        serde_json::json!([0.0])
    );
    let replaced = Settings {
        rules: read_rules(Some(r#"{"replace": []}"#)).expect("rules"),
        ..settings(FORMATS, 9.0)
    };
    let mut apart = Apart::new(context(1, 0), true);
    assert_eq!(
        groups(&apart.search(replaced, |_| {}).expect("a search")).len(),
        15
    );
}

#[test]
fn costs_of_the_hosts_own_are_kept_within_its_budget() {
    let mut apart = Apart::new(context(1, 0), true);
    let latency = |_: &str, format: &str, elements: u64| {
        let speed = match format {
            "NONE" => 1.0,
            "INT8_DEFAULT_CFG" => 0.4,
            _ => 0.9,
        };
        Ok(3.0 + speed * elements as f64)
    };
    let mut own = latency;
    let settings = Settings {
        constraints: read_constraints(Some(r#"{"max_cost": 26000}"#)).expect("constraints"),
        ..settings(FORMATS, 9.0)
    };
    let mut host = Recorded::new(&apart.network);
    let found =
        auto_quantize(&mut apart.model, settings, &mut host, Some(&mut own)).expect("a search");
    assert!(found.best().cost <= 26000.0 && found.best().cost > 0.0);
    let state = found.to_json();
    assert_eq!(state["cost_model"], "callback");
    // What costs more and loses more is never chosen.
    let chosen = state["best"]["recipe"].as_object().expect("a choice");
    assert!(
        chosen
            .values()
            .all(|format| !format.as_str().expect("a name").starts_with("CUSTOM"))
    );
    let error = found
        .solve(&read_constraints(Some(r#"{"max_cost": 10}"#)).expect("constraints"))
        .expect_err("too little");
    assert!(error.to_string().contains("infeasible"), "{error}");
    let error = found
        .solve(
            &read_constraints(Some(
                r#"{"cost": {"excluded_module_name_patterns": ["*"]}}"#,
            ))
            .expect("constraints"),
        )
        .expect_err("other costs");
    assert!(
        error
            .to_string()
            .contains("only effective_bits or max_cost"),
        "{error}"
    );
}

#[test]
fn hosts_that_do_not_keep_their_part_are_told_so_and_the_model_is_as_it_was() {
    type Change = fn(&mut Recorded);
    let cases: [(&str, Change); 5] = [
        ("no batch 0", |host| host.batches = 0),
        ("no batch 3", |host| host.batches = 3),
        ("the loss of step 0 is NaN", |host| host.loss = f64::NAN),
        ("gradient", |host| host.constant = Some(f32::INFINITY)),
        ("backward", |host| host.fails_at = Some(0)),
    ];
    for (text, change) in cases {
        let mut apart = Apart::new(context(2, 0), true);
        let (before, weights) = (apart.states(), apart.weights());
        let error = apart
            .search(settings(FORMATS, 7.0), change)
            .err()
            .expect(text);
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(apart.states(), before, "{text}");
        assert_eq!(apart.weights(), weights, "{text}");
        assert_eq!(apart.model.mode(), Mode::Registered, "{text}");
        apart
            .search(settings(FORMATS, 7.0), |_| {})
            .expect("a search after a failed one");
        let error = apart
            .search(settings(FORMATS, 7.0), |_| {})
            .err()
            .expect("a second search");
        assert!(matches!(error, Error::State(_)), "{error}");
    }
}

proptest! {
    #[test]
    fn constraints_are_read_or_refused_but_never_more(text in r#"\{"(effective_bits|max_cost|cost|x)": (-?[0-9]{1,3}(\.[0-9])?|null|"a"|\{\}|[1]e9)\}"#) {
        if let Ok(read) = read_constraints(Some(&text)) {
            prop_assert!(read.budget.limit(1.0) >= 0.0);
        }
    }
}
