//! The errors of many candidate weights under one Gram matrix, some rows at a time.
//!
//! Rows are independent: a task takes a few of them, makes the rounded rows of every candidate, and has
//! all their errors from one quadratic form. Partial sums are added in the order of the rows, so that the
//! result has the same bits for every number of threads.

use super::super::algorithm::Run;
use super::by_rows::{Rows, by_rows, tasks};
use super::target::{Reach, Target};
use crate::error::{Error, Result};
use crate::kernels::gram::Gram;
use crate::kernels::load_rows;
use crate::kernels::{Machine, channel_scale, quadratic, scaled_difference};
use crate::tensor::{Device, TensorView};

/// Rows of the weight that a task takes.
const ROWS: usize = 32;

/// Most times as many that it takes when there are few candidates.
const MORE_ROWS: usize = 4;

/// Tasks of which the first shows which candidate is the best.
const GROUP: usize = 8;

/// Parts of the rows after each of which candidates may be left out.
const ROUNDS: usize = 4;

/// By how much, relatively, a candidate must exceed the best to be left out.
const SLACK: f64 = 1e-6;

/// A weight that may be better than the plain one: `Q(W * scale) * inverse`.
pub(super) struct Candidate {
    /// Factors of the columns, in the weight's type. None: all one.
    pub scale: Option<Vec<f32>>,
    /// What undoes them, in the weight's type.
    pub inverse: Option<Vec<f32>>,
    /// The amax values of the scaled weight, where they do not follow from some of its rows.
    pub amax: Option<Vec<f32>>,
}

/// Rows of a task: whole groups of rows that share an amax.
fn rows_per_task(target: &Target) -> usize {
    match target.reach {
        Reach::Rows(group) => ROWS
            .div_ceil(group)
            .saturating_mul(group)
            .min(target.rows()),
        Reach::Tensor | Reach::Columns => ROWS,
    }
}

/// Bytes of host memory that errors of so many candidates take, on so many threads.
pub(super) fn workspace_bytes(target: &Target, candidates: usize, threads: usize) -> u64 {
    let (rows, channels) = (rows_per_task(target), target.channels());
    let blocks = channels.div_ceil(target.block());
    // The factors of the channels, the amax values.
    let of_candidates = candidates * channels * 2 * size_of::<f32>();
    let numbers = of_candidates + target.rows() * blocks * 3 * size_of::<f32>();
    if target.weight().device() != Device::Cpu {
        return numbers as u64;
    }
    let tasks = target.rows().div_ceil(rows);
    let deltas = candidates * rows * channels;
    let scratch = quadratic::scratch_len(channels, candidates * rows);
    // Rows of the weight in its type and as float32, the scaled and rounded ones.
    let floats = deltas + scratch + 4 * MORE_ROWS * rows * channels + 2 * candidates * rows;
    let a_thread = floats * size_of::<f32>() + quadratic::gemm_workspace_bytes();
    let a_layer = candidates * tasks * size_of::<f64>()
        // The scaled weight, the blocks of a Gram matrix under other factors.
        + target.weight().size_bytes()
        + blocks * target.block() * target.block() * size_of::<f32>();
    (threads * a_thread + a_layer + numbers) as u64
}

/// Candidates for one weight, and what their errors are computed from.
pub(super) struct Search<'a> {
    pub run: &'a Run<'a>,
    pub target: &'a Target,
    /// The weight as its quantizer sees it.
    pub seen: &'a TensorView,
    pub candidates: &'a [Candidate],
    /// Of the channels.
    pub gram: &'a Gram,
    /// Of a weight on a GPU: the Gram matrix is that of the input before it was multiplied with these. None: as it is.
    pub factors: Option<&'a [f32]>,
}

