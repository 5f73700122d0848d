//! What tests of kernels need of a GPU, or of the emulator that stands in for one: skipped where there is neither,
//! unless MQ_REQUIRE_CUDA says that there must be.

use std::sync::{Arc, OnceLock};

use super::{DeviceBuffer, Gpu, GpuSettings, UseCublas};
use crate::format::half::{Bf16, F16};
use crate::kernels::{Isa, Machine};
use crate::tensor::{DType, Device, TensorView};

/// A machine with the first GPU; None: there is none, which is printed once for each test.
pub(crate) fn machine() -> Option<Machine> {
    static OPENED: OnceLock<Result<Arc<Gpu>, String>> = OnceLock::new();
    let settings = || GpuSettings {
        device: 0,
        context: std::ptr::null_mut(),
        stream: std::ptr::null_mut(),
        memory: None,
        cublas: UseCublas::default(),
    };
    let opened = OPENED.get_or_init(|| {
        // SAFETY: no handles are given.
        unsafe { Gpu::open(settings()) }.map_err(|error| error.text)
    });
    match opened {
        Ok(gpu) => {
            let machine = Machine::new(1, Isa::best(None)).expect("one thread");
            Some(machine.with_gpu(Arc::clone(gpu)))
        }
        Err(text) if std::env::var_os("MQ_REQUIRE_CUDA").is_some() => {
            panic!("MQ_REQUIRE_CUDA is set, but: {text}")
        }
        Err(text) => {
            eprintln!("SKIPPED: {text}");
            None
        }
    }
}

/// A machine whose GPU makes every product it can by cuBLAS; None: there is no GPU, or no cuBLAS that works, which is
/// printed, and a failure with MQ_REQUIRE_CUBLAS. Beside the emulator there always is one.
pub(crate) fn machine_with_cublas() -> Option<Machine> {
    let gpu = Arc::clone(machine()?.gpu()?);
    let settings = GpuSettings {
        device: gpu.device(),
        context: std::ptr::null_mut(),
        stream: std::ptr::null_mut(),
        memory: None,
        cublas: UseCublas::Always,
    };
    // SAFETY: no handles are given.
    let gpu = unsafe { Gpu::open(settings) }.expect("opened before");
    gpu.prepare_cublas(1);
    let notice = gpu.take_notice().expect("it says what it found");
    if !gpu.takes_cublas(1) {
        let must = is_emulator(&gpu) || std::env::var_os("MQ_REQUIRE_CUBLAS").is_some();
        assert!(!must, "{notice}");
        eprintln!("SKIPPED: {notice}");
        return None;
    }
    let machine = Machine::new(1, Isa::best(None)).expect("one thread");
    Some(machine.with_gpu(gpu))
}

/// Whether it is the one of `cuda/emulator`.
pub(crate) fn is_emulator(gpu: &Gpu) -> bool {
    gpu.name().starts_with("Mock GPU")
}

/// Values at which something changes: zeros, ties, subnormals, limits, infinities, NaN.
pub(crate) const EDGES: [f32; 16] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -2.5,
    1e-45,
    -1e-38,
    f32::MIN_POSITIVE,
    1e20,
    3.4e38,
    f32::MAX,
    f32::MIN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
];

/// A tensor in host memory of its own.
pub(crate) struct Host {
    memory: Vec<f32>,
    dtype: DType,
    shape: Vec<usize>,
}

impl Host {
    /// These values, rounded to a type.
    pub fn of(dtype: DType, shape: &[usize], values: &[f32]) -> Self {
        assert_eq!(values.len(), shape.iter().product::<usize>(), "values");
        let bytes: Vec<u8> = match dtype {
            DType::F32 => values.iter().flat_map(|x| x.to_ne_bytes()).collect(),
            DType::F16 => {
                let bits = values.iter().map(|x| F16::from_f32(*x).0);
                bits.flat_map(u16::to_ne_bytes).collect()
            }
            DType::BF16 => {
                let bits = values.iter().map(|x| Bf16::from_f32(*x).0);
                bits.flat_map(u16::to_ne_bytes).collect()
            }
        };
        let word = |some: &[u8]| {
            let mut word = [0; 4];
            word[..some.len()].copy_from_slice(some);
            f32::from_ne_bytes(word)
        };
        Self {
            memory: bytes.chunks(4).map(word).collect(),
            dtype,
            shape: shape.to_vec(),
        }
    }

