//! Verbs in device memory whose kernels fail to launch, after the first, the second, ...: the model is as it was, and
//! the verb does its work once they no longer fail. On the emulator alone.

mod launches;
mod network;
mod on_gpu;
mod owned;
mod recorded;
mod safetensors_file;
mod there;

use std::ptr::null_mut;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use launches::Launches;
use mq::apply;
use mq::config::CompressConfig;
use mq::error::Error;
use mq::kernels::cuda::Gpu;
use mq::model::{Mode, allocate_own};
use mq::tensor::DType;
use on_gpu::OnGpu;
use there::{There, config, here};

const INT8: &str = r#""*weight_quantizer": {"num_bits": 8, "axis": 0}, "*input_quantizer": {"num_bits": 8, "axis": null}"#;
const INT4: &str =
    r#""*weight_quantizer": {"num_bits": 4, "block_sizes": {"-1": 16, "type": "static"}}"#;

/// More launches than any verb here makes.
const MANY: i64 = 100_000;

/// What fails, fails for every thread.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn emulator() -> Option<(Arc<Gpu>, Launches)> {
    let gpu = on_gpu::gpu(null_mut(), None)?;
    Some((gpu, Launches::of_emulator()?))
}

#[track_caller]
fn assert_failed(outcome: Result<(), Error>, what: &str) {
    match outcome {
        Err(Error::Cuda(text)) => assert!(text.contains("OUT_OF_RESOURCES"), "{what}: {text}"),
        other => panic!("{what}: {other:?}"),
    }
}

/// Numbers of launches after which to fail: each of the first, then ever fewer.
fn steps() -> impl Iterator<Item = i64> {
    std::iter::successors(Some(0i64), |n| Some(n + 1 + n / 8)).take_while(|n| *n < MANY)
}

#[test]
fn a_calibration_leaves_the_model_as_it_was() {
    let _alone = alone();
    let Some((gpu, launches)) = emulator() else {
        return;
    };
    for (quantizers, algorithm) in [
        (INT8, r#""max""#),
        (
            INT8,
            r#"{"method": "histogram", "amax_method": "percentile"}"#,
        ),
        (INT8, r#"{"method": "smoothquant", "alpha": 0.5}"#),
        (INT4, r#""mse""#),
        (INT4, r#"{"method": "awq_lite", "alpha_step": 0.5}"#),
        (INT4, r#""awq_clip""#),
    ] {
        let text = format!(
            r#"{{"quant_cfg": {{{quantizers}, "default": {{"enable": false}}}}, "algorithm": {algorithm}}}"#
        );
        let config = config(&text);
        let near = here(DType::F32);
        let mut whole = There::new(Arc::clone(&gpu), &near, DType::F32);
        whole.quantize(&config).expect(&text);
        let mut far = There::new(Arc::clone(&gpu), &near, DType::F32);
        let before = far.states();
        let mut failed = 0;
        for count in steps() {
            let what = format!("{text} after {count}");
            launches.fail_after(count);
            let outcome = far.quantize(&config);
            launches.fail_after(-1);
            if outcome.is_ok() {
                break;
            }
            failed += 1;
            assert_failed(outcome, &what);
            assert_eq!(far.states(), before, "{what}");
            assert_eq!(far.model.mode(), Mode::Registered, "{what}");
        }
        assert!(failed > 5, "{text}: {failed}");
        assert_eq!(far.states(), whole.states(), "{text}");
    }
}

/// Each weight is whole or folded, with its quantizer on or off, and a second call folds the rest.
#[test]
fn folding_goes_on_where_it_failed() {
    let _alone = alone();
    let Some((gpu, launches)) = emulator() else {
        return;
    };
    let near = here(DType::F32);
    let int4 = config("INT4_BLOCKWISE_WEIGHT_ONLY_CFG");
    let weights = |there: &There| -> Vec<Vec<u32>> {
        let layers = there.layers.iter();
        layers.map(|(_, weight)| weight.bits()).collect()
    };
    let mut whole = There::new(Arc::clone(&gpu), &near, DType::F32);
    whole.quantize(&int4).expect("quantizes");
    let unfolded = weights(&whole);
    apply::fold_weight(&mut whole.model, false).expect("folds");
    let folded = weights(&whole);
    assert_ne!(unfolded, folded);
    let mut failed = 0;
    for count in steps() {
        let mut far = There::new(Arc::clone(&gpu), &near, DType::F32);
        far.quantize(&int4).expect("quantizes");
        launches.fail_after(count);
        let outcome = apply::fold_weight(&mut far.model, false);
        launches.fail_after(-1);
        if outcome.is_ok() {
            break;
        }
        failed += 1;
        assert_failed(outcome, &format!("{count}"));
        let now = weights(&far);
        for (i, (layer, _)) in far.layers.iter().enumerate() {
            let slot = layer.weight_slot().expect("a weight");
            let expected = match slot.state().is_enabled() {
                true => &unfolded[i],
                false => &folded[i],
            };
            assert_eq!(&now[i], expected, "{count}: {}", layer.name());
        }
        apply::fold_weight(&mut far.model, false).expect("folds the rest");
        assert_eq!(weights(&far), folded, "{count}");
        assert_eq!(far.states(), whole.states(), "{count}");
    }
    assert!(failed >= near.layers.len(), "{failed}");
}

#[test]
fn packing_leaves_every_weight_as_it_was() {
    let _alone = alone();
    let Some((gpu, launches)) = emulator() else {
        return;
    };
    let near = here(DType::F32);
    let quantized = |gpu: &Arc<Gpu>| {
        let mut there = There::new(Arc::clone(gpu), &near, DType::F32);
        let config = config("INT4_BLOCKWISE_WEIGHT_ONLY_CFG");
        there.quantize(&config).expect("quantizes");
        there
    };
    let compress = |there: &mut There| {
        let all = CompressConfig::all();
        apply::compress(&mut there.model, &all, false, &mut allocate_own).map(|_| ())
    };
    let seen = |there: &There| -> Vec<Vec<u32>> {
        let unpack = |(layer, weight): &(Arc<mq::model::Layer>, OnGpu)| {
            let out = OnGpu::copy_of(&gpu, &weight.fetch());
            layer.weight_into(out.view()).expect("a weight");
            out.bits()
        };
        there.layers.iter().map(unpack).collect()
    };
    let mut whole = quantized(&gpu);
    compress(&mut whole).expect("packs");
    let packed = seen(&whole);
    let mut far = quantized(&gpu);
    let before = (far.states(), seen(&far));
    let mut failed = 0;
    for count in steps() {
        launches.fail_after(count);
        let outcome = compress(&mut far);
        launches.fail_after(-1);
        if outcome.is_ok() {
            break;
        }
        failed += 1;
        assert_failed(outcome, &format!("{count}"));
        assert_eq!((far.states(), seen(&far)), before, "{count}");
        for (layer, _) in &far.layers {
            let slot = layer.weight_slot().expect("a weight");
            assert!(slot.packed().is_none(), "{count}: {}", layer.name());
        }
    }
    assert!(failed >= near.layers.len(), "{failed}");
    assert_eq!(seen(&far), packed);
}
