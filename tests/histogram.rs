//! The histogram calibrator: the reference's own results, direct definitions, and what holds for any data.

mod owned;
mod safetensors_file;

use mq::calibrate::histogram::{Bins, Levels, Method, Search, amax};
use mq::format::e4m3;
use mq::format::half::{Bf16, F16};
use mq::format::int::IntGrid;
use mq::kernels::{Isa, Machine};
use mq::observe::Histogram;
use mq::tensor::DType;
use owned::Owned;
use proptest::prelude::*;
use safetensors_file::Tensors;
use serde_json::Value;

const INT8: Levels = Levels::Int {
    num_bits: 8,
    unsigned: false,
};

fn machine(threads: usize) -> Machine {
    Machine::new(threads, Isa::best(None)).expect("threads")
}

fn tensor(dtype: DType, values: &[f32]) -> Owned {
    let mut tensor = Owned::zeros(dtype, &[values.len()]);
    let elements = tensor.bytes_mut().chunks_exact_mut(dtype.size());
    for (element, value) in elements.zip(values) {
        match dtype {
            DType::F32 => element.copy_from_slice(&value.to_ne_bytes()),
            DType::F16 => element.copy_from_slice(&F16::from_f32(*value).0.to_ne_bytes()),
            DType::BF16 => element.copy_from_slice(&Bf16::from_f32(*value).0.to_ne_bytes()),
        }
    }
    tensor
}

/// A histogram of batches, as one quantizer would see them.
fn collect<'a>(
    threads: usize,
    num_bins: usize,
    batches: impl IntoIterator<Item = &'a Owned>,
) -> Histogram {
    let (machine, mut histogram) = (machine(threads), Histogram::new(num_bins).expect("valid"));
    for batch in batches {
        histogram.collect(&machine, &batch.view()).expect("finite");
    }
    histogram
}

fn golden() -> (Vec<Value>, Tensors<'static>) {
    let doc = include_str!("data/golden/calibrators.json");
    let doc: Value = serde_json::from_str(doc).expect("golden JSON");
    let cases = doc["cases"].as_array().expect("cases").iter();
    let cases: Vec<Value> = cases
        .filter(|case| case["calibrator"] == "histogram")
        .cloned()
        .collect();
    assert_eq!(cases.len(), 30, "the golden file lost its cases");
    let tensors = include_bytes!("data/golden/calibrators.safetensors");
    (cases, Tensors::parse(tensors))
}

fn golden_histogram(tensors: &Tensors, data: &str, batches: u64) -> Histogram {
    let batches: Vec<Owned> = (0..batches)
        .map(|i| tensors.get(&format!("in.{data}.{i}")))
        .collect();
    collect(2, 256, &batches)
}

#[test]
fn edges_and_counts_are_the_references() {
    let (_, tensors) = golden();
    for data in ["gauss", "relu"] {
        let histogram = golden_histogram(&tensors, data, 4);
        let (edges, counts) = (
            tensors.get(&format!("edges.{data}")),
            tensors.get(&format!("hist.{data}")),
        );
        assert_eq!(histogram.edges(), edges.view().to_f32(), "{data}");
        let got: Vec<f32> = histogram.counts().iter().map(|c| *c as f32).collect();
        assert_eq!(got, counts.view().to_f32(), "{data}");
    }
}

#[test]
fn amax_matches_every_case() {
    let (cases, tensors) = golden();
    let (machine, mut compared) = (machine(2), 0);
    for case in &cases {
        let text = |key: &str| case[key].as_str().expect("text");
        let number = |key: &str| case[key].as_u64().expect("a number");
        assert_eq!(number("num_bins"), 256);
        // The reference's own mse is broken: see `mse_is_the_direct_definition`.
        if text("method") == "mse" {
            continue;
        }
        let percentile = case["percentile"].as_f64();
        let percentile = percentile.unwrap_or(Method::DEFAULT_PERCENTILE);
        let method = Method::new(text("method"), Search::default(), percentile);
        let levels = Levels::Int {
            num_bits: number("num_bits") as u32,
            unsigned: case["unsigned"] == true,
        };
        let histogram = golden_histogram(&tensors, text("data"), number("batches"));
        let bins = Bins::of(&histogram).expect("valid");
        let got = amax(&machine, &bins, &method.expect("known"), levels).expect("valid");
        let (got, want) = (got.expect("has data"), case["amax"].as_f64());
        assert_eq!(got, want.expect("a number") as f32, "{case}");
        compared += 1;
    }
    assert_eq!(compared, 24, "the golden file lost its cases");
}

