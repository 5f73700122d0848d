//! The Hadamard rotation of a quantizer: which groups of the last axis are rotated.

use crate::config::Rotate;
use crate::tensor::Shape;

/// Size of the groups along the last axis: the configured one, the axis itself if it is a power of two,
/// else the largest power of two that divides it.
pub(super) fn group(rotate: &Rotate, shape: &Shape) -> Result<usize, String> {
    let channels = shape.dims().last().copied().unwrap_or(1);
    let Some(configured) = rotate.block_size else {
        let group = 1usize << channels.trailing_zeros().min(usize::BITS - 1);
        return match group {
            0 | 1 => Err(format!(
                "cannot rotate a last axis of {channels}: no power of two divides it; set rotate.block_size or choose another layer"
            )),
            group => Ok(group),
        };
    };
    match usize::try_from(configured) {
        Ok(group) if group.is_power_of_two() && channels.is_multiple_of(group) => Ok(group),
        _ => Err(format!(
            "rotate.block_size {configured} is not a power of two that divides the last axis of {channels}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_powers_of_two_that_divide_the_axis() {
        let of = |block_size, channels| {
            let rotate = Rotate {
                block_size,
                ..Rotate::default()
            };
            group(&rotate, &Shape::new(&[3, channels]).expect("small"))
        };
        assert_eq!(of(None, 128), Ok(128));
        assert_eq!(of(None, 96), Ok(32));
        assert!(of(None, 7).is_err());
        assert_eq!(of(Some(16), 96), Ok(16));
        assert!(of(Some(64), 96).is_err());
        assert!(of(Some(12), 96).is_err());
    }
}
