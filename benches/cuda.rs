//! Taps on a GPU against a device-to-device copy of the same bytes, in one run: `make bench-cuda`.
//!
//! Every row is timed in turn with the copy, round after round, with events on the stream; the reported ratio is the
//! median over rounds of (bytes per second of the tap) / (bytes per second of the copy beside it), and bytes are those
//! read and written. Small tensors show what a launch costs. Nothing is a threshold here: what was measured goes to
//! `docs/benchmarks.md` by hand, with the date, the device and the commit.
//!
//! `target/bench/cuda.json`; MQ_BENCH_BYTES (a list) and MQ_BENCH_ROUNDS make it shorter. Where there is no GPU it says
//! so and ends with an error: a benchmark has nothing to skip.

mod device_clock;
mod timing;

use std::sync::Arc;

use cudarc::driver::sys;
use device_clock::{Clock, introduce, ok, open};
use mq::calibrate;
use mq::config::QuantizeConfig;
use mq::kernels::cuda::{DeviceBuffer, Gpu, UseCublas};
use mq::kernels::fake_quant::{self, Candidates, Format, Prepared};
use mq::kernels::{Grid, Isa, Machine};
use mq::model::{Context, ContextSettings, Layer, LayerKind, LayerSpec, Model};
use mq::tensor::{DType, Device, TensorView};
use serde_json::{Value, json};
use timing::{median, setting};

/// Channels of the tensors.
const COLUMNS: usize = 4096;

/// What is measured: a name, attributes of the input's quantizer, and whether it is the pass of a calibration.
const ROWS: [(&str, &str, bool); 12] = [
    (
        "absmax, per tensor",
        r#"{"num_bits": 8, "axis": null}"#,
        true,
    ),
    (
        "absmax, per channel",
        r#"{"num_bits": 8, "axis": -1}"#,
        true,
    ),
    (
        "INT8, per tensor",
        r#"{"num_bits": 8, "axis": null}"#,
        false,
    ),
    (
        "FP8, per tensor",
        r#"{"num_bits": [4, 3], "axis": null}"#,
        false,
    ),
    (
        "INT8, per tensor, dynamic",
        r#"{"num_bits": 8, "type": "dynamic"}"#,
        false,
    ),
    (
        "FP8, per token, dynamic",
        r#"{"num_bits": [4, 3], "type": "dynamic", "block_sizes": {"-1": null, "type": "dynamic"}}"#,
        false,
    ),
    (
        "INT4, blocks of 128",
        r#"{"num_bits": 4, "block_sizes": {"-1": 128, "type": "static"}}"#,
        false,
    ),
    (
        "NVFP4, dynamic blocks",
        r#"{"num_bits": [2, 1], "block_sizes": {"-1": 16, "type": "dynamic", "scale_bits": [4, 3]}}"#,
        false,
    ),
    (
        "NVFP4, dynamic blocks and tensor",
        r#"{"num_bits": [2, 1], "type": "dynamic", "block_sizes": {"-1": 16, "type": "dynamic", "scale_bits": [4, 3]}}"#,
        false,
    ),
    (
        "MXFP8",
        r#"{"num_bits": [4, 3], "block_sizes": {"-1": 32, "type": "dynamic", "scale_bits": [8, 0]}}"#,
        false,
    ),
    (
        "MXFP4",
        r#"{"num_bits": [2, 1], "block_sizes": {"-1": 32, "type": "dynamic", "scale_bits": [8, 0]}}"#,
        false,
    ),
    (
        "MXINT8",
        r#"{"num_bits": 8, "block_sizes": {"-1": 32, "type": "dynamic", "scale_bits": [8, 0]}}"#,
        false,
    ),
];

/// Two tensors of so many bytes.
struct Pair {
    x: TensorView,
    out: TensorView,
    memory: [DeviceBuffer; 2],
}