/// A histogram with gaps and a long tail.
fn uneven(count: usize) -> (Vec<u64>, Vec<f32>) {
    let mut state = 3u32;
    let counts = (0..count).map(|i| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let height = 1e6 * (-(i as f64) * 9.0 / count as f64).exp();
        let noise = f64::from(state >> 8) / 16_777_216.0;
        (height * noise * if noise < 0.2 { 0.0 } else { 1.0 }) as u64
    });
    let mut counts: Vec<u64> = counts.collect();
    counts[count - 1] += 1;
    (counts, (0..=count).map(|i| i as f32 * 0.01).collect())
}

#[test]
fn mse_is_the_direct_definition() {
    let machine = machine(3);
    for (count, start_bin, stride) in [(2048, 128, 1), (701, 1, 7), (130, 128, 1)] {
        let (counts, edges) = uneven(count);
        let unsigned = |num_bits, unsigned| Levels::Int { num_bits, unsigned };
        for levels in [INT8, unsigned(4, false), unsigned(4, true), Levels::E4m3] {
            let centres: Vec<f32> = edges.windows(2).map(|e| (e[0] + e[1]) / 2.0).collect();
            let mut want = (f64::INFINITY, 0.0);
            for a in centres.iter().skip(start_bin).step_by(stride) {
                let fake_quant = |x: f32| match levels {
                    Levels::Int { num_bits, unsigned } => {
                        let grid = IntGrid::new(num_bits, unsigned, false);
                        grid.fake_quant(x, grid.scale(*a))
                    }
                    Levels::E4m3 => e4m3::fake_quant(x, e4m3::scale(*a)),
                };
                let errors = centres.iter().zip(&counts).map(|(c, count)| {
                    let difference = f64::from(fake_quant(*c) - c);
                    difference * difference * *count as f64
                });
                let error: f64 = errors.sum();
                if error < want.0 {
                    want = (error, *a);
                }
            }
            let bins = Bins::new(&counts, &edges).expect("valid");
            let search = Search { stride, start_bin };
            let got = amax(&machine, &bins, &Method::Mse(search), levels);
            assert_eq!(got, Ok(Some(want.1)), "{count} bins, {levels:?}");
        }
    }
}

