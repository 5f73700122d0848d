//! Weights in device memory are packed there: the bytes of those in host memory, unpacked without the host.

mod on_gpu;
mod owned;
mod packing;
mod scarce;
mod streams;

use std::cell::RefCell;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use mq::apply;
use mq::calibrate;
use mq::config::{CompressConfig, QuantizeConfig};
use mq::error::Error;
use mq::kernels::cuda::{DeviceBuffer, Gpu};
use mq::kernels::pack::Memory;
use mq::model::{Layer, LayerKind, LayerSpec, Model, PackedWeight};
use mq::tensor::{DType, Device};
use on_gpu::{OnGpu, bits};
use owned::Owned;
use packing::{cases, compress, model, model_on, numbers, tensor, weight_of};
use scarce::{PLENTY, Scarce};
use serde_json::json;
use streams::Stream;

fn packed(layer: &Layer) -> Arc<PackedWeight> {
    let slot = layer.weight_slot().expect("a weight");
    slot.packed().expect("packed")
}

/// What a layer unpacks in device memory.
fn unpacked(gpu: &Arc<Gpu>, layer: &Layer, like: &Owned) -> Vec<u32> {
    let out = OnGpu::copy_of(gpu, &Owned::zeros(like.dtype, &like.shape));
    layer.weight_into(out.view()).expect("unpacks");
    out.bits()
}

/// Both layers hold the same parts, and unpack to the same bits.
#[track_caller]
fn assert_same_packed(gpu: &Arc<Gpu>, near: &Layer, far: &Layer, like: &Owned, what: &str) {
    let (a, b) = (packed(near), packed(far));
    assert_eq!(a.format(), b.format(), "{what}");
    assert_eq!(a.size_bytes(), b.size_bytes(), "{what}");
    assert_eq!(a.parts().len(), b.parts().len(), "{what}");
    for (p, q) in a.parts().iter().zip(b.parts()) {
        let what = format!("{what} {}", p.name);
        assert_eq!((p.name, p.dtype, &p.shape), (q.name, q.dtype, &q.shape));
        assert_eq!(p.memory.device(), Device::Cpu, "{what}");
        assert_eq!(q.memory.device(), Device::Cuda(gpu.device()), "{what}");
        let far = q.memory.fetch().expect("a copy");
        assert_eq!(p.memory.bytes(), far, "{what}");
    }
    let want = bits(&weight_of(near, like));
    assert_eq!(unpacked(gpu, far, like), want, "{what}");
}

#[test]
fn every_format_is_packed_to_the_same_bytes() {
    let Some(gpu) = on_gpu::gpu(null_mut(), None) else {
        return;
    };
    let context = on_gpu::context(&gpu);
    let mut seen = Vec::new();
    for (attributes, format, _) in cases() {
        for (shape, values) in [
            (vec![8, 128], numbers(1024)),
            (vec![5, 70], numbers(350)),
            (vec![6, 130], vec![0.0; 780]),
        ] {
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                let what = format!("{attributes} {shape:?} {dtype}");
                let mut weight = tensor(dtype, &shape, &values);
                let there = OnGpu::copy_of(&gpu, &weight);
                let (mut near, a) = model(&attributes, &mut weight).expect(&what);
                let far = model_on(Arc::clone(&context), &attributes, there.view());
                let (mut far, b) = far.expect(&what);
                assert_eq!(compress(&mut near), Ok(1), "{what}");
                assert_eq!(compress(&mut far), Ok(1), "{what}");
                // The host's memory is its own again.
                weight.bytes_mut().fill(0xff);
                there.write(&weight);
                assert_same_packed(&gpu, &a, &b, &weight, &what);
                far.synchronize().expect(&what);
            }
        }
        seen.push(format);
    }
    seen.dedup();
    let all = [
        "int4", "int8", "fp8", "nvfp4", "mxfp4", "mxfp8", "nf4", "w4a8",
    ];
    assert_eq!(seen, all);
}