impl Search<'_> {
    /// The squared error of the layer's output for every candidate, summed over outputs, in units of the Gram
    /// matrix; and that of a weight of nothing, which is what the output has at all.
    pub(super) fn all(&self) -> Result<(Vec<f64>, f64)> {
        if let Some(gpu) = self.run.machine.gpu_of(self.seen) {
            return self.all_on_gpu(gpu);
        }
        let every: Vec<usize> = (0..self.candidates.len()).collect();
        self.sums(&every, &[(0, self.target.rows())], true)
    }

    /// The same, but for candidates of which a part of the rows shows that they are not the least: those have
    /// infinity. The candidate `always` has its error in any case, and does not count for what is the least.
    ///
    /// Errors of rows only add up. So the best of an eighth of the rows is followed to its end, and whatever
    /// exceeds its error on the way is left out; what is left in is exact.
    pub(super) fn least(&self, always: usize) -> Result<(Vec<f64>, f64)> {
        // A GPU has them all before a CPU would know which to leave out.
        if let Some(gpu) = self.run.machine.gpu_of(self.seen) {
            return self.all_on_gpu(gpu);
        }
        let per_task = rows_per_task(self.target);
        let groups: Vec<Rows> = tasks((0, self.target.rows()), GROUP * per_task).collect();
        if groups.len() < 2 {
            return self.all();
        }
        let head = |(first, count): &Rows| (*first, per_task.min(*count));
        let tail = |(first, count): &Rows| (first + per_task, count.saturating_sub(per_task));
        let heads: Vec<Rows> = groups.iter().map(head).collect();
        let tails: Vec<Rows> = groups.iter().map(tail).collect();
        let every: Vec<usize> = (0..self.candidates.len()).collect();
        let (mut totals, mut energy) = self.sums(&every, &heads, true)?;
        let rivals = every.iter().copied().filter(|i| *i != always);
        let Some(leader) = rivals
            .clone()
            .reduce(|a, b| if totals[b] < totals[a] { b } else { a })
        else {
            return self.all();
        };
        let (sums, rest) = self.sums(&[leader, always], &tails, true)?;
        totals[leader] += sums[0];
        totals[always] += sums[1];
        energy += rest;
        // A row's error may be below zero by rounding.
        let bound = totals[leader] + SLACK * totals[leader].abs();
        let mut left: Vec<usize> = rivals.filter(|i| *i != leader).collect();
        for round in 0..ROUNDS {
            left.retain(|i| totals[*i] <= bound);
            let part: Vec<Rows> = tails.iter().copied().skip(round).step_by(ROUNDS).collect();
            let (sums, _) = self.sums(&left, &part, false)?;
            for (i, sum) in left.iter().zip(sums) {
                totals[*i] += sum;
            }
        }
        for i in every {
            if i != leader && i != always && !left.contains(&i) {
                totals[i] = f64::INFINITY;
            }
        }
        Ok((totals, energy))
    }

    /// The errors of some candidates over some stretches of rows, and of a weight of nothing if asked for.
    fn sums(&self, which: &[usize], rows: &[Rows], energy: bool) -> Result<(Vec<f64>, f64)> {
        let which: Vec<&Candidate> = which.iter().map(|i| &self.candidates[*i]).collect();
        if which.is_empty() {
            return Ok((Vec::new(), 0.0));
        }
        // With fewer candidates a task has more rows, so that there is as much for one product.
        let more = (self.candidates.len() / which.len()).clamp(1, MORE_ROWS);
        let per_task = more * rows_per_task(self.target);
        let tasks: Vec<Rows> = rows
            .iter()
            .flat_map(|rows| tasks(*rows, per_task))
            .collect();
        let sums = by_rows(
            self.run,
            &tasks,
            || Work::new(self.target, which.len(), per_task),
            |machine, work, rows| work.rows(machine, self, &which, rows, energy),
        )?;
        let mut totals = vec![0.0; which.len() + 1];
        for sums in &sums {
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total += sum;
            }
        }
        let energy = totals.pop().unwrap_or_default();
        Ok((totals, energy))
    }
}

/// What a thread works in.
struct Work {
    /// Scaled rows, then rounded ones, in the weight's type.
    rounded: Vec<f32>,
    /// The rows as float32.
    plain: Vec<f32>,
    /// The rounded rows as float32.
    loaded: Vec<f32>,
    /// `[candidates, rows, channels]`.
    deltas: Vec<f32>,
    scratch: Vec<f32>,
    errors: Vec<f64>,
}

impl Work {
    fn new(target: &Target, candidates: usize, rows: usize) -> Self {
        let channels = target.channels();
        let candidates = candidates.max(1);
        Self {
            rounded: vec![0.0; rows * channels],
            plain: vec![0.0; rows * channels],
            loaded: vec![0.0; rows * channels],
            deltas: vec![0.0; candidates * rows * channels],
            scratch: vec![0.0; quadratic::scratch_len(channels, candidates * rows)],
            errors: vec![0.0; candidates * rows],
        }
    }

    /// The errors of some rows: one sum for each candidate, then that of no weight at all if asked for.
    fn rows(
        &mut self,
        machine: &Machine,
        search: &Search,
        candidates: &[&Candidate],
        (first, count): Rows,
        energy: bool,
    ) -> Result<Vec<f64>> {
        let Search {
            target, seen, gram, ..
        } = search;
        let channels = target.channels();
        let len = count * channels;
        let rows = seen.rows(first, count).map_err(Error::Internal)?;
        let rounded = rows.with_data(&mut self.rounded).map_err(Error::Internal)?;
        let plain = &mut self.plain[..len];
        load_rows::run(
            machine,
            &rows,
            load_rows::Rows::leading(count, channels),
            1.0,
            plain,
        );
        for (candidate, deltas) in candidates.iter().zip(self.deltas.chunks_exact_mut(len)) {
            let from = match &candidate.scale {
                Some(scale) => {
                    channel_scale::run(machine, &rows, scale, &rounded);
                    &rounded
                }
                None => &rows,
            };
            target.quantize_rows(machine, candidate.amax.clone(), from, &rounded)?;
            let loaded = &mut self.loaded[..len];
            load_rows::run(
                machine,
                &rounded,
                load_rows::Rows::leading(count, channels),
                1.0,
                loaded,
            );
            let inverse = candidate.inverse.as_deref();
            scaled_difference::run(machine.isa(), loaded, inverse, plain, deltas);
        }
        let m = candidates.len() * count;
        let errors = &mut self.errors[..m.max(count)];
        let gram = gram.on_host()?;
        quadratic::rows(
            gram,
            channels,
            &self.deltas[..m * channels],
            &mut self.scratch,
            &mut errors[..m],
        );
        let mut sums: Vec<f64> = errors[..m]
            .chunks_exact(count)
            .map(|errors| errors.iter().sum())
            .collect();
        if energy {
            let errors = &mut errors[..count];
            quadratic::rows(gram, channels, plain, &mut self.scratch, errors);
            sums.push(errors.iter().sum());
        }
        Ok(sums)
    }
}
