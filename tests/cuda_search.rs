//! Searches for formats of models whose tensors live on a GPU, beside the same in host memory: for every method and every
//! kind of layer the same choice, and scores that differ by the error of sums in float32.

mod kinds;
mod on_gpu;
mod owned;
mod scarce;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use kinds::{BALANCED, FORMATS, Kind, Kinds, assert_alike, settings};
use mq::auto_quantize::score::Method;
use mq::error::Error;
use mq::kernels::cuda::Gpu;
use mq::model::Mode;
use scarce::{PLENTY, Scarce};

/// Products of the sizes here are within a hundred roundings of float32 of their sums in float64, on either side, and a
/// score is a sum of squares of their differences, of which the smallest are a hundredth of them.
const BOUND: f64 = 1e-4;

fn gpu() -> Option<Arc<Gpu>> {
    on_gpu::gpu(std::ptr::null_mut(), None)
}

/// The same choice and scores on both sides, and the same bytes in a second search.
fn assert_same_on_both_sides(kinds: &[Kind], method: Method, formats: &str, bound: f64) {
    let Some(gpu) = gpu() else {
        return;
    };
    let asked = || settings(method, formats, 6.5);
    let what = format!("{method:?}");
    let want = Kinds::here(kinds).search(asked()).expect("in host memory");
    let mut found = (0..2).map(|_| {
        let there = Kinds::there(&gpu, kinds).search(asked());
        there.unwrap_or_else(|error| panic!("{what}: {error}"))
    });
    let (got, again) = (found.next().expect("one"), found.next().expect("another"));
    assert_alike(&got, &want, bound, &what);
    assert_eq!(got.to_json(), again.to_json(), "the same bytes every run");
}

#[test]
fn linear_layers_of_all_mixtures_of_types_by_gradients() {
    assert_same_on_both_sides(&kinds::linears(), Method::Gradient, FORMATS, BOUND);
}

#[test]
fn formats_that_balance_channels_by_gradients() {
    let linears = kinds::linears();
    assert_same_on_both_sides(&linears, Method::Gradient, BALANCED, BOUND);
}

#[test]
fn convolutions_by_gradients() {
    let convolutions = kinds::convolutions();
    assert_same_on_both_sides(&convolutions, Method::Gradient, FORMATS, BOUND);
}

#[test]
fn layers_that_the_host_computes_by_gradients() {
    assert_same_on_both_sides(&kinds::hosts(), Method::Gradient, FORMATS, BOUND);
}

#[test]
fn linear_layers_by_their_statistics() {
    for method in [Method::Gram, Method::Fisher] {
        assert_same_on_both_sides(&kinds::linears(), method, FORMATS, BOUND);
        assert_same_on_both_sides(&kinds::linears(), method, BALANCED, BOUND);
    }
}

/// Inputs, weights and so the logits have the same bits; logarithms are rounded to float32.
#[test]
fn every_kind_by_the_divergence_of_logits() {
    let mut all = kinds::linears();
    all.extend(kinds::convolutions());
    all.extend(kinds::hosts());
    assert_same_on_both_sides(&all, Method::KlDiv, FORMATS, 1e-5);
    assert_same_on_both_sides(&kinds::linears(), Method::KlDiv, BALANCED, 1e-5);
}

#[test]
fn layers_that_a_step_uses_twice_are_scored_twice() {
    let Some(gpu) = gpu() else {
        return;
    };
    let mut all = kinds::linears();
    all.extend(kinds::convolutions());
    for (kinds, method) in [
        (&all, Method::Gradient),
        (&kinds::linears(), Method::Fisher),
    ] {
        let asked = || settings(method, FORMATS, 6.5);
        let here = Kinds::here(kinds).used_twice().search(asked());
        let there = Kinds::there(&gpu, kinds).used_twice().search(asked());
        let (want, got) = (here.expect("on the host"), there.expect("on the GPU"));
        assert_alike(&got, &want, BOUND, &format!("{method:?}"));
        let once = Kinds::there(&gpu, kinds).search(asked()).expect("once");
        assert_ne!(once.to_json(), got.to_json());
    }
}

