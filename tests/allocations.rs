//! A calibrated quantizer allocates nothing when a tensor passes it.

mod owned;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use mq::calibrate;
use mq::config::QuantizeConfig;
use mq::model::{Context, Model};
use mq::tensor::DType;
use owned::Owned;

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is the system's allocator, which is only counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, SeqCst);
        // SAFETY: forwarded contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: forwarded contract.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test, so that nothing else allocates meanwhile.
#[test]
fn a_calibrated_tap_allocates_nothing() {
    const FORMATS: [&str; 7] = [
        r#"{"num_bits": 8}"#,
        r#"{"num_bits": 8, "axis": -1}"#,
        r#"{"num_bits": [4, 3]}"#,
        r#"{"num_bits": [4, 3], "block_sizes": {"-1": null, "type": "dynamic"}}"#,
        r#"{"num_bits": 4, "block_sizes": {"-1": 16}}"#,
        r#"{"num_bits": [2, 1], "block_sizes": {"-1": 32, "type": "dynamic", "scale_bits": [8, 0]}}"#,
        r#"{"num_bits": [2, 1], "block_sizes": {"-1": 16, "type": "dynamic", "scale_bits": [4, 3]}}"#,
    ];
    for cfg in FORMATS {
        let context = Context::new(1, Box::new(|_, _| {})).expect("one thread");
        let mut model = Model::new(std::sync::Arc::new(context));
        let slot = model.add_quantizer("q", None).expect("a new name");
        let mut x = Owned::zeros(DType::BF16, &[24, 80]);
        x.bytes_mut()
            .chunks_exact_mut(2)
            .for_each(|x| x.copy_from_slice(&[0x80, 0x3f]));
        let config = format!(
            r#"{{"quant_cfg": [{{"quantizer_name": "q", "cfg": {cfg}}}], "algorithm": "max"}}"#
        );
        let config = QuantizeConfig::parse(&config).expect("valid");
        let mut forward = || slot.forward(None, x.view(), None);
        calibrate::quantize(&mut model, &config, Some(&mut forward)).expect("calibrates");
        let mut out = Owned::zeros(DType::BF16, &[24, 80]);
        let (x, out) = (x.view(), out.view_mut());
        let before = ALLOCATIONS.load(SeqCst);
        for _ in 0..3 {
            slot.forward(None, x, Some(out)).expect("quantizes");
            slot.forward(None, out, Some(out))
                .expect("quantizes in place");
        }
        assert_eq!(ALLOCATIONS.load(SeqCst), before, "{cfg}");
    }
}
