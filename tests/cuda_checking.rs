//! The checker of a model in device memory says so when it cannot check, and leaves nothing behind for others; and
//! weights without elements are nothing special there.

mod on_gpu;
mod one;
mod owned;
mod scarce;

use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use mq::calibrate;
use mq::check;
use mq::error::Error;
use mq::model::{Context, LayerKind, LayerSpec, Model};
use mq::tensor::{DType, TensorView};
use on_gpu::OnGpu;
use one::{One, config, noise};
use owned::Owned;
use scarce::{PLENTY, Scarce};

#[test]
fn the_checker_says_when_it_has_no_memory() {
    let Some(pool) = on_gpu::gpu(null_mut(), None) else {
        return;
    };
    let live = Arc::new(AtomicI64::new(0));
    for attributes in [
        r#"{"num_bits": 8, "axis": 0}"#,
        r#"{"num_bits": [2, 1], "block_sizes": {"-1": 16, "type": "dynamic", "scale_bits": [4, 3]}}"#,
        r#"{"num_bits": 4, "block_sizes": {"-1": 16, "type": "static"}}"#,
    ] {
        let mut refused = 0;
        for allowed in 0..100 {
            let (memory, left) = Scarce::new(&pool, &live);
            let gpu = on_gpu::gpu(null_mut(), Some(memory)).expect("as before");
            let mut one = One::new(&gpu);
            let x = OnGpu::copy_of(&gpu, &noise(&[5, 64], DType::BF16, 2));
            let text = format!(
                r#"{{"*weight_quantizer": {attributes}, "*input_quantizer": {{"num_bits": 8, "axis": null}}}}"#
            );
            one.quantize(&config(&text), &x).expect(&text);
            left.store(allowed, SeqCst);
            let outcome = check::check(&one.model).map(|_| ());
            left.store(PLENTY, SeqCst);
            one.layer
                .input(x.view(), Some(x.view()))
                .expect("nothing is left behind");
            match outcome {
                Ok(()) => break,
                Err(error) => {
                    refused += 1;
                    assert!(matches!(error, Error::OutOfMemory(_)), "{error}");
                    check::check(&one.model).map(|_| ()).expect("with memory");
                }
            }
        }
        assert!((1..99).contains(&refused), "{attributes}: {refused}");
    }
    assert_eq!(live.load(SeqCst), 0, "everything was given back");
}

/// An affine quantizer finds no bias in nothing, wherever that lies.
#[test]
fn an_affine_weight_without_elements_is_calibrated_as_in_host_memory() {
    let Some(gpu) = on_gpu::gpu(null_mut(), None) else {
        return;
    };
    for shape in [[0, 8], [8, 0], [0, 0]] {
        for bias in ["static", "dynamic"] {
            for method in ["mean", "max_min"] {
                let text = format!(
                    r#"{{"*weight_quantizer": {{"num_bits": 8, "bias": {{"-1": null, "type": "{bias}", "method": "{method}"}}}}}}"#
                );
                let mut weight = Owned::zeros(DType::F32, &shape);
                let there = OnGpu::copy_of(&gpu, &weight);
                let host = Arc::new(Context::new(1, Box::new(|_, _| {})).expect("one thread"));
                let outcome = |context: Arc<Context>, view: TensorView| {
                    let mut model = Model::new(context);
                    let spec = LayerSpec {
                        weight: Some(view),
                        ..LayerSpec::new("a", LayerKind::Generic)
                    };
                    let layer = model.add_layer(spec)?;
                    calibrate::quantize(&mut model, &config(&text), Some(&mut || Ok(())))?;
                    Ok::<_, Error>(
                        layer
                            .weight_slot()
                            .map(|slot| format!("{:?}", slot.state())),
                    )
                };
                let want = outcome(host, weight.view_mut());
                let got = outcome(on_gpu::context(&gpu), there.view());
                assert_eq!(got, want, "{text} {shape:?}");
            }
        }
    }
}