#[test]
fn a_pre_quant_scale_is_packed_in() {
    let Some(gpu) = on_gpu::gpu(null_mut(), None) else {
        return;
    };
    let mut weight = tensor(DType::BF16, &[4, 32], &numbers(128));
    let there = OnGpu::copy_of(&gpu, &weight);
    let attributes = json!({"num_bits": 4, "block_sizes": {"-1": 16}});
    let (mut near, a) = model(&attributes, &mut weight).expect("quantizes");
    let far = model_on(on_gpu::context(&gpu), &attributes, there.view());
    let (mut far, b) = far.expect("quantizes");
    let factors: Vec<f32> = (0..32).map(|i| 0.5 + i as f32 / 7.0).collect();
    let scale = tensor(DType::F32, &[32], &factors);
    for (model, layer) in [(&mut near, &a), (&mut far, &b)] {
        let slot = Arc::clone(layer.weight_slot().expect("a weight"));
        let set = model.set_pre_quant_scale(&slot, None, Some(scale.view()));
        set.expect("fits");
        compress(model).expect("packs");
    }
    assert_same_packed(&gpu, &a, &b, &weight, "scaled");
}

#[test]
fn real_quantize_packs_there() {
    let Some(gpu) = on_gpu::gpu(null_mut(), None) else {
        return;
    };
    let config = QuantizeConfig::parse("NF4_REAL_QUANT_CFG").expect("a preset");
    let mut weight = tensor(DType::BF16, &[8, 128], &numbers(1024));
    let there = OnGpu::copy_of(&gpu, &weight);
    let mut layers = Vec::new();
    let contexts = [packing::context(), on_gpu::context(&gpu)];
    for (context, view) in contexts.into_iter().zip([weight.view_mut(), there.view()]) {
        let mut model = Model::new(context);
        let spec = LayerSpec {
            weight: Some(view),
            ..LayerSpec::new("l", LayerKind::Linear)
        };
        let layer = model.add_layer(spec).expect("a layer");
        calibrate::quantize(&mut model, &config, None).expect("quantizes");
        layers.push((model, layer));
    }
    assert_same_packed(&gpu, &layers[0].1, &layers[1].1, &weight, "nf4");
}

#[test]
fn what_is_refused_and_passed_over_is_that_of_host_memory() {
    let Some(gpu) = on_gpu::gpu(null_mut(), None) else {
        return;
    };
    let weight = tensor(DType::F32, &[4, 32], &numbers(128));
    let there = OnGpu::copy_of(&gpu, &weight);
    let attributes = json!({"num_bits": 8, "axis": 0});
    let (mut model, layer) =
        model_on(on_gpu::context(&gpu), &attributes, there.view()).expect("quantizes");
    let before = unpacked(&gpu, &layer, &weight);
    compress(&mut model).expect("packs");
    let packs_again = compress(&mut model);
    assert!(
        matches!(packs_again, Err(Error::State(_))),
        "{packs_again:?}"
    );
    let slot = Arc::clone(layer.weight_slot().expect("a weight"));
    let amax = tensor(DType::F32, &[4, 1], &[1.0; 4]);
    let set = model.set_amax(&slot, None, amax.view());
    assert!(matches!(set, Err(Error::State(_))), "{set:?}");
    apply::fold_weight(&mut model, false).expect("passes over it");
    assert_eq!(there.bits(), bits(&weight), "the host's own");
    // But for the sign of zeros.
    let after = unpacked(&gpu, &layer, &weight);
    for (a, b) in after.iter().zip(&before) {
        assert!(a == b || *a == 0 && *b == 0x8000_0000, "{a:x} {b:x}");
    }
    // Unpacked where it is packed.
    let mut here = Owned::zeros(DType::F32, &[4, 32]);
    let outcome = layer.weight_into(here.view_mut());
    assert!(
        matches!(outcome, Err(Error::InvalidArgument(_))),
        "{outcome:?}"
    );
    let lie = here.bytes_mut().as_mut_ptr();
    // SAFETY: never looked at: refused.
    let lie =
        unsafe { mq::tensor::TensorView::new_on(there.view().device(), lie, DType::F32, &[4, 32]) };
    let outcome = layer.weight_into(lie.expect("valid"));
    assert!(
        matches!(outcome, Err(Error::InvalidArgument(_))),
        "{outcome:?}"
    );
    // NaN that came after the calibration.
    let mut spoilt = weight.clone();
    spoilt.bytes_mut()[..4].copy_from_slice(&f32::NAN.to_ne_bytes());
    let (mut model, layer) =
        model_on(on_gpu::context(&gpu), &attributes, there.view()).expect("quantizes");
    there.write(&spoilt);
    let outcome = compress(&mut model);
    assert!(matches!(outcome, Err(Error::Numeric(_))), "{outcome:?}");
    assert!(layer.weight_slot().expect("a weight").packed().is_none());
}