/// The reference's procedure, step by step.
fn textbook_entropy(counts: &[u64], edges: &[f32], buckets: usize, search: Search) -> f32 {
    let mut bins: Vec<f64> = counts.iter().map(|c| *c as f64).collect();
    bins[0] = bins[1];
    let total: f64 = bins.iter().sum();
    let mut best = (f64::INFINITY, 0);
    for i in (search.start_bin..=bins.len()).step_by(search.stride) {
        let bucket = |j: usize| j * buckets / i;
        let (mut sums, mut filled) = (vec![0.0; buckets], vec![0.0; buckets]);
        for (j, count) in bins[..i].iter().enumerate() {
            sums[bucket(j)] += count;
            filled[bucket(j)] += f64::from(u8::from(*count > 0.0));
        }
        let beyond: f64 = bins[i..].iter().sum();
        let mut divergence = 0.0;
        for (j, count) in bins[..i].iter().enumerate() {
            let r = count + if j == i - 1 { beyond } else { 0.0 };
            if r > 0.0 {
                let n = match *count > 0.0 {
                    true => sums[bucket(j)] / filled[bucket(j)],
                    false => 0.0,
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

#[test]
fn entropy_is_the_textbook_one() {
    let machine = machine(1);
    for (count, start_bin, stride) in [(2048, 128, 1), (900, 7, 3), (129, 128, 1), (300, 200, 64)] {
        let (counts, edges) = uneven(count);
        let bins = Bins::new(&counts, &edges).expect("valid");
        let search = Search { stride, start_bin };
        for (num_bits, unsigned) in [(8, false), (8, true), (4, false), (2, false)] {
            let buckets = 1 << (num_bits - 1 + u32::from(unsigned));
            let want = textbook_entropy(&counts, &edges, buckets, search);
            let levels = Levels::Int { num_bits, unsigned };
            let got = amax(&machine, &bins, &Method::Entropy(search), levels);
            assert_eq!(got, Ok(Some(want)), "{count} bins, {levels:?}");
        }
    }
}

fn methods(search: Search) -> [Method; 4] {
    [
        Method::Entropy(search),
        Method::Mse(search),
        Method::Percentile(99.99),
        Method::Percentile(0.0),
    ]
}

#[test]
fn what_has_no_candidates_has_a_defined_result() {
    let machine = machine(1);
    let of = |counts: &[u64], edges: &[f32], method: &Method| {
        amax(
            &machine,
            &Bins::new(counts, edges).expect("valid"),
            method,
            INT8,
        )
        .expect("valid")
    };
    let edges: Vec<f32> = (0..=200).map(|i| i as f32).collect();
    for method in methods(Search::default()) {
        assert_eq!(of(&[], &[], &method), None);
        assert_eq!(of(&[0, 0], &[0.0, 1.0, 2.0], &method), None);
        assert_eq!(of(&[9], &[0.0, 0.0], &method), Some(0.0));
        // All in the first bin, and all in the last one.
        for bin in [0, 199] {
            let mut counts = [0; 200];
            counts[bin] = 7;
            let got = of(&counts, &edges, &method).expect("has data");
            assert!(got > 0.0 && got <= 200.0, "{method:?}: {got}");
        }
    }
    // Fewer bins than the first candidate: nothing is clipped.
    for method in &methods(Search::default())[..2] {
        assert_eq!(of(&[3, 2, 1, 0], &edges, method), Some(3.0));
        assert_eq!(of(&[3], &edges, method), Some(1.0));
    }
    assert_eq!(
        of(
            &[3],
            &edges,
            &Method::Entropy(Search {
                stride: 1,
                start_bin: 0
            })
        ),
        Some(1.0)
    );
}

#[test]
fn wrong_parameters_are_refused() {
    let machine = machine(1);
    let search = Search::default();
    let (counts, edges) = uneven(200);
    let bins = Bins::new(&counts, &edges).expect("valid");
    let error = |method: &Method, levels| amax(&machine, &bins, method, levels).expect_err("wrong");
    let text = error(&Method::Entropy(search), Levels::E4m3);
    assert!(
        text.starts_with("entropy is defined for integers"),
        "{text}"
    );
    for num_bits in [0, 1, 9, 40] {
        let levels = Levels::Int {
            num_bits,
            unsigned: true,
        };
        let text = error(&Method::Mse(search), levels);
        assert_eq!(text, format!("num_bits is {num_bits}, expected 2 to 8"));
    }
    for percentile in [-0.1, 100.1, f64::NAN, f64::INFINITY] {
        let text = error(&Method::Percentile(percentile), INT8);
        let want = "Invalid percentile. Must be in range 0 <= percentile <= 100.";
        assert!(text.starts_with(want), "{text}");
    }
    let standing = Search {
        stride: 0,
        start_bin: 128,
    };
    for name in ["entropy", "mse"] {
        let text = Method::new(name, standing, 50.0).expect_err("stands still");
        assert_eq!(text, "stride is 0, expected at least 1");
    }
    assert_eq!(
        Method::new("percentile", standing, 50.0),
        Ok(Method::Percentile(50.0))
    );
    let text = Method::new("max", search, 50.0).expect_err("no method");
    assert!(text.starts_with("Unknown calibration method max"), "{text}");
    for edges in [
        &[0.0, 1.0][..],
        &[0.0, 2.0, 1.0],
        &[0.0, 1.0, f32::INFINITY],
        &[-1.0, 0.0, 1.0],
    ] {
        assert!(Bins::new(&[1, 1], edges).is_err(), "{edges:?}");
    }
    assert!(Bins::new(&[1, 1], &[0.0, f32::NAN, 1.0]).is_err());
}

/// Finite values of very different sizes; many are zero.
fn any_values() -> impl Strategy<Value = Vec<f32>> {
    let value = prop_oneof![
        Just(0.0f32),
        -1.0f32..1.0,
        (-30.0f32..12.0).prop_map(f32::exp2),
        (-126.0f32..120.0).prop_map(|e| -e.exp2()),
    ];
    prop::collection::vec(value, 0..300)
}

fn dtypes() -> impl Strategy<Value = DType> {
    prop_oneof![Just(DType::F32), Just(DType::F16), Just(DType::BF16)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_is_lost_and_every_amax_is_in_range(
        batches in prop::collection::vec(any_values(), 0..5),
        dtype in dtypes(),
        num_bins in 2usize..600,
    ) {
        // float16 would make infinities of the largest.
        let limit = |x: &f32| x.clamp(-6e4, 6e4);
        let batches: Vec<Owned> = batches
            .iter()
            .map(|values| tensor(dtype, &values.iter().map(limit).collect::<Vec<_>>()))
            .collect();
        let histogram = collect(1, num_bins, &batches);
        prop_assert_eq!(&histogram, &collect(3, num_bins, &batches));
        let values: Vec<f32> = batches.iter().flat_map(|batch| batch.view().to_f32()).collect();
        prop_assert_eq!(histogram.total(), values.len() as u64);
        let highest = values.iter().fold(0.0, |highest: f32, x| highest.max(x.abs()));
        let last = histogram.edges().last().copied().unwrap_or(0.0);
        prop_assert!(last >= highest);
        prop_assert!(highest == 0.0 || histogram.edges().windows(2).all(|e| e[0] < e[1]));
        let bins = Bins::of(&histogram).expect("valid");
        for method in methods(Search { stride: 1 + num_bins / 50, start_bin: num_bins / 3 }) {
            let got = amax(&machine(1), &bins, &method, INT8).expect("valid");
            prop_assert_eq!(got.is_some(), !values.is_empty());
            if let Some(got) = got {
                prop_assert!(got <= last && (got > 0.0 || highest == 0.0), "{:?}: {}", method, got);
                prop_assert_eq!(Some(got), amax(&machine(3), &bins, &method, INT8).expect("valid"));
            }
        }
    }

    /// Once the range is there, neither the order of values nor their batches matter.
    #[test]
    fn batches_may_be_cut_anywhere_within_the_first_range(
        values in prop::collection::vec(-3.0f32..3.0, 1..2000),
        cut in 0usize..2000,
        dtype in dtypes(),
    ) {
        let mut values = values;
        values[0] = 3.0;
        let (first, second) = values.split_at(1 + cut.min(values.len() - 1));
        let (first, second) = (tensor(dtype, first), tensor(dtype, second));
        let whole = tensor(dtype, &values);
        let cut = collect(1, 100, [&first, &second]);
        prop_assert_eq!(&cut, &collect(1, 100, [&whole]));
        let mut merged = collect(1, 100, [&first]);
        let mut other = Histogram::new(100).expect("valid");
        let anchor = tensor(dtype, &[3.0]);
        other.collect(&machine(1), &anchor.view()).expect("finite");
        other.collect(&machine(1), &second.view()).expect("finite");
        merged.merge(&other).expect("equal widths");
        prop_assert_eq!(merged.total(), cut.total() + 1);
        prop_assert_eq!(merged.counts()[..99].to_vec(), cut.counts()[..99].to_vec());
    }
}
