//! The loops over one piece, written so that everything in them is inlined: what a closure or an iterator
//! adapter keeps for itself would be compiled for the baseline instruction set.

use super::super::absmax;
use super::super::element::Element;
use super::super::isa::Loop;
use super::super::pieces::{self, Piece};
use super::{Amax, Rounding};

/// How the loops get the amax of a run of elements.
pub(super) trait Amaxes {
    /// That of a run, which begins at a position among the blocks.
    fn of<T: Element>(&mut self, run: &[T], position: usize) -> f32;
}

/// Values that were calibrated.
struct Given<'a>(&'a [f32]);

impl Amaxes for Given<'_> {
    #[inline(always)]
    fn of<T: Element>(&mut self, _: &[T], position: usize) -> f32 {
        self.0[position]
    }
}

/// Values of the elements themselves; the highest is kept, as float32 bits.
struct Own<const SKIPS_NAN: bool> {
    highest: u32,
}

impl<const SKIPS_NAN: bool> Amaxes for Own<SKIPS_NAN> {
    #[inline(always)]
    fn of<T: Element>(&mut self, run: &[T], _: usize) -> f32 {
        let mut magnitude = absmax::magnitude(run);
        if SKIPS_NAN && magnitude > T::INFINITY {
            magnitude = absmax::magnitude_without_nan(run);
        }
        let amax = T::from_magnitude(magnitude);
        self.highest = self.highest.max(amax.magnitude());
        amax
    }
}

/// Where elements come from and go to. Two types, so that both loops are free of aliasing.
pub(super) trait Memory<T: Element> {
    /// Rounds `len` elements from `first` on under one scale.
    fn run<R: Rounding>(&mut self, first: usize, len: usize, rounding: R, scale: R::Scale);
    /// Rounds all elements, each under its own amax.
    fn each<R: Rounding>(&mut self, amax: &[f32], rounding: R);
    /// Rounds as many whole blocks of `B` elements as there are.
    fn blocks<const B: usize, R: Rounding>(
        &mut self,
        first: usize,
        rounding: R,
        amaxes: &mut impl Amaxes,
    );
    /// The elements before they are rounded.
    fn input(&self) -> &[T];
}

/// One slice for both.
pub(super) struct InPlace<'a, T>(pub &'a mut [T]);

impl<T: Element> Memory<T> for InPlace<'_, T> {
    #[inline(always)]
    fn run<R: Rounding>(&mut self, first: usize, len: usize, rounding: R, scale: R::Scale) {
        let (strides, rest) = self.0[first..first + len].as_chunks_mut::<STRIDE>();
        for values in strides {
            let x = *values;
            stride(&x, values, rounding, scale);
        }
        for value in rest {
            *value = T::store(rounding.apply(value.load(), scale));
        }
    }

    #[inline(always)]
    fn each<R: Rounding>(&mut self, amax: &[f32], rounding: R) {
        for (value, amax) in self.0.iter_mut().zip(amax) {
            *value = T::store(rounding.apply(value.load(), rounding.scale(*amax)));
        }
    }

    #[inline(always)]
    fn blocks<const B: usize, R: Rounding>(
        &mut self,
        first: usize,
        rounding: R,
        amaxes: &mut impl Amaxes,
    ) {
        let (blocks, _) = self.0.as_chunks_mut::<B>();
        for (i, values) in blocks.iter_mut().enumerate() {
            let x = *values;
            block(&x, values, rounding, amaxes, first + i);
        }
    }

    #[inline(always)]
    fn input(&self) -> &[T] {
        self.0
    }
}

/// Two slices that do not overlap.
pub(super) struct Apart<'a, T>(pub &'a [T], pub &'a mut [T]);

impl<T: Element> Memory<T> for Apart<'_, T> {
    #[inline(always)]
    fn run<R: Rounding>(&mut self, first: usize, len: usize, rounding: R, scale: R::Scale) {
        let (from, x) = self.0[first..first + len].as_chunks::<STRIDE>();
        let (to, out) = self.1[first..first + len].as_chunks_mut::<STRIDE>();
        for (x, out) in from.iter().zip(to) {
            stride(x, out, rounding, scale);
        }
        for (out, x) in out.iter_mut().zip(x) {
            *out = T::store(rounding.apply(x.load(), scale));
        }
    }

    #[inline(always)]
    fn each<R: Rounding>(&mut self, amax: &[f32], rounding: R) {
        for ((out, x), amax) in self.1.iter_mut().zip(self.0).zip(amax) {
            *out = T::store(rounding.apply(x.load(), rounding.scale(*amax)));
        }
    }

    #[inline(always)]
    fn blocks<const B: usize, R: Rounding>(
        &mut self,
        first: usize,
        rounding: R,
        amaxes: &mut impl Amaxes,
    ) {
        let ((from, _), (to, _)) = (self.0.as_chunks::<B>(), self.1.as_chunks_mut::<B>());
        for (i, (x, out)) in from.iter().zip(to).enumerate() {
            block(x, out, rounding, amaxes, first + i);
        }
    }

    #[inline(always)]
    fn input(&self) -> &[T] {
        self.0
    }
}

