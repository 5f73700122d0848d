//! The codes: how an element becomes one under the amax of its block, and a value under its scale.

use super::Nf4Scales;
use crate::format::int::IntGrid;
use crate::format::minifloat::{E2M1, E4M3};
use crate::format::{e2m1, e4m3, mx, nf4, nvfp4};

/// What codes stand for, and how they lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elements {
    /// A byte each, two's complement.
    Int8,
    /// Two in a byte, the first in the high nibble; `code - 8` is the integer.
    Int4,
    /// FP8, a byte each.
    E4m3,
    /// FP4, two in a byte, the first in the low nibble.
    E2m1,
    /// Two in a byte, the first in the high nibble.
    Nf4,
}

impl Elements {
    /// Bytes of so many elements; of 4-bit ones an even number.
    pub fn bytes(self, count: usize) -> usize {
        match self.high_nibble_first() {
            None => count,
            Some(_) => {
                assert!(count.is_multiple_of(2), "an odd number of nibbles");
                count / 2
            }
        }
    }

    /// Whether the first of two codes lies in the high nibble; None when codes are bytes.
    pub fn high_nibble_first(self) -> Option<bool> {
        match self {
            Self::Int8 | Self::E4m3 => None,
            Self::Int4 | Self::Nf4 => Some(true),
            Self::E2m1 => Some(false),
        }
    }
}

/// How elements become codes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Coding {
    /// Integers of a signed grid that fits a byte.
    Int8(IntGrid),
    /// Integers of a signed grid of 4 bits.
    Int4(IntGrid),
    /// FP8 under a float32 scale.
    E4m3,
    /// FP8 under a power of two.
    MxE4m3,
    /// FP4 under a power of two.
    MxE2m1,
    /// FP4 under E4M3 scales that blocks find by themselves.
    Nvfp4 {
        /// As in [`Format::Nvfp4`](crate::kernels::fake_quant::Format::Nvfp4).
        global_scale: f32,
    },
    /// FP4 under E4M3 scales of calibrated blocks.
    Nvfp4Static {
        /// As in [`Format::Nvfp4Static`](crate::kernels::fake_quant::Format::Nvfp4Static).
        scale_amax: f32,
    },
    /// NF4 under the block's amax.
    Nf4,
}

impl Coding {
    /// What the codes are.
    pub fn elements(self) -> Elements {
        match self {
            Self::Int8(_) => Elements::Int8,
            Self::Int4(_) => Elements::Int4,
            Self::E4m3 | Self::MxE4m3 => Elements::E4m3,
            Self::MxE2m1 | Self::Nvfp4 { .. } | Self::Nvfp4Static { .. } => Elements::E2m1,
            Self::Nf4 => Elements::Nf4,
        }
    }
}

