//! Packs elements into codes and back: the low bits that fake quantization only pretends to.
//!
//! A code is the one whose value fake quantization gives, and decoding repeats the arithmetic of its
//! second half; so decoding what was encoded is fake quantization, bit for bit, but for negative
//! integers that round to zero: there is no `-0` among the codes.

#[cfg(test)]
mod check;
mod codes;
pub(crate) mod cuda;
mod memory;
pub(crate) mod nf4_cuda;
mod nf4_scales;

pub use codes::{Coding, Elements, Scaling};
pub use memory::Memory;
pub use nf4_scales::Scales as Nf4Scales;

use self::codes::{Decode, Encode, with_decode, with_encode};
use super::element::{Element, with_element};
use super::grid::Grid;
use super::isa::Loop;
use super::machine::Machine;
use super::pieces::PIECE;
use crate::kernels::cuda::GpuError;
use crate::tensor::TensorView;

/// Elements that are encoded before their codes are joined to bytes: a buffer on the stack. Even, and
/// a divisor of [`PIECE`].
const BATCH: usize = 1024;
const _: () = assert!(PIECE.is_multiple_of(BATCH) && BATCH.is_multiple_of(2));

/// Writes the codes of `x` to `codes`, each block of `grid` under its amax.
///
/// Panics unless `codes` holds exactly the codes and, for 4-bit elements, their number is even.
pub fn encode(
    machine: &Machine,
    x: &TensorView,
    grid: &Grid,
    amax: &[f32],
    coding: Coding,
    codes: &mut [u8],
) {
    let elements = coding.elements();
    check(x, grid, amax.len());
    assert_eq!(codes.len(), elements.bytes(x.count()), "codes");
    if let Some(gpu) = machine.gpu_of(x) {
        return gpu.note(cuda::encode(gpu, x, grid, amax, coding, codes));
    }
    let (count, isa, x) = (x.count(), machine.isa(), *x);
    let codes = Bytes(codes.as_mut_ptr());
    with_element!(x.dtype(), T => machine.for_each(count.div_ceil(PIECE), |task| {
        let end = (task * PIECE + PIECE).min(count);
        for first in (task * PIECE..end).step_by(BATCH) {
            let len = BATCH.min(end - first);
            // SAFETY: the batch lies within the tensor (asserted), which is ours to use (contract of
            // the view).
            let x = unsafe { std::slice::from_raw_parts(x.data().cast::<T>().add(first), len) };
            // SAFETY: batches begin at even elements, so their bytes are within `codes` (asserted)
            // and those of no other batch.
            let out = unsafe { codes.slice(elements.bytes(first), elements.bytes(len)) };
            let runs = Runs::new(grid, first, len);
            match elements.high_nibble_first() {
                None => with_encode!(coding, code => {
                    isa.run(EncodeLoop { x, out, runs, amax, code });
                }),
                Some(high_first) => {
                    let mut batch = [0; BATCH];
                    let batch = &mut batch[..len];
                    with_encode!(coding, code => {
                        isa.run(EncodeLoop { x, out: &mut *batch, runs, amax, code });
                    });
                    join(batch, out, high_first);
                }
            }
        }
    }));
}

/// The same into memory that may lie on the GPU of `x`: then codes stay there, and nothing is waited for.
pub fn encode_into(
    machine: &Machine,
    x: &TensorView,
    grid: &Grid,
    amax: &[f32],
    coding: Coding,
    codes: &mut Memory,
) -> Result<(), GpuError> {
    let Some(gpu) = codes.gpu() else {
        encode(machine, x, grid, amax, coding, codes.bytes_mut());
        return Ok(());
    };
    check(x, grid, amax.len());
    assert_eq!(codes.len(), coding.elements().bytes(x.count()), "codes");
    cuda::encode_there(gpu, x, grid, amax, coding, codes.address())
}

/// Writes the values of `codes` to `out`, which nobody else uses.
///
/// Panics unless `codes` holds exactly the codes of `out`.
pub fn decode(
    machine: &Machine,
    codes: &[u8],
    grid: &Grid,
    elements: Elements,
    scaling: Scaling<'_>,
    out: &TensorView,
) {
    check(out, grid, scaling.len());
    assert_eq!(codes.len(), elements.bytes(out.count()), "codes");
    if let Some(gpu) = machine.gpu_of(out) {
        return gpu.note(cuda::decode(gpu, codes, grid, elements, scaling, out));
    }
    let (count, isa, out) = (out.count(), machine.isa(), *out);
    with_element!(out.dtype(), T => machine.for_each(count.div_ceil(PIECE), |task| {
        let end = (task * PIECE + PIECE).min(count);
        for first in (task * PIECE..end).step_by(BATCH) {
            let len = BATCH.min(end - first);
            // SAFETY: the batch lies within the tensor (asserted), which is ours to write to
            // (contract); batches are apart.
            let out = unsafe { std::slice::from_raw_parts_mut(out.data().cast::<T>().add(first), len) };
            let codes = &codes[elements.bytes(first)..][..elements.bytes(len)];
            let mut batch = [0; BATCH];
            let codes = match elements.high_nibble_first() {
                None => codes,
                Some(high_first) => {
                    split(codes, &mut batch[..len], high_first);
                    &batch[..len]
                }
            };
            let runs = Runs::new(grid, first, len);
            with_decode!(elements, code => {
                isa.run(DecodeLoop { codes, out, runs, scaling: &scaling, code });
            });
        }
    }));
}

