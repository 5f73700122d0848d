//! `awq_clip`: for every block of every row the ratio of its largest magnitude, as its amax, that gives the
//! least error of the block's share of the output; the smallest of equal ones.

use std::sync::Arc;

use super::super::algorithm::Run;
use super::by_rows::{Rows, by_rows, tasks};
use super::losses::{self, Candidate};
use super::output_error;
use super::target::Target;
use crate::error::{Error, Result};
use crate::kernels::gram::Gram;
use crate::kernels::load_rows;
use crate::kernels::{Machine, quadratic, scaled_difference};
use crate::model::{Amax, QuantizationError, Quantizer, SlotState};
use crate::observe::InputSummary;
use crate::tensor::TensorView;

/// Rows of the weight that a task takes.
const ROWS: usize = 32;

/// `state` of the weight, which has its largest magnitudes as amax, with clipped ones, and what that gained;
/// None when its format has no amax to clip. `factors` are those that the input was just given.
pub(super) fn run(
    run: &Run,
    target: &Target,
    state: &SlotState,
    factors: Option<&[f32]>,
    input: &InputSummary,
    ratios: &[f32],
) -> Result<Option<(SlotState, Option<QuantizationError>)>> {
    let Some(highest) = state.members().first().and_then(|q| q.amax.clone()) else {
        return Ok(None);
    };
    let dtype = target.weight().dtype();
    let clipping = Clipping {
        run,
        target,
        highest: highest.values(),
        // The factors as the tap applies them.
        factors: factors.map(|p| p.iter().map(|p| dtype.round(*p)).collect()),
        input,
        ratios,
    };
    let mut found = None;
    target.slot.with_weight_seen_by(state, |weight| {
        found = match target.clip_block() {
            Some(_) => Some(match run.machine.gpu_of(weight) {
                Some(gpu) => clipping.blocks_on_gpu(gpu, weight)?,
                None => clipping.blocks(weight)?,
            }),
            None if target.clips_as_a_whole() => Some(clipping.whole(weight)?),
            None => None,
        };
        Ok(())
    })?;
    Ok(found.map(|(values, error)| {
        let amax = Amax::new(values, highest.shape());
        let mut first = true;
        let state = state.map(|q| match std::mem::replace(&mut first, false) {
            true => Arc::new(Quantizer {
                amax: Some(amax.clone()),
                ..(**q).clone()
            }),
            false => Arc::clone(q),
        });
        (state, error)
    }))
}

/// The clipped amax values, and what that gained.
pub(super) type Found = (Vec<f32>, Option<QuantizationError>);

/// What is to be clipped.
pub(super) struct Clipping<'a> {
    pub run: &'a Run<'a>,
    pub target: &'a Target,
    /// The largest magnitudes: of the blocks, or of the tensor.
    pub highest: &'a [f32],
    /// What the input will be multiplied with: Gram matrices are of the input before that.
    pub factors: Option<Vec<f32>>,
    pub input: &'a InputSummary,
    pub ratios: &'a [f32],
}

impl Clipping<'_> {
    /// One amax for the tensor: the error is that of the whole output.
    fn whole(&self, weight: &TensorView) -> Result<Found> {
        let gram = &self.input.gram;
        let is_on_gpu = self.run.machine.gpu_of(weight).is_some();
        let scaled = match &self.factors {
            Some(p) if !is_on_gpu => Some(Gram::from(scaled(gram.on_host()?, gram.block(), p))),
            _ => None,
        };
        let highest = self.highest[0];
        let candidates: Vec<Candidate> = self
            .ratios
            .iter()
            .map(|ratio| Candidate {
                scale: None,
                inverse: None,
                amax: Some(vec![highest * ratio]),
            })
            .collect();
        let search = losses::Search {
            run: self.run,
            target: self.target,
            seen: weight,
            candidates: &candidates,
            gram: scaled.as_ref().unwrap_or(gram),
            factors: self.factors.as_deref().filter(|_| is_on_gpu),
        };
        let (errors, energy) = search.all()?;
        let best = first_least(&errors);
        let plain = errors.last().copied().unwrap_or_default();
        Ok((
            vec![highest * self.ratios[best]],
            output_error(plain, errors[best], energy),
        ))
    }

    /// One amax for each block, each with an error of its own.
    fn blocks(&self, weight: &TensorView) -> Result<Found> {
        let (target, ratios) = (self.target, self.ratios);
        let gram = &self.input.blocks;
        let block = gram.block();
        let scaled = match &self.factors {
            Some(p) => Some(scaled(gram.on_host()?, block, p)),
            None => None,
        };
        let search = Search {
            target,
            weight,
            highest: self.highest,
            block,
            grams: match &scaled {
                Some(scaled) => scaled,
                None => gram.on_host()?,
            },
            ratios,
        };
        let rows: Vec<Rows> = tasks((0, target.rows()), ROWS).collect();
        let found = by_rows(
            self.run,
            &rows,
            || Work::new(target.channels(), block, ratios.len()),
            |machine, work, rows| search.rows(machine, work, rows),
        )?;
        let mut values = Vec::with_capacity(self.highest.len());
        let (mut plain, mut best, mut energy) = (0.0, 0.0, 0.0);
        for rows in found {
            values.extend(rows.amax);
            plain += rows.plain;
            best += rows.best;
            energy += rows.energy;
        }
        Ok((values, output_error(plain, best, energy)))
    }
}

