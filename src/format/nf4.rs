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
pub const SCALE_MAX: f32 = 127.0;

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
}
