//! Fake quantization and absmax against a plain copy of the same bytes, in one run.
//!
//! Every operation is timed in turn with the copy, round after round, so that a noisy machine hits both;
//! the reported ratio is the median over rounds of (bytes per second of the operation) / (bytes per
//! second of the copy beside it). Buffers are allocated and touched before. `make bench` writes
//! `target/bench/report.json`; MQ_BENCH_ELEMENTS and MQ_BENCH_ROUNDS make it shorter.

mod timing;

use std::hint::black_box;

use mq::format::half::{Bf16, F16};
use mq::kernels::absmax;
use mq::kernels::{Grid, Isa, Machine};
use mq::model::{Context, fake_quant_once};
use mq::tensor::{DType, TensorView};
use serde_json::{Value, json};
use timing::{median, seconds, setting};

/// Columns of the matrix that is quantized.
const COLUMNS: usize = 4096;
const THREADS: usize = 2;

/// Memory for a matrix of any dtype.
struct Matrix {
    memory: Vec<f32>,
    dtype: DType,
    shape: [usize; 2],
}

impl Matrix {
    fn new(dtype: DType, elements: usize) -> Self {
        let shape = [elements / COLUMNS, COLUMNS];
        let mut matrix = Self {
            memory: vec![0.0; elements * dtype.size() / 4],
            dtype,
            shape,
        };
        // A bell-shaped, cheap and repeatable sequence; values only matter in that none is special.
        let mut state = 1u32;
        let mut next = || {
            let mut sum = 0.0;
            for _ in 0..4 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                sum += (state >> 8) as f32 / 16_777_216.0 - 0.5;
            }
            sum
        };
        match dtype {
            DType::F32 => matrix.memory.iter_mut().for_each(|x| *x = next()),
            DType::F16 | DType::BF16 => {
                let half = |x: f32| match dtype {
                    DType::F16 => u32::from(F16::from_f32(x).0),
                    _ => u32::from(Bf16::from_f32(x).0),
                };
                for x in &mut matrix.memory {
                    *x = f32::from_bits(half(next()) | half(next()) << 16);
                }
            }
        }
        matrix
    }

    fn view(&mut self) -> TensorView {
        // SAFETY: the memory holds the elements and outlives every use in `main`.
        unsafe { TensorView::new(self.memory.as_mut_ptr().cast(), self.dtype, &self.shape) }
            .expect("aligned")
    }
}

/// A plain copy: one memcpy for each thread.
fn copy(from: &TensorView, to: &TensorView) {
    let (from, to) = (*from, *to);
    let bytes = from.size_bytes() / THREADS;
    std::thread::scope(|scope| {
        for i in 0..THREADS {
            scope.spawn(move || {
                // SAFETY: halves of two matrices that do not overlap.
                unsafe {
                    let to = to.data().add(i * bytes);
                    to.copy_from_nonoverlapping(from.data().add(i * bytes), bytes);
                }
            });
        }
    });
}

/// One row of the report. `moved` is the bytes an operation reads and writes, `copied` those of the copy.
fn row(
    name: &str,
    moved: f64,
    copied: f64,
    mut copy: impl FnMut(),
    mut work: impl FnMut(),
) -> Value {
    work();
    let rounds = setting("MQ_BENCH_ROUNDS", 7);
    let (mut ratios, mut speeds) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let copy_speed = copied / seconds(&mut copy);
        let speed = moved / seconds(&mut work);
        ratios.push(speed / copy_speed);
        speeds.push(speed / 1e9);
    }
    let (ratio, speed) = (median(ratios), median(speeds));
    println!("{name:44} {ratio:6.2} of copy {speed:7.2} GB/s");
    json!({"name": name, "ratio": ratio, "against": "copy", "gb_per_s": speed})
}