/// Fake-quantizes `x` to NF4 into `out`, which passed `x.check_out`: codes under the amax of a block,
/// values under its scale, which is an 8-bit integer in groups of `group` blocks.
pub fn fake_nf4(
    machine: &Machine,
    x: &TensorView,
    out: &TensorView,
    grid: &Grid,
    amax: &[f32],
    group: usize,
) {
    x.assert_out(out);
    check(x, grid, amax.len());
    if let Some(gpu) = machine.gpu_of(x) {
        return gpu.note(nf4_cuda::run(gpu, x, out, grid, amax, group));
    }
    let scales = Nf4Scales::new(amax, group);
    let scaling = Scaling::of_nf4(&scales, amax.len());
    let (count, isa, x, out) = (x.count(), machine.isa(), *x, *out);
    with_element!(x.dtype(), T => machine.for_each(count.div_ceil(BATCH), |task| {
        let first = task * BATCH;
        let len = BATCH.min(count - first);
        let mut batch = [0; BATCH];
        let batch = &mut batch[..len];
        // SAFETY: within the tensor (asserted), which is ours to use (contract of the view).
        let from = unsafe { std::slice::from_raw_parts(x.data().cast::<T>().add(first), len) };
        isa.run(EncodeLoop {
            x: from,
            out: &mut *batch,
            runs: Runs::new(grid, first, len),
            amax,
            code: codes::Nf4,
        });
        // SAFETY: as above; `from`, which may be the same memory, is not used any more.
        let to = unsafe { std::slice::from_raw_parts_mut(out.data().cast::<T>().add(first), len) };
        isa.run(DecodeLoop {
            codes: batch,
            out: to,
            runs: Runs::new(grid, first, len),
            scaling: &scaling,
            code: codes::Nf4,
        });
    }));
}

fn check(x: &TensorView, grid: &Grid, blocks: usize) {
    assert_eq!(grid.count(), x.count(), "grid of another shape");
    assert_eq!(grid.num_blocks(), blocks, "scales");
}

/// Codes that tasks write to, each to its own part.
struct Bytes(*mut u8);

// SAFETY: only disjoint parts are written to (contract of `slice`).
unsafe impl Sync for Bytes {}

impl Bytes {
    /// # Safety
    /// The part lies within the memory, and no other part that is in use overlaps it.
    #[allow(clippy::mut_from_ref, reason = "the parts are disjoint (contract)")]
    unsafe fn slice(&self, first: usize, len: usize) -> &mut [u8] {
        // SAFETY: contract above.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(first), len) }
    }
}

/// Stretches of a flat range of elements that share a block.
struct Runs<'a> {
    grid: &'a Grid,
    at: usize,
    first: usize,
    end: usize,
}

impl<'a> Runs<'a> {
    fn new(grid: &'a Grid, first: usize, len: usize) -> Self {
        Self {
            grid,
            at: first,
            first,
            end: first + len,
        }
    }

    /// Calls `f` with first element (counted from the range's), length and block of every stretch.
    #[inline(always)]
    fn for_each(self, mut f: impl FnMut(usize, usize, usize)) {
        let (n, block) = self.grid.row();
        let mut at = self.at;
        while at < self.end {
            let (row, start) = (at / n, at % n);
            let row_end = (at - start + n).min(self.end);
            let mut position = self.grid.first_block_of_row(row) + start / block;
            let mut len = (block - start % block).min(row_end - at);
            while at < row_end {
                f(at - self.first, len, position);
                at += len;
                position += 1;
                len = block.min(row_end - at);
            }
        }
    }
}

struct EncodeLoop<'a, T, C> {
    x: &'a [T],
    out: &'a mut [u8],
    runs: Runs<'a>,
    amax: &'a [f32],
    code: C,
}

impl<T: Element, C: Encode> Loop for EncodeLoop<'_, T, C> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let code = self.code;
        self.runs.for_each(|first, len, block| {
            let scale = code.scale(self.amax[block]);
            let (x, out) = (
                &self.x[first..first + len],
                &mut self.out[first..first + len],
            );
            for (out, x) in out.iter_mut().zip(x) {
                *out = code.encode(x.load(), scale);
            }
        });
    }
}

struct DecodeLoop<'a, T, C> {
    codes: &'a [u8],
    out: &'a mut [T],
    runs: Runs<'a>,
    scaling: &'a Scaling<'a>,
    code: C,
}

impl<T: Element, C: Decode> Loop for DecodeLoop<'_, T, C> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let code = self.code;
        self.runs.for_each(|first, len, block| {
            let scale = self.scaling.of(block);
            let codes = &self.codes[first..first + len];
            let out = &mut self.out[first..first + len];
            for (out, byte) in out.iter_mut().zip(codes) {
                *out = T::store(code.decode(*byte, scale));
            }
        });
    }
}

/// Joins pairs of 4-bit codes to bytes.
fn join(codes: &[u8], bytes: &mut [u8], high_first: bool) {
    for (byte, pair) in bytes.iter_mut().zip(codes.chunks_exact(2)) {
        *byte = match high_first {
            true => pair[0] << 4 | pair[1],
            false => pair[1] << 4 | pair[0],
        };
    }
}

/// Splits bytes into pairs of 4-bit codes.
fn split(bytes: &[u8], codes: &mut [u8], high_first: bool) {
    for (byte, pair) in bytes.iter().zip(codes.chunks_exact_mut(2)) {
        let (high, low) = (byte >> 4, byte & 15);
        (pair[0], pair[1]) = if high_first { (high, low) } else { (low, high) };
    }
}
