//! Large products by cuBLAS: the mock of it beside the emulator, or the real one where it is found. Whatever it lacks, mq's
//! own kernels make the products, and the log says so.

mod network;
mod on_gpu;
mod owned;
mod safetensors_file;
mod streams;
mod there;

use std::ffi::{CStr, c_char, c_void};
use std::path::PathBuf;
use std::process::Command;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys;
use mq::calibrate;
use mq::kernels::cuda::{DeviceBuffer, DeviceMemory, Gpu, GpuSettings, UseCublas};
use mq::kernels::gram::cuda::accumulate_buffer;
use mq::model::{Context, ContextSettings, LayerKind, LayerSpec, LogLevel, Model};
use mq::tensor::DType;
use on_gpu::OnGpu;
use owned::Owned;
use streams::{Stream, ok};
use there::{There, config, here};

/// Tests here capture streams, and count what all of them do.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const COLUMNS: usize = 70;
const ROWS: usize = 300;

fn open(cublas: UseCublas, settings: GpuSettings) -> Arc<Gpu> {
    // SAFETY: live handles, which the test keeps.
    unsafe { Gpu::open(GpuSettings { cublas, ..settings }) }.expect("opened before")
}

fn on_stream(stream: *mut c_void) -> GpuSettings {
    GpuSettings {
        device: 0,
        context: null_mut(),
        stream,
        memory: None,
        cublas: UseCublas::default(),
    }
}

/// A GPU that uses cuBLAS for all it can, has found it, and has told so. None: there is no GPU, or no cuBLAS.
fn with_cublas(settings: GpuSettings) -> Option<Arc<Gpu>> {
    on_gpu::gpu(null_mut(), None)?;
    let gpu = open(UseCublas::Always, settings);
    let (rows, gram) = buffers(&gpu);
    accumulate_buffer(&rows, COLUMNS, &gram);
    let notice = gpu.take_notice().expect("it says what it found");
    if notice.contains("made by cuBLAS ") {
        return Some(gpu);
    }
    let must = is_emulator(&gpu) || std::env::var_os("MQ_REQUIRE_CUBLAS").is_some();
    assert!(!must, "{notice}");
    eprintln!("SKIPPED: {notice}");
    None
}

fn is_emulator(gpu: &Gpu) -> bool {
    gpu.name().starts_with("Mock GPU")
}

fn values() -> Vec<f32> {
    let number = |i: usize| ((i * 37) as f32 * 0.7311).sin();
    (0..ROWS * COLUMNS).map(number).collect()
}

/// Rows, and an empty Gram matrix.
fn buffers(gpu: &Arc<Gpu>) -> (DeviceBuffer, DeviceBuffer) {
    (
        DeviceBuffer::holding(gpu, &values()).expect("memory"),
        DeviceBuffer::zeroed(gpu, COLUMNS * COLUMNS * 4).expect("memory"),
    )
}

/// The bits of a Gram matrix to which the rows were added so many times.
fn added(gpu: &Arc<Gpu>, times: usize) -> Vec<u32> {
    let (rows, gram) = buffers(gpu);
    (0..times).for_each(|_| accumulate_buffer(&rows, COLUMNS, &gram));
    bits(&gram)
}

fn bits(gram: &DeviceBuffer) -> Vec<u32> {
    let mut entries = vec![0u32; COLUMNS * COLUMNS];
    gram.read(&mut entries).expect("a copy");
    entries
}