impl Pair {
    fn new(gpu: &Arc<Gpu>, dtype: DType, bytes: usize) -> Self {
        let memory = [0, 1].map(|_| DeviceBuffer::new(gpu, bytes).expect("device memory"));
        let rows = bytes / dtype.size() / COLUMNS;
        let view = |memory: &DeviceBuffer| {
            let device = Device::Cuda(gpu.device());
            // SAFETY: device memory of that size, which lives as long as the pair.
            unsafe {
                TensorView::new_on(device, memory.address() as *mut u8, dtype, &[rows, COLUMNS])
            }
            .expect("valid")
        };
        // Ordinary numbers, one piece again and again.
        let mut piece = vec![0u8; bytes.min(1 << 20)];
        for (i, element) in piece.chunks_exact_mut(dtype.size()).enumerate() {
            // A sum of four: nearly normal, as weights and activations are.
            let part =
                |k: usize| ((i * 4 + k) * 2_654_435_761 % 1_000_003) as f32 / 500_001.5 - 1.0;
            let value = (0..4).map(part).sum::<f32>();
            let upper = (value.to_bits() >> 16) as u16;
            match dtype {
                DType::F32 => element.copy_from_slice(&value.to_ne_bytes()),
                DType::BF16 | DType::F16 => element.copy_from_slice(&upper.to_ne_bytes()),
            }
        }
        memory[0].write(&piece).expect("a copy");
        let mut done = piece.len();
        while done < bytes {
            let more = done.min(bytes - done);
            copy(memory[0].address(), memory[0].address() + done as u64, more);
            done += more;
        }
        Self {
            x: view(&memory[0]),
            out: view(&memory[1]),
            memory,
        }
    }

    fn copy(&self) {
        let bytes = self.memory[0].len();
        copy(self.memory[0].address(), self.memory[1].address(), bytes);
    }
}

fn copy(from: u64, to: u64, bytes: usize) {
    // SAFETY: both hold the bytes.
    ok(unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, std::ptr::null_mut()) });
}

/// A model of one layer whose input has these attributes.
fn model(context: &Arc<Context>, weight: TensorView) -> (Model, Arc<Layer>) {
    let mut model = Model::new(Arc::clone(context));
    let spec = LayerSpec {
        weight: Some(weight),
        ..LayerSpec::new("a", LayerKind::Linear)
    };
    let layer = model.add_layer(spec).expect("a layer");
    (model, layer)
}

fn config(attributes: &str) -> QuantizeConfig {
    let text = format!(
        r#"{{"quant_cfg": {{"*input_quantizer": {attributes}, "*weight_quantizer": {{"enable": false}},
            "default": {{"enable": false}}}}, "algorithm": "max"}}"#
    );
    QuantizeConfig::parse(&text).expect("valid")
}

/// Milliseconds of a tap and of a copy, side by side.
fn measure(
    clock: &Clock,
    pair: &Pair,
    repeats: usize,
    rounds: usize,
    tap: &dyn Fn(),
) -> (f64, f64, f64) {
    let time =
        |work: &dyn Fn()| clock.milliseconds(|| (0..repeats).for_each(|_| work())) / repeats as f64;
    let copies = || pair.copy();
    for _ in 0..3 {
        time(tap);
        time(&copies);
    }
    let (mut taps, mut plain, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (a, b) = (time(tap), time(&copies));
        taps.push(a);
        plain.push(b);
        ratios.push(b / a);
    }
    (median(taps), median(plain), median(ratios))
}

/// What the rows of the report share.
struct Bench {
    gpu: Arc<Gpu>,
    driver: i32,
    context: Arc<Context>,
    clock: Clock,
    rounds: usize,
}

impl Bench {
    /// One tap on tensors of one size.
    fn tap(&self, pair: &Pair, (name, attributes, is_pass): (&str, &str, bool)) -> Value {
        let (dtype, bytes) = (pair.x.dtype(), pair.x.size_bytes());
        let weight = DeviceBuffer::new(&self.gpu, COLUMNS * dtype.size()).expect("device memory");
        // SAFETY: device memory of that size, which lives as long as the model.
        let weight_view = unsafe {
            let address = weight.address() as *mut u8;
            TensorView::new_on(pair.x.device(), address, dtype, &[1, COLUMNS]).expect("valid")
        };
        let repeats = ((64 << 20) / bytes).clamp(1, 200);
        let (mut model, layer) = model(&self.context, weight_view);
        let cell = std::cell::Cell::new((0.0, 0.0, 0.0));
        let run = |tap: &dyn Fn()| cell.set(measure(&self.clock, pair, repeats, self.rounds, tap));
        let mut forward = || {
            layer.input(pair.x, None)?;
            if is_pass {
                run(&|| layer.input(pair.x, None).expect("a tap"));
            }
            Ok(())
        };
        calibrate::quantize(&mut model, &config(attributes), Some(&mut forward)).expect(name);
        if !is_pass {
            run(&|| layer.input(pair.x, Some(pair.out)).expect("a tap"));
        }
        model.synchronize().expect(name);
        let (tap, plain, ratio) = cell.get();
        // A maximum only reads.
        let moved = bytes * if is_pass { 1 } else { 2 };
        let ratio = ratio * moved as f64 / (2 * bytes) as f64;
        let rate = moved as f64 / tap / 1e6;
        println!(
            "{name:34} {dtype:>8} {bytes:>10} {:>10.2} {rate:>9.1} {ratio:>6.2}",
            tap * 1e3
        );
        json!({
            "bench": "cuda", "row": name, "dtype": dtype.to_string(), "bytes": bytes,
            "microseconds": tap * 1e3, "copy_microseconds": plain * 1e3,
            "gigabytes_per_second": rate, "ratio_to_copy": ratio,
            "device": self.gpu.name(), "driver": self.driver,
        })
    }

