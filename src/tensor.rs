//! The borrowed tensor: dtype, shape and a pointer into the host's memory, checked once.

use std::fmt;
use std::mem::size_of;

use crate::format::half::{Bf16, F16};

/// Most dimensions a tensor may have.
pub const MAX_RANK: usize = 8;

/// Element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16: the upper half of a binary32.
    BF16,
}

impl DType {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::F16 => size_of::<F16>(),
            Self::BF16 => size_of::<Bf16>(),
        }
    }
}

impl DType {
    /// `value` as this type stores it: rounded to nearest even.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::F16 => F16::from_f32(value).to_f32(),
            Self::BF16 => Bf16::from_f32(value).to_f32(),
        }
    }

    /// The value of an element whose bytes come first in these.
    pub(crate) fn load_from(self, bytes: [u8; 4]) -> f32 {
        let short = u16::from_ne_bytes([bytes[0], bytes[1]]);
        match self {
            Self::F32 => f32::from_ne_bytes(bytes),
            Self::F16 => F16(short).to_f32(),
            Self::BF16 => Bf16(short).to_f32(),
        }
    }

    /// The smallest normal number.
    pub fn tiny(self) -> f32 {
        match self {
            Self::F32 | Self::BF16 => f32::MIN_POSITIVE,
            Self::F16 => 6.103_515_6e-5,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
        })
    }
}

/// Where a tensor lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// Host memory.
    #[default]
    Cpu,
    /// Memory of the CUDA device of that index.
    Cuda(i32),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("host memory"),
            Self::Cuda(index) => write!(f, "CUDA device {index}"),
        }
    }
}

/// Extents of a tensor, at most [`MAX_RANK`] of them; no allocation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: usize,
}

impl Shape {
    /// The shape of these extents. Errors when there are too many or their product overflows.
    pub fn new(extents: &[usize]) -> Result<Self, String> {
        if extents.len() > MAX_RANK {
            return Err(format!("rank {}, expected 0 to {MAX_RANK}", extents.len()));
        }
        // Also bounds the byte size, so that offsets fit a pointer.
        let product = extents
            .iter()
            .filter(|extent| **extent != 0)
            .try_fold(size_of::<f32>(), |product, extent| {
                product.checked_mul(*extent)
            });
        if product.is_none_or(|bytes| isize::try_from(bytes).is_err()) {
            return Err(format!("shape {extents:?} has too many elements"));
        }
        let mut dims = [0; MAX_RANK];
        dims[..extents.len()].copy_from_slice(extents);
        Ok(Self {
            dims,
            rank: extents.len(),
        })
    }