/// What the emulator counts; None: it is no emulator.
fn counted(what: &CStr) -> Option<i64> {
    // SAFETY: the driver, which is loaded; the type is that of `control.h`.
    unsafe {
        let driver = libloading::Library::new("libcuda.so.1").ok()?;
        let get = driver.get::<unsafe extern "C" fn(*const c_char) -> i64>(b"mq_mock_get\0");
        get.ok().map(|get| get(what.as_ptr()))
    }
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

/// Set in a process that plays a machine: what the notice says of cuBLAS, and how it goes on.
const SAYS: &str = "MQ_TEST_CUBLAS_SAYS";
const THEN: &str = "MQ_TEST_CUBLAS_THEN";

/// What one of those processes does.
fn play(says: &str, then: &str) {
    let plain = open(UseCublas::Never, on_stream(null_mut()));
    let tiled = added(&plain, 2);
    let live = counted(c"live_bytes");
    {
        let gpu = open(UseCublas::Always, on_stream(null_mut()));
        if then == "fails" {
            let (rows, gram) = buffers(&gpu);
            accumulate_buffer(&rows, COLUMNS, &gram);
            let error = gpu
                .take_failure()
                .expect_err("a product that was broken off");
            assert!(error.text.contains(says), "{error}");
            assert!(error.text.contains("mq_context_options.cublas"), "{error}");
        }
        let found = added(&gpu, 2);
        assert_eq!(found == tiled, then != "works", "by mq's own kernels");
        let notice = gpu.take_notice().expect("it says what it found");
        assert!(notice.contains(says) || then == "fails", "{notice}");
        assert_eq!(gpu.take_notice(), None, "once");
        added(&gpu, 1);
        assert_eq!(gpu.take_notice(), None, "once");
        gpu.take_failure().expect("no failure");
    }
    assert_eq!(counted(c"live_bytes"), live);
    assert_eq!(counted(c"cublas_handles"), Some(0));
}

#[test]
fn what_cublas_lacks_is_said_and_the_products_are_made() {
    let _alone = alone();
    if let (Ok(says), Ok(then)) = (std::env::var(SAYS), std::env::var(THEN)) {
        return play(&says, &then);
    }
    let Some(gpu) = on_gpu::gpu(null_mut(), None) else {
        return;
    };
    if !is_emulator(&gpu) {
        eprintln!(
            "SKIPPED: 9 machines that only the emulator plays; this is {}",
            gpu.name()
        );
        return;
    }
    let searched = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let here = std::env::split_paths(&searched).find(|at| at.join("without_cublas").is_dir());
    let here: PathBuf = here.expect("the emulator's folder");
    let alone = here.join("without_cublas").display().to_string();
    let lacking = format!(
        "{}:{}",
        here.join("cublas_without_workspace").display(),
        here.display()
    );
    for (name, value, then, says) in [
        (
            "LD_LIBRARY_PATH",
            &*alone,
            "falls back",
            "cuBLAS cannot be used: libcublas.so.12: cannot open",
        ),
        (
            "LD_LIBRARY_PATH",
            &lacking,
            "falls back",
            "libcublas.so.12 has no cublasSetWorkspace_v2",
        ),
        (
            "MQ_MOCK_CUBLAS_VERSION",
            "110903",
            "falls back",
            "libcublas.so.12: version 110903, but 120000 or later is needed",
        ),
        (
            "MQ_MOCK_FAIL_CUBLAS_CREATE",
            "1",
            "falls back",
            "libcublas.so.12: cublasCreate: CUBLAS_STATUS_NOT_INITIALIZED",
        ),
        (
            "MQ_MOCK_FAIL_CUBLAS_PRODUCT",
            "15",
            "falls back",
            "mq's own kernels from now on: cuBLAS 12.8.4 (libcublas.so.12): cublasSsyrk: CUBLAS_STATUS_NOT_SUPPORTED",
        ),
        (
            "MQ_MOCK_FAIL_CUBLAS_PRODUCT",
            "13",
            "fails",
            "CUDA: cuBLAS 12.8.4 (libcublas.so.12): cublasSsyrk: CUBLAS_STATUS_EXECUTION_FAILED",
        ),
        (
            "MQ_MOCK_MEMORY_LIMIT",
            "16777216",
            "falls back",
            "no 33554432 bytes of device memory",
        ),
        // Room for the workspace, but not for what cuBLAS takes by itself.
        (
            "MQ_MOCK_MEMORY_LIMIT",
            "34603008",
            "falls back",
            "cublasCreate: CUBLAS_STATUS_ALLOC_FAILED",
        ),
        // A newer driver works with the library of an older CUDA.
        (
            "MQ_MOCK_DRIVER_VERSION",
            "13000",
            "works",
            "are made by cuBLAS 12.8.4 (libcublas.so.12)",
        ),
    ] {
        let this = std::env::current_exe().expect("this test");
        let played = Command::new(this)
            .args([
                "--exact",
                "what_cublas_lacks_is_said_and_the_products_are_made",
                "--nocapture",
            ])
            .env(name, value)
            .env(SAYS, says)
            .env(THEN, then)
            .output()
            .expect("a process");
        let told = String::from_utf8_lossy(&played.stdout);
        let wrong = String::from_utf8_lossy(&played.stderr);
        assert!(played.status.success(), "{name}={value}: {told}\n{wrong}");
        assert!(told.contains("1 passed"), "{name}={value}: {told}\n{wrong}");
    }
}
