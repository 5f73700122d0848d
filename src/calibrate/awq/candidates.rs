//! What AWQ tries: exponents of the scales, ratios of the clipping.

use crate::config::Algorithm as AlgorithmConfig;
use crate::error::{Error, Result};

/// More of either are a mistake of the caller's: each is a rounding of the whole weight.
const MOST: f64 = 1024.0;

/// Refuses steps that make too many candidates.
pub(super) fn check(config: &AlgorithmConfig, scales: bool, clips: bool) -> Result<()> {
    let too_many = |field: &str, count: f64| {
        Err(Error::Config(format!(
            "algorithm.{field}: {} makes {count:.0} candidates, expected at most {MOST}",
            config.number(field)
        )))
    };
    if scales {
        let step = config.number("alpha_step");
        let count = (1.0 + step) / step;
        if count > MOST {
            return too_many("alpha_step", count);
        }
    }
    if clips {
        let count = (1.0 - config.number("min_clip_ratio")) / config.number("shrink_step");
        if count > MOST {
            return too_many("shrink_step", count);
        }
    }
    Ok(())
}

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
    fn too_many_are_refused() {
        let check = |text: &str| {
            let config = &AlgorithmConfig::parse_text(text).expect("valid")[0];
            check(config, true, true).map_err(|error| error.to_string())
        };
        assert_eq!(check("awq_full"), Ok(()));
        for field in ["alpha_step", "shrink_step"] {
            let text = format!(r#"{{"method": "awq_full", "{field}": 1e-9}}"#);
            let error = check(&text).expect_err("a billion");
            assert!(
                error.contains(field) && error.contains("at most 1024"),
                "{error}"
            );
        }
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