fn main() {
    let elements = setting("MQ_BENCH_ELEMENTS", 64 << 20) / COLUMNS * COLUMNS;
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let wanted = |name: &str| {
        filter
            .as_ref()
            .is_none_or(|filter| name.contains(filter.as_str()))
    };
    let context = Context::new(THREADS, Box::new(|_, _| {})).expect("threads");
    let isa = Isa::best(std::env::var("MQ_ISA").ok().as_deref());
    let machine = Machine::new(THREADS, isa).expect("threads");
    println!("{elements} elements, {THREADS} threads, {isa}");
    let formats = [
        ("int8 per tensor", json!({"num_bits": 8}), Some(1)),
        (
            "int8 axis 0",
            json!({"num_bits": 8, "axis": 0}),
            Some(elements / COLUMNS),
        ),
        (
            "int8 per token, dynamic",
            json!({"num_bits": 8, "block_sizes": {"-1": null, "type": "dynamic"}}),
            None,
        ),
        ("fp8 per tensor", json!({"num_bits": [4, 3]}), Some(1)),
        (
            "fp8 128 x 128 blocks",
            json!({"num_bits": [4, 3], "block_sizes": {"-1": 128, "-2": 128}}),
            Some(elements / 16384),
        ),
        (
            "int4 block 128",
            json!({"num_bits": 4, "block_sizes": {"-1": 128}}),
            Some(elements / 128),
        ),
        (
            "mxfp8 block 32",
            json!({"num_bits": [4, 3], "block_sizes": {"-1": 32, "type": "dynamic", "scale_bits": [8, 0]}}),
            None,
        ),
        (
            "mxfp4 block 32",
            json!({"num_bits": [2, 1], "block_sizes": {"-1": 32, "type": "dynamic", "scale_bits": [8, 0]}}),
            None,
        ),
        (
            "nvfp4 block 16",
            json!({"num_bits": [2, 1], "block_sizes": {"-1": 16, "type": "dynamic", "scale_bits": [4, 3]}}),
            Some(1),
        ),
    ];
    let mut report = Vec::new();
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let (mut x, mut out, mut other) = (
            Matrix::new(dtype, elements),
            Matrix::new(dtype, elements),
            Matrix::new(dtype, elements),
        );
        let (x, out, other) = (x.view(), out.view(), other.view());
        let bytes = x.size_bytes() as f64;
        for (name, attributes, amax) in &formats {
            let name = format!("{name}, {dtype}");
            if !wanted(&name) {
                continue;
            }
            let attributes = attributes.to_string();
            let mut values = vec![2.0f32; amax.unwrap_or(0)];
            let shape = [values.len()];
            // SAFETY: the values outlive the view.
            let amax = amax.map(|_| unsafe {
                TensorView::new(values.as_mut_ptr().cast(), DType::F32, &shape).expect("aligned")
            });
            for (place, target) in [("", out), (", in place", x)] {
                report.push(row(
                    &format!("{name}{place}"),
                    2.0 * bytes,
                    2.0 * bytes,
                    || copy(&x, &other),
                    || fake_quant_once(&context, x, &attributes, amax, target).expect("valid"),
                ));
            }
        }
        let grids = [
            ("absmax per tensor", [x.shape().dims()[0], COLUMNS]),
            ("absmax axis 0", [1, COLUMNS]),
            ("absmax axis 1", [x.shape().dims()[0], 1]),
            ("absmax block 128", [1, 128]),
            ("absmax block 16", [1, 16]),
        ];
        for (name, blocks) in grids {
            let name = format!("{name}, {dtype}");
            if !wanted(&name) {
                continue;
            }
            let grid = Grid::new(x.shape(), &blocks);
            let mut amax = vec![0.0; grid.num_blocks()];
            report.push(row(
                &name,
                bytes,
                2.0 * bytes,
                || copy(&x, &other),
                || absmax::run(&machine, &x, &grid, black_box(&mut amax)),
            ));
        }
    }
    let folder = std::path::Path::new("target/bench");
    std::fs::create_dir_all(folder).expect("target can be written");
    let text = serde_json::to_string_pretty(&Value::Array(report)).expect("JSON");
    std::fs::write(folder.join("kernels.json"), text).expect("target can be written");
}
