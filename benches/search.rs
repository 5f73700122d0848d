//! The search of `mse` against rounding the weight once for each candidate, in one run.
//!
//! The passes it is measured against only write what they round: nothing adds up their errors. The ratio
//! is the median over rounds of (seconds of the passes) / (seconds of the search). `make bench` writes
//! `target/bench/search.json`; MQ_BENCH_ROWS and MQ_BENCH_ROUNDS make it shorter.

mod timing;

use std::hint::black_box;

use mq::format::{e4m3, int::IntGrid, nvfp4};
use mq::kernels::fake_quant::{Candidates, Format, run, search};
use mq::kernels::{Grid, Isa, Machine, absmax};
use mq::tensor::{DType, TensorView};
use serde_json::{Value, json};
use timing::{median, seconds, setting};

const COLUMNS: usize = 4096;
const THREADS: usize = 2;

/// A bell-shaped, cheap and repeatable weight.
fn weight(elements: usize) -> Vec<f32> {
    let mut state = 1u32;
    let next = |_| {
        let mut sum = 0.0;
        for _ in 0..4 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            sum += (state >> 8) as f32 / 16_777_216.0 - 0.5;
        }
        sum
    };
    (0..elements).map(next).collect()
}

fn view(values: &mut [f32]) -> TensorView {
    let shape = [values.len() / COLUMNS, COLUMNS];
    // SAFETY: the memory outlives every use in `main`.
    unsafe { TensorView::new(values.as_mut_ptr().cast(), DType::F32, &shape) }.expect("aligned")
}

fn main() {
    let rows = setting("MQ_BENCH_ROWS", 4096);
    let rounds = setting("MQ_BENCH_ROUNDS", 3);
    let isa = Isa::best(std::env::var("MQ_ISA").ok().as_deref());
    let machine = Machine::new(THREADS, isa).expect("threads");
    let (mut values, mut out) = (weight(rows * COLUMNS), vec![0.0; rows * COLUMNS]);
    let (x, out) = (view(&mut values), view(&mut out));
    println!("{rows} x {COLUMNS}, {THREADS} threads, {isa}");
    let largest = absmax::of_tensor(&machine, &x);
    // The multipliers of the defaults, and every E4M3 scale.
    let factors: Vec<f32> = (0..39).map(|i| 0.25 + i as f32 * (3.75 / 38.0)).collect();
    let scales: Vec<f32> = (1..0x7f)
        .map(|code| e4m3::decode(code) / e4m3::MAX * largest)
        .collect();
    let scale_amax = nvfp4::scale_amax(largest, e4m3::MAX);
    let cases = [
        (
            "mse int4 block 128",
            [1, 128],
            Format::Int(IntGrid::new(4, false, false)),
            true,
        ),
        (
            "mse int8 axis 0",
            [1, COLUMNS],
            Format::Int(IntGrid::new(8, false, false)),
            true,
        ),
        (
            "mse int8 per tensor",
            [rows, COLUMNS],
            Format::Int(IntGrid::new(8, false, false)),
            true,
        ),
        ("mse fp8 per tensor", [rows, COLUMNS], Format::E4m3, true),
        (
            "mse nvfp4 fp8 sweep",
            [1, 16],
            Format::Nvfp4Static { scale_amax },
            false,
        ),
    ];
    let mut report = Vec::new();
    for (name, blocks, format, multiplies) in cases {
        let grid = Grid::new(x.shape(), &blocks);
        let mut amax = vec![0.0; grid.num_blocks()];
        absmax::run(&machine, &x, &grid, &mut amax);
        let candidates = match multiplies {
            true => Candidates::Multiples {
                amax: &amax,
                factors: &factors,
            },
            false => Candidates::Values(&scales),
        };
        let count = if multiplies {
            factors.len()
        } else {
            scales.len()
        };
        let mut tried = amax.clone();
        let (mut ratios, mut times) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let time = seconds(|| {
                black_box(search(&machine, &x, &grid, candidates, format));
            });
            let passes = seconds(|| {
                for i in 0..count {
                    for (tried, amax) in tried.iter_mut().zip(&amax) {
                        *tried = if multiplies {
                            amax * factors[i]
                        } else {
                            scales[i]
                        };
                    }
                    run(&machine, &x, &out, &grid, &tried, format);
                }
            });
            ratios.push(passes / time);
            times.push(time);
        }
        let (ratio, time) = (median(ratios), median(times));
        println!(
            "{name:44} {ratio:6.2} of {count} passes {:8.1} ms",
            time * 1e3
        );
        report.push(json!({"name": name, "ratio": ratio, "against": format!("{count} passes"), "ms": time * 1e3}));
    }
    let folder = std::path::Path::new("target/bench");
    std::fs::create_dir_all(folder).expect("target can be written");
    let text = serde_json::to_string_pretty(&Value::Array(report)).expect("JSON");
    std::fs::write(folder.join("search.json"), text).expect("target can be written");
}