#[test]
fn the_host_may_give_the_memory() {
    let Some(gpu) = on_gpu::gpu(null_mut(), None) else {
        return;
    };
    let mut weight = tensor(DType::F16, &[8, 64], &numbers(512));
    let there = OnGpu::copy_of(&gpu, &weight);
    let attributes = json!({"num_bits": [2, 1], "block_sizes": {"-1": 16, "type": "static", "scale_bits": [4, 3]}});
    let (mut near, a) = model(&attributes, &mut weight).expect("quantizes");
    compress(&mut near).expect("packs");
    let lent = RefCell::new(Vec::new());
    let far = model_on(on_gpu::context(&gpu), &attributes, there.view());
    let (mut far, b) = far.expect("quantizes");
    let mut lend = |_: &str, _: &str, size: usize, asked: Option<&Arc<Gpu>>| {
        let asked = asked.expect("device memory is asked for");
        assert!(Arc::ptr_eq(asked, &gpu));
        let buffer = DeviceBuffer::new(&gpu, size).expect("device memory");
        // SAFETY: kept until the end of the test.
        let memory = unsafe { Memory::of_host_on(&gpu, buffer.address(), size) };
        lent.borrow_mut().push(buffer);
        Ok(memory)
    };
    let all = CompressConfig::all();
    apply::compress(&mut far, &all, false, &mut lend).expect("packs");
    let found = packed(&b);
    let addresses = found.parts().iter().map(|part| part.memory.address());
    let expected: Vec<u64> = lent.borrow().iter().map(DeviceBuffer::address).collect();
    assert_eq!(addresses.collect::<Vec<_>>(), expected);
    assert_same_packed(&gpu, &a, &b, &weight, "lent");
}

/// Each allocation fails once, in formats that keep nothing, scales, or the amax of a second quantizer beside the parts.
#[test]
fn when_device_memory_runs_out_nothing_is_packed() {
    let Some(pool) = on_gpu::gpu(null_mut(), None) else {
        return;
    };
    let live = Arc::new(AtomicI64::new(0));
    for attributes in [
        json!({"num_bits": 4, "block_sizes": {"-1": 16}}),
        json!({"num_bits": [2, 1], "block_sizes": {"-1": 16, "type": "dynamic", "scale_bits": [4, 3]}}),
        json!([{"num_bits": 4, "block_sizes": {"-1": 16}}, {"num_bits": [4, 3], "axis": null}]),
    ] {
        let weight = tensor(DType::F32, &[4, 32], &numbers(128));
        let mut refused = 0;
        for allowed in 0..100 {
            let (memory, left) = Scarce::new(&pool, &live);
            let gpu = on_gpu::gpu(null_mut(), Some(memory)).expect("as before");
            let there = OnGpu::copy_of(&pool, &weight);
            let context = on_gpu::context(&gpu);
            let (mut model, layer) =
                model_on(context, &attributes, there.view()).expect("quantizes");
            let before = unpacked(&pool, &layer, &weight);
            let slot = layer.weight_slot().expect("a weight");
            let state = slot.state();
            left.store(allowed, SeqCst);
            let outcome = compress(&mut model);
            left.store(PLENTY, SeqCst);
            if outcome == Ok(1) {
                break;
            }
            refused += 1;
            assert!(matches!(outcome, Err(Error::OutOfMemory(_))), "{outcome:?}");
            assert!(Arc::ptr_eq(&slot.state(), &state), "{attributes} {allowed}");
            assert_eq!(unpacked(&pool, &layer, &weight), before);
            assert_eq!(compress(&mut model), Ok(1), "with memory");
        }
        assert!((3..99).contains(&refused), "{attributes}: {refused}");
    }
    assert_eq!(live.load(SeqCst), 0, "everything was given back");
}

