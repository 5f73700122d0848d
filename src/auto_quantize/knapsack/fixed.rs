//! Floats to integers, with as many bits as sums leave room for.

use super::Candidate;

/// Part of a budget by which it is widened: sums of floats are not exact.
const SLACK: f64 = 1e-12;

/// Bits of the largest sum of integers.
const BITS: i32 = 60;

/// Factor by which the largest sum must fall for new integers to be worth it.
const WORTH: f64 = 16.0;

/// A candidate in integers; `cost` and `score` are counted from the least ones of its group.
#[derive(Clone, Copy, Debug)]
pub struct Item {
    pub cost: i64,
    pub score: i64,
    /// Where the candidate is in its group.
    pub index: usize,
}

/// A candidate whose score still waits for its unit.
struct Entry {
    cost: i64,
    score: f64,
    index: usize,
}

/// The candidates that no other of their group dominates, by ascending cost and falling score.
pub struct Problem {
    groups: Vec<Vec<Entry>>,
    /// Greatest sum of costs.
    capacity: i64,
}

impl Problem {
    /// None when the cheapest choice exceeds the budget.
    pub fn new(groups: &[Vec<Candidate>], budget: f64) -> Option<Self> {
        let limit = budget + budget * SLACK;
        let least = super::least_cost(groups);
        if !(0.0..=limit).contains(&least) {
            return None;
        }
        // A budget far above all costs would leave them few bits.
        let largest = |group: &Vec<Candidate>| group.iter().map(|c| c.cost).fold(0.0, f64::max);
        let useful: f64 = groups.iter().map(largest).sum();
        let limit = limit.min(2.0 * useful);
        let shift = BITS - exponent(limit);
        let integer = |cost: f64| times_power(cost, shift).round() as i64;

        let mut spent: i64 = 0;
        let mut reduced = Vec::with_capacity(groups.len());
        for group in groups {
            let cheapest = group.iter().map(|c| c.cost).fold(f64::INFINITY, f64::min);
            spent = spent.saturating_add(integer(cheapest));
            let fits = group.iter().enumerate().filter(|(_, c)| c.cost <= limit);
            let entry = |(index, c): (usize, &Candidate)| Entry {
                cost: integer(c.cost) - integer(cheapest),
                score: c.score,
                index,
            };
            reduced.push(fits.map(entry).collect::<Vec<_>>());
        }
        // The cheapest choice fits, as its sum in floats does.
        let capacity = (times_power(limit, shift).floor() as i64).saturating_sub(spent);
        let capacity = capacity.max(0);
        for group in &mut reduced {
            group.retain(|entry| entry.cost <= capacity);
            drop_dominated(group);
            let least = group.last().map_or(0.0, |entry| entry.score);
            group.iter_mut().for_each(|entry| entry.score -= least);
        }
        Some(Self {
            groups: reduced,
            capacity,
        })
    }

    /// The groups in integers, of which no sum is more than about 2⁶⁰, and the greatest sum of costs.
    pub fn integers(&self) -> (Vec<Vec<Item>>, i64) {
        let (sum, scale) = self.largest_sum();
        let shift = BITS - exponent(sum) - scale;
        let items = |group: &Vec<Entry>| {
            let mut items: Vec<Item> = Vec::with_capacity(group.len());
            for entry in group {
                let score = times_power(entry.score, shift).round() as i64;
                // Two scores may have become one: the cheaper is enough.
                if items.last().is_none_or(|last| score < last.score) {
                    items.push(Item {
                        cost: entry.cost,
                        score,
                        index: entry.index,
                    });
                }
            }
            items
        };
        (self.groups.iter().map(items).collect(), self.capacity)
    }

    /// Drops the candidates whose score alone is more than that of a choice. True when the largest sum of
    /// scores falls so far that new integers are finer.
    pub fn drop_above(&mut self, choice: &[usize]) -> bool {
        let (before, before_scale) = self.largest_sum();
        let mut sum = 0.0;
        for (group, &index) in self.groups.iter().zip(choice) {
            let chosen = group.iter().find(|entry| entry.index == index);
            sum += chosen.map_or(0.0, |entry| times_power(entry.score, -before_scale));
        }
        // Wider than the rounding of the sum.
        let bound = times_power(sum * (1.0 + 1e-9), before_scale);
        for group in &mut self.groups {
            group.retain(|entry| entry.score <= bound);
        }
        let (after, after_scale) = self.largest_sum();
        after > 0.0 && times_power(after, after_scale - before_scale) * WORTH < before
    }

    /// Sum of the largest score of each group, as a float and the power of two it is to be multiplied
    /// with: sums of the largest floats would be infinite.
    fn largest_sum(&self) -> (f64, i32) {
        let first = |group: &Vec<Entry>| group.first().map_or(0.0, |entry| entry.score);
        let scale = exponent(self.groups.iter().map(first).fold(0.0, f64::max));
        let scaled = self.groups.iter().map(|g| times_power(first(g), -scale));
        (scaled.sum(), scale)
    }
}

/// Sorts by cost and keeps what has a lower score than everything cheaper; of equals the first.
fn drop_dominated(group: &mut Vec<Entry>) {
    group.sort_by(|a, b| a.cost.cmp(&b.cost).then(a.score.total_cmp(&b.score)));
    let mut least = f64::INFINITY;
    group.retain(|entry| {
        let better = entry.score < least;
        least = least.min(entry.score);
        better
    });
}

/// The least e with `x < 2^e`, or 0 for zero.
fn exponent(x: f64) -> i32 {
    if x == 0.0 {
        return 0;
    }
    let biased = (x.to_bits() >> 52) as i32 & 0x7ff;
    // Below the normal numbers, the highest bit of the fraction tells.
    if biased == 0 {
        return -1074 + 64 - x.to_bits().leading_zeros() as i32;
    }
    biased - 1022
}

/// `x * 2^e`, in two steps, since the power alone may be beyond the range.
fn times_power(x: f64, e: i32) -> f64 {
    let half = e / 2;
    x * 2f64.powi(half) * 2f64.powi(e - half)
}
