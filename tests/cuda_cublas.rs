//! Large products by cuBLAS: the mock of it beside the emulator, or the real one where it is found.

mod network;
mod on_gpu;
mod owned;
mod products;
mod safetensors_file;
mod streams;
mod there;

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys;
use mq::calibrate;
use mq::kernels::cuda::{DeviceMemory, GpuSettings, UseCublas};
use mq::kernels::gram::cuda::accumulate_buffer;
use mq::model::{Context, ContextSettings, LayerKind, LayerSpec, LogLevel, Model};
use mq::tensor::DType;
use on_gpu::OnGpu;
use owned::Owned;
use products::{
    COLUMNS, ROWS, added, bits, buffers, counted, is_emulator, on_stream, open, with_cublas,
};
use streams::{Stream, ok};
use there::{There, config, here};

/// Tests here capture streams, and count what all of them do.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn every_run_gives_the_same_bytes_and_everything_is_given_back() {
    let _alone = alone();
    let before = [c"live_bytes", c"cublas_handles"].map(counted);
    let made = counted(c"cublas_products");
    {
        let Some(gpu) = with_cublas(on_stream(null_mut())) else {
            return;
        };
        let first = added(&gpu, 3);
        for _ in 0..2 {
            assert_eq!(added(&gpu, 3), first);
        }
        // Another handle, another workspace.
        let other = with_cublas(on_stream(null_mut())).expect("as before");
        assert_eq!(added(&other, 3), first);
        // Never is never.
        let plain = open(UseCublas::Never, on_stream(null_mut()));
        let tiled = added(&plain, 3);
        assert_eq!(plain.take_notice(), None);
        assert!(tiled != first || !is_emulator(&gpu), "cuBLAS was not asked");
        gpu.take_failure().expect("no failure");
        other.take_failure().expect("no failure");
        if let (Some(made), Some(now)) = (made, counted(c"cublas_products")) {
            // Two to find out, and four times three.
            assert_eq!(now - made, 14);
        }
    }
    assert_eq!([c"live_bytes", c"cublas_handles"].map(counted), before);
}

#[test]
fn products_are_captured_once_there_is_a_handle() {
    let _alone = alone();
    if on_gpu::gpu(null_mut(), None).is_none() {
        return;
    }
    let stream = Stream::new();
    let Some(gpu) = with_cublas(on_stream(stream.handle())) else {
        return;
    };
    let (rows, gram) = buffers(&gpu);
    let graph = stream.capture(|| {
        accumulate_buffer(&rows, COLUMNS, &gram);
        accumulate_buffer(&rows, COLUMNS, &gram);
    });
    stream.launch(&graph);
    stream.launch(&graph);
    assert_eq!(bits(&gram), added(&gpu, 4));
    gpu.take_failure().expect("no failure");
    // A capture comes first: no handle can be made, and mq's own kernels are captured.
    let plain = open(UseCublas::Never, on_stream(stream.handle()));
    let fresh = open(UseCublas::Always, on_stream(stream.handle()));
    let (rows, gram) = buffers(&fresh);
    let graph_of_tiles = stream.capture(|| accumulate_buffer(&rows, COLUMNS, &gram));
    assert_eq!(fresh.take_notice(), None);
    stream.launch(&graph_of_tiles);
    assert_eq!(bits(&gram), added(&plain, 1));
    assert_eq!(added(&fresh, 1), added(&gpu, 1), "afterwards it has one");
    fresh.take_failure().expect("no failure");
}

#[test]
fn two_contexts_and_two_streams_have_their_own() {
    let _alone = alone();
    let Some(first) = with_cublas(on_stream(null_mut())) else {
        return;
    };
    let want = added(&first, 2);
    let (mut device, mut own, mut now) = (0, null_mut(), null_mut());
    // SAFETY: places for the handles.
    unsafe {
        ok(sys::cuDeviceGet(&mut device, 0));
        ok(sys::cuCtxCreate_v2(&mut own, 0, device));
        ok(sys::cuCtxPopCurrent_v2(&mut now));
    }
    {
        let settings = GpuSettings {
            context: own.cast(),
            ..on_stream(null_mut())
        };
        let second = with_cublas(settings).expect("as before");
        let stream = Stream::new();
        let third = with_cublas(on_stream(stream.handle())).expect("as before");
        // SAFETY: a place for the handle.
        ok(unsafe { sys::cuCtxGetCurrent(&mut now) });
        for gpu in [&first, &second, &third, &second, &first] {
            assert_eq!(added(gpu, 2), want);
            gpu.take_failure().expect("no failure");
            let mut current = null_mut();
            // SAFETY: as above.
            ok(unsafe { sys::cuCtxGetCurrent(&mut current) });
            assert_eq!(current, now, "as it was found");
        }
        // From one stream to another.
        first.synchronize().expect("done");
        // SAFETY: a live stream of the same context.
        unsafe { first.set_stream(stream.handle()) }.expect("of the same context");
        assert_eq!(added(&first, 2), want);
        first.synchronize().expect("done");
        // SAFETY: the default one.
        unsafe { first.set_stream(null_mut()) }.expect("the default one");
    }
    // SAFETY: everything in it is gone.
    ok(unsafe { sys::cuCtxDestroy_v2(own) });
}

