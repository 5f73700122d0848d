//! Against every choice, against the plain list of undominated states, against the relaxation.

use super::*;
use proptest::prelude::*;

fn group(candidates: &[(f64, f64)]) -> Vec<Candidate> {
    let candidate = |&(cost, score): &(f64, f64)| Candidate { cost, score };
    candidates.iter().map(candidate).collect()
}

fn within(cost: f64, budget: f64) -> bool {
    cost <= budget * (1.0 + 1e-12)
}

/// The best of all choices; of equals the first that counts up to.
fn every_choice(groups: &[Vec<Candidate>], budget: f64) -> Option<Solution> {
    let mut best: Option<Solution> = None;
    let mut choice = vec![0; groups.len()];
    loop {
        let solution = total(groups, choice.clone(), 0.0);
        let key = |s: &Solution| (s.score, s.cost);
        if within(solution.cost, budget) && best.as_ref().is_none_or(|b| key(&solution) < key(b)) {
            best = Some(solution);
        }
        let Some(i) = (0..groups.len())
            .rev()
            .find(|&i| choice[i] + 1 < groups[i].len())
        else {
            return best;
        };
        choice[i] += 1;
        choice[i + 1..].fill(0);
    }
}

/// All undominated states, without any bound: cost and score.
fn every_state(groups: &[Vec<Candidate>], budget: f64) -> (f64, f64) {
    let mut states = vec![(0.0, 0.0)];
    for group in groups {
        let mut next: Vec<(f64, f64)> = Vec::new();
        for c in group {
            let reach = states
                .iter()
                .map(|&(cost, score)| (cost + c.cost, score + c.score));
            next.extend(reach.filter(|&(cost, _)| cost <= budget));
        }
        next.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let mut least = f64::INFINITY;
        next.retain(|&(_, score)| {
            let better = score < least;
            least = least.min(score);
            better
        });
        states = next;
    }
    *states.last().expect("the budget is enough")
}

/// Least score of the linear relaxation, in floats.
fn bound(groups: &[Vec<Candidate>], budget: f64) -> f64 {
    let mut edges: Vec<(f64, f64)> = Vec::new();
    let (mut cost, mut score) = (0.0, 0.0);
    for group in groups {
        let mut sorted = group.clone();
        sorted.sort_by(|a, b| a.cost.total_cmp(&b.cost).then(a.score.total_cmp(&b.score)));
        let mut at = sorted[0];
        (cost, score) = (cost + at.cost, score + at.score);
        loop {
            let slope = |c: &Candidate| (at.score - c.score) / (c.cost - at.cost);
            let below = sorted
                .iter()
                .filter(|c| c.cost > at.cost && c.score < at.score);
            let Some(next) = below.max_by(|a, b| slope(a).total_cmp(&slope(b))) else {
                break;
            };
            edges.push((next.cost - at.cost, at.score - next.score));
            at = *next;
        }
    }
    edges.sort_by(|a, b| (b.1 / b.0).total_cmp(&(a.1 / a.0)));
    for (width, gain) in edges {
        let part = ((budget - cost) / width).clamp(0.0, 1.0);
        (cost, score) = (cost + part * width, score - part * gain);
    }
    score
}

struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn groups(
        &mut self,
        count: usize,
        mut group: impl FnMut(&mut Self) -> Vec<(f64, f64)>,
    ) -> Vec<Vec<Candidate>> {
        (0..count).map(|_| self::group(&group(self))).collect()
    }
}

/// Formats of 3 to 16 bits, with an error that falls fourfold for each bit.
fn formats(random: &mut Random, size: f64) -> Vec<(f64, f64)> {
    let sensitivity = random.unit() * random.unit() * 10.0;
    let score = |bits: f64, noise: f64| sensitivity * size * (0.5 + noise) * 0.25f64.powf(bits);
    let mut formats: Vec<(f64, f64)> = [3.0, 4.0, 4.5, 6.0, 8.0]
        .iter()
        .map(|&bits| (size * bits / 16.0, score(bits, random.unit())))
        .collect();
    formats.push((size, 0.0));
    formats
}

