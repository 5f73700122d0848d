//! What AWQ tries: exponents of the scales, ratios of the clipping.

use crate::config::Algorithm as AlgorithmConfig;

/// The exponents 0, step, 2 step, ... below 1 + step, as float32. A step that does not divide 1 ends beyond
/// it, as in the reference.
pub(super) fn alphas(step: f64) -> Vec<f32> {
    let end = 1.0 + step;
    let count = (end / step).ceil() as usize;
    (0..count).map(|i| (i as f64 * step) as f32).collect()
}

/// The ratios from `min_clip_ratio` on in steps of `shrink_step`, rounded to hundredths, and 1.
pub(super) fn clip_ratios(config: &AlgorithmConfig) -> Vec<f32> {
    let (first, step) = (
        config.number("min_clip_ratio"),
        config.number("shrink_step"),
    );
    let count = ((1.0 - first) / step).ceil() as usize;
    let ratio = |i: usize| {
        let exact = first + i as f64 * step;
        ((exact * 100.0).round_ties_even() / 100.0) as f32
    };
    (0..count).map(ratio).chain(std::iter::once(1.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alphas_are_those_of_the_reference() {
        let tenths = alphas(0.1);
        assert_eq!(tenths.len(), 11);
        assert_eq!((tenths[0], tenths[3], tenths[10]), (0.0, 0.3, 1.0));
        assert_eq!(alphas(0.3), [0.0, 0.3, 0.6, 0.9, 1.2]);
        assert_eq!(alphas(1.0), [0.0, 1.0]);
        assert_eq!(alphas(0.05).len(), 21);
    }

    #[test]
    fn ratios_are_those_of_the_reference() {
        let of = |text: &str| clip_ratios(&AlgorithmConfig::parse_text(text).expect("valid")[0]);
        let default = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0];
        assert_eq!(of("awq_clip"), default);
        let coarse = r#"{"method": "awq_clip", "min_clip_ratio": 0.9, "shrink_step": 1}"#;
        assert_eq!(of(coarse), [0.9, 1.0]);
    }
}