#[test]
fn threads_share_a_handle() {
    let _alone = alone();
    let Some(gpu) = with_cublas(on_stream(null_mut())) else {
        return;
    };
    let want = added(&gpu, 3);
    // All at once are the first to find out.
    let fresh = open(UseCublas::Always, on_stream(null_mut()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(added(&fresh, 3), want));
        }
    });
    fresh.take_failure().expect("no failure");
}

/// The driver's memory, counted.
struct Counted(Arc<[AtomicUsize; 2]>);

impl DeviceMemory for Counted {
    fn allocate(&self, bytes: usize, _stream: *mut c_void) -> Option<u64> {
        self.0[0].fetch_add(bytes, SeqCst);
        let mut address = 0;
        // SAFETY: a place for the address.
        let result = unsafe { sys::cuMemAlloc_v2(&mut address, bytes) };
        (result == sys::CUresult::CUDA_SUCCESS).then_some(address)
    }

    fn free(&self, address: u64, bytes: usize, _stream: *mut c_void) {
        self.0[1].fetch_add(bytes, SeqCst);
        // SAFETY: came from `allocate`.
        ok(unsafe { sys::cuMemFree_v2(address) });
    }
}

#[test]
fn the_workspace_is_memory_of_the_hosts() {
    let _alone = alone();
    let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    {
        let settings = GpuSettings {
            memory: Some(Box::new(Counted(Arc::clone(&counts)))),
            ..on_stream(null_mut())
        };
        if with_cublas(settings).is_none() {
            return;
        }
    }
    let [taken, given] = [&counts[0], &counts[1]].map(|count| count.load(SeqCst));
    assert_eq!(taken, given);
    let of_a_call = (ROWS + COLUMNS) * COLUMNS * 4;
    assert_eq!(taken, (32 << 20) + of_a_call);
}

#[test]
fn awq_finds_the_same_factors_and_the_log_says_by_what() {
    let _alone = alone();
    let Some(gpu) = with_cublas(on_stream(null_mut())) else {
        return;
    };
    let plain = open(UseCublas::Never, on_stream(null_mut()));
    let preset = config("INT4_AWQ_CFG");
    let near = here(DType::F32);
    let [mut by_cublas, mut by_tiles] =
        [&gpu, &plain].map(|gpu| There::new(Arc::clone(gpu), &near, DType::F32));
    by_cublas.quantize(&preset).expect("quantized");
    by_tiles.quantize(&preset).expect("quantized");
    // Sums in another order, the same choices.
    assert_eq!(by_cublas.states(), by_tiles.states());
    assert_eq!(gpu.take_notice(), None, "told before");

    let lines = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&lines);
    let fresh = open(UseCublas::Always, on_stream(null_mut()));
    let settings = ContextSettings {
        threads: 1,
        memory_limit_bytes: 0,
        log: Box::new(move |level, text| kept.lock().expect("lines").push((level, text.into()))),
        progress: None,
        gpu: Some(Arc::clone(&fresh)),
    };
    let context = Arc::new(Context::with(settings).expect("one thread"));
    let weight = OnGpu::copy_of(&fresh, &Owned::zeros(DType::F32, &[8, 64]));
    let x = OnGpu::copy_of(&fresh, &Owned::zeros(DType::F32, &[4, 64]));
    let mut model = Model::new(context);
    let spec = LayerSpec {
        weight: Some(weight.view()),
        ..LayerSpec::new("a", LayerKind::Linear)
    };
    let layer = model.add_layer(spec).expect("a layer");
    for _ in 0..2 {
        let mut forward = || layer.input(x.view(), None);
        // Zeros are nothing to quantize; what is said of the GPU is of interest.
        let _ = calibrate::quantize(&mut model, &preset, Some(&mut forward));
    }
    let lines: Vec<(LogLevel, String)> = lines.lock().expect("lines").clone();
    let told: Vec<_> = lines
        .iter()
        .filter(|line| line.1.contains("cuBLAS"))
        .collect();
    assert_eq!(told.len(), 1, "once: {lines:?}");
    assert_eq!(told[0].0, LogLevel::Info);
    let says = "large products on Mock GPU 0 are made by cuBLAS 12.8.4 (libcublas.so.12); mq_context_options.cublas can \
                forbid it";
    assert!(told[0].1 == says || !is_emulator(&gpu), "{lines:?}");
}
