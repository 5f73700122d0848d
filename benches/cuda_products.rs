//! Large products on a GPU, mq's own kernels beside cuBLAS, in one run: `make bench-cuda`.
//!
//! Gram matrices and errors under them at the sizes of a Llama-8B: what decides whether cuBLAS is worth its while, and from
//! which size on. Both sides are timed in turn, round after round, with events on the stream; the reported ratio is the
//! median over rounds of (time of mq's kernels) / (time with cuBLAS), above 1 where cuBLAS is faster. A multiplication and
//! an addition are two operations, and only those of the triangle count. Nothing is a threshold here: what was measured
//! goes to `docs/benchmarks.md` by hand, with the date, the device, both versions and the commit.
//!
//! `target/bench/cuda_products.json`; MQ_BENCH_COLUMNS, MQ_BENCH_ROWS (lists) and MQ_BENCH_ROUNDS make it shorter. Where
//! there is no cuBLAS it says so and times mq's kernels alone.

mod device_clock;
mod timing;

use std::sync::Arc;

use device_clock::{Clock, introduce, open};
use mq::kernels::cuda::{DeviceBuffer, Gpu, UseCublas};
use mq::kernels::gram::{Gram, cuda as gram};
use mq::kernels::quadratic::cuda::Form;
use mq::tensor::{DType, Device, TensorView};
use serde_json::{Value, json};
use timing::{median, setting};

/// Numbers from the environment.
fn list(name: &str, default: &[usize]) -> Vec<usize> {
    let numbers = |text: String| {
        let numbers = text.split(',').map(|number| number.trim().parse().ok());
        numbers.collect::<Option<Vec<usize>>>().expect(name)
    };
    std::env::var(name).map_or_else(|_| default.to_vec(), numbers)
}

/// Ordinary numbers, about normal: zeros would draw less power and run faster.
fn noise(count: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(|_| next() + next()).collect()
}

/// mq's kernels, and cuBLAS where it was found.
struct Sides {
    tiles: Arc<Gpu>,
    cublas: Option<Arc<Gpu>>,
    /// What cuBLAS it is, or why it is none.
    notice: String,
    clock: Clock,
    driver: i32,
    rounds: usize,
}

impl Sides {
    fn new() -> Self {
        let tiles = open(UseCublas::Never);
        let driver = introduce(&tiles);
        let other = open(UseCublas::Always);
        let rows = DeviceBuffer::holding(&other, &[1.0f32; 4]).expect("device memory");
        let square = DeviceBuffer::holding(&other, &[0.0f32; 4]).expect("device memory");
        gram::accumulate_buffer(&rows, 2, &square);
        let notice = other.take_notice().expect("it says what it found");
        println!("{notice}");
        let is_found = notice.contains("made by cuBLAS");
        if !is_found {
            println!("NOT COMPARED: there is no cuBLAS");
        }
        Self {
            tiles,
            cublas: is_found.then_some(other),
            notice,
            clock: Clock::new(),
            driver,
            rounds: setting("MQ_BENCH_ROUNDS", 21),
        }
    }

    /// Times a product on both sides; `product(gpu)` gives what makes it there.
    fn measure<'a>(
        &self,
        what: &str,
        [rows, columns]: [usize; 2],
        product: impl Fn(&Arc<Gpu>) -> Box<dyn Fn() + 'a>,
    ) -> Value {
        let own = product(&self.tiles);
        let other = self.cublas.as_ref().map(&product);
        let time = |work: &dyn Fn()| self.clock.milliseconds(work);
        for _ in 0..2 {
            time(&*own);
            if let Some(other) = &other {
                time(&**other);
            }
        }
        let (mut of_tiles, mut of_cublas, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            of_tiles.push(time(&*own));
            if let Some(other) = &other {
                of_cublas.push(time(&**other));
                ratios.push(of_tiles[of_tiles.len() - 1] / of_cublas[of_cublas.len() - 1]);
            }
        }
        for gpu in std::iter::once(&self.tiles).chain(&self.cublas) {
            gpu.take_failure().expect(what);
        }
        let operations = rows as f64 * columns as f64 * (columns as f64 + 1.0);
        let rate = |milliseconds: f64| operations / milliseconds / 1e9;
        let tiles = median(of_tiles);
        print!(
            "{what:8} {rows:>6} {columns:>6} {tiles:>10.3} {:>7.1}",
            rate(tiles)
        );
        let (mut by_cublas, mut ratio) = (Value::Null, Value::Null);
        if !ratios.is_empty() {
            let (took, faster) = (median(of_cublas), median(ratios));
            print!(" {took:>10.3} {:>7.1} {faster:>6.2}", rate(took));
            (by_cublas, ratio) = (json!(took), json!(faster));
        }
        println!();
        json!({
            "bench": "cuda_products", "row": what, "rows": rows, "columns": columns,
            "tiles_milliseconds": tiles, "tiles_teraflops": rate(tiles),
            "cublas_milliseconds": by_cublas, "tiles_to_cublas": ratio,
            "device": self.tiles.name(), "driver": self.driver, "cublas": self.notice,
        })
    }

    /// Rows added to the Gram matrix of so many columns: a stage has 512.
    fn gram(&self, rows: usize, columns: usize) -> Value {
        self.measure("Gram", [rows, columns], |gpu| {
            let x = DeviceBuffer::holding(gpu, &noise(rows * columns)).expect("device memory");
            let to = DeviceBuffer::zeroed(gpu, columns * columns * 4).expect("device memory");
            Box::new(move || gram::accumulate_buffer(&x, columns, &to))
        })
    }

    /// The error of so many rows of a weight under a Gram matrix: one candidate of AWQ-lite.
    fn errors(&self, rows: usize, columns: usize) -> Value {
        let gram = Gram::from(noise(columns * columns));
        self.measure("errors", [rows, columns], |gpu| {
            let form = Form::new(gpu, &gram, None, rows).expect("device memory");
            let w = DeviceBuffer::holding(gpu, &noise(rows * columns)).expect("device memory");
            let (device, address) = (Device::Cuda(gpu.device()), w.address() as *mut u8);
            // SAFETY: device memory of that size, which lives as long as the closure.
            let view = unsafe { TensorView::new_on(device, address, DType::F32, &[rows, columns]) };
            let view = view.expect("valid");
            form.clear();
            Box::new(move || {
                let _alive = &w;
                form.add(None, false, &view);
            })
        })
    }
}

fn main() {
    let sides = Sides::new();
    println!(
        "{:8} {:>6} {:>6} {:>10} {:>7} {:>10} {:>7} {:>6}",
        "product", "rows", "columns", "tiles, ms", "TFLOP/s", "cuBLAS, ms", "TFLOP/s", "ratio"
    );
    let mut report = Vec::new();
    for &columns in &list("MQ_BENCH_COLUMNS", &[1024, 2048, 4096, 14336]) {
        for &rows in &list("MQ_BENCH_ROWS", &[512, 2048, 8192]) {
            report.push(sides.gram(rows, columns));
            report.push(sides.errors(rows, columns));
        }
    }
    let text = serde_json::to_string_pretty(&report).expect("JSON");
    std::fs::create_dir_all("target/bench").expect("a folder");
    std::fs::write("target/bench/cuda_products.json", text).expect("a report");
}
