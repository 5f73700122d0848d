//! Fake quantization: every element rounded to a format's grid under its block's amax, and back.
//!
//! `scalar` is the definition; the loops here agree with it bit for bit on every instruction set, for
//! every length and alignment, NaN and infinities included (`check`).
//!
//! `error` sums what rounding does to a tensor, `search` finds the amax that does least (`check_error`).

#[cfg(test)]
mod check;
#[cfg(test)]
mod check_error;
pub(crate) mod cuda;
mod error;
mod error_cuda;
mod loops;
pub mod scalar;
mod search;
mod search_cuda;

pub use error::{MAX_REL_ERR, squared_error, squared_error_dynamic};
pub use search::{Best, Candidates, search, search_workspace_bytes};
pub use search_cuda::Prepared;

use super::absmax;
use super::element::{Element, with_element};
use super::grid::Grid;
use super::isa::Isa;
use super::machine::Machine;
use super::pieces::{self, Piece};
use crate::format::int::IntGrid;
use crate::format::minifloat::{E1M2, E2M1, E2M3, E3M2, E4M3, E5M2};
use crate::format::mx::{self, MxElement};
use crate::format::{e4m3, nvfp4};
use crate::tensor::TensorView;
use loops::PieceLoop;

/// What elements are rounded to, and how a block's amax becomes its scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Format {
    /// Integers.
    Int(IntGrid),
    /// FP8 E4M3 under a float32 scale.
    E4m3,
    /// Elements under a power of two.
    Mx(MxFormat),
    /// E2M1 under an E4M3 scale, of a tensor with this scale of its own.
    Nvfp4 {
        /// [`nvfp4::global_scale`] of the tensor's amax.
        global_scale: f32,
    },
    /// E2M1 under scales that are themselves E4M3 under this amax.
    Nvfp4Static {
        /// The amax of the scales.
        scale_amax: f32,
    },
}

/// The elements of an MX format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MxFormat {
    /// MXFP8, the usual one.
    E4m3,
    /// MXFP8 with the larger range.
    E5m2,
    /// MXFP6 with the larger range.
    E3m2,
    /// MXFP6, the usual one.
    E2m3,
    /// MXFP4.
    E2m1,
    /// Evenly spaced 4-bit values.
    E1m2,
    /// MXINT8.
    Int8,
}

/// A format as the loops see it.
trait Rounding: Copy + Send + Sync {
    type Scale: Copy;
    /// What a block with this amax multiplies or divides by.
    fn scale(self, amax: f32) -> Self::Scale;
    /// `x` on the grid, in the units of `x`.
    fn apply(self, x: f32, scale: Self::Scale) -> f32;
    /// Whether blocks find their scales by themselves: nothing is given, and a NaN is left out of a block's
    /// amax.
    const FINDS_SCALE: bool = false;
}

impl Rounding for IntGrid {
    type Scale = (f32, f32);
    #[inline(always)]
    fn scale(self, amax: f32) -> (f32, f32) {
        IntGrid::scale(self, amax)
    }
    #[inline(always)]
    fn apply(self, x: f32, scale: (f32, f32)) -> f32 {
        self.fake_quant(x, scale)
    }
}

#[derive(Clone, Copy)]
struct Fp8;

impl Rounding for Fp8 {
    type Scale = (f32, f32);
    #[inline(always)]
    fn scale(self, amax: f32) -> (f32, f32) {
        e4m3::scale(amax)
    }
    #[inline(always)]
    fn apply(self, x: f32, scale: (f32, f32)) -> f32 {
        e4m3::fake_quant(x, scale)
    }
}

#[derive(Clone, Copy)]
struct Mx<T>(T);

impl<T: MxElement> Rounding for Mx<T> {
    type Scale = (f32, f32);
    const FINDS_SCALE: bool = true;
    #[inline(always)]
    fn scale(self, amax: f32) -> (f32, f32) {
        mx::scale(amax, self.0.max())
    }
    #[inline(always)]
    fn apply(self, x: f32, scale: (f32, f32)) -> f32 {
        mx::fake_quant(self.0, x, scale)
    }
}

#[derive(Clone, Copy)]
struct Nvfp4 {
    global_scale: f32,
}

impl Rounding for Nvfp4 {
    type Scale = f32;
    const FINDS_SCALE: bool = true;
    #[inline(always)]
    fn scale(self, amax: f32) -> f32 {
        nvfp4::block_scale(amax, self.global_scale) * self.global_scale
    }
    #[inline(always)]
    fn apply(self, x: f32, scale: f32) -> f32 {
        nvfp4::fake_quant(x, scale)
    }
}

#[derive(Clone, Copy)]
struct Nvfp4Static {
    scale_amax: f32,
}

impl Rounding for Nvfp4Static {
    type Scale = f32;
    #[inline(always)]
    fn scale(self, amax: f32) -> f32 {
        nvfp4::static_scale(amax, self.scale_amax)
    }
    #[inline(always)]
    fn apply(self, x: f32, scale: f32) -> f32 {
        nvfp4::fake_quant(x, scale)
    }
}