fn first_least(errors: &[f64]) -> usize {
    let mut best = 0;
    for (i, error) in errors.iter().enumerate() {
        if *error < errors[best] {
            best = i;
        }
    }
    best
}

/// Blocks of a Gram matrix of `x * p` from those of `x`.
fn scaled(blocks: &[f32], block: usize, p: &[f32]) -> Vec<f32> {
    let mut scaled = blocks.to_vec();
    for (square, p) in scaled.chunks_exact_mut(block * block).zip(p.chunks(block)) {
        for (row, a) in square.chunks_exact_mut(block).zip(p) {
            for (value, b) in row.iter_mut().zip(p) {
                *value *= a * b;
            }
        }
    }
    scaled
}

/// What was found for some rows.
struct Clipped {
    amax: Vec<f32>,
    /// Squared errors: unclipped, as clipped; and the output itself.
    plain: f64,
    best: f64,
    energy: f64,
}

struct Search<'a> {
    target: &'a Target,
    weight: &'a TensorView,
    highest: &'a [f32],
    block: usize,
    grams: &'a [f32],
    ratios: &'a [f32],
}

/// What a thread works in.
struct Work {
    plain: Vec<f32>,
    rounded: Vec<f32>,
    loaded: Vec<f32>,
    /// `[ratios, rows, channels]`.
    deltas: Vec<f32>,
    scratch: Vec<f32>,
    errors: Vec<f64>,
}

impl Work {
    fn new(channels: usize, block: usize, ratios: usize) -> Self {
        let m = ratios.max(1) * ROWS;
        Self {
            plain: vec![0.0; ROWS * channels],
            rounded: vec![0.0; ROWS * channels],
            loaded: vec![0.0; ROWS * channels],
            deltas: vec![0.0; m * channels],
            scratch: vec![0.0; quadratic::scratch_len(block, m)],
            errors: vec![0.0; m],
        }
    }
}

impl Search<'_> {
    fn blocks_in_a_row(&self) -> usize {
        self.target.channels().div_ceil(self.block)
    }

    /// The amax of least error for every block of some rows.
    fn rows(&self, machine: &Machine, work: &mut Work, (first, count): Rows) -> Result<Clipped> {
        let (channels, per_row) = (self.target.channels(), self.blocks_in_a_row());
        let len = count * channels;
        let rows = self.weight.rows(first, count).map_err(Error::Internal)?;
        let rounded = rows.with_data(&mut work.rounded).map_err(Error::Internal)?;
        let (plain, loaded) = (&mut work.plain[..len], &mut work.loaded[..len]);
        load_rows::run(
            machine,
            &rows,
            load_rows::Rows::leading(count, channels),
            1.0,
            plain,
        );
        let highest = &self.highest[first * per_row..][..count * per_row];
        for (ratio, deltas) in self.ratios.iter().zip(work.deltas.chunks_exact_mut(len)) {
            let amax = highest.iter().map(|amax| amax * ratio).collect();
            self.target
                .quantize_rows(machine, Some(amax), &rows, &rounded)?;
            load_rows::run(
                machine,
                &rounded,
                load_rows::Rows::leading(count, channels),
                1.0,
                loaded,
            );
            scaled_difference::run(machine.isa(), loaded, None, plain, deltas);
        }
        let mut found = Clipped {
            amax: vec![0.0; count * per_row],
            plain: 0.0,
            best: 0.0,
            energy: 0.0,
        };
        for k in 0..per_row {
            let (start, square) = (k * self.block, self.block * self.block);
            let width = self.block.min(channels - start);
            let gram = &self.grams[k * square..][..square];
            let m = self.ratios.len() * count;
            quadratic::block_rows(
                gram,
                self.block,
                width,
                &work.deltas[start..m * channels],
                channels,
                m,
                &mut work.scratch,
                &mut work.errors[..m],
            );
            for row in 0..count {
                let error = |ratio: usize| work.errors[ratio * count + row];
                let mut best = 0;
                for ratio in 1..self.ratios.len() {
                    if error(ratio) < error(best) {
                        best = ratio;
                    }
                }
                let at = row * per_row + k;
                found.amax[at] = highest[at] * self.ratios[best];
                found.plain += error(self.ratios.len() - 1);
                found.best += error(best);
            }
            quadratic::block_rows(
                gram,
                self.block,
                width,
                &plain[start..],
                channels,
                count,
                &mut work.scratch,
                &mut work.errors[..count],
            );
            found.energy += work.errors[..count].iter().sum::<f64>();
        }
        Ok(found)
    }
}