/// What a weight was fake-quantized with goes, the parts come, and what unpacking needs beside them.
#[test]
fn what_is_not_needed_any_more_is_given_back() {
    let Some(pool) = on_gpu::gpu(null_mut(), None) else {
        return;
    };
    let live = Arc::new(AtomicI64::new(0));
    let int4 = json!({"num_bits": 4, "block_sizes": {"-1": 16}});
    for (attributes, gone, come) in [
        // The amax, and the word for what is wrong; codes and scales.
        (int4.clone(), 2, 2),
        // Scales as the GPU needs them as well.
        (json!({"num_bits": 8, "axis": 0}), 2, 3),
        // Two amax values; three parts, and the second amax again.
        (json!([int4, {"num_bits": [4, 3], "axis": null}]), 3, 4),
    ] {
        let (memory, _) = Scarce::new(&pool, &live);
        let gpu = on_gpu::gpu(null_mut(), Some(memory)).expect("as before");
        let there = OnGpu::copy_of(&pool, &tensor(DType::F32, &[4, 32], &numbers(128)));
        let context = on_gpu::context(&gpu);
        let (mut model, _layer) = model_on(context, &attributes, there.view()).expect("quantizes");
        let before = live.load(SeqCst);
        compress(&mut model).expect("packs");
        assert_eq!(live.load(SeqCst), before - gone + come, "{attributes}");
    }
    assert_eq!(live.load(SeqCst), 0, "everything was given back");
}

#[test]
fn unpacking_is_captured_and_allocates_nothing() {
    let Some(pool) = on_gpu::gpu(null_mut(), None) else {
        return;
    };
    let stream = Stream::new();
    let live = Arc::new(AtomicI64::new(0));
    for (attributes, format, _) in cases() {
        let (memory, left) = Scarce::new(&pool, &live);
        let gpu = on_gpu::gpu(stream.handle(), Some(memory)).expect("as before");
        let weight = tensor(DType::BF16, &[8, 128], &numbers(1024));
        let there = OnGpu::copy_of(&gpu, &weight);
        let context = on_gpu::context(&gpu);
        let (mut model, layer) = model_on(context, &attributes, there.view()).expect(format);
        let out = OnGpu::copy_of(&gpu, &weight);
        gpu.synchronize().expect("copied");
        let graph = stream.capture(|| {
            let refused = compress(&mut model);
            assert!(matches!(refused, Err(Error::State(_))), "{refused:?}");
        });
        drop(graph);
        compress(&mut model).expect(format);
        left.store(0, SeqCst);
        let graph = stream.capture(|| layer.weight_into(out.view()).expect(format));
        left.store(PLENTY, SeqCst);
        assert_eq!(out.bits(), bits(&weight), "{format}: not run yet");
        stream.launch(&graph);
        let want = unpacked(&gpu, &layer, &weight);
        assert_eq!(out.bits(), want, "{format}");
        out.write(&Owned::zeros(DType::BF16, &[8, 128]));
        stream.launch(&graph);
        assert_eq!(out.bits(), want, "{format}: again");
    }
}
