//! What a format changes in the output of one layer, weighted with the gradient there.

use std::sync::Arc;

use super::change_on_gpu::OnGpu;
use super::products::Products;
use super::tally::Tally;
use super::work::Work;
use crate::error::{Error, Result};
use crate::kernels::Machine;
use crate::kernels::perturbation;
use crate::model::{Layer, LayerForward, LayerKind};
use crate::tensor::TensorView;

/// Adds `Σ (g ∘ Δy)²` of each of `candidates`, the layer as the shadows have it. `x` entered the layer, `g` is the
/// gradient of the loss at what left it; both are whole.
pub(super) fn add_scores(
    machine: &Machine,
    layer: &Layer,
    candidates: &[Arc<Layer>],
    [x, g]: [&TensorView; 2],
    work: &mut Work,
    tally: &mut Tally,
) -> Result<()> {
    let weight = layer.spec().weight.ok_or_else(|| not_computable(layer))?;
    let products = Products::of(layer, x, g)?;
    if let Some(gpu) = machine.gpu_of(x) {
        let tensors = [x, &weight, g];
        let change = OnGpu::new(machine, gpu, layer, candidates, tensors)?;
        return match &products {
            Some(products) => change.add_scores(products, work, tally),
            None => change.add_by_host(forward_of(layer)?, work, tally),
        };
    }
    super::check_gradient(machine, layer.name(), g)?;
    let found = match products {
        Some(products) => {
            let operands = [x, &weight, g];
            scores(machine, &products, candidates, operands, work)
        }
        None => by_host(machine, layer, candidates, [x, &weight, g], work),
    };
    tally.add(&found?);
    Ok(())
}

/// The scores of a layer that is made of products.
fn scores(
    machine: &Machine,
    products: &Products,
    candidates: &[Arc<Layer>],
    [x, weight, g]: [&TensorView; 3],
    work: &mut Work,
) -> Result<Vec<f64>> {
    let sizes = products.sizes;
    let mut scores = vec![0.0; candidates.len()];
    if x.count() == 0 || g.count() == 0 {
        return Ok(scores);
    }
    // A group of a convolution is a product of its own; what they share is made ready once.
    let count = sizes.tokens * sizes.outputs;
    let input = work.x.load(machine, x)?;
    let kernel = work.weight.load(machine, weight)?;
    let y = work.product.floats(products.groups * count)?;
    for (group, y) in y.chunks_exact_mut(count).enumerate() {
        let rows = products.input_of(machine, group, input, &mut work.patches)?;
        perturbation::product(machine, rows, &kernel[products.weight_of(group)], sizes, y);
    }
    let g = work.g.load(machine, g)?;
    for (score, candidate) in scores.iter_mut().zip(candidates) {
        candidate.input(*x, Some(work.x.like(machine, x)?))?;
        candidate.weight_into(work.weight.like(machine, weight)?)?;
        let input = work.x.written(machine, x)?;
        let kernel = work.weight.written(machine, weight)?;
        for (group, y) in y.chunks_exact(count).enumerate() {
            let rows = products.input_of(machine, group, input, &mut work.patches)?;
            let g = products.output_of(group, g, &mut work.channels)?;
            let part = &kernel[products.weight_of(group)];
            *score += perturbation::squared(machine, rows, part, sizes, y, g);
        }
    }
    Ok(scores)
}

/// Errors when weight or gradient lie elsewhere than the input.
pub(super) fn check_one_place(layer: &Layer, [x, weight, g]: [&TensorView; 3]) -> Result<()> {
    for (what, tensor) in [("weight", weight), ("gradient", g)] {
        if tensor.device() != x.device() {
            return Err(Error::InvalidArgument(format!(
                "layer `{}`: its {what} is in {}, its input in {}; expected both in one place",
                layer.name(),
                tensor.device(),
                x.device()
            )));
        }
    }
    Ok(())
}

fn forward_of(layer: &Layer) -> Result<&dyn LayerForward> {
    let forward = layer.spec().forward.as_deref();
    forward.ok_or_else(|| not_computable(layer))
}

/// The host computes the layer for each candidate.
fn by_host(
    machine: &Machine,
    layer: &Layer,
    candidates: &[Arc<Layer>],
    [x, weight, g]: [&TensorView; 3],
    work: &mut Work,
) -> Result<Vec<f64>> {
    let forward = forward_of(layer)?;
    check_one_place(layer, [x, weight, g])?;
    forward.forward(x, Some(weight), &work.y.like(machine, g)?)?;
    let y = work.y.written(machine, g)?;
    let gradient = work.g.load(machine, g)?;
    let mut scores = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let (input, kernel) = (work.x.like(machine, x)?, work.weight.like(machine, weight)?);
        candidate.input(*x, Some(input))?;
        candidate.weight_into(kernel)?;
        forward.forward(&input, Some(&kernel), &work.changed.like(machine, g)?)?;
        let changed = work.changed.written(machine, g)?;
        scores.push(perturbation::squared_difference(
            machine, changed, y, gradient,
        ));
    }
    Ok(scores)
}

/// Bytes that scoring a layer takes for an input of that shape; an upper bound.
pub(super) fn workspace_bytes(layer: &Layer, x: &TensorView) -> u64 {
    let Some(weight) = layer.spec().weight else {
        return 0;
    };
    let (dims, outputs) = (
        x.shape().dims(),
        weight.shape().dims().first().copied().unwrap_or(1),
    );
    let places = |axis: Option<&usize>| x.count() / axis.copied().unwrap_or(1).max(1);
    // Both as they are stored and as float32.
    let own = 2 * (x.count() + weight.count());
    let elements = match layer.spec().kind {
        // Beside, the output and its gradient.
        LayerKind::Linear => own + 2 * places(dims.last()) * outputs,
        // And the patches, and the gradient with its channels last; padding adds places at the edges.
        LayerKind::Conv { .. } => {
            let patch = weight.count() / outputs.max(1);
            own + 2 * places(dims.get(1)) * (patch + 3 * outputs)
        }
        _ => own + 6 * x.count(),
    };
    (elements * size_of::<f32>()) as u64
}

fn not_computable(layer: &Layer) -> Error {
    Error::Internal(format!(
        "layer `{}` is scored without a weight or a forward",
        layer.name()
    ))
}
