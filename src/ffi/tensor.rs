//! `mq_tensor`: DLPack's `DLTensor`, checked and turned into the library's view.

use std::ffi::c_void;
use std::mem::{offset_of, size_of};

use crate::error::{Error, Result};
use crate::tensor::{DType, Device, MAX_RANK, TensorView};

/// Most dimensions a tensor may have.
pub const MQ_MAX_RANK: u32 = 8;
const _: () = assert!(MQ_MAX_RANK as usize == MAX_RANK);

/// Host memory (DLPack's kDLCPU).
pub const MQ_DEVICE_CPU: i32 = 1;
/// Memory of a CUDA device (DLPack's kDLCUDA).
pub const MQ_DEVICE_CUDA: i32 = 2;

/// IEEE floating point (DLPack's kDLFloat): `bits` 32 or 16.
pub const MQ_DTYPE_FLOAT: u8 = 2;
/// bfloat16 (DLPack's kDLBfloat): `bits` 16.
pub const MQ_DTYPE_BFLOAT: u8 = 4;

/// Where a tensor lives; the layout of DLPack's DLDevice.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct mq_device {
    /// `MQ_DEVICE_CPU`, or `MQ_DEVICE_CUDA` on a context with that device. Others are answered with
    /// MQ_ERR_UNSUPPORTED.
    pub device_type: i32,
    /// Index of the device; 0 for the CPU.
    pub device_id: i32,
}

/// Element type; the layout of DLPack's DLDataType.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct mq_dtype {
    /// `MQ_DTYPE_FLOAT` or `MQ_DTYPE_BFLOAT`.
    pub code: u8,
    /// Bits per element.
    pub bits: u8,
    /// Must be 1.
    pub lanes: u16,
}

impl mq_device {
    /// Where a tensor lives.
    pub(super) fn of(device: Device) -> Self {
        let (device_type, device_id) = match device {
            Device::Cpu => (MQ_DEVICE_CPU, 0),
            Device::Cuda(index) => (MQ_DEVICE_CUDA, index),
        };
        Self {
            device_type,
            device_id,
        }
    }
}

impl mq_dtype {
    /// An element type as DLPack has it.
    pub(crate) fn of(dtype: DType) -> Self {
        let code = match dtype {
            DType::F32 | DType::F16 => MQ_DTYPE_FLOAT,
            DType::BF16 => MQ_DTYPE_BFLOAT,
        };
        Self {
            code,
            bits: 8 * dtype.size() as u8,
            lanes: 1,
        }
    }
}

/// A tensor of the host, borrowed; exactly the memory layout of DLPack's DLTensor, so
/// `(const mq_tensor *)&dl_tensor` is right by construction.
///
/// Elements are float32, float16 or bfloat16, row-major and contiguous, aligned to their size. Rank 0 to
/// `MQ_MAX_RANK`; a tensor without elements may have `data == NULL`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct mq_tensor {
    /// First byte of the storage; the elements begin `byte_offset` bytes later.
    pub data: *mut c_void,
    /// Where `data` lives.
    pub device: mq_device,
    /// Number of dimensions.
    pub ndim: i32,
    /// Element type.
    pub dtype: mq_dtype,
    /// `ndim` extents, in elements. May be NULL when `ndim` is 0.
    pub shape: *const i64,
    /// `ndim` strides in elements, or NULL for row-major. Anything but row-major is refused.
    pub strides: *const i64,
    /// Offset of the first element from `data`, in bytes.
    pub byte_offset: u64,
}

// DLPack's DLTensor on 64-bit platforms.
const _: () = assert!(size_of::<mq_tensor>() == 48);
const _: () = assert!(offset_of!(mq_tensor, device) == 8);
const _: () = assert!(offset_of!(mq_tensor, ndim) == 16);
const _: () = assert!(offset_of!(mq_tensor, dtype) == 20);
const _: () = assert!(offset_of!(mq_tensor, shape) == 24);
const _: () = assert!(offset_of!(mq_tensor, strides) == 32);
const _: () = assert!(offset_of!(mq_tensor, byte_offset) == 40);

