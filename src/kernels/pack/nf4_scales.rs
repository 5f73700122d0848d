//! The scales of NF4 blocks as 8-bit integers around their mean (double quantization).

use crate::format::nf4::SCALE_MAX;
use crate::kernels::tree_sum::TreeSum;

/// Scales as integers, one multiplier for so many of them. Exact: the same bits on a GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct Scales {
    /// `round((scale - zero) * multiplier)`, padded to whole groups.
    pub codes: Vec<i8>,
    /// What a group was multiplied with: 127 over its largest distance from the mean.
    pub multipliers: Vec<f32>,
    /// The mean of all scales, the padding included, as in the reference.
    pub zero: f32,
}

impl Scales {
    /// Quantizes the scales of all blocks in groups of `group`.
    pub fn new(scales: &[f32], group: usize) -> Self {
        let group = group.max(1);
        let padded = scales.len().div_ceil(group) * group;
        let sum = TreeSum::of(scales);
        let zero = match padded {
            0 => 0.0,
            n => (sum / n as f64) as f32,
        };
        let (mut codes, mut multipliers) = (Vec::with_capacity(padded), Vec::new());
        for members in scales.chunks(group) {
            let padding = group - members.len();
            let all = || {
                members
                    .iter()
                    .copied()
                    .chain(std::iter::repeat_n(0.0, padding))
            };
            let farthest = all().map(|s| (s - zero).abs()).fold(0.0, f32::max);
            let multiplier = SCALE_MAX / farthest;
            // Scales that are all alike are all zero from their mean.
            let multiplier = if multiplier.is_finite() {
                multiplier
            } else {
                1.0
            };
            multipliers.push(multiplier);
            codes.extend(all().map(|s| ((s - zero) * multiplier).round_ties_even() as i8));
        }
        Self {
            codes,
            multipliers,
            zero,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::nf4::scale;

    #[test]
    fn scales_survive_to_a_254th_of_their_spread() {
        let scales = [1.0, 2.0, 3.0, 4.0, 10.0];
        let quantized = Scales::new(&scales, 4);
        assert_eq!(quantized.zero, 2.5);
        assert_eq!(quantized.codes.len(), 8);
        assert_eq!(quantized.multipliers, [127.0 / 1.5, 127.0 / 7.5]);
        for (i, s) in scales.iter().enumerate() {
            let back = scale(
                quantized.codes[i],
                quantized.multipliers[i / 4],
                quantized.zero,
            );
            assert!((back - s).abs() <= 7.5 / 254.0 + 1e-6, "{s} became {back}");
        }
        let alike = Scales::new(&[2.0; 4], 4);
        assert_eq!((alike.codes, alike.multipliers), (vec![0; 4], vec![1.0]));
        assert!(Scales::new(&[], 256).codes.is_empty());
    }
}
