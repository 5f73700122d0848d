//! A product on a GPU, and what may make it.
#![allow(dead_code, reason = "no test file uses all of it")]

use std::ffi::{CStr, c_char, c_void};
use std::ptr::null_mut;
use std::sync::Arc;

use mq::kernels::cuda::{DeviceBuffer, Gpu, GpuSettings, UseCublas};
use mq::kernels::gram::cuda::accumulate_buffer;

use crate::on_gpu;

/// Sizes of a product.
pub const COLUMNS: usize = 70;
pub const ROWS: usize = 300;

/// A GPU that uses cuBLAS so.
pub fn open(cublas: UseCublas, settings: GpuSettings) -> Arc<Gpu> {
    // SAFETY: live handles, which the test keeps.
    unsafe { Gpu::open(GpuSettings { cublas, ..settings }) }.expect("opened before")
}

/// Settings for a stream.
pub fn on_stream(stream: *mut c_void) -> GpuSettings {
    GpuSettings {
        device: 0,
        context: null_mut(),
        stream,
        memory: None,
        cublas: UseCublas::default(),
    }
}

/// A GPU that uses cuBLAS for all it can, has found it, and has told so. None: there is no GPU, or no cuBLAS.
pub fn with_cublas(settings: GpuSettings) -> Option<Arc<Gpu>> {
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

/// Whether it is the one of `cuda/emulator`.
pub fn is_emulator(gpu: &Gpu) -> bool {
    gpu.name().starts_with("Mock GPU")
}

fn values() -> Vec<f32> {
    let number = |i: usize| ((i * 37) as f32 * 0.7311).sin();
    (0..ROWS * COLUMNS).map(number).collect()
}

/// Rows, and an empty Gram matrix.
pub fn buffers(gpu: &Arc<Gpu>) -> (DeviceBuffer, DeviceBuffer) {
    (
        DeviceBuffer::holding(gpu, &values()).expect("memory"),
        DeviceBuffer::zeroed(gpu, COLUMNS * COLUMNS * 4).expect("memory"),
    )
}

/// The bits of a Gram matrix to which the rows were added so many times.
pub fn added(gpu: &Arc<Gpu>, times: usize) -> Vec<u32> {
    let (rows, gram) = buffers(gpu);
    (0..times).for_each(|_| accumulate_buffer(&rows, COLUMNS, &gram));
    bits(&gram)
}

/// The bits of a Gram matrix.
pub fn bits(gram: &DeviceBuffer) -> Vec<u32> {
    let mut entries = vec![0u32; COLUMNS * COLUMNS];
    gram.read(&mut entries).expect("a copy");
    entries
}

/// What the emulator counts; None: it is no emulator.
pub fn counted(what: &CStr) -> Option<i64> {
    // SAFETY: the driver, which is loaded; the type is that of `control.h`.
    unsafe {
        let driver = libloading::Library::new("libcuda.so.1").ok()?;
        let get = driver.get::<unsafe extern "C" fn(*const c_char) -> i64>(b"mq_mock_get\0");
        get.ok().map(|get| get(what.as_ptr()))
    }
}
