//! The linear relaxation, in which a group may be between two of its candidates.
//!
//! Its optimum walks up the convex hulls of all groups, the steepest edge first, until the capacity is
//! used up (Sinha and Zoltners 1979). Edges up to there are *taken*; the choice they lead to is the *base*
//! of the search.

use super::fixed::Item;

/// Score that falls over cost that grows: both positive, or no slope at all with a score of 0.
#[derive(Clone, Copy, Debug)]
pub struct Slope {
    pub score: i64,
    pub cost: i64,
}

impl Slope {
    pub const FLAT: Self = Self { score: 0, cost: 1 };

    pub fn between(cheap: &Item, dear: &Item) -> Self {
        Self {
            score: cheap.score - dear.score,
            cost: dear.cost - cheap.cost,
        }
    }

    /// By steepness, exactly.
    pub fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        product(self.score, other.cost).cmp(&product(other.score, self.cost))
    }
}

/// Exact.
pub fn product(a: i64, b: i64) -> i128 {
    i128::from(a) * i128::from(b)
}

/// A full choice.
#[derive(Clone, Debug)]
pub struct Choice {
    pub cost: i64,
    pub score: i64,
    /// Index of the candidate, for each group.
    pub choice: Vec<usize>,
}

/// What a choice must reach: less than `target` at a cost of at most `capacity`.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    pub capacity: i64,
    pub target: i64,
}

impl Goal {
    /// What it takes to be better than `best`: a lower score, or the same at a lower cost. Differences of 2 to
    /// the power of `-bits` do not count: where costs and scores are all but proportional, there is no end to them.
    pub fn beyond(best: &Choice, capacity: i64, bits: u32) -> [Self; 2] {
        let score = Self {
            capacity,
            target: best.score - (best.score >> bits),
        };
        let cost = Self {
            capacity: best.cost - (best.cost >> bits) - 1,
            target: best.score + 1,
        };
        [score, cost]
    }
}

/// An edge of the hull of a group.
struct Edge {
    group: usize,
    slope: Slope,
    /// Where it leads to, as a position in the group.
    to: usize,
}

/// The optimum of the relaxation.
pub struct Relaxation<'a> {
    pub groups: &'a [Vec<Item>],
    pub capacity: i64,
    /// Position of the base in each group.
    pub at: Vec<usize>,
    pub cost: i64,
    pub score: i64,
    /// By falling steepness.
    edges: Vec<Edge>,
    /// How many edges are taken.
    taken: usize,
}

impl<'a> Relaxation<'a> {
    pub fn new(groups: &'a [Vec<Item>], capacity: i64) -> Self {
        let mut edges = Vec::new();
        for (group, items) in groups.iter().enumerate() {
            let hull = hull(items);
            edges.extend(hull.windows(2).map(|pair| Edge {
                group,
                slope: Slope::between(&items[pair[0]], &items[pair[1]]),
                to: pair[1],
            }));
        }
        // Stable: within a group slopes fall strictly, and equal ones stay in the order of the groups.
        edges.sort_by(|a, b| b.slope.cmp(&a.slope));
        let mut at = vec![0; groups.len()];
        // Not zero where the cheapest candidates scored too much to be part of an optimum.
        let mut cost: i64 = groups
            .iter()
            .filter_map(|items| items.first())
            .map(|item| item.cost)
            .sum();
        let mut taken = 0;
        for edge in &edges {
            if edge.slope.cost > capacity - cost {
                break;
            }
            cost += edge.slope.cost;
            at[edge.group] = edge.to;
            taken += 1;
        }
        let chosen = groups.iter().zip(&at);
        let score = chosen
            .filter_map(|(items, &at)| items.get(at))
            .map(|item| item.score)
            .sum();
        Self {
            groups,
            capacity,
            at,
            cost,
            score,
            edges,
            taken,
        }
    }

    /// A choice near the optimum: the base, and single exchanges as long as they gain.
    pub fn round(&self) -> Choice {
        let mut at = self.at.clone();
        let (mut cost, mut score) = (self.cost, self.score);
        for _ in 0..ROUNDS {
            let mut best = (score, cost, None);
            for (group, items) in self.groups.iter().enumerate() {
                let Some(from) = items.get(at[group]) else {
                    continue;
                };
                for (to, item) in items.iter().enumerate() {
                    let new = (
                        score + item.score - from.score,
                        cost + item.cost - from.cost,
                    );
                    if new.1 <= self.capacity && new < (best.0, best.1) {
                        best = (new.0, new.1, Some((group, to)));
                    }
                }
            }
            let (new_score, new_cost, Some((group, to))) = best else {
                break;
            };
            (score, cost, at[group]) = (new_score, new_cost, to);
        }
        Choice {
            cost,
            score,
            choice: self.indices(&at),
        }
    }

    /// Indices of the candidates at the positions `at`.
    pub fn indices(&self, at: &[usize]) -> Vec<usize> {
        let index = |(items, &at): (&Vec<Item>, &usize)| items.get(at).map_or(0, |item| item.index);
        self.groups.iter().zip(at).map(index).collect()
    }

    /// Whether a choice that is the base but for `item` of `group` could reach the goal, if all other
    /// groups were relaxed.
    pub fn could_reach(&self, group: usize, item: &Item, goal: Goal) -> bool {
        let Some(from) = self.groups[group].get(self.at[group]) else {
            return false;
        };
        let mut score = self.score + item.score - from.score;
        let mut room = goal.capacity - (self.cost + item.cost - from.cost);
        if room >= 0 {
            for edge in self.edges[self.taken..].iter().filter(|e| e.group != group) {
                let Slope { score: gain, cost } = edge.slope;
                if cost > room {
                    return product(score - goal.target, cost) < product(room, gain);
                }
                room -= cost;
                score -= gain;
            }
            return score < goal.target;
        }
        for edge in self.edges[..self.taken]
            .iter()
            .rev()
            .filter(|e| e.group != group)
        {
            let Slope { score: loss, cost } = edge.slope;
            if score >= goal.target {
                return false;
            }
            if cost >= -room {
                return product(goal.target - score, cost) > product(-room, loss);
            }
            room += cost;
            score += loss;
        }
        false
    }
}

/// Most exchanges.
const ROUNDS: usize = 32;

/// Positions on the lower convex hull, from the cheapest to the one with the least score.
fn hull(items: &[Item]) -> Vec<usize> {
    let mut hull: Vec<usize> = Vec::with_capacity(items.len());
    for (i, item) in items.iter().enumerate() {
        while let [.., before, last] = hull[..] {
            let to_last = Slope::between(&items[before], &items[last]);
            if to_last.cmp(&Slope::between(&items[last], item)).is_gt() {
                break;
            }
            hull.pop();
        }
        hull.push(i);
    }
    hull
}