/// A step is run again for the inputs that did not fit, and adds up to the same bytes.
#[test]
fn a_limit_of_memory_changes_no_score() {
    let Some(gpu) = gpu() else {
        return;
    };
    let mut all = kinds::linears();
    all.extend(kinds::convolutions());
    let asked = || settings(Method::Gradient, FORMATS, 6.5);
    let want = Kinds::there(&gpu, &all).search(asked()).expect("no limit");
    let (mut refused, mut served) = (0, 0);
    for limit in (20_000..600_000).step_by(20_000) {
        match Kinds::there_within(&gpu, &all, limit).search(asked()) {
            Ok(got) => {
                assert_eq!(got.to_json(), want.to_json(), "{limit}");
                served += 1;
            }
            Err(Error::OutOfMemory(text)) => {
                assert!(text.contains("memory_limit_bytes"), "{text}");
                refused += 1;
            }
            Err(other) => panic!("{limit}: {other}"),
        }
        if served > 3 {
            break;
        }
    }
    assert!(
        refused > 0 && served > 3,
        "{refused} refused, {served} served"
    );
}

/// A tap does not wait to find out; the step's end does.
#[test]
fn a_gradient_that_is_no_number_is_told_with_its_layer() {
    let Some(gpu) = gpu() else {
        return;
    };
    let mut all = vec![kinds::linears().swap_remove(1)];
    let linear = all.clone();
    all.extend(kinds::convolutions());
    all.extend(kinds::hosts());
    for (kinds, method) in [(&all, Method::Gradient), (&linear, Method::Fisher)] {
        for (at, kind) in kinds.iter().enumerate() {
            let mut there = Kinds::there(&gpu, kinds);
            let before = there.states();
            let value = [f32::NAN, f32::NEG_INFINITY][at % 2];
            let asked = settings(method, FORMATS, 6.5);
            let error = there.search_spoiled(asked, at, value).err();
            let text = match error.expect(kind.name) {
                Error::Numeric(text) => text,
                other => panic!("{}: {other}", kind.name),
            };
            let name = format!("`{}`", kind.name);
            assert!(
                text.contains(&name) && text.contains("element 1 "),
                "{text}"
            );
            assert_eq!(there.states(), before);
            assert_eq!(there.model.mode(), Mode::Registered);
        }
    }
}

#[test]
fn a_gradient_in_another_place_than_the_input_is_refused() {
    let Some(gpu) = gpu() else {
        return;
    };
    for kinds in [kinds::linears(), kinds::convolutions(), kinds::hosts()] {
        let mut there = Kinds::there(&gpu, &kinds);
        let before = there.states();
        let asked = settings(Method::Gradient, FORMATS, 6.5);
        match there.search_apart(asked, 1).err().expect("two places") {
            Error::InvalidArgument(text) => assert!(
                text.contains(kinds[1].name) && text.contains("host memory"),
                "{text}"
            ),
            other => panic!("{other}"),
        }
        assert_eq!(there.states(), before);
    }
}

/// Wherever it ends, the model is as it was, nothing is leaked, and a search with memory enough does as if nothing had
/// been.
#[test]
fn device_memory_that_runs_out_leaves_the_model_as_it_was() {
    let Some(pool) = gpu() else {
        return;
    };
    let linears = kinds::linears()[1..4].to_vec();
    let mut others = kinds::convolutions()[1..3].to_vec();
    others.push(kinds::hosts().swap_remove(1));
    for (kinds, method, step) in [
        (&linears, Method::Gradient, 5),
        (&others, Method::Gradient, 7),
        (&linears, Method::Fisher, 5),
        (&linears, Method::KlDiv, 7),
    ] {
        let asked = || settings(method, FORMATS, 6.5);
        let want = Kinds::there(&pool, kinds).search(asked()).expect("plenty");
        let live = Arc::new(AtomicI64::new(0));
        let (memory, left) = Scarce::new(&pool, &live);
        let scarce = on_gpu::gpu(std::ptr::null_mut(), Some(memory)).expect("a GPU");
        let (mut refused, mut served) = (0, false);
        for budget in (0..5000).step_by(step) {
            let mut there = Kinds::there_apart(&pool, &scarce, kinds);
            let before = there.states();
            left.store(budget, SeqCst);
            let found = there.search(asked());
            left.store(PLENTY, SeqCst);
            match found {
                Ok(found) => {
                    assert_eq!(found.to_json(), want.to_json());
                    served = true;
                    break;
                }
                Err(Error::OutOfMemory(_)) => refused += 1,
                Err(other) => panic!("{method:?} {budget}: {other}"),
            }
            assert_eq!(there.states(), before, "{method:?} {budget}");
            assert_eq!(there.model.mode(), Mode::Registered);
            if budget % 3 == 0 {
                let again = there.search(asked()).expect("memory enough");
                assert_eq!(again.to_json(), want.to_json());
            }
            drop(there);
            assert_eq!(live.load(SeqCst), 0, "{method:?} {budget}: leaked");
        }
        assert!(served && refused > 5, "{method:?}: {refused} refused");
    }
}
