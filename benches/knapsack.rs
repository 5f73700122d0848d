//! The choice of formats against one sort of all candidates: what a greedy choice, which proves nothing, takes at
//! least. Families of instances as searches have them, and as they would be hard.

mod timing;

use std::hint::black_box;

use mq::auto_quantize::knapsack::{Candidate, solve};
use serde_json::{Value, json};
use timing::{median, seconds, setting};

const GROUPS: usize = 1000;
const BITS: [f64; 6] = [4.0, 4.5, 6.0, 8.0, 8.5, 16.0];

/// A family of instances: size and sensitivity of a group, and how its costs and scores are made of them.
type Family = fn(&mut Noise) -> Vec<Candidate>;

struct Noise(u64);

impl Noise {
    /// From 0 to 1.
    fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as f64 / (1u64 << 31) as f64
    }
}

fn group(bits_cost: impl Fn(f64) -> f64, bits_score: impl Fn(f64) -> f64) -> Vec<Candidate> {
    let candidate = |bits: &f64| Candidate {
        cost: bits_cost(*bits),
        score: if *bits == 16.0 {
            0.0
        } else {
            bits_score(*bits)
        },
    };
    BITS.iter().map(candidate).collect()
}

fn weights(noise: &mut Noise) -> Vec<Candidate> {
    let elements = (1.0 + (noise.next() * 40.0).floor()) * 1_048_576.0;
    let (base, bend) = (noise.next() * noise.next() * 10.0, noise.next());
    group(
        |bits| elements * bits / 16.0,
        |bits| base * (0.5 + bend) * (-bits / 2.0).exp2(),
    )
}

fn latencies(noise: &mut Noise) -> Vec<Candidate> {
    let (time, base) = (noise.next() + 0.1, noise.next() * noise.next());
    let mut jitter: Vec<f64> = (0..12).map(|_| 0.8 + 0.4 * noise.next()).collect();
    let mut next = || jitter.pop().unwrap_or(1.0);
    let factors: Vec<(f64, f64)> = (0..6).map(|_| (next(), next())).collect();
    let at = |bits: f64| BITS.iter().position(|known| *known == bits).unwrap_or(0);
    group(
        |bits| time * bits * factors[at(bits)].0,
        |bits| base * (-bits / 2.0).exp2() * factors[at(bits)].1,
    )
}

fn alike(_: &mut Noise) -> Vec<Candidate> {
    group(|bits| 4096.0 * 4096.0 * bits / 16.0, |bits| (-bits).exp2())
}

fn proportional(noise: &mut Noise) -> Vec<Candidate> {
    let size = 1.0 + noise.next() * 1e6;
    group(
        |bits| size * bits,
        |bits| size * (16.0 - bits) * (1.0 + 1e-9 * noise_of(size, bits)),
    )
}

fn noise_of(size: f64, bits: f64) -> f64 {
    Noise((size * bits).to_bits()).next()
}

fn spread(noise: &mut Noise) -> Vec<Candidate> {
    let elements = 10f64.powf(3.0 + 6.0 * noise.next()).floor();
    let base = 10f64.powf(-6.0 * noise.next());
    group(|bits| elements * bits / 16.0, |bits| base * (-bits).exp2())
}

fn main() {
    let families: [(&str, Family); 5] = [
        ("weights", weights),
        ("latencies", latencies),
        ("alike", alike),
        ("proportional", proportional),
        ("spread", spread),
    ];
    let mut rows: Vec<Value> = Vec::new();
    for (name, family) in families {
        let mut noise = Noise(12345);
        let groups: Vec<Vec<Candidate>> = (0..GROUPS).map(|_| family(&mut noise)).collect();
        let least: f64 = groups.iter().map(|group| group[0].cost).sum();
        let most: f64 = groups.iter().map(|group| group[5].cost).sum();
        for part in [0.02, 0.2, 0.6] {
            let budget = least + part * (most - least);
            let choose = || {
                black_box(solve(black_box(&groups), budget));
            };
            let sort = || {
                let mut slopes: Vec<f64> = groups
                    .iter()
                    .flat_map(|group| group.windows(2))
                    .map(|pair| (pair[0].score - pair[1].score) / (pair[1].cost - pair[0].cost))
                    .collect();
                slopes.sort_by(f64::total_cmp);
                black_box(slopes);
            };
            let mut pairs = Vec::new();
            for _ in 0..setting("MQ_BENCH_ROUNDS", 5) {
                pairs.push((seconds(choose), seconds(sort)));
            }
            let chosen = median(pairs.iter().map(|pair| pair.0).collect());
            let sorted = median(pairs.iter().map(|pair| pair.1).collect());
            let ratio = chosen / sorted;
            println!(
                "{name:12} budget {part:4}: {:8.2} ms, {ratio:6.1} sorts of all candidates",
                1e3 * chosen
            );
            rows.push(json!({
                "name": "knapsack", "family": name, "groups": GROUPS, "formats": BITS.len(), "budget": part,
                "seconds": chosen, "ratio_to_sort": ratio,
            }));
        }
    }
    let folder = std::path::Path::new("target/bench");
    std::fs::create_dir_all(folder).expect("target can be written");
    let text = serde_json::to_string_pretty(&Value::Array(rows)).expect("JSON");
    std::fs::write(folder.join("knapsack.json"), text).expect("target can be written");
}
