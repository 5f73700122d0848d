//! A calibration in device memory takes no more than its plan says, host and device together, and its results do not
//! depend on the limit.

mod memory_cases;
mod on_gpu;
mod owned;
mod stack;

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use memory_cases::bytes_needed;
use mq::calibrate;
use mq::config::QuantizeConfig;
use mq::error::Error;
use mq::kernels::cuda::{DeviceBuffer, DeviceMemory, Gpu, GpuSettings, UseCublas};
use mq::model::{Context, ContextSettings, Model, SlotState};
use on_gpu::OnGpu;
use stack::{INT4_BLOCKS, assert_same, config, states};

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn taken(bytes: usize) {
    let live = LIVE.fetch_add(bytes, SeqCst) + bytes;
    PEAK.fetch_max(live, SeqCst);
}

fn given_back(bytes: usize) {
    LIVE.fetch_sub(bytes, SeqCst);
}

struct Counting;

// SAFETY: everything is the system's allocator, which is only counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: forwarded contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        given_back(layout.size());
        // SAFETY: forwarded contract.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Memory of another handle of the GPU, counted.
struct Counted {
    pool: Arc<Gpu>,
    kept: Mutex<Vec<DeviceBuffer>>,
}

impl DeviceMemory for Counted {
    fn allocate(&self, bytes: usize, _: *mut c_void) -> Option<u64> {
        let buffer = DeviceBuffer::new(&self.pool, bytes).ok()?;
        let address = buffer.address();
        taken(bytes);
        self.kept.lock().expect("no panic").push(buffer);
        Some(address)
    }

    fn free(&self, address: u64, bytes: usize, _: *mut c_void) {
        given_back(bytes);
        let mut kept = self.kept.lock().expect("no panic");
        kept.retain(|buffer| buffer.address() != address);
    }
}

struct Outcome {
    states: Vec<Arc<SlotState>>,
    forwards: usize,
    planned_peak: usize,
    /// The most that was held during the verb and not after it, on both sides.
    peak: usize,
}

fn run(pool: &Arc<Gpu>, limit: u64, config: &QuantizeConfig) -> Result<Outcome, Error> {
    let memory = Counted {
        pool: Arc::clone(pool),
        kept: Mutex::new(Vec::with_capacity(1024)),
    };
    let settings = GpuSettings {
        device: 0,
        context: std::ptr::null_mut(),
        stream: std::ptr::null_mut(),
        memory: Some(Box::new(memory)),
        cublas: UseCublas::default(),
    };
    // SAFETY: no context and no stream are given.
    let gpu = unsafe { Gpu::open(settings) }?;
    let context = Context::with(ContextSettings {
        threads: 2,
        memory_limit_bytes: limit,
        log: Box::new(|_, _| {}),
        progress: None,
        gpu: Some(gpu),
    })?;
    let mut model = Model::new(Arc::new(context));
    let mut parts = memory_cases::parts();
    let mut there = Vec::new();
    for part in &mut parts {
        let weight = OnGpu::copy_of(pool, &part.weight);
        part.spec.weight = Some(weight.view());
        let batches = part.batches.iter().map(|x| OnGpu::copy_of(pool, x));
        let layer = model.add_layer(part.spec.clone())?;
        there.push((layer, batches.collect::<Vec<_>>(), weight));
    }
    let plan = calibrate::plan_quantize(&model, config)?;
    let mut forwards = 0;
    let mut forward = || {
        forwards += 1;
        for batch in 0..3 {
            for (layer, batches, _) in &there {
                layer.input(batches[batch].view(), None)?;
            }
        }
        Ok(())
    };
    PEAK.store(LIVE.load(SeqCst), SeqCst);
    calibrate::quantize(&mut model, config, Some(&mut forward))?;
    let peak = PEAK.load(SeqCst).saturating_sub(LIVE.load(SeqCst));
    let planned = plan["peak_bytes"].as_u64().expect("peak_bytes");
    Ok(Outcome {
        states: states(&model),
        forwards,
        planned_peak: usize::try_from(planned).expect("small"),
        peak,
    })
}

/// One test, so that nothing else allocates meanwhile.
#[test]
fn a_calibration_in_device_memory_stays_within_its_plan_and_its_limit() {
    let Some(pool) = on_gpu::gpu(std::ptr::null_mut(), None) else {
        return;
    };
    // Whatever is made once for the whole process.
    run(&pool, 0, &config(INT4_BLOCKS, "", r#""awq_full""#)).expect("warm");
    let mut wrong = Vec::new();
    for (name, weight, input, algorithm) in memory_cases::cases() {
        let config = config(weight, input, algorithm);
        let unlimited = run(&pool, 0, &config).expect(name);
        let mut limit = 1;
        // The second algorithm of a list asks for itself.
        let limited = loop {
            match run(&pool, limit, &config) {
                Ok(limited) => break limited,
                Err(error) => {
                    let needed = bytes_needed(&error);
                    assert!(needed > limit, "{name}: {error}");
                    limit = needed;
                }
            }
        };
        let first = unlimited.states.clone();
        for (limit, outcome) in [(0, unlimited), (limit, limited)] {
            let what = format!("{name}, limit {limit}, {} forwards", outcome.forwards);
            println!("{what}: {} of {} bytes", outcome.peak, outcome.planned_peak);
            if outcome.peak > outcome.planned_peak {
                wrong.push(format!(
                    "{what}: {} bytes, planned {}",
                    outcome.peak, outcome.planned_peak
                ));
            }
            if limit > 0 {
                assert!(outcome.planned_peak as u64 <= limit, "{what}");
            }
            assert_same(&outcome.states, &first, &what);
        }
    }
    assert!(wrong.is_empty(), "more than planned:\n{}", wrong.join("\n"));
}
