//! What may be wrong with cuBLAS, played by the emulator and the mock beside it: mq's own kernels make the products then,
//! and the log says why. Each is a process of its own, which is this test once more.

mod on_gpu;
mod owned;
mod products;

use std::path::PathBuf;
use std::process::Command;
use std::ptr::null_mut;

use mq::kernels::cuda::UseCublas;
use mq::kernels::gram::cuda::accumulate_buffer;
use products::{COLUMNS, added, buffers, counted, is_emulator, on_stream, open};

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
