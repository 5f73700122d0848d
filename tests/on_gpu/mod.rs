//! Tensors on the GPU, or on the emulator that stands in for one: skipped where there is neither, unless
//! MQ_REQUIRE_CUDA says that there must be.
#![allow(dead_code, reason = "no test file uses all of it")]

use std::ffi::c_void;
use std::sync::Arc;

use mq::kernels::cuda::{DeviceBuffer, DeviceMemory, Gpu, GpuSettings, UseCublas};
use mq::model::{Context, ContextSettings};
use mq::tensor::{Device, TensorView};

use crate::owned::Owned;

/// The first device; None: there is none.
pub fn gpu(stream: *mut c_void, memory: Option<Box<dyn DeviceMemory>>) -> Option<Arc<Gpu>> {
    let settings = GpuSettings {
        device: 0,
        context: std::ptr::null_mut(),
        stream,
        memory,
        cublas: UseCublas::default(),
    };
    // SAFETY: no context, and a stream that the test keeps.
    match unsafe { Gpu::open(settings) } {
        Ok(gpu) => Some(gpu),
        Err(error) if std::env::var_os("MQ_REQUIRE_CUDA").is_some() => {
            panic!("MQ_REQUIRE_CUDA is set, but: {error}")
        }
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            None
        }
    }
}

/// A context that works there.
pub fn context(gpu: &Arc<Gpu>) -> Arc<Context> {
    let settings = ContextSettings {
        threads: 1,
        memory_limit_bytes: 0,
        log: Box::new(|_, _| {}),
        progress: None,
        gpu: Some(Arc::clone(gpu)),
    };
    Arc::new(Context::with(settings).expect("one thread"))
}

/// A tensor on the GPU.
pub struct OnGpu {
    memory: DeviceBuffer,
    view: TensorView,
}

impl OnGpu {
    /// A copy of a tensor of the host.
    pub fn copy_of(gpu: &Arc<Gpu>, x: &Owned) -> Self {
        let mut x = x.clone();
        let bytes = x.bytes_mut();
        let memory = DeviceBuffer::new(gpu, bytes.len()).expect("device memory");
        memory.write(bytes).expect("a copy");
        let device = Device::Cuda(gpu.device());
        // SAFETY: device memory of that size, which lives as long as this.
        let view =
            unsafe { TensorView::new_on(device, memory.address() as *mut u8, x.dtype, &x.shape) };
        Self {
            view: view.expect("valid"),
            memory,
        }
    }

    /// The tensor.
    pub fn view(&self) -> TensorView {
        self.view
    }

    /// Writes other elements of the same number over it.
    pub fn write(&self, x: &Owned) {
        let mut x = x.clone();
        self.memory.write(x.bytes_mut()).expect("a copy");
    }

    /// A copy back on the host.
    pub fn fetch(&self) -> Owned {
        let mut x = Owned::zeros(self.view.dtype(), self.view.shape().dims());
        self.memory.read(x.bytes_mut()).expect("a copy");
        x
    }

    /// The bits of its elements as float32.
    pub fn bits(&self) -> Vec<u32> {
        bits(&self.fetch())
    }
}

/// The bits of elements as float32.
pub fn bits(x: &Owned) -> Vec<u32> {
    x.view().to_f32().iter().map(|x| x.to_bits()).collect()
}

/// Where a test puts its tensors.
pub enum Place {
    /// Host memory.
    Host(Arc<Context>),
    /// The GPU.
    Gpu(Arc<Gpu>, Arc<Context>),
}

impl Place {
    /// Host memory with so many threads, and the GPU if there is one.
    pub fn all(threads: usize) -> Vec<Self> {
        let host = Context::new(threads, Box::new(|_, _| {})).expect("threads");
        let there = gpu(std::ptr::null_mut(), None).map(|gpu| {
            let context = context(&gpu);
            Self::Gpu(gpu, context)
        });
        std::iter::once(Self::Host(Arc::new(host)))
            .chain(there)
            .collect()
    }

    /// For messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Host(_) => "host",
            Self::Gpu(..) => "gpu",
        }
    }

    /// The context that works there.
    pub fn context(&self) -> &Arc<Context> {
        match self {
            Self::Host(context) | Self::Gpu(_, context) => context,
        }
    }

    /// Calls `work` with a tensor that lives there; what it writes to it comes back.
    pub fn with<T>(&self, x: &mut Owned, work: impl FnOnce(TensorView) -> T) -> T {
        match self {
            Self::Host(_) => work(x.view_mut()),
            Self::Gpu(gpu, _) => {
                let there = OnGpu::copy_of(gpu, x);
                let found = work(there.view());
                *x = there.fetch();
                found
            }
        }
    }
}
