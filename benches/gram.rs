//! Gram matrices and the errors under them against the fastest product of matrices of this machine, in one
//! run.
//!
//! The peak is a product of two 1024 x 1024 matrices of `matrixmultiply`, one of its own for each thread.
//! Every operation is timed in turn with it, round after round, so that a noisy machine hits both; the
//! reported ratio is the median over rounds of (useful operations per second) / (those of the peak
//! beside it). Useful is what the result needs: count * n * (n + 1) for a Gram matrix. Statistics of
//! channels are compared with a copy. `make bench` writes `target/bench/gram.json`; MQ_BENCH_ROUNDS makes
//! it shorter, MQ_BENCH_THREADS sets the threads.

mod timing;

use std::hint::black_box;
use std::sync::Mutex;

use mq::kernels::{Isa, Machine, channel_stats, gram, quadratic};
use mq::tensor::{DType, TensorView};
use serde_json::{Value, json};
use timing::{median, seconds, setting};

/// Side of the matrices of the peak.
const SIDE: usize = 1024;

/// Rows of weights whose errors are computed at a time.
const DELTAS: usize = 256;

const BLOCK: usize = 128;

/// Values of which none is special.
fn values(len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| (i * 7919 % 2003) as f32 * 0.001 - 1.0)
        .collect()
}

/// Does `work` on each of `threads` threads with a state of its own.
fn on_each<S: Send>(states: &mut [S], work: impl Fn(&mut S) + Sync) {
    std::thread::scope(|scope| {
        for state in states {
            scope.spawn(|| work(state));
        }
    });
}

/// Three matrices of the peak.
struct Peak([Vec<f32>; 3]);

impl Peak {
    fn run(&mut self) {
        let [a, b, c] = &mut self.0;
        // SAFETY: three matrices of SIDE x SIDE, row-major.
        unsafe {
            let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
            let s = SIDE as isize;
            matrixmultiply::sgemm(SIDE, SIDE, SIDE, 1.0, a, s, 1, b, s, 1, 0.0, c, s, 1);
        }
    }
}

/// One row of the report: `useful` operations of `work` against those of the peak.
fn row(
    name: &str,
    unit: &str,
    useful: f64,
    base: f64,
    mut peak: impl FnMut(),
    mut work: impl FnMut(),
) -> Value {
    work();
    let (mut ratios, mut speeds) = (Vec::new(), Vec::new());
    for _ in 0..setting("MQ_BENCH_ROUNDS", 15) {
        let best = base / seconds(&mut peak);
        let speed = useful / seconds(&mut work);
        ratios.push(speed / best);
        speeds.push(speed / 1e9);
    }
    let (ratio, speed) = (median(ratios), median(speeds));
    let against = if unit == "gb_per_s" { "copy" } else { "gemm" };
    println!("{name:44} {ratio:6.2} of {against} {speed:8.2} {unit}");
    let mut row = json!({"name": name, "ratio": ratio, "against": against});
    row[unit] = json!(speed);
    row
}

