//! The multiple-choice knapsack problem: one candidate for each group, the least total score within a
//! budget of cost, solved to the proven optimum.
//!
//! | file | job |
//! |---|---|
//! | `fixed` | floats to integers: sums that no order of additions changes |
//! | `relax` | the linear relaxation: where to begin, and which candidates cannot be part of an optimum |
//! | `core` | the groups in the order of the search, and the bound of what is left of them |
//! | `search` | the states of the groups so far, until nothing is left that could be better |
//!
//! Candidates that others dominate go first (Sinha and Zoltners, "The multiple-choice knapsack problem",
//! Operations Research 27, 1979). The linear relaxation is the greedy choice along the convex hulls of
//! the groups (ibid.; Dyer, Mathematical Programming 29, 1984, and Zemel, Information Processing Letters
//! 18, 1984, in linear time: here by sorting). It leaves one group between two candidates; the search
//! begins at that group and takes in others by how near their slopes are to its own, as few as the proof
//! needs (Pisinger, "A minimal algorithm for the multiple-choice knapsack problem", European Journal of
//! Operational Research 83, 1995).
//!
//! Scores and costs are integers inside: multiples of 2⁻⁶⁰ or less of the sum of the largest ones that
//! could matter. So sums are exact, and every comparison of a bound is one of products of integers: no
//! rounding cuts off an optimum.
//!
//! *Optimal* means: no choice within the budget has a score that is less by more than 1e-12 of it, and none
//! of that score or less has a cost less by more than 1e-12. Here a score counts from the sum of the
//! least scores of the groups, a cost from the sum of the least costs, and a budget is widened by 1e-12 of
//! itself. Of groups with equal candidates, the earlier take the lower indices. Choices that are equal in
//! all that are told apart by the order of the search, which depends on nothing but the groups and the
//! budget. Scores times a power of two give the same choice; any other factor rounds them.
//!
//! Time: milliseconds for a thousand groups. Instances made to be hard (scores that are all but proportional to costs,
//! over hundreds of groups) would take exponential time: after some ten million states, smaller and smaller
//! differences stop to count, and the solution says how much it could be off ([`Solution::gap`]). Memory: see `search`.

mod core;
mod fixed;
mod relax;
mod search;
#[cfg(test)]
mod tests;

use fixed::Problem;
use relax::Relaxation;

/// One format for one group. Both are finite and not negative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// What it takes of the budget.
    pub cost: f64,
    /// What it adds to the sum that is made small.
    pub score: f64,
}

/// One candidate for each group.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// Index of the candidate, for each group.
    pub choice: Vec<usize>,
    /// Sum of the costs, added in the order of the groups.
    pub cost: f64,
    /// Sum of the scores, added in the order of the groups.
    pub score: f64,
    /// How much lower a score could be, relative to it: 1e-12, or more for an instance that is too hard.
    pub gap: f64,
}

/// The choice of one candidate for each group with the least total score among those whose total cost is
/// at most `budget`, and of those the one with the least cost. None when even the cheapest exceeds it, or
/// a group has no candidate.
pub fn solve(groups: &[Vec<Candidate>], budget: f64) -> Option<Solution> {
    solve_within(groups, budget, search::PATIENCE)
}

fn solve_within(groups: &[Vec<Candidate>], budget: f64, patience: u64) -> Option<Solution> {
    let mut problem = Problem::new(groups, budget)?;
    loop {
        let (groups_left, capacity) = problem.integers();
        let relaxation = Relaxation::new(&groups_left, capacity);
        let start = relaxation.round();
        // What is known to be too high goes, and with it the need for integers that reach so far.
        if problem.drop_above(&start.choice) {
            continue;
        }
        let (best, bits) = search::run(&relaxation, start, patience);
        if bits == search::BITS && problem.drop_above(&best.choice) {
            continue;
        }
        let mut choice = best.choice;
        lowest_first(groups, &mut choice);
        return Some(total(groups, choice, (-f64::from(bits)).exp2()));
    }
}

/// Least cost with any choice.
pub fn least_cost(groups: &[Vec<Candidate>]) -> f64 {
    let least = |group: &Vec<Candidate>| group.iter().map(|c| c.cost).fold(f64::INFINITY, f64::min);
    groups.iter().map(least).sum()
}

/// The least score against the cost: the solutions for `points` budgets, spread evenly from the least cost
/// to the least one at which the score cannot fall any more, both included. Each has a higher cost and a
/// lower score than the one before it: budgets that gain nothing are left out.
pub fn curve(groups: &[Vec<Candidate>], points: usize) -> Vec<Solution> {
    let least = least_cost(groups);
    let useful: f64 = groups.iter().map(|group| useful_cost(group)).sum();
    // Not more for all of it than for a few.
    let patience = search::PATIENCE / 16;
    let mut curve: Vec<Solution> = Vec::new();
    for i in 0..points {
        let budget = if i + 1 == points && i > 0 {
            useful
        } else {
            least + (useful - least) * (i as f64 / (points - 1).max(1) as f64)
        };
        let Some(solution) = solve_within(groups, budget, patience) else {
            continue;
        };
        if curve.last().is_none_or(|last| solution.score < last.score) {
            curve.push(solution);
        }
    }
    curve
}

/// Cost of the cheapest candidate with the least score.
fn useful_cost(group: &[Candidate]) -> f64 {
    let order = |a: &&Candidate, b: &&Candidate| {
        (a.score.total_cmp(&b.score)).then(a.cost.total_cmp(&b.cost))
    };
    group.iter().min_by(order).map_or(0.0, |least| least.cost)
}

/// Gives the indices chosen in groups with equal candidates to these groups in ascending order.
fn lowest_first(groups: &[Vec<Candidate>], choice: &mut [usize]) {
    let bits = |i: usize| {
        let group = groups[i].iter();
        group.map(|c| (c.cost.to_bits(), c.score.to_bits()))
    };
    let mut order: Vec<usize> = (0..groups.len()).collect();
    order.sort_by(|&a, &b| bits(a).cmp(bits(b)));
    for same in order.chunk_by(|&a, &b| groups[a] == groups[b]) {
        let mut chosen: Vec<usize> = same.iter().map(|&i| choice[i]).collect();
        chosen.sort_unstable();
        for (&i, index) in same.iter().zip(chosen) {
            choice[i] = index;
        }
    }
}

fn total(groups: &[Vec<Candidate>], choice: Vec<usize>, gap: f64) -> Solution {
    let (mut cost, mut score) = (0.0, 0.0);
    for (group, &index) in groups.iter().zip(&choice) {
        cost += group[index].cost;
        score += group[index].score;
    }
    Solution {
        choice,
        cost,
        score,
        gap,
    }
}