/// One block of a length known at compile time: a few registers, no remainder.
#[inline(always)]
fn block<const B: usize, T: Element, R: Rounding>(
    x: &[T; B],
    out: &mut [T; B],
    rounding: R,
    amaxes: &mut impl Amaxes,
    position: usize,
) {
    let mut values = [0.0; B];
    T::load_block(x, &mut values);
    let scale = rounding.scale(amaxes.of(&values, position));
    for value in &mut values {
        *value = rounding.apply(*value, scale);
    }
    T::store_block(&values, out);
}

/// Elements that share a scale, in strides of this many where blocks are longer or of other lengths.
const STRIDE: usize = 64;

/// One stride under a scale.
#[inline(always)]
fn stride<T: Element, R: Rounding>(
    x: &[T; STRIDE],
    out: &mut [T; STRIDE],
    rounding: R,
    scale: R::Scale,
) {
    let mut values = [0.0; STRIDE];
    T::load_block(x, &mut values);
    for value in &mut values {
        *value = rounding.apply(*value, scale);
    }
    T::store_block(&values, out);
}

/// One piece with everything the loop needs.
pub(super) struct PieceLoop<'a, M, R> {
    pub memory: M,
    pub piece: &'a Piece,
    pub block: usize,
    pub amax: Amax<'a>,
    pub rounding: R,
}

impl<M, R: Rounding> PieceLoop<'_, M, R> {
    #[inline(always)]
    fn by_element_type<T: Element>(mut self)
    where
        M: Memory<T>,
    {
        match self.amax {
            Amax::Given(amax) if self.block == 1 => {
                let amax = &amax[self.piece.first_block + self.piece.start..][..self.piece.len];
                self.memory.each(amax, self.rounding);
            }
            Amax::Given(amax) => self.by_blocks(&mut Given(amax)),
            Amax::OfTheRun(largest) if R::SKIPS_NAN => {
                let mut own = Own::<true> { highest: 0 };
                self.by_blocks(&mut own);
                largest.raise(f32::from_bits(own.highest));
            }
            Amax::OfTheRun(largest) => {
                let mut own = Own::<false> { highest: 0 };
                self.by_blocks(&mut own);
                largest.raise(f32::from_bits(own.highest));
            }
        }
    }

    /// One amax per run of elements; common blocks have loops of their own.
    #[inline(always)]
    fn by_blocks<T: Element>(&mut self, amaxes: &mut impl Amaxes)
    where
        M: Memory<T>,
    {
        // Pieces begin with a block where blocks are smaller than pieces, see `pieces::for_each`.
        let (len, first) = (
            self.piece.len,
            self.piece.first_block + self.piece.start / self.block,
        );
        let done = match self.block {
            16 | 32 | 64 | 128 => len / self.block * self.block,
            _ => 0,
        };
        match self.block {
            16 => self.memory.blocks::<16, R>(first, self.rounding, amaxes),
            32 => self.memory.blocks::<32, R>(first, self.rounding, amaxes),
            64 => self.memory.blocks::<64, R>(first, self.rounding, amaxes),
            128 => self.memory.blocks::<128, R>(first, self.rounding, amaxes),
            _ => {}
        }
        for (first, len, position) in pieces::runs_from(self.piece, self.block, done) {
            let amax = amaxes.of(&self.memory.input()[first..first + len], position);
            self.memory
                .run(first, len, self.rounding, self.rounding.scale(amax));
        }
    }
}

impl<T: Element, R: Rounding> Loop for PieceLoop<'_, InPlace<'_, T>, R> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        self.by_element_type::<T>();
    }
}

impl<T: Element, R: Rounding> Loop for PieceLoop<'_, Apart<'_, T>, R> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        self.by_element_type::<T>();
    }
}
