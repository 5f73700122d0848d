//! A histogram of magnitudes against a plain copy of the same bytes, and the search for its amax against the
//! textbook's, in one run.
//!
//! Rounds alternate, as in `kernels.rs`; reported are medians. A batch within the range is read once, the
//! first one twice. `make bench` writes `target/bench/histogram.json`; MQ_BENCH_ELEMENTS and
//! MQ_BENCH_ROUNDS make it shorter.

mod timing;

use std::hint::black_box;

use mq::calibrate::histogram::{Bins, Levels, Method, Search, amax};
use mq::format::half::{Bf16, F16};
use mq::kernels::{Isa, Machine};
use mq::observe::Histogram;
use mq::tensor::{DType, TensorView};
use serde_json::{Value, json};
use timing::{median, seconds, setting};

const THREADS: usize = 2;

/// Median seconds of both, in turn, and the median of their quotients.
fn compare(mut base: impl FnMut(), mut work: impl FnMut()) -> (f64, f64, f64) {
    base();
    work();
    let (mut bases, mut works, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..setting("MQ_BENCH_ROUNDS", 7) {
        let (b, w) = (seconds(&mut base), seconds(&mut work));
        bases.push(b);
        works.push(w);
        ratios.push(b / w);
    }
    (median(bases), median(works), median(ratios))
}

/// Bell-shaped values, or with `relu` the half of them that is not zero.
fn fill(memory: &mut [f32], dtype: DType, relu: bool) {
    let mut state = 1u32;
    let mut next = || {
        let mut sum = 0.0f32;
        for _ in 0..4 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            sum += (state >> 8) as f32 / 16_777_216.0 - 0.5;
        }
        if relu { sum.max(0.0) } else { sum }
    };
    let mut half = || match dtype {
        DType::F16 => u32::from(F16::from_f32(next()).0),
        _ => u32::from(Bf16::from_f32(next()).0),
    };
    match dtype {
        DType::F32 => memory.iter_mut().for_each(|x| *x = next()),
        _ => memory
            .iter_mut()
            .for_each(|x| *x = f32::from_bits(half() | half() << 16)),
    }
}

/// A plain copy: one memcpy for each thread.
fn copy(from: &TensorView, to: &TensorView) {
    let (from, to) = (*from, *to);
    let bytes = from.size_bytes() / THREADS;
    std::thread::scope(|scope| {
        for i in 0..THREADS {
            scope.spawn(move || {
                // SAFETY: halves of two tensors that do not overlap.
                unsafe {
                    let to = to.data().add(i * bytes);
                    to.copy_from_nonoverlapping(from.data().add(i * bytes), bytes);
                }
            });
        }
    });
}

fn collect_rows(machine: &Machine, report: &mut Vec<Value>) {
    let elements = setting("MQ_BENCH_ELEMENTS", 64 << 20);
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let mut memory = vec![0.0f32; elements * dtype.size() / 4];
        let mut other = vec![0.0f32; memory.len()];
        // SAFETY: the memory holds the elements and outlives every use.
        let view = |data: *mut f32| unsafe { TensorView::new(data.cast(), dtype, &[elements]) };
        let to = view(other.as_mut_ptr()).expect("aligned");
        for (values, relu) in [("gauss", false), ("relu", true)] {
            fill(&mut memory, dtype, relu);
            let x = view(memory.as_mut_ptr()).expect("aligned");
            for (batch, first) in [("first batch", true), ("later batch", false)] {
                let mut histogram = Histogram::new(Histogram::DEFAULT_BINS).expect("valid");
                let (_, time, quotient) = compare(
                    || copy(&x, &to),
                    || {
                        if first {
                            histogram = Histogram::new(Histogram::DEFAULT_BINS).expect("valid");
                        }
                        histogram.collect(machine, black_box(&x)).expect("finite");
                    },
                );
                let bytes = x.size_bytes() as f64;
                let name = format!("histogram {values}, {batch}, {dtype}");
                // The copy moves every byte twice.
                let (ratio, speed) = (quotient / 2.0, bytes / time / 1e9);
                println!("{name:44} {ratio:6.2} of copy {speed:7.2} GB/s");
                report.push(
                    json!({"name": name, "ratio": ratio, "against": "copy", "gb_per_s": speed}),
                );
            }
        }
    }
}