    /// Repeatable values between -1 and 1.
    pub fn noise(dtype: DType, shape: &[usize], seed: u32) -> Self {
        let mut state = seed | 1;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        };
        let values: Vec<f32> = (0..shape.iter().product()).map(next).collect();
        Self::of(dtype, shape, &values)
    }

    /// The tensor.
    pub fn view(&mut self) -> TensorView {
        // SAFETY: the memory holds the elements, and a test uses it through one view at a time.
        unsafe { TensorView::new(self.memory.as_mut_ptr().cast(), self.dtype, &self.shape) }
            .expect("aligned")
    }
}

/// A tensor on the GPU, which begins some bytes behind a multiple of 256, with a guard of known bytes around it.
pub(crate) struct OnGpu {
    memory: DeviceBuffer,
    view: TensorView,
    offset: usize,
}

const GUARD: u8 = 0xc7;
const BEHIND: usize = 64;

impl OnGpu {
    /// Copies a tensor of the host there.
    pub fn copy_of(machine: &Machine, x: &TensorView, offset: usize) -> Self {
        let gpu = machine.gpu().expect("a GPU");
        let bytes = x.size_bytes();
        let content = match bytes {
            0 => &[],
            // SAFETY: the test's tensor.
            _ => unsafe { std::slice::from_raw_parts(x.data(), bytes) },
        };
        let mut all = vec![GUARD; offset + bytes + BEHIND];
        all[offset..][..bytes].copy_from_slice(content);
        let memory = DeviceBuffer::new(gpu, all.len()).expect("device memory");
        memory.write(&all).expect("a copy");
        let address = memory.address() + offset as u64;
        let dims = x.shape().dims();
        // SAFETY: device memory of that size, which lives as long as this.
        let view = unsafe {
            TensorView::new_on(
                Device::Cuda(gpu.device()),
                address as *mut u8,
                x.dtype(),
                dims,
            )
        };
        Self {
            memory,
            view: view.expect("valid"),
            offset,
        }
    }

    /// The tensor.
    pub fn view(&self) -> TensorView {
        self.view
    }

    /// Its bytes, back on the host; nothing around them may have been written to.
    pub fn bytes(&self) -> Vec<u8> {
        let mut all = vec![0u8; self.memory.len()];
        self.memory.read(&mut all).expect("a copy");
        let end = self.offset + self.view.size_bytes();
        let around = all[..self.offset].iter().chain(&all[end..]);
        assert!(
            around.clone().all(|byte| *byte == GUARD),
            "written beyond the tensor"
        );
        all[self.offset..end].to_vec()
    }

    /// Its elements as float32.
    pub fn values(&self) -> Vec<f32> {
        values(self.view.dtype(), &self.bytes())
    }
}

/// Elements as float32.
pub(crate) fn values(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let element = |chunk: &[u8]| {
        let mut padded = [0; 4];
        padded[..chunk.len()].copy_from_slice(chunk);
        dtype.load_from(padded)
    };
    bytes.chunks_exact(dtype.size()).map(element).collect()
}

/// Asserts equal bits, but for what is left of a NaN.
pub(crate) fn assert_same(got: &[f32], want: &[f32], what: &dyn std::fmt::Display) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let is_same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
        assert!(is_same, "{what}: element {i} is {got:e}, expected {want:e}");
    }
}

/// No kernel failed.
pub(crate) fn assert_no_failure(machine: &Machine) {
    machine.take_failure().expect("kernels that ran");
}