/// Reads and checks a tensor that must be there. `what` names the argument in the error text.
///
/// # Safety
/// `raw` is NULL or valid per the `mq_tensor` contract.
pub(crate) unsafe fn view(raw: *const mq_tensor, what: &str) -> Result<TensorView> {
    // SAFETY: forwarded contract.
    unsafe { view_or_null(raw, what) }?
        .ok_or_else(|| Error::InvalidArgument(format!("{what} is NULL")))
}

/// Reads and checks a tensor that may be NULL.
///
/// # Safety
/// `raw` is NULL or valid per the `mq_tensor` contract.
pub(crate) unsafe fn view_or_null(raw: *const mq_tensor, what: &str) -> Result<Option<TensorView>> {
    // SAFETY: NULL or a readable struct (contract).
    let Some(raw) = (unsafe { raw.as_ref() }) else {
        return Ok(None);
    };
    let invalid = |text: String| Err(Error::InvalidArgument(format!("{what}: {text}")));
    let device = match raw.device.device_type {
        MQ_DEVICE_CPU => Device::Cpu,
        MQ_DEVICE_CUDA => Device::Cuda(raw.device.device_id),
        other => {
            return Err(Error::Unsupported(format!(
                "{what}: device type {other} (this version works on MQ_DEVICE_CPU = {MQ_DEVICE_CPU} and MQ_DEVICE_CUDA = \
                 {MQ_DEVICE_CUDA})"
            )));
        }
    };
    let dtype = match (raw.dtype.code, raw.dtype.bits, raw.dtype.lanes) {
        (MQ_DTYPE_FLOAT, 32, 1) => DType::F32,
        (MQ_DTYPE_FLOAT, 16, 1) => DType::F16,
        (MQ_DTYPE_BFLOAT, 16, 1) => DType::BF16,
        (code, bits, lanes) => {
            return invalid(format!(
                "dtype code {code}, {bits} bits, {lanes} lanes; expected float32, float16 or bfloat16 with 1 lane"
            ));
        }
    };
    if raw.ndim < 0 || raw.ndim as usize > MAX_RANK {
        return invalid(format!("rank {}, expected 0 to {MAX_RANK}", raw.ndim));
    }
    let rank = raw.ndim as usize;
    if rank > 0 && raw.shape.is_null() {
        return invalid(format!("shape is NULL with rank {rank}"));
    }
    let mut dims = [0usize; MAX_RANK];
    for (i, dim) in dims.iter_mut().enumerate().take(rank) {
        // SAFETY: `shape` holds `ndim` extents (contract), checked not NULL.
        let extent = unsafe { raw.shape.add(i).read() };
        *dim = match usize::try_from(extent) {
            Ok(extent) => extent,
            Err(_) => return invalid(format!("extent {extent} of dimension {i} is negative")),
        };
    }
    if !raw.strides.is_null() {
        let mut expected = 1i64;
        for i in (0..rank).rev() {
            // SAFETY: `strides` holds `ndim` strides (contract), checked not NULL.
            let stride = unsafe { raw.strides.add(i).read() };
            if dims[i] > 1 && stride != expected {
                return invalid(format!(
                    "stride {stride} of dimension {i}, expected {expected}: the tensor must be row-major and contiguous"
                ));
            }
            expected = expected.saturating_mul(dims[i].max(1) as i64);
        }
    }
    let Ok(offset) = usize::try_from(raw.byte_offset) else {
        return invalid(format!("byte_offset {} is too large", raw.byte_offset));
    };
    let data = raw.data.cast::<u8>().wrapping_add(offset);
    if raw.data.is_null() && !dims[..rank].contains(&0) {
        return invalid("data is NULL but the shape has elements".to_owned());
    }
    // SAFETY: the caller promises memory for the elements (contract); NULL only when there are none.
    unsafe { TensorView::new_on(device, data, dtype, &dims[..rank]) }
        .map(Some)
        .or_else(invalid)
}