fn main() {
    let threads = setting("MQ_BENCH_THREADS", 2);
    let isa = Isa::best(std::env::var("MQ_ISA").ok().as_deref());
    let machine = Machine::new(threads, isa).expect("threads");
    println!("{threads} threads, {isa}");
    let mut peaks: Vec<Peak> = (0..threads)
        .map(|_| Peak([(); 3].map(|()| values(SIDE * SIDE))))
        .collect();
    let peak_work = threads as f64 * 2.0 * (SIDE as f64).powi(3);
    let mut report = Vec::new();
    for n in [1024usize, 2816] {
        for count in [512usize, 2048] {
            let rows = values(count * n);
            let mut whole = vec![0.0f32; n * n];
            report.push(row(
                &format!("gram of {count} x {n}"),
                "gflop_per_s",
                (count * n * (n + 1)) as f64,
                peak_work,
                || on_each(&mut peaks, Peak::run),
                || gram::accumulate(&machine, &rows, n, black_box(&mut whole)),
            ));
            let mut blocks = vec![0.0f32; n * BLOCK];
            report.push(row(
                &format!("gram of {count} x {n}, blocks of {BLOCK}"),
                "gflop_per_s",
                (count * n * (BLOCK + 1)) as f64,
                peak_work,
                || on_each(&mut peaks, Peak::run),
                || gram::accumulate_blocks(&machine, &rows, n, BLOCK, black_box(&mut blocks)),
            ));
        }
        let (whole, deltas) = (values(n * n), values(DELTAS * n));
        let mut states: Vec<_> = (0..threads)
            .map(|_| {
                let scratch = vec![0.0f32; quadratic::scratch_len(n, DELTAS)];
                (scratch, vec![0.0f64; DELTAS])
            })
            .collect();
        report.push(row(
            &format!("errors of {DELTAS} x {n}"),
            "gflop_per_s",
            (threads * DELTAS * n * (n + 1)) as f64,
            peak_work,
            || on_each(&mut peaks, Peak::run),
            || {
                on_each(&mut states, |(scratch, out)| {
                    quadratic::rows(&whole, n, &deltas, scratch, black_box(out));
                });
            },
        ));
        report.push(row(
            &format!("errors of {DELTAS} x {n}, blocks of {BLOCK}"),
            "gflop_per_s",
            (threads * DELTAS * n * (BLOCK + 1)) as f64,
            peak_work,
            || on_each(&mut peaks, Peak::run),
            || {
                on_each(&mut states, |(scratch, out)| {
                    for k in 0..n / BLOCK {
                        let gram = &whole[k * BLOCK * BLOCK..(k + 1) * BLOCK * BLOCK];
                        let deltas = &deltas[k * BLOCK..];
                        let out = black_box(&mut *out);
                        quadratic::block_rows(gram, BLOCK, BLOCK, deltas, n, DELTAS, scratch, out);
                    }
                });
            },
        ));
    }
    report.extend(statistics(&machine, threads));
    let folder = std::path::Path::new("target/bench");
    std::fs::create_dir_all(folder).expect("target can be written");
    let text = serde_json::to_string_pretty(&Value::Array(report)).expect("JSON");
    std::fs::write(folder.join("gram.json"), text).expect("target can be written");
}

/// Statistics of channels against a copy of the same bytes.
fn statistics(machine: &Machine, threads: usize) -> Vec<Value> {
    let (rows, channels) = (8192, 2816);
    let bytes = rows * channels * 4;
    let (mut from, to) = (values(rows * channels), vec![0.0f32; rows * channels]);
    let to = Mutex::new(to);
    let copied = from.clone();
    let copy = || {
        let mut to = to.lock().expect("one user");
        let per_thread = copied.len().div_ceil(threads);
        let mut parts: Vec<_> = to
            .chunks_mut(per_thread)
            .zip(copied.chunks(per_thread))
            .collect();
        on_each(&mut parts, |(to, from)| to.copy_from_slice(from));
    };
    let mut report = Vec::new();
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let rows = rows * 4 / dtype.size();
        // SAFETY: the memory holds the elements of any dtype and outlives the view.
        let x = unsafe { TensorView::new(from.as_mut_ptr().cast(), dtype, &[rows, channels]) };
        let x = x.expect("aligned");
        let (mut amax, mut sums) = (vec![0.0; channels], vec![0.0; channels]);
        let mut stats = |name: &str, with_amax: bool, with_sums: bool| {
            report.push(row(
                &format!("{name} of channels, {dtype}"),
                "gb_per_s",
                bytes as f64,
                2.0 * bytes as f64,
                copy,
                || {
                    let (amax, sums) = (black_box(&mut amax), black_box(&mut sums));
                    let amax = with_amax.then_some(&mut amax[..]);
                    channel_stats::run(
                        machine,
                        &x,
                        channels,
                        amax,
                        with_sums.then_some(&mut sums[..]),
                    );
                },
            ));
        };
        stats("absolute sums", false, true);
        stats("absmax and absolute sums", true, true);
    }
    report
}