/// Fake-quantizes `x` into `out` under given amax values, one for each block of `grid`.
///
/// `out` passed `x.check_out`, `grid` was made for the shape of `x`, and the format is none that finds its
/// own scales.
pub fn run(
    machine: &Machine,
    x: &TensorView,
    out: &TensorView,
    grid: &Grid,
    amax: &[f32],
    format: Format,
) {
    assert_eq!(amax.len(), grid.num_blocks(), "amax values");
    let finds_scale = matches!(format, Format::Mx(_) | Format::Nvfp4 { .. });
    assert!(!finds_scale, "{format:?} finds its own scales");
    if let Some(gpu) = machine.gpu_of(x) {
        return cuda::run(gpu, x, out, grid, amax, format);
    }
    dispatch(machine, x, out, grid, Amax::Given(amax), format);
}

/// Fake-quantizes `x` into `out`, each block under its own amax; returns the largest of them (NaN when
/// there is a NaN; on a GPU infinity in place of those that are no scale, else 0). Formats that find their own scales have blocks within rows.
pub fn run_dynamic(
    machine: &Machine,
    x: &TensorView,
    out: &TensorView,
    grid: &Grid,
    format: Format,
) -> f32 {
    if let Some(gpu) = machine.gpu_of(x) {
        return cuda::run_dynamic(gpu, x, out, grid, format);
    }
    if pieces::hold_whole_blocks(grid) {
        let largest = absmax::Maximum::default();
        dispatch(machine, x, out, grid, Amax::OfTheRun(&largest), format);
        return largest.get();
    }
    // Few amax values (per tensor, long rows) need no allocation.
    let mut few = [0.0; 64];
    let mut many = Vec::new();
    let amax = match few.get_mut(..grid.num_blocks()) {
        Some(few) => few,
        None => {
            many.resize(grid.num_blocks(), 0.0);
            &mut many[..]
        }
    };
    absmax::run(machine, x, grid, amax);
    run(machine, x, out, grid, amax, format);
    absmax::largest(amax)
}

#[derive(Clone, Copy)]
enum Amax<'a> {
    Given(&'a [f32]),
    /// Taken from the elements themselves; the largest is noted.
    OfTheRun(&'a absmax::Maximum),
}

fn dispatch(
    machine: &Machine,
    x: &TensorView,
    out: &TensorView,
    grid: &Grid,
    amax: Amax<'_>,
    format: Format,
) {
    x.assert_out(out);
    assert_eq!(grid.count(), x.count(), "grid of another shape");
    let (x, out, isa, block) = (*x, *out, machine.isa(), grid.row().1);
    with_element!(x.dtype(), T => pieces::for_each(machine, grid, |piece| {
        // SAFETY: the piece lies within both tensors (asserted).
        let (from, to) = unsafe {
            (x.data().cast::<T>().add(piece.offset), out.data().cast::<T>().add(piece.offset))
        };
        // SAFETY: both tensors are the same memory or apart (asserted), and ours to use (contract of
        // the view).
        unsafe { round_piece(isa, from, to, &piece, block, amax, format) };
    }));
}

/// # Safety
/// `x` and `out` hold `piece.len` elements, the same memory or apart.
unsafe fn round_piece<T: Element>(
    isa: Isa,
    x: *const T,
    out: *mut T,
    piece: &Piece,
    block: usize,
    amax: Amax<'_>,
    format: Format,
) {
    // SAFETY: contract of this function.
    unsafe {
        match format {
            Format::Int(grid) => run_piece(isa, x, out, piece, block, amax, grid),
            Format::E4m3 => run_piece(isa, x, out, piece, block, amax, Fp8),
            Format::Nvfp4 { global_scale } => {
                run_piece(isa, x, out, piece, block, amax, Nvfp4 { global_scale })
            }
            Format::Nvfp4Static { scale_amax } => {
                run_piece(isa, x, out, piece, block, amax, Nvfp4Static { scale_amax })
            }
            Format::Mx(MxFormat::E4m3) => run_piece(isa, x, out, piece, block, amax, Mx(E4M3)),
            Format::Mx(MxFormat::E5m2) => run_piece(isa, x, out, piece, block, amax, Mx(E5M2)),
            Format::Mx(MxFormat::E3m2) => run_piece(isa, x, out, piece, block, amax, Mx(E3M2)),
            Format::Mx(MxFormat::E2m3) => run_piece(isa, x, out, piece, block, amax, Mx(E2M3)),
            Format::Mx(MxFormat::E2m1) => run_piece(isa, x, out, piece, block, amax, Mx(E2M1)),
            Format::Mx(MxFormat::E1m2) => run_piece(isa, x, out, piece, block, amax, Mx(E1M2)),
            Format::Mx(MxFormat::Int8) => run_piece(isa, x, out, piece, block, amax, Mx(mx::Int8)),
        }
    }
}

/// # Safety
/// `x` and `out` hold `piece.len` elements, the same memory or apart.
unsafe fn run_piece<T: Element, R: Rounding>(
    isa: Isa,
    x: *const T,
    out: *mut T,
    piece: &Piece,
    block: usize,
    amax: Amax<'_>,
    rounding: R,
) {
    isa.run(PieceLoop {
        x,
        out,
        piece,
        block,
        amax,
        rounding,
    });
}
