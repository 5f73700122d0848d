//! Who of several taps is listened to, and how much passed each of them.
//!
//! Layers that are declared to read the same activation pass it through a tap each. One of them is
//! enough: whichever comes first in a pass leads, and the others are only counted.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

use crate::tensor::Shape;

/// The taps of one activation.
#[derive(Debug)]
pub struct Gate {
    /// Position of the leading tap.
    leader: AtomicUsize,
    /// For every tap, the tokens that passed it.
    tokens: Vec<AtomicU64>,
}

const NOBODY: usize = usize::MAX;

impl Gate {
    /// A gate of so many taps.
    pub fn new(taps: usize) -> Self {
        Self {
            leader: AtomicUsize::new(NOBODY),
            tokens: (0..taps).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Counts the tokens that pass a tap, and says whether it is the one to listen to.
    pub fn hears(&self, tap: usize, tokens: u64) -> bool {
        self.tokens[tap].fetch_add(tokens, SeqCst);
        let first = self
            .leader
            .compare_exchange(NOBODY, tap, SeqCst, SeqCst)
            .unwrap_or_else(|leader| leader);
        first == NOBODY || first == tap
    }

    /// Tokens that passed the taps, in order.
    pub fn tokens(&self) -> Vec<u64> {
        self.tokens.iter().map(|t| t.load(SeqCst)).collect()
    }
}

/// Rows of the last axis; a tensor of rank 0 is one.
pub fn tokens(shape: &Shape) -> u64 {
    let channels = shape.dims().last().copied().unwrap_or(1);
    (shape.count() / channels.max(1)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_tap_leads_and_all_are_counted() {
        let gate = Gate::new(3);
        assert!(gate.hears(1, 4));
        assert!(!gate.hears(0, 4));
        assert!(gate.hears(1, 4));
        assert_eq!(gate.tokens(), [4, 8, 0]);
    }

    #[test]
    fn tokens_are_the_rows_of_the_last_axis() {
        let of = |extents: &[usize]| tokens(&Shape::new(extents).expect("small"));
        assert_eq!(of(&[2, 3, 5]), 6);
        assert_eq!(of(&[5]), 1);
        assert_eq!(of(&[]), 1);
        assert_eq!(of(&[0, 5]), 0);
        assert_eq!(of(&[4, 0]), 0);
    }
}
