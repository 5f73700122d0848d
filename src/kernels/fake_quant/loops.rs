//! The loop over one piece, written so that everything in it is inlined: what a closure or an iterator
//! adapter keeps for itself would be compiled for the baseline instruction set.
//!
//! Elements go through a few registers at a time: a stretch is loaded whole, rounded, and stored. So one
//! loop serves both in place and apart, free of aliasing.

use super::super::absmax;
use super::super::element::Element;
use super::super::isa::Loop;
use super::super::pieces::{self, Piece};
use super::{Amax, Rounding};

/// How the loops get the amax of a run of elements.
trait Amaxes {
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
struct Own {
    highest: u32,
    skips_nan: bool,
}

impl Amaxes for Own {
    #[inline(always)]
    fn of<T: Element>(&mut self, run: &[T], _: usize) -> f32 {
        let mut magnitude = absmax::magnitude(run);
        if self.skips_nan && magnitude > T::INFINITY {
            magnitude = absmax::magnitude_without_nan(run);
        }
        let amax = T::from_magnitude(magnitude);
        self.highest = self.highest.max(amax.magnitude());
        amax
    }
}

/// Elements that share a scale go in strides of this many, where blocks are not of a common length.
const STRIDE: usize = 64;

/// One piece with everything the loop needs.
pub(super) struct PieceLoop<'a, T, R> {
    /// First element of the piece.
    pub x: *const T,
    /// Where the first result goes: the same memory, or apart.
    pub out: *mut T,
    pub piece: &'a Piece,
    pub block: usize,
    pub amax: Amax<'a>,
    pub rounding: R,
}

impl<T: Element, R: Rounding> Loop for PieceLoop<'_, T, R> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        match self.amax {
            Amax::OfTheRun(largest) => {
                let mut own = Own {
                    highest: 0,
                    skips_nan: R::FINDS_SCALE,
                };
                self.by_blocks(&mut own);
                largest.raise(f32::from_bits(own.highest));
            }
            // `super::run` refuses formats that find their own scales.
            Amax::Given(_) if R::FINDS_SCALE => {}
            Amax::Given(amax) if self.block == 1 => {
                self.each(&amax[self.piece.first_block + self.piece.start..][..self.piece.len]);
            }
            Amax::Given(amax) => self.by_blocks(&mut Given(amax)),
        }
    }
}

impl<T: Element, R: Rounding> PieceLoop<'_, T, R> {
    /// One amax per run of elements; common blocks have loops of their own, without a remainder.
    #[inline(always)]
    fn by_blocks(&self, amaxes: &mut impl Amaxes) {
        // Pieces begin with a block where blocks are smaller than pieces, see `pieces::for_each`.
        let done = match self.block {
            16 => self.blocks::<16>(amaxes),
            32 => self.blocks::<32>(amaxes),
            // Formats that find their own scales have no longer blocks.
            128 if !R::FINDS_SCALE => self.blocks::<128>(amaxes),
            _ => 0,
        };
        for (first, len, position) in pieces::runs_from(self.piece, self.block, done) {
            // SAFETY: the run lies within the piece.
            let run = unsafe { std::slice::from_raw_parts(self.x.add(first), len) };
            let scale = self.rounding.scale(amaxes.of(run, position));
            let mut i = first;
            while i + STRIDE <= first + len {
                self.stretch(i, self.load::<STRIDE>(i), scale);
                i += STRIDE;
            }
            for i in i..first + len {
                self.one(i, scale);
            }
        }
    }

    /// The blocks of `B` elements that lie whole in the piece; returns how many elements that are.
    #[inline(always)]
    fn blocks<const B: usize>(&self, amaxes: &mut impl Amaxes) -> usize {
        let first = self.piece.first_block + self.piece.start / B;
        let count = self.piece.len / B;
        for i in 0..count {
            let values = self.load::<B>(i * B);
            let scale = self.rounding.scale(amaxes.of(&values, first + i));
            self.stretch(i * B, values, scale);
        }
        count * B
    }

    /// All elements, each under its own amax.
    #[inline(always)]
    fn each(&self, amax: &[f32]) {
        let (strides, rest) = amax.as_chunks::<STRIDE>();
        for (i, amax) in strides.iter().enumerate() {
            let mut values = self.load::<STRIDE>(i * STRIDE);
            for (value, amax) in values.iter_mut().zip(amax) {
                *value = self.rounding.apply(*value, self.rounding.scale(*amax));
            }
            self.store(i * STRIDE, &values);
        }
        for (i, amax) in rest.iter().enumerate() {
            self.one(strides.len() * STRIDE + i, self.rounding.scale(*amax));
        }
    }

    /// The loaded elements from `first` on, under one scale.
    #[inline(always)]
    fn stretch<const N: usize>(&self, first: usize, mut values: [f32; N], scale: R::Scale) {
        for value in &mut values {
            *value = self.rounding.apply(*value, scale);
        }
        self.store(first, &values);
    }

    #[inline(always)]
    fn one(&self, i: usize, scale: R::Scale) {
        // SAFETY: `i` lies within the piece; the value is read before it is written.
        unsafe {
            let value = self.x.add(i).read().load();
            self.out
                .add(i)
                .write(T::store(self.rounding.apply(value, scale)));
        }
    }

    #[inline(always)]
    fn load<const N: usize>(&self, first: usize) -> [f32; N] {
        assert!(first + N <= self.piece.len);
        let mut values = [0.0; N];
        // SAFETY: within the piece (asserted); the reference ends before anything is stored.
        T::load_block(unsafe { &*self.x.add(first).cast::<[T; N]>() }, &mut values);
        values
    }

    #[inline(always)]
    fn store<const N: usize>(&self, first: usize, values: &[f32; N]) {
        assert!(first + N <= self.piece.len);
        // SAFETY: within the piece (asserted); no other reference to it is alive.
        T::store_block(values, unsafe {
            &mut *self.out.add(first).cast::<[T; N]>()
        });
    }
}
