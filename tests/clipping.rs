//! What `awq_clip` chooses is the best of its ratios, block by block.

mod owned;
mod stack;

use mq::format::int::IntGrid;
use proptest::prelude::*;
use stack::{Part, Stack, change, config, context, noise};

/// Default ratios of the algorithm.
const RATIOS: [f32; 11] = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0];

/// The squared error of a block's share of one output, meaned over the sampled tokens of each batch; and the same
/// of magnitudes, to which the rounding of a sum is in proportion.
fn loss(
    part: &Part,
    row: usize,
    first: usize,
    w: &[f32],
    amax: f32,
    max_tokens: usize,
) -> (f64, f64) {
    let channels = part.weight.shape[1];
    let grid = IntGrid::new(4, false, false);
    let delta: Vec<f64> = w
        .iter()
        .map(|w| f64::from(grid.fake_quant(*w, grid.scale(amax))) - f64::from(*w))
        .collect();
    assert!(row < part.weight.shape[0]);
    let (mut loss, mut magnitude) = (0.0, 0.0);
    for batch in &part.batches {
        let x = batch.view().to_f32();
        let tokens = x.len() / channels;
        let step = (tokens / max_tokens).max(1);
        let sampled = tokens.div_ceil(step) as f64;
        for x in x.chunks_exact(channels).step_by(step) {
            let products = || {
                delta
                    .iter()
                    .zip(&x[first..])
                    .map(|(d, x)| d * f64::from(*x))
            };
            loss += products().sum::<f64>().powi(2) / sampled;
            magnitude += products().map(f64::abs).sum::<f64>().powi(2) / sampled;
        }
    }
    (loss, magnitude)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_block_gets_the_best_ratio(
        (rows, channels) in (1usize..40, 1usize..80),
        block in prop_oneof![Just(16usize), Just(32), Just(24)],
        tokens in proptest::collection::vec(1usize..40, 1..4),
        max_tokens in 1usize..50,
        spread in 0.0f32..2.0,
        seed: u32,
    ) {
        let seed = u64::from(seed);
        let size = noise(&[channels], seed ^ 77).view().to_f32();
        let mut part = Part::linear("l", [rows, channels], None);
        part.weight = noise(&[rows, channels], seed);
        part.batches = (0u64..).zip(&tokens).map(|(i, tokens)| {
            let mut x = noise(&[*tokens, channels], seed + 1 + i);
            change(&mut x, |c, x| x * (spread * size[c]).exp());
            x
        }).collect();
        let mut stack = Stack::new(context(1, 0).0, vec![part]);
        let format = format!(r#"{{"num_bits": 4, "block_sizes": {{"-1": {block}}}}}"#);
        let algorithm = format!(r#"{{"method": "awq_clip", "max_tokens_per_batch": {max_tokens}}}"#);
        stack.quantize(&config(&format, "", &algorithm)).expect("clips");
        let part = &stack.parts[0];
        let state = stack.layers[0].weight_slot().expect("a weight").state();
        let amax = state.members()[0].amax.clone().expect("an amax");
        let weight = part.weight.view().to_f32();
        let per_row = channels.div_ceil(block);
        prop_assert_eq!(amax.values().len(), rows * per_row);
        for (at, chosen) in amax.values().iter().enumerate() {
            let (row, first) = (at / per_row, at % per_row * block);
            let w = &weight[row * channels + first..][..block.min(channels - first)];
            let highest = w.iter().fold(0.0f32, |amax, w| amax.max(w.abs()));
            prop_assert!(RATIOS.iter().any(|ratio| highest * ratio == *chosen), "{chosen}, {highest}");
            let (own, _) = loss(part, row, first, w, *chosen, max_tokens);
            for ratio in RATIOS {
                let (other, magnitude) = loss(part, row, first, w, highest * ratio, max_tokens);
                // Where terms cancel, what they leave is known no better than they are to float32.
                prop_assert!(
                    own <= other * (1.0 + 1e-5) + 1e-6 * magnitude,
                    "{row} {first}: {chosen} has {own:e}, {ratio} of {highest} has {other:e}"
                );
            }
        }
    }
}