/// The scales of blocks when codes become values.
#[derive(Debug, Clone, Copy)]
pub enum Scaling<'a> {
    /// What integers are divided by.
    Divisors(&'a [f32]),
    /// The amax that integers of a grid were rounded under.
    OfInt(IntGrid, &'a [f32]),
    /// The amax that E4M3 values were rounded under.
    OfE4m3(&'a [f32]),
    /// Powers of two: exponents plus 127.
    Exponents(&'a [u8]),
    /// E4M3 codes, and what one of their units is worth.
    Nvfp4(&'a [u8], f32),
    /// Integers around a mean.
    Nf4 {
        /// The integers as bytes, at least one for each block.
        codes: &'a [u8],
        /// One for each group.
        multipliers: &'a [f32],
        /// The mean.
        zero: f32,
        /// Number of blocks; the integers are padded.
        blocks: usize,
    },
}

impl<'a> Scaling<'a> {
    /// The scales of `blocks` blocks.
    pub(super) fn of_nf4(scales: &'a Nf4Scales, blocks: usize) -> Self {
        Self::Nf4 {
            // SAFETY: the same bytes, seen as unsigned.
            codes: unsafe {
                std::slice::from_raw_parts(scales.codes.as_ptr().cast(), scales.codes.len())
            },
            multipliers: &scales.multipliers,
            zero: scales.zero,
            blocks,
        }
    }

    /// Number of blocks.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Divisors(values) | Self::OfInt(_, values) | Self::OfE4m3(values) => values.len(),
            Self::Exponents(codes) | Self::Nvfp4(codes, _) => codes.len(),
            Self::Nf4 { blocks, .. } => *blocks,
        }
    }

    /// The scale of a block.
    #[inline(always)]
    pub(super) fn of(&self, block: usize) -> f32 {
        match *self {
            Self::Divisors(divisors) => divisors[block],
            Self::OfInt(grid, amax) => grid.scale(amax[block]).1,
            Self::OfE4m3(amax) => e4m3::scale(amax[block]).1,
            Self::Exponents(codes) => mx::power(codes[block]),
            Self::Nvfp4(codes, global) => e4m3::decode(codes[block]) * global,
            Self::Nf4 {
                codes,
                multipliers,
                zero,
                ..
            } => {
                let multiplier = multipliers[block / self.group()];
                nf4::scale(codes[block] as i8, multiplier, zero)
            }
        }
    }

    /// How many blocks share a multiplier.
    #[inline(always)]
    pub(super) fn group(&self) -> usize {
        match self {
            Self::Nf4 {
                codes, multipliers, ..
            } => codes.len() / multipliers.len(),
            _ => 1,
        }
    }
}

/// From element to code, as the loops see it.
pub(super) trait Encode: Copy + Send + Sync {
    type Scale: Copy;
    fn scale(self, amax: f32) -> Self::Scale;
    fn encode(self, x: f32, scale: Self::Scale) -> u8;
}

/// From code to value; the scale is that of [`Scaling`].
pub(super) trait Decode: Copy + Send + Sync {
    fn decode(self, code: u8, scale: f32) -> f32;
}

#[derive(Clone, Copy)]
pub(super) struct Int8(pub IntGrid);
#[derive(Clone, Copy)]
pub(super) struct Int4(pub IntGrid);
#[derive(Clone, Copy)]
pub(super) struct DecodeInt8;
#[derive(Clone, Copy)]
pub(super) struct DecodeInt4;
#[derive(Clone, Copy)]
pub(super) struct Fp8;
#[derive(Clone, Copy)]
pub(super) struct Fp4;
#[derive(Clone, Copy)]
pub(super) struct Mxfp8;
#[derive(Clone, Copy)]
pub(super) struct Mxfp4;
#[derive(Clone, Copy)]
pub(super) struct Nvfp4(pub f32);
#[derive(Clone, Copy)]
pub(super) struct Nvfp4Static(pub f32);
#[derive(Clone, Copy)]
pub(super) struct Nf4;

impl Encode for Int8 {
    type Scale = f32;
    #[inline(always)]
    fn scale(self, amax: f32) -> f32 {
        self.0.scale(amax).0
    }
    #[inline(always)]
    fn encode(self, x: f32, multiplier: f32) -> u8 {
        self.0.round(x, multiplier) as i8 as u8
    }
}

impl Encode for Int4 {
    type Scale = f32;
    #[inline(always)]
    fn scale(self, amax: f32) -> f32 {
        self.0.scale(amax).0
    }
    #[inline(always)]
    fn encode(self, x: f32, multiplier: f32) -> u8 {
        (self.0.round(x, multiplier) as i32 + 8) as u8
    }
}

impl Decode for DecodeInt8 {
    #[inline(always)]
    fn decode(self, code: u8, divisor: f32) -> f32 {
        f32::from(code as i8) / divisor
    }
}

impl Decode for DecodeInt4 {
    #[inline(always)]
    fn decode(self, code: u8, divisor: f32) -> f32 {
        (f32::from(code) - 8.0) / divisor
    }
}

impl Encode for Fp8 {
    type Scale = f32;
    #[inline(always)]
    fn scale(self, amax: f32) -> f32 {
        e4m3::scale(amax).0
    }
    #[inline(always)]
    fn encode(self, x: f32, multiplier: f32) -> u8 {
        e4m3::encode(e4m3::scaled(x, multiplier))
    }
}

impl Decode for Fp8 {
    #[inline(always)]
    fn decode(self, code: u8, scale: f32) -> f32 {
        e4m3::decode(code) * scale
    }
}

impl Decode for Fp4 {
    #[inline(always)]
    fn decode(self, code: u8, scale: f32) -> f32 {
        e2m1::decode(code) * scale
    }
}

impl Encode for Mxfp8 {
    type Scale = f32;
    #[inline(always)]
    fn scale(self, amax: f32) -> f32 {
        mx::scale(amax, E4M3.max()).0
    }
    #[inline(always)]
    fn encode(self, x: f32, multiplier: f32) -> u8 {
        e4m3::encode(E4M3.round(x * multiplier))
    }
}

impl Encode for Mxfp4 {
    type Scale = f32;
    #[inline(always)]
    fn scale(self, amax: f32) -> f32 {
        mx::scale(amax, E2M1.max()).0
    }
    #[inline(always)]
    fn encode(self, x: f32, multiplier: f32) -> u8 {
        e2m1::encode(E2M1.round(x * multiplier))
    }
}

impl Encode for Nvfp4 {
    type Scale = f32;
    #[inline(always)]
    fn scale(self, amax: f32) -> f32 {
        nvfp4::block_scale(amax, self.0) * self.0
    }
    #[inline(always)]
    fn encode(self, x: f32, scale: f32) -> u8 {
        e2m1::encode(nvfp4::element(x, scale))
    }
}

impl Encode for Nvfp4Static {
    type Scale = f32;
    #[inline(always)]
    fn scale(self, amax: f32) -> f32 {
        nvfp4::static_scale(amax, self.0)
    }
    #[inline(always)]
    fn encode(self, x: f32, scale: f32) -> u8 {
        e2m1::encode(nvfp4::element(x, scale))
    }
}

impl Encode for Nf4 {
    type Scale = f32;
    #[inline(always)]
    fn scale(self, amax: f32) -> f32 {
        amax
    }
    #[inline(always)]
    fn encode(self, x: f32, amax: f32) -> u8 {
        nf4::encode(x, amax)
    }
}

impl Decode for Nf4 {
    #[inline(always)]
    fn decode(self, code: u8, scale: f32) -> f32 {
        nf4::decode(code) * scale
    }
}

/// Calls `$body` with `$code` standing for what encodes.
macro_rules! with_encode {
    ($coding:expr, $code:ident => $body:expr) => {{
        use crate::kernels::pack::codes;
        match $coding {
            Coding::Int8(grid) => {
                let $code = codes::Int8(grid);
                $body
            }
            Coding::Int4(grid) => {
                let $code = codes::Int4(grid);
                $body
            }
            Coding::E4m3 => {
                let $code = codes::Fp8;
                $body
            }
            Coding::MxE4m3 => {
                let $code = codes::Mxfp8;
                $body
            }
            Coding::MxE2m1 => {
                let $code = codes::Mxfp4;
                $body
            }
            Coding::Nvfp4 { global_scale } => {
                let $code = codes::Nvfp4(global_scale);
                $body
            }
            Coding::Nvfp4Static { scale_amax } => {
                let $code = codes::Nvfp4Static(scale_amax);
                $body
            }
            Coding::Nf4 => {
                let $code = codes::Nf4;
                $body
            }
        }
    }};
}
pub(super) use with_encode;

/// Calls `$body` with `$code` standing for what decodes.
macro_rules! with_decode {
    ($elements:expr, $code:ident => $body:expr) => {{
        use crate::kernels::pack::codes;
        match $elements {
            Elements::Int8 => {
                let $code = codes::DecodeInt8;
                $body
            }
            Elements::Int4 => {
                let $code = codes::DecodeInt4;
                $body
            }
            Elements::E4m3 => {
                let $code = codes::Fp8;
                $body
            }
            Elements::E2m1 => {
                let $code = codes::Fp4;
                $body
            }
            Elements::Nf4 => {
                let $code = codes::Nf4;
                $body
            }
        }
    }};
}
pub(super) use with_decode;
