//! Sums of float32 values in float64, in an order that their number alone decides: the same bits on every instruction set,
//! for any number of threads, and on a GPU (`cuda/tree_sum.cuh`), where the values of a chunk are added side by side.
//!
//! Value `i` of a chunk goes to lane `i % LANES`, where values are added one after the other; the lanes are added in
//! halves. The sums of chunks are added in the same way.

use super::element::Element;

/// Values that are added side by side: a warp.
pub(crate) const LANES: usize = 32;

/// Values of a chunk, `kSumChunk` of `tree_sum.cuh`.
pub(crate) const CHUNK: usize = 4096;

/// A sum that grows.
#[derive(Clone, Copy)]
pub(crate) struct TreeSum {
    /// Of the chunk that is not whole yet.
    lanes: [f64; LANES],
    /// Of whole chunks.
    chunks: [f64; LANES],
    count: usize,
}

impl TreeSum {
    /// Of nothing.
    pub const EMPTY: Self = Self {
        lanes: [0.0; LANES],
        chunks: [0.0; LANES],
        count: 0,
    };

    /// The sum of some values.
    pub fn of<T: Element>(values: &[T]) -> f64 {
        let mut sum = Self::EMPTY;
        sum.add_all(values);
        sum.total()
    }

    /// Adds values after those before.
    #[inline(always)]
    pub fn add_all<T: Element>(&mut self, values: &[T]) {
        let mut rest = values;
        while self.count.is_multiple_of(LANES)
            && let Some((some, after)) = rest.split_first_chunk::<LANES>()
        {
            for (lane, value) in self.lanes.iter_mut().zip(some) {
                *lane += f64::from(value.load());
            }
            self.count_on(LANES);
            rest = after;
        }
        for value in rest {
            self.lanes[self.count % LANES] += f64::from(value.load());
            self.count_on(1);
        }
    }

    #[inline(always)]
    fn count_on(&mut self, values: usize) {
        self.count += values;
        if self.count.is_multiple_of(CHUNK) {
            self.put_down();
        }
    }

    /// The chunk ends here.
    fn put_down(&mut self) {
        let chunk = (self.count - 1) / CHUNK;
        self.chunks[chunk % LANES] += joined(std::mem::replace(&mut self.lanes, [0.0; LANES]));
    }

    /// The sum, and how many there were.
    pub fn total(mut self) -> f64 {
        if !self.count.is_multiple_of(CHUNK) {
            self.put_down();
        }
        joined(self.chunks)
    }

    /// How many values were added.
    pub fn count(&self) -> usize {
        self.count
    }
}

fn joined(mut lanes: [f64; LANES]) -> f64 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The order by its definition: nothing grows, everything is looked up.
    fn defined(values: &[f32]) -> f64 {
        let lanes_of = |values: &[f64]| {
            let mut lanes = [0.0; LANES];
            for (i, value) in values.iter().enumerate() {
                lanes[i % LANES] += value;
            }
            for half in [16, 8, 4, 2, 1] {
                let (low, high) = lanes.split_at_mut(half);
                low.iter_mut().zip(high).for_each(|(a, b)| *a += *b);
            }
            lanes[0]
        };
        let wide: Vec<f64> = values.iter().copied().map(f64::from).collect();
        let chunks: Vec<f64> = wide.chunks(CHUNK).map(lanes_of).collect();
        lanes_of(&chunks)
    }

    fn noise(count: usize) -> Vec<f32> {
        let value = |i| ((i * 7919 % 100_003) as f32 - 50_001.0) * 1.1e-3;
        (0..count).map(value).collect()
    }

    #[test]
    fn the_order_is_the_defined_one() {
        for count in [0, 1, 31, 32, 33, 4095, 4096, 4097, 9000, 33 * 4096, 140_001] {
            let values = noise(count);
            let sum = TreeSum::of(&values);
            assert_eq!(sum.to_bits(), defined(&values).to_bits(), "{count}");
            let exact: f64 = values.iter().map(|x| f64::from(*x)).sum();
            assert!(
                (sum - exact).abs() <= 1e-6 * count.max(1) as f64,
                "{sum} {exact}"
            );
        }
    }

    proptest! {
        #[test]
        fn the_cut_does_not_matter(cuts in prop::collection::vec(0usize..700, 1..30)) {
            let values = noise(cuts.iter().sum());
            let (mut sum, mut rest) = (TreeSum::EMPTY, &values[..]);
            for cut in cuts {
                let (some, after) = rest.split_at(cut);
                sum.add_all(some);
                rest = after;
            }
            prop_assert_eq!(sum.count(), values.len());
            prop_assert_eq!(sum.total().to_bits(), TreeSum::of(&values).to_bits());
        }
    }
}