    /// The search of the best of 126 scales for every block of 16 of a weight, its results fetched.
    fn sweep(&self, rows: usize, dtype: DType) -> Value {
        let pair = Pair::new(&self.gpu, dtype, rows * COLUMNS * dtype.size());
        let machine = Machine::new(1, Isa::best(None)).expect("one thread");
        let machine = machine.with_gpu(Arc::clone(&self.gpu));
        let grid = Grid::new(pair.x.shape(), &[1, 16]);
        // Every positive value of E4M3, the largest one for the largest magnitude, about 4.
        let e4m3 = |code: i32| match code / 8 {
            0 => (code % 8) as f32 / 512.0,
            exponent => (1.0 + (code % 8) as f32 / 8.0) * 2f32.powi(exponent - 7),
        };
        let amax: Vec<f32> = (1..=126).map(|code| e4m3(code) / 112.0).collect();
        let format = Format::Nvfp4Static {
            scale_amax: 4.0 / 6.0,
        };
        let prepared = Prepared::new(&self.gpu, pair.x, &grid, &amax, format).expect("memory");
        let (alone, _, _) = measure(&self.clock, &pair, 4, self.rounds, &|| prepared.run());
        let search = || {
            let candidates = Candidates::Values(&amax);
            std::hint::black_box(fake_quant::search(
                &machine, &pair.x, &grid, candidates, format,
            ));
        };
        let (took, plain, _) = measure(&self.clock, &pair, 1, self.rounds, &search);
        machine.take_failure().expect("a search that ran");
        println!(
            "NVFP4, 126 scales, {rows} x {COLUMNS}, {dtype}: {alone:.3} ms, fetched {took:.3} ms (a copy: {plain:.3} ms)"
        );
        json!({
            "bench": "cuda", "row": "NVFP4, sweep of 126 scales", "dtype": dtype.to_string(),
            "rows": rows, "columns": COLUMNS, "milliseconds": alone, "fetched_milliseconds": took, "copy_milliseconds": plain,
            "device": self.gpu.name(), "driver": self.driver,
        })
    }
}

fn main() {
    let gpu = open(UseCublas::default());
    let driver = introduce(&gpu);
    let settings = ContextSettings {
        threads: 1,
        memory_limit_bytes: 0,
        log: Box::new(|_, _| {}),
        progress: None,
        gpu: Some(Arc::clone(&gpu)),
    };
    let bench = Bench {
        context: Arc::new(Context::with(settings).expect("one thread")),
        clock: Clock::new(),
        rounds: setting("MQ_BENCH_ROUNDS", 21),
        gpu,
        driver,
    };
    let sizes: Vec<usize> = std::env::var("MQ_BENCH_BYTES")
        .map(|text| {
            text.split(',')
                .filter_map(|size| size.trim().parse().ok())
                .collect()
        })
        .unwrap_or_else(|_| vec![1 << 16, 1 << 20, 64 << 20, 1 << 30]);
    let mut report = Vec::new();
    println!(
        "{:34} {:>8} {:>10} {:>10} {:>9} {:>6}",
        "tap", "dtype", "bytes", "us", "GB/s", "copy"
    );
    for dtype in [DType::F32, DType::BF16] {
        for &bytes in &sizes {
            let pair = Pair::new(&bench.gpu, dtype, bytes);
            report.extend(ROWS.iter().map(|row| bench.tap(&pair, *row)));
        }
        report.push(bench.sweep(setting("MQ_BENCH_SWEEP_ROWS", 8192), dtype));
    }
    let text = serde_json::to_string_pretty(&report).expect("JSON");
    std::fs::create_dir_all("target/bench").expect("a folder");
    std::fs::write("target/bench/cuda.json", text).expect("a report");
}
