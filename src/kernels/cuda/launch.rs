//! How a kernel is put on the stream.

/// Threads of a block, `kThreads` of `mq.cuh`.
pub(crate) const THREADS: u32 = 256;

/// Puts a kernel on the GPU's stream: `launch!(gpu, name, blocks; a, b, c)`, each argument of exactly the type of the
/// kernel's parameter (addresses are u64).
macro_rules! launch {
    ($gpu:expr, $kernel:expr, $grid:expr; $($argument:expr),+ $(,)?) => {
        $gpu.launch_raw(
            $kernel,
            ($grid, $crate::kernels::cuda::THREADS),
            &mut [$(std::ptr::from_ref(&$argument).cast_mut().cast()),+],
        )
    };
}
pub(crate) use launch;

/// The name of a kernel that there is for each storage type, for that of a tensor.
macro_rules! by_dtype {
    ($kernel:literal, $x:expr) => {
        match $x.dtype() {
            $crate::tensor::DType::F32 => concat!($kernel, "_f32"),
            $crate::tensor::DType::F16 => concat!($kernel, "_f16"),
            $crate::tensor::DType::BF16 => concat!($kernel, "_bf16"),
        }
    };
}
pub(crate) use by_dtype;
