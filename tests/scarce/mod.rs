//! Device memory of the host's that runs out.

use std::ffi::c_void;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use mq::kernels::cuda::{DeviceBuffer, DeviceMemory, Gpu};

/// So many allocations that a test never comes to an end of them.
pub const PLENTY: i64 = 1_000_000;

/// Gives memory of another GPU handle so often, and counts what is in use.
pub struct Scarce {
    left: Arc<AtomicI64>,
    live: Arc<AtomicI64>,
    pool: Arc<Gpu>,
    kept: Mutex<Vec<DeviceBuffer>>,
}

impl Scarce {
    /// Plenty of it, and how many allocations are left; `live` counts those in use.
    pub fn new(pool: &Arc<Gpu>, live: &Arc<AtomicI64>) -> (Box<Self>, Arc<AtomicI64>) {
        let left = Arc::new(AtomicI64::new(PLENTY));
        let memory = Self {
            left: Arc::clone(&left),
            live: Arc::clone(live),
            pool: Arc::clone(pool),
            kept: Mutex::default(),
        };
        (Box::new(memory), left)
    }
}

impl DeviceMemory for Scarce {
    fn allocate(&self, bytes: usize, _: *mut c_void) -> Option<u64> {
        if self.left.fetch_sub(1, SeqCst) <= 0 {
            return None;
        }
        let buffer = DeviceBuffer::new(&self.pool, bytes).ok()?;
        let address = buffer.address();
        self.live.fetch_add(1, SeqCst);
        self.kept.lock().expect("one thread").push(buffer);
        Some(address)
    }

    fn free(&self, address: u64, _: usize, _: *mut c_void) {
        self.live.fetch_sub(1, SeqCst);
        let mut kept = self.kept.lock().expect("one thread");
        kept.retain(|buffer| buffer.address() != address);
    }
}