fn budget_at(groups: &[Vec<Candidate>], part: f64) -> f64 {
    let least = least_cost(groups);
    let most: f64 = groups.iter().map(|group| useful_cost(group)).sum();
    least + (most - least) * part
}

fn scaled(groups: &[Vec<Candidate>], factor: f64) -> Vec<Vec<Candidate>> {
    let times = |c: &Candidate| Candidate {
        score: c.score * factor,
        ..*c
    };
    groups
        .iter()
        .map(|group| group.iter().map(times).collect())
        .collect()
}

fn few() -> impl Strategy<Value = Vec<Vec<Candidate>>> {
    let integers = (0..7u32, 0..7u32).prop_map(|(cost, score)| (f64::from(cost), f64::from(score)));
    let floats = (0.0..3.0f64, 0.0..3.0f64);
    let pair = prop_oneof![3 => integers, 1 => floats, 1 => Just((0.0, 0.0)), 1 => (0.0..1e9f64, 0.0..1e-9f64)];
    prop::collection::vec(prop::collection::vec(pair, 1..=4), 0..=7)
        .prop_map(|groups| groups.iter().map(|g| group(g)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_choice_is_better(groups in few(), part in -0.1..1.2f64, round in any::<bool>()) {
        let mut budget = budget_at(&groups, part);
        if round {
            budget = budget.round();
        }
        let (found, best) = (solve(&groups, budget), every_choice(&groups, budget));
        prop_assert_eq!(found.is_some(), best.is_some());
        if let (Some(found), Some(best)) = (found, best) {
            prop_assert!(within(found.cost, budget));
            prop_assert!((found.score - best.score).abs() <= 1e-12 * best.score, "{found:?} {best:?}");
            if found.score == best.score {
                prop_assert!(found.cost <= best.cost * (1.0 + 1e-12), "{found:?} {best:?}");
            }
        }
    }

    #[test]
    fn small_integers_tie_exactly(
        groups in prop::collection::vec(prop::collection::vec((0..6u32, 0..6u32), 1..=4), 1..=6),
        budget in 0..25u32,
    ) {
        let pairs = |g: &Vec<(u32, u32)>| g.iter().map(|&(c, s)| (f64::from(c), f64::from(s))).collect::<Vec<_>>();
        let groups: Vec<_> = groups.iter().map(|g| group(&pairs(g))).collect();
        let key = |s: Option<Solution>| s.map(|s| (s.score, s.cost));
        let budget = f64::from(budget);
        prop_assert_eq!(key(solve(&groups, budget)), key(every_choice(&groups, budget)));
    }

    #[test]
    fn the_scale_of_scores_does_not_matter(seed in any::<u64>(), part in 0.0..1.0f64) {
        let mut random = Random(seed);
        let groups = random.groups(40, |random| {
            let size = 1.0 + random.unit();
            formats(random, size)
        });
        let budget = budget_at(&groups, part);
        let choice = solve(&groups, budget).expect("feasible").choice;
        for factor in [1e-18, 1e18, 2f64.powi(-60), 1e-300, 1e300] {
            let other = solve(&scaled(&groups, factor), budget).expect("feasible");
            prop_assert_eq!(&other.choice, &choice, "{}", factor);
        }
    }

    #[test]
    fn a_larger_budget_never_scores_more(groups in few(), parts in prop::array::uniform2(0.0..1.1f64)) {
        let [a, b] = parts;
        let small = solve(&groups, budget_at(&groups, a.min(b))).expect("feasible");
        let large = solve(&groups, budget_at(&groups, a.max(b))).expect("feasible");
        prop_assert!(large.score <= small.score * (1.0 + 1e-12));
    }

    #[test]
    fn a_cost_that_was_reached_is_a_budget(groups in few(), part in 0.0..1.1f64) {
        let first = solve(&groups, budget_at(&groups, part)).expect("feasible");
        let again = solve(&groups, first.cost).expect("reached");
        prop_assert!(again.score <= first.score * (1.0 + 1e-12));
    }
}

#[test]
fn the_least_cost_is_a_budget_and_less_is_not() {
    let groups = Random(1).groups(1000, |random| formats(random, 0.1));
    let least = least_cost(&groups);
    assert_eq!(solve(&groups, least).expect("reached").cost, least);
    assert_eq!(solve(&groups, least * (1.0 - 1e-11)), None);
    assert_eq!(solve(&groups, f64::NAN), None);
    assert_eq!(solve(&groups, -1.0), None);
    assert_eq!(solve(&[Vec::new()], 1.0), None);
}

#[test]
fn no_groups_cost_nothing() {
    let nothing = Solution {
        choice: Vec::new(),
        cost: 0.0,
        score: 0.0,
        gap: (-40f64).exp2(),
    };
    assert_eq!(solve(&[], 0.0), Some(nothing.clone()));
    assert_eq!(solve(&[], f64::INFINITY), Some(nothing.clone()));
    assert_eq!(curve(&[], 3), [nothing]);
}

#[test]
fn unlimited_budget_takes_the_cheapest_of_the_least_scores() {
    let groups = vec![
        group(&[(1.0, 5.0), (9.0, 1.0), (3.0, 1.0)]),
        group(&[(0.0, 0.0), (0.0, 0.0)]),
    ];
    for budget in [3.0, 1e300, f64::MAX, f64::INFINITY] {
        assert_eq!(solve(&groups, budget).expect("feasible").choice, [2, 0]);
    }
}

#[test]
fn extremes_of_floats_do_not_overflow() {
    let tiny = f64::from_bits(1);
    let groups = vec![
        group(&[
            (0.0, f64::MAX),
            (f64::MAX / 8.0, tiny),
            (f64::MAX / 4.0, 0.0),
        ]),
        group(&[(tiny, f64::MAX), (1.0, 0.0)]),
        group(&[(0.0, 1e30), (1.0, 1e-30)]),
    ];
    assert_eq!(
        solve(&groups, f64::MAX / 8.0).expect("feasible").choice,
        [1, 1, 1]
    );
    assert_eq!(solve(&groups, 2.0).expect("feasible").choice, [0, 1, 1]);
}

/// A score that no choice can avoid at first sight must not blunt the rest.
#[test]
fn small_scores_count_beside_large_ones_that_can_be_avoided() {
    let small = |s: f64| vec![(1.0, 3.0 * s), (2.0, 2.0 * s), (3.0, 0.0)];
    let mut groups = vec![group(&[(0.0, 1e30), (5.0, 0.0)])];
    groups.extend([1e-9, 1.1e-9, 1.2e-9].map(|s| group(&small(s))));
    let found = solve(&groups, 12.0).expect("feasible");
    assert_eq!(
        found.choice,
        every_choice(&groups, 12.0).expect("feasible").choice
    );
}

#[test]
fn equal_groups_take_lower_indices_first() {
    let groups = vec![group(&[(2.0, 0.0), (1.0, 1.0)]); 5];
    assert_eq!(
        solve(&groups, 8.0).expect("feasible").choice,
        [0, 0, 0, 1, 1]
    );
}

#[test]
fn sixty_groups_of_integer_costs_agree_with_every_state() {
    for seed in 0..20 {
        let groups = Random(seed).groups(60, |random| {
            let size = (1.0 + random.unit() * 20.0).floor() * 16.0;
            formats(random, size)
        });
        for part in [0.02, 0.3, 0.5, 0.9] {
            let budget = budget_at(&groups, part).floor();
            let found = solve(&groups, budget).expect("feasible");
            let (_, score) = every_state(&groups, budget);
            assert!(
                (found.score - score).abs() <= 1e-12 * score,
                "{} {score}",
                found.score
            );
        }
    }
}

/// Families of a thousand groups. `gap` is how far the optimum may be above the relaxation, as a part of
/// the largest step of one group: the relaxation breaks one group only.
fn check(name: &str, groups: &[Vec<Candidate>]) {
    for part in [1e-4, 0.01, 0.3, 0.6] {
        let budget = budget_at(groups, part);
        let found = solve(groups, budget).expect("feasible");
        assert!(within(found.cost, budget), "{name} {part}");
        let bound = bound(groups, budget);
        assert!(
            found.score >= bound * (1.0 - 1e-11),
            "{name} {part}: {} below {bound}",
            found.score
        );
        let worst = |g: &Vec<Candidate>| g.iter().map(|c| c.score).fold(0.0, f64::max);
        let step = groups.iter().map(worst).fold(0.0, f64::max);
        assert!(
            found.score <= bound + step,
            "{name} {part}: {} above {bound}",
            found.score
        );
    }
}

#[test]
fn random_costs() {
    let groups = Random(2).groups(1000, |random| {
        (0..6).map(|_| (random.unit(), random.unit())).collect()
    });
    check("uncorrelated", &groups);
    let groups = Random(3).groups(1000, |random| {
        let size = random.unit();
        formats(random, size)
    });
    check("formats", &groups);
}

#[test]
fn correlated_scores() {
    let groups = Random(4).groups(1000, |random| {
        let cost = [0; 6].map(|_| random.unit());
        cost.map(|cost| (cost, 1.1 - cost)).to_vec()
    });
    check("linear", &groups);
    let groups = Random(5).groups(1000, |random| {
        let cost = [0; 6].map(|_| random.unit());
        cost.map(|cost| (cost, 1.1 - cost + 0.01 * random.unit()))
            .to_vec()
    });
    check("nearly linear", &groups);
}

#[test]
fn scores_that_differ_little() {
    let groups = Random(6).groups(1000, |random| {
        (0..6)
            .map(|bits| (random.unit() + f64::from(bits), 1.0 + 1e-9 * random.unit()))
            .collect()
    });
    check("little", &groups);
}

#[test]
fn sizes_far_apart() {
    let groups = Random(7).groups(1000, |random| {
        let size = 10f64.powf(3.0 + 6.0 * random.unit());
        formats(random, size)
    });
    check("spread", &groups);
}

#[test]
fn a_thousand_equal_groups() {
    let one = Random(8).groups(1, |random| formats(random, 1.0));
    check("equal", &vec![one[0].clone(); 1000]);
}

/// All undominated states fit in memory where costs are small integers.
#[test]
fn a_thousand_groups_of_integer_costs_agree_with_every_state() {
    let groups = Random(9).groups(1000, |random| {
        let size = (1.0 + random.unit() * 2.0).floor();
        formats(random, size * 32.0)
    });
    for part in [0.001, 0.2] {
        let budget = budget_at(&groups, part).floor();
        let found = solve(&groups, budget).expect("feasible");
        let (_, score) = every_state(&groups, budget);
        assert!(
            (found.score - score).abs() <= 1e-12 * score,
            "{} {score}",
            found.score
        );
    }
}

#[test]
fn the_curve_falls_and_its_points_are_optimal() {
    let groups = Random(10).groups(50, |random| {
        let size = random.unit();
        formats(random, size)
    });
    let curve = curve(&groups, 33);
    assert!(curve.len() > 20);
    let (first, last) = (&curve[0], &curve[curve.len() - 1]);
    assert_eq!(first.cost, least_cost(&groups));
    assert_eq!(last.score, 0.0);
    for pair in curve.windows(2) {
        assert!(pair[1].score < pair[0].score && pair[1].cost > pair[0].cost);
    }
    for point in &curve {
        let again = solve(&groups, point.cost).expect("reached");
        assert!((again.score - point.score).abs() <= 1e-12 * point.score);
    }
    assert_eq!(super::curve(&groups, 0), []);
    assert_eq!(super::curve(&groups, 1).len(), 1);
}

/// Scores that are proportional to costs but for a billionth: no bound tells choices apart, and a search that insisted
/// would not end.
#[test]
fn what_is_too_hard_ends_with_a_gap() {
    let groups = Random(10).groups(400, |random| {
        let size = 1.0 + 1e6 * random.unit();
        let score = |bits: f64, noise: f64| size * (16.0 - bits) * (1.0 + 1e-9 * noise);
        let candidate = |bits: f64| (size * bits, score(bits, random.unit()));
        [4.0, 4.5, 6.0, 8.0, 8.5, 16.0].map(candidate).to_vec()
    });
    let least = least_cost(&groups);
    let solution = solve(&groups, 1.7 * least).expect("a choice");
    assert!(solution.gap <= 1e-6, "{:e}", solution.gap);
    let relaxed: f64 = 3.0 * least - 0.7 * least;
    assert!(
        solution.score <= relaxed * (1.0 + 1e-6),
        "{} {relaxed}",
        solution.score
    );
}
