//! NF4: 16 values that lie like the quantiles of a normal distribution, under the largest magnitude of
//! a block; the scales of the blocks are 8-bit integers themselves (double quantization).

/// The values, by code: the quantiles rounded to bfloat16, as the reference keeps them.
pub const VALUES: [f32; 16] = [
    -1.0,
    -0.695_312_5,
    -0.523_437_5,
    -0.394_531_25,
    -0.285_156_25,
    -0.184_570_31,
    -0.091_308_594,
    0.0,
    0.079_589_844,
    0.161_132_81,
    0.246_093_75,
    0.337_890_63,
    0.441_406_25,
    0.5625,
    0.722_656_25,
    1.0,
];

/// The code of zero.
pub const ZERO: u8 = 7;

/// Largest integer of a quantized scale.
const SCALE_MAX: f32 = 127.0;

/// The code nearest to `x` under the block's largest magnitude; the lower one on a tie.
#[inline(always)]
pub fn encode(x: f32, amax: f32) -> u8 {
    let x = x / amax;
    let (mut code, mut nearest) = (0, (VALUES[0] - x).abs());
    for (i, value) in VALUES.iter().enumerate().skip(1) {
        let distance = (value - x).abs();
        let closer = distance < nearest;
        code = if closer { i as u8 } else { code };
        nearest = if closer { distance } else { nearest };
    }
    if amax > 0.0 { code } else { ZERO }
}

/// The value of a code in units of the scale; the bits above the fourth are ignored.
#[inline(always)]
pub fn decode(code: u8) -> f32 {
    VALUES[usize::from(code & 15)]
}

/// Scales of blocks as 8-bit integers around their mean, one multiplier for so many of them.
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
        // One after the other in float64: the same bytes everywhere.
        let sum: f64 = scales.iter().map(|scale| f64::from(*scale)).sum();
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

/// A scale from its integer: `code / multiplier + zero`.
#[inline(always)]
pub fn scale(code: i8, multiplier: f32, zero: f32) -> f32 {
    f32::from(code) / multiplier + zero
}

#[cfg(test)]
mod tests {
    use super::super::half::Bf16;
    use super::*;

    /// The four decimals of the specification, rounded to bfloat16.
    #[test]
    fn the_values_are_the_published_ones() {
        let published = [
            -1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0, 0.0796, 0.1609,
            0.2461, 0.3379, 0.4407, 0.5626, 0.723, 1.0,
        ];
        assert_eq!(VALUES, published.map(|v| Bf16::from_f32(v).to_f32()));
    }

    #[test]
    fn codes_are_the_nearest_and_zero_blocks_are_zero() {
        for (code, value) in VALUES.iter().enumerate() {
            assert_eq!(usize::from(encode(value * 3.0, 3.0)), code);
            assert_eq!(decode(code as u8), *value);
        }
        assert_eq!(encode(5.0, 1.0), 15);
        assert_eq!(encode(0.0, 0.0), ZERO);
        let middle = (VALUES[7] + VALUES[8]) / 2.0;
        assert_eq!(encode(middle, 1.0), 7);
        assert_eq!(encode(middle.next_up(), 1.0), 8);
    }

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