    /// The extents.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    /// Number of elements; 1 for rank 0.
    pub fn count(&self) -> usize {
        self.dims().iter().product()
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

/// A row-major, contiguous tensor that somebody else owns.
///
/// Whether it may be written to, and by whom, is the contract of the call it came in by.
#[derive(Debug, Clone, Copy)]
pub struct TensorView {
    data: *mut u8,
    device: Device,
    dtype: DType,
    shape: Shape,
}

// SAFETY: a view is an address with a shape; the contract of `new` makes access from any thread
// the owner's promise, as the C header states it for every tensor argument.
unsafe impl Send for TensorView {}
// SAFETY: as above.
unsafe impl Sync for TensorView {}

impl TensorView {
    /// A view of `extents` elements at `data`.
    ///
    /// # Safety
    /// `data` is valid for the elements for as long as the view and its copies are used, and nobody
    /// else accesses them in a conflicting way meanwhile. It may be NULL when there are none.
    pub unsafe fn new(data: *mut u8, dtype: DType, extents: &[usize]) -> Result<Self, String> {
        // SAFETY: contract of this function.
        unsafe { Self::new_on(Device::Cpu, data, dtype, extents) }
    }

    /// A view of `extents` elements at an address of a device.
    ///
    /// # Safety
    /// As `new`; the address is one of that device.
    pub unsafe fn new_on(
        device: Device,
        data: *mut u8,
        dtype: DType,
        extents: &[usize],
    ) -> Result<Self, String> {
        let shape = Shape::new(extents)?;
        if !(data as usize).is_multiple_of(dtype.size()) {
            return Err(format!(
                "data is not aligned to the {} bytes of a {dtype}",
                dtype.size()
            ));
        }
        let end = (data as usize).checked_add(shape.count() * dtype.size());
        if end.is_none() {
            return Err("the tensor reaches beyond the address space".to_owned());
        }
        Ok(Self {
            data,
            device,
            dtype,
            shape,
        })
    }

    /// A float32 view over memory of the library's own, which outlives its use. Errors when it is too small.
    pub(crate) fn over(memory: &mut [f32], extents: &[usize]) -> Result<Self, String> {
        let empty = Self {
            data: std::ptr::null_mut(),
            device: Device::Cpu,
            dtype: DType::F32,
            shape: Shape::new(extents)?,
        };
        empty.with_data(memory)
    }

    /// A view of the same dtype and shape over other host memory. Errors when it is too small.
    pub fn with_data(&self, memory: &mut [f32]) -> Result<Self, String> {
        if size_of_val(memory) < self.size_bytes() {
            return Err(format!(
                "{} bytes for a tensor of {}",
                size_of_val(memory),
                self.size_bytes()
            ));
        }
        Ok(Self {
            data: memory.as_mut_ptr().cast(),
            device: Device::Cpu,
            ..*self
        })
    }

    /// A view of the same dtype and shape on the same device, over device memory of the library's own.
    pub(crate) fn at_address(&self, address: u64) -> Self {
        Self {
            data: address as *mut u8,
            ..*self
        }
    }

    /// Some of the indices of the first dimension. Errors when there are not so many.
    pub fn rows(&self, first: usize, count: usize) -> Result<Self, String> {
        let dims = self.shape.dims();
        let all = dims.first().copied().unwrap_or(0);
        if first.checked_add(count).is_none_or(|end| end > all) {
            return Err(format!("rows {first} to {first} + {count} of {all}"));
        }
        let mut shape = self.shape;
        shape.dims[0] = count;
        let offset = first * dims[1..].iter().product::<usize>() * self.dtype.size();
        Ok(Self {
            data: self.data.wrapping_add(offset),
            shape,
            ..*self
        })
    }

    /// The address of the first element, in host memory: whoever asks is going to look at it.
    pub fn data(&self) -> *mut u8 {
        assert!(
            self.device == Device::Cpu,
            "a loop for the CPU was given a tensor on {}",
            self.device
        );
        self.data
    }

    /// The address of the first element, wherever it lives: to compare, or to hand on.
    pub fn address(&self) -> u64 {
        self.data as u64
    }

    /// Where it lives.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extents.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Number of elements.
    pub fn count(&self) -> usize {
        self.shape.count()
    }

    /// Number of bytes.
    pub fn size_bytes(&self) -> usize {
        self.count() * self.dtype.size()
    }

    /// Whether the two share memory.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (a, b) = (self.data as usize, other.data as usize);
        self.device == other.device && a < b + other.size_bytes() && b < a + self.size_bytes()
    }

    /// Checks that a result of `self` may be written to `out`: same dtype and shape, and the memory
    /// either the same or apart.
    pub fn check_out(&self, out: &TensorView) -> Result<(), String> {
        if out.dtype != self.dtype || out.shape != self.shape {
            return Err(format!(
                "out is {} {:?}, expected {} {:?}",
                out.dtype, out.shape, self.dtype, self.shape
            ));
        }
        if self.device != out.device {
            return Err(format!(
                "out is on {}, expected {} as the input",
                out.device, self.device
            ));
        }
        let (a, b, bytes) = (self.data as usize, out.data as usize, self.size_bytes());
        if a != b && a < b + bytes && b < a + bytes {
            return Err(
                "out overlaps the input partly; pass the same memory or memory apart".to_owned(),
            );
        }
        Ok(())
    }

    /// Stops a kernel that was called without [`Self::check_out`].
    pub(crate) fn assert_out(&self, out: &TensorView) {
        let checked = self.check_out(out);
        assert!(checked.is_ok(), "{checked:?}");
    }

    /// The elements as float32, copied. Errors when they are not in host memory.
    pub fn host_values(&self) -> Result<Vec<f32>, String> {
        match self.device {
            Device::Cpu => Ok(self.to_f32()),
            other => Err(format!(
                "a tensor on {other}, expected one in host memory: mq keeps such numbers on both sides"
            )),
        }
    }

    /// The elements as float32, copied; of a tensor in host memory.
    pub fn to_f32(&self) -> Vec<f32> {
        let count = self.count();
        if count == 0 {
            return Vec::new();
        }
        let host = self.data();
        // SAFETY: contract of `new`; aligned and not NULL, for there are elements.
        unsafe {
            match self.dtype {
                DType::F32 => std::slice::from_raw_parts(host.cast::<f32>(), count).to_vec(),
                DType::F16 => std::slice::from_raw_parts(host.cast::<F16>(), count)
                    .iter()
                    .map(|x| x.to_f32())
                    .collect(),
                DType::BF16 => std::slice::from_raw_parts(host.cast::<Bf16>(), count)
                    .iter()
                    .map(|x| x.to_f32())
                    .collect(),
            }
        }
    }
}