/// The textbook: every candidate looks at every bin.
fn textbook_entropy(counts: &[u64], edges: &[f32], buckets: usize, start_bin: usize) -> f32 {
    let mut bins: Vec<f64> = counts.iter().map(|c| *c as f64).collect();
    bins[0] = bins[1];
    let total: f64 = bins.iter().sum();
    let mut best = (f64::INFINITY, 0);
    for i in start_bin..=bins.len() {
        let (mut sums, mut filled) = (vec![0.0; buckets], vec![0.0; buckets]);
        for (j, count) in bins[..i].iter().enumerate() {
            sums[j * buckets / i] += count;
            filled[j * buckets / i] += f64::from(u8::from(*count > 0.0));
        }
        let beyond: f64 = bins[i..].iter().sum();
        let mut divergence = 0.0;
        for (j, count) in bins[..i].iter().enumerate() {
            let r = count + if j == i - 1 { beyond } else { 0.0 };
            if r > 0.0 {
                let filled = filled[j * buckets / i];
                let n = if *count > 0.0 {
                    sums[j * buckets / i] / filled
                } else {
                    0.0
                };
                divergence += r / total * (r / total / (n / (total - beyond))).ln();
            }
        }
        if divergence <= best.0 {
            best = (divergence, i);
        }
    }
    edges[best.1]
}

fn search_rows(machine: &Machine, report: &mut Vec<Value>) {
    let search = Search::default();
    let levels = Levels::Int {
        num_bits: 8,
        unsigned: false,
    };
    for count in [2048, 8192] {
        let counts = (0..count).map(|i| {
            let height = 1e6 * (-(i as f64) * 9.0 / f64::from(count)).exp();
            1 + (height * (1.0 + 0.3 * f64::from(i * 7919 % 101) / 101.0)) as u64
        });
        let counts: Vec<u64> = counts.collect();
        let edges: Vec<f32> = (0..=count).map(|i| i as f32 * 0.01).collect();
        let bins = Bins::new(&counts, &edges).expect("valid");
        let textbook = || textbook_entropy(&counts, &edges, 128, search.start_bin);
        let solve = |method: &Method, levels| amax(machine, &bins, method, levels).expect("valid");
        assert_eq!(solve(&Method::Entropy(search), levels), Some(textbook()));
        let (base, time, ratio) = compare(
            || {
                black_box(textbook());
            },
            || {
                black_box(solve(&Method::Entropy(search), levels));
            },
        );
        let name = format!("entropy of {count} bins");
        let (ms, base_ms) = (time * 1e3, base * 1e3);
        println!("{name:44} {ratio:6.1} times the textbook {ms:8.2} ms ({base_ms:.1} ms)");
        report.push(json!({"name": name, "ratio": ratio, "against": "textbook", "ms": ms}));
        for (format, levels) in [("int8", levels), ("fp8", Levels::E4m3)] {
            let (_, time, _) = compare(
                || (),
                || {
                    black_box(solve(&Method::Mse(search), levels));
                },
            );
            let (name, ms) = (format!("mse of {count} bins, {format}"), time * 1e3);
            println!("{name:44} {ms:35.2} ms");
            report.push(json!({"name": name, "ms": ms}));
        }
    }
}

fn main() {
    let isa = Isa::best(std::env::var("MQ_ISA").ok().as_deref());
    let machine = Machine::new(THREADS, isa).expect("threads");
    println!("{THREADS} threads, {isa}");
    let mut report = Vec::new();
    search_rows(&machine, &mut report);
    collect_rows(&machine, &mut report);
    let folder = std::path::Path::new("target/bench");
    std::fs::create_dir_all(folder).expect("target can be written");
    let text = serde_json::to_string_pretty(&Value::Array(report)).expect("JSON");
    std::fs::write(folder.join("histogram.json"), text).expect("target can be written");
}
