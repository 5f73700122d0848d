//! The groups that are left to choose, in the order of the search.

use super::fixed::Item;
use super::relax::{Goal, Relaxation, Slope, product};

/// A change from the base: another candidate of one group.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    pub cost: i64,
    pub score: i64,
    /// Position in the group.
    pub at: usize,
}

/// A group and what could be changed in it, by ascending cost; one of them is no change.
pub struct Open {
    pub group: usize,
    pub changes: Vec<Change>,
    /// The steepest way to a lower score.
    up: Slope,
    /// The flattest way to a lower cost.
    down: Option<Slope>,
    /// How far the cost can fall.
    fall: i64,
}

/// A bound of what groups can still change.
#[derive(Clone, Copy, Debug)]
pub struct Rest {
    up: Slope,
    down: Option<Slope>,
    fall: i64,
}

impl Rest {
    const NONE: Self = Self {
        up: Slope::FLAT,
        down: None,
        fall: 0,
    };

    fn and(self, open: &Open) -> Self {
        let up = if open.up.cmp(&self.up).is_gt() {
            open.up
        } else {
            self.up
        };
        let down = match (self.down, open.down) {
            (Some(a), Some(b)) => Some(if b.cmp(&a).is_lt() { b } else { a }),
            (a, b) => a.or(b),
        };
        Self {
            up,
            down,
            fall: self.fall + open.fall,
        }
    }

    /// Whether a state of this cost and score could reach the goal, if the rest had its best slopes
    /// without end.
    #[inline]
    pub fn could_reach(&self, cost: i64, score: i64, goal: Goal) -> bool {
        if cost <= goal.capacity {
            return product(score - goal.target, self.up.cost)
                < product(goal.capacity - cost, self.up.score);
        }
        let over = cost - goal.capacity;
        let Some(down) = self.down else {
            return false;
        };
        over <= self.fall && product(goal.target - score, down.cost) > product(over, down.score)
    }
}

/// The groups with more than one candidate that could be part of a better choice, those near the slope
/// of the relaxation first.
pub fn order(relaxation: &Relaxation, goals: [Goal; 2]) -> Vec<Open> {
    let mut open: Vec<Option<Open>> = Vec::new();
    for (group, items) in relaxation.groups.iter().enumerate() {
        open.extend(Open::new(relaxation, group, items, goals).map(Some));
    }
    let slopes = |i: &usize| open[*i].as_ref().map(|open| (open.up, open.down));
    let mut up: Vec<usize> = (0..open.len()).collect();
    let mut down = up.clone();
    let steepness = |i: &usize| slopes(i).map_or(Slope::FLAT, |(up, _)| up);
    up.sort_by(|a, b| steepness(b).cmp(&steepness(a)));
    down.retain(|i| slopes(i).is_some_and(|(_, down)| down.is_some()));
    let flatness = |i: &usize| slopes(i).and_then(|(_, down)| down).unwrap_or(Slope::FLAT);
    down.sort_by(|a, b| flatness(a).cmp(&flatness(b)));
    let mut order = Vec::with_capacity(open.len());
    let mut down = down.into_iter();
    for i in up {
        order.extend(open[i].take());
        if let Some(i) = down.next() {
            order.extend(open[i].take());
        }
    }
    order
}

/// For each group of an order, what the groups after it can still change.
pub fn rests(order: &[Open]) -> Vec<Rest> {
    let mut rests = Vec::with_capacity(order.len());
    let mut rest = Rest::NONE;
    for open in order.iter().rev() {
        rests.push(rest);
        rest = rest.and(open);
    }
    rests.reverse();
    rests
}

impl Open {
    /// None when nothing of the group is worth a change.
    fn new(
        relaxation: &Relaxation,
        group: usize,
        items: &[Item],
        goals: [Goal; 2],
    ) -> Option<Self> {
        let base_at = relaxation.at[group];
        let base = items.get(base_at)?;
        let mut open = Self {
            group,
            changes: Vec::with_capacity(items.len()),
            up: Slope::FLAT,
            down: None,
            fall: 0,
        };
        for (at, item) in items.iter().enumerate() {
            let could_reach = |goal: &Goal| relaxation.could_reach(group, item, *goal);
            if at != base_at && !goals.iter().any(could_reach) {
                continue;
            }
            open.changes.push(Change {
                cost: item.cost - base.cost,
                score: item.score - base.score,
                at,
            });
            if at < base_at {
                let slope = Slope::between(item, base);
                open.fall = open.fall.max(slope.cost);
                if open.down.is_none_or(|down| slope.cmp(&down).is_lt()) {
                    open.down = Some(slope);
                }
            }
            if at > base_at {
                let slope = Slope::between(base, item);
                if slope.cmp(&open.up).is_gt() {
                    open.up = slope;
                }
            }
        }
        (open.changes.len() > 1).then_some(open)
    }
}
