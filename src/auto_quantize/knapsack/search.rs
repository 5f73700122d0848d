//! The search: the states of the first groups of the order, each with all others at the base.
//!
//! A state that costs no less and scores no less than another goes, and one whose bound does not reach a
//! goal. What is left is empty soon after the best choice is found.
//!
//! Memory: lists over [`MOST`] states are cut into pieces that are searched one after the other, in
//! pieces of half the size each time this happens again. So for n groups of k candidates there are at
//! most about `2 k MOST + n k LEAST` states and `TRACED + n k LEAST` steps.

use super::core::{Change, Open, Rest, order, rests};
use super::relax::{Choice, Goal, Relaxation};

/// States of a list before it is cut.
const MOST: usize = 1 << 18;

/// States of the smallest piece that is cut.
const LEAST: usize = 1 << 8;

/// Bits of the differences that count, as long as that is no trouble.
pub const BITS: u32 = 40;

/// States that are looked at before differences count less, by [`FEWER`] bits, and so on: about a second.
pub const PATIENCE: u64 = 1 << 24;
const FEWER: u32 = 4;

/// Steps from which on pieces are the smallest.
const TRACED: usize = 1 << 23;

/// A choice for the groups so far, the others being at the base.
#[derive(Clone, Copy, Debug)]
struct State {
    cost: i64,
    score: i64,
    /// Its last step, or [`ROOT`].
    step: usize,
}

/// How a state came to be.
#[derive(Clone, Copy, Debug)]
struct Step {
    before: usize,
    group: u32,
    at: u32,
}

const ROOT: usize = usize::MAX;

/// States that wait for the groups from `depth` on.
struct Piece {
    states: Vec<State>,
    depth: usize,
    /// Steps of the states, after which those of finished pieces follow.
    steps: usize,
    most: usize,
}

/// The best choice, given one to begin with, and the bits of the differences that counted.
pub fn run(relaxation: &Relaxation, start: Choice, patience: u64) -> (Choice, u32) {
    let goals = Goal::beyond(&start, relaxation.capacity, BITS);
    let order = order(relaxation, goals);
    let rests = rests(&order);
    let mut search = Search {
        relaxation,
        best: start,
        steps: Vec::new(),
        bits: BITS,
        bits_after: patience,
        patience,
    };
    let root = State {
        cost: relaxation.cost,
        score: relaxation.score,
        step: ROOT,
    };
    let mut waiting = vec![Piece {
        states: vec![root],
        depth: 0,
        steps: 0,
        most: MOST,
    }];
    while let Some(piece) = waiting.pop() {
        search.steps.truncate(piece.steps);
        let Some((open, rest)) = order.get(piece.depth).zip(rests.get(piece.depth)) else {
            continue;
        };
        let states = search.expand(&piece.states, open, rest);
        search.note(&states);
        let most = if search.steps.len() > TRACED {
            LEAST
        } else {
            piece.most
        };
        let steps = search.steps.len();
        let depth = piece.depth + 1;
        if states.len() <= most {
            let most = piece.most;
            waiting.extend((!states.is_empty()).then_some(Piece {
                states,
                depth,
                steps,
                most,
            }));
            continue;
        }
        let most = (most / 2).max(LEAST);
        waiting.extend(states.chunks(most).map(|states| Piece {
            states: states.to_vec(),
            depth,
            steps,
            most,
        }));
    }
    (search.best, search.bits)
}

struct Search<'a> {
    relaxation: &'a Relaxation<'a>,
    best: Choice,
    steps: Vec<Step>,
    /// Of the differences that count.
    bits: u32,
    /// States to look at before they become fewer, and those that are left of them.
    bits_after: u64,
    patience: u64,
}

impl Search<'_> {
    /// The states with each change of a group that could still be better than the best, by ascending cost
    /// and falling score.
    fn expand(&mut self, states: &[State], open: &Open, rest: &Rest) -> Vec<State> {
        let seen = (states.len() * open.changes.len()) as u64;
        match self.patience.checked_sub(seen) {
            Some(left) => self.patience = left,
            None => {
                self.patience = self.bits_after;
                self.bits = self.bits.saturating_sub(FEWER).max(FEWER);
            }
        }
        let goals = Goal::beyond(&self.best, self.relaxation.capacity, self.bits);
        let mut heads = vec![0; open.changes.len()];
        let mut out: Vec<State> = Vec::with_capacity(states.len());
        let mut least = i64::MAX;
        // Each change alone keeps the order of the states: a merge of so many lists.
        while let Some((which, cost, score)) = next(states, &open.changes, &heads) {
            let head = &mut heads[which];
            let before = states[*head].step;
            *head += 1;
            if score >= least
                || !goals
                    .iter()
                    .any(|&goal| rest.could_reach(cost, score, goal))
            {
                continue;
            }
            least = score;
            let change = &open.changes[which];
            let step = if change.cost == 0 {
                before
            } else {
                self.steps.push(Step {
                    before,
                    group: open.group as u32,
                    at: change.at as u32,
                });
                self.steps.len() - 1
            };
            out.push(State { cost, score, step });
        }
        out
    }

    /// Takes the best of the states that fit.
    fn note(&mut self, states: &[State]) {
        let fit = states.partition_point(|state| state.cost <= self.relaxation.capacity);
        let Some(state) = states[..fit].last() else {
            return;
        };
        if (state.score, state.cost) < (self.best.score, self.best.cost) {
            let mut at = self.relaxation.at.clone();
            let mut step = state.step;
            while let Some(&Step {
                before,
                group,
                at: to,
            }) = self.steps.get(step)
            {
                at[group as usize] = to as usize;
                step = before;
            }
            self.best = Choice {
                cost: state.cost,
                score: state.score,
                choice: self.relaxation.indices(&at),
            };
        }
    }
}

/// Least of the next states of all changes by cost, then by score, then the first.
#[inline]
fn next(states: &[State], changes: &[Change], heads: &[usize]) -> Option<(usize, i64, i64)> {
    let mut least: Option<(usize, i64, i64)> = None;
    for (which, (change, &head)) in changes.iter().zip(heads).enumerate() {
        let Some(state) = states.get(head) else {
            continue;
        };
        let (cost, score) = (state.cost + change.cost, state.score + change.score);
        if least.is_none_or(|(_, c, s)| (cost, score) < (c, s)) {
            least = Some((which, cost, score));
        }
    }
    least
}
