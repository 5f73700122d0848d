//! How large the elements of each column are within their blocks, in the mean over the rows.
//!
//! *Exact*: sums in float64, over chunks of rows that are the same for every number of threads and on a GPU.

mod cuda;

use std::sync::{Mutex, PoisonError};

use super::element::{Element, elements, with_element};
use super::machine::Machine;
use crate::tensor::TensorView;

/// Rows whose sums are added up before they go to the total, on one thread.
const CHUNK: usize = 256;

/// For each column of `weight`, `[rows, channels]` with at least one row, the mean of `|w| / amax of its block`, where
/// blocks are `block` columns of a row, the last one shorter. Amax, quotients and means are rounded to the type of the
/// weight, and the amax of a block of zeros is the smallest normal number. Elements are finite.
///
/// Zeros when a GPU fails, which it keeps.
pub fn means(machine: &Machine, weight: &TensorView, block: usize) -> Vec<f32> {
    let (rows, channels) = (weight.shape().dims()[0], weight.shape().dims()[1]);
    let block = block.clamp(1, channels.max(1));
    if weight.count() == 0 {
        return vec![0.0; channels];
    }
    if let Some(gpu) = machine.gpu_of(weight) {
        return cuda::means(gpu, weight, block);
    }
    let dtype = weight.dtype();
    let chunks = rows.div_ceil(CHUNK);
    let sums = Mutex::new(vec![Vec::new(); chunks]);
    with_element!(dtype, T => {
        let elements = elements::<T>(weight);
        machine.for_each(chunks, |chunk| {
            let mut sum = vec![0.0f64; channels];
            for row in elements.chunks_exact(channels).skip(chunk * CHUNK).take(CHUNK) {
                for (values, sums) in row.chunks(block).zip(sum.chunks_mut(block)) {
                    let amax = values.iter().fold(0.0f32, |amax, w| amax.max(w.load().abs()));
                    let amax = dtype.round(amax + dtype.tiny());
                    for (value, sum) in values.iter().zip(sums) {
                        *sum += f64::from(dtype.round(value.load().abs() / amax));
                    }
                }
            }
            let mut all = sums.lock().unwrap_or_else(PoisonError::into_inner);
            all[chunk] = sum;
        });
    });
    let sums = sums.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut total = vec![0.0f64; channels];
    for sum in &sums {
        for (total, value) in total.iter_mut().zip(sum) {
            *total += value;
        }
    }
    let mean = |sum: &f64| dtype.round((sum / rows as f64) as f32);
    total.iter().map(mean).collect()
}
