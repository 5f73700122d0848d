//! A machine without a device, and one whose driver is too old, through the C ABI: both are said, and host memory works.
//!
//! The emulator plays them, told so by its environment before it is loaded: so each is a process of its own, which is
//! this test once more.

mod on_gpu;
mod owned;

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::process::Command;
use std::ptr::{null, null_mut};

use mq::ffi::context::{
    mq_context, mq_context_create, mq_context_destroy, mq_context_options, mq_context_options_init,
};
use mq::ffi::fake_quant::mq_fake_quant;
use mq::ffi::guard::mq_last_error_message;
use mq::ffi::status::mq_status;
use mq::ffi::tensor::{
    MQ_DEVICE_CPU, MQ_DEVICE_CUDA, MQ_DTYPE_FLOAT, mq_device, mq_dtype, mq_tensor,
};

/// Set in a process that plays such a machine: what its error says.
const SAYS: &str = "MQ_TEST_CUDA_ERROR_SAYS";

fn options(device_type: i32) -> mq_context_options {
    let mut options = MaybeUninit::<mq_context_options>::uninit();
    let size = size_of::<mq_context_options>() as u32;
    // SAFETY: room for the struct, which is then initialized.
    let mut options = unsafe {
        let status = mq_context_options_init(options.as_mut_ptr(), size);
        assert_eq!(status, mq_status::MQ_OK);
        options.assume_init()
    };
    options.num_threads = 1;
    options.device = mq_device {
        device_type,
        device_id: 0,
    };
    options
}

fn create(device_type: i32) -> (mq_status, *mut mq_context) {
    let mut context = null_mut();
    // SAFETY: options and a place for the handle.
    let status = unsafe { mq_context_create(&options(device_type), &mut context) };
    (status, context)
}

fn tensor(values: &mut [f32], shape: &[i64; 1]) -> mq_tensor {
    mq_tensor {
        data: values.as_mut_ptr().cast(),
        device: mq_device {
            device_type: MQ_DEVICE_CPU,
            device_id: 0,
        },
        ndim: 1,
        dtype: mq_dtype {
            code: MQ_DTYPE_FLOAT,
            bits: 32,
            lanes: 1,
        },
        shape: shape.as_ptr(),
        strides: null(),
        byte_offset: 0,
    }
}

/// What one of those processes does.
fn play(says: &str) {
    // Twice: the first answer is kept.
    for _ in 0..2 {
        let (status, context) = create(MQ_DEVICE_CUDA);
        assert_eq!(status, mq_status::MQ_ERR_CUDA);
        assert!(context.is_null());
        // SAFETY: a string of this thread's, valid until the next failure.
        let text = unsafe { CStr::from_ptr(mq_last_error_message()) };
        let text = text.to_str().expect("UTF-8");
        assert!(text.contains(says), "{text}");
    }
    let (status, context) = create(MQ_DEVICE_CPU);
    assert_eq!(status, mq_status::MQ_OK);
    let (mut x, mut out) = ([0.3f32, -2.0, 1.5, 0.0], [0.0f32; 4]);
    let shape = [4];
    let (from, to) = (tensor(&mut x, &shape), tensor(&mut out, &shape));
    // SAFETY: a context, two tensors and a string; destroyed once.
    unsafe {
        let attributes = c"{\"num_bits\": 8}".as_ptr();
        let status = mq_fake_quant(context, &from, attributes, null(), &to);
        assert_eq!(status, mq_status::MQ_OK);
        mq_context_destroy(context);
    }
    let scale = 127.0 / 2.0f32;
    assert_eq!(out, x.map(|x| (x * scale).round_ties_even() / scale));
}

#[test]
fn what_is_missing_is_said_and_host_memory_works() {
    if let Ok(says) = std::env::var(SAYS) {
        return play(&says);
    }
    let Some(gpu) = on_gpu::gpu(null_mut(), None) else {
        return;
    };
    if !gpu.name().starts_with("Mock GPU") {
        eprintln!(
            "SKIPPED: 2 machines that only the emulator plays; this is {}",
            gpu.name()
        );
        return;
    }
    for (name, value, says) in [
        (
            "MQ_MOCK_DEVICES",
            "0",
            "CUDA: there is a driver, but no device",
        ),
        (
            "MQ_MOCK_DRIVER_VERSION",
            "11080",
            "CUDA: the driver is for CUDA 11.8, but mq's kernels need 12.0 or later; update the driver",
        ),
    ] {
        let this = std::env::current_exe().expect("this test");
        let played = Command::new(this)
            .args([
                "--exact",
                "what_is_missing_is_said_and_host_memory_works",
                "--nocapture",
            ])
            .env(name, value)
            .env(SAYS, says)
            .output()
            .expect("a process");
        let told = String::from_utf8_lossy(&played.stdout);
        let wrong = String::from_utf8_lossy(&played.stderr);
        assert!(played.status.success(), "{name}: {told}\n{wrong}");
        assert!(told.contains("1 passed"), "{name}: {told}\n{wrong}");
    }
}
