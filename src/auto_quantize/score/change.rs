//! What a format changes in the output of one layer, weighted with the gradient there.

use std::sync::Arc;

use super::products::Products;
use super::work::Work;
use crate::error::{Error, Result};
use crate::kernels::Machine;
use crate::kernels::perturbation;
use crate::model::{Layer, LayerKind};
use crate::tensor::TensorView;

/// `Σ (g ∘ Δy)²` of each of `candidates`, the layer as the shadows have it. `x` entered the layer, `g` is the
/// gradient of the loss at what left it; both are whole.
pub(super) fn scores(
    machine: &Machine,
    layer: &Layer,
    candidates: &[Arc<Layer>],
    x: &TensorView,
    g: &TensorView,
    work: &mut Work,
) -> Result<Vec<f64>> {
    super::check_gradient(machine, layer.name(), g)?;
    let weight = layer.spec().weight.ok_or_else(|| not_computable(layer))?;
    let Some(products) = Products::of(layer, x, g)? else {
        if machine.refuses(
            "the search for formats of a layer with a forward of the host's",
            x,
        ) {
            return Ok(vec![0.0; candidates.len()]);
        }
        return by_host(machine, layer, candidates, [x, &weight, g], work);
    };
    if let Some(gpu) = machine.gpu_of(x) {
        return super::change_on_gpu::scores(gpu, layer, candidates, [x, &weight, g], &products);
    }
    let sizes = products.sizes;
    let mut scores = vec![0.0; candidates.len()];
    if x.count() == 0 || g.count() == 0 {
        return Ok(scores);
    }
    // A group of a convolution is a product of its own; what they share is made ready once.
    let count = sizes.tokens * sizes.outputs;
    let input = work.x.load(machine, x)?;
    let kernel = work.weight.load(machine, &weight)?;
    let y = work.product.floats(products.groups * count)?;
    for (group, y) in y.chunks_exact_mut(count).enumerate() {
        let rows = products.input_of(machine, group, input, &mut work.patches)?;
        perturbation::product(machine, rows, &kernel[products.weight_of(group)], sizes, y);
    }
    let g = work.g.load(machine, g)?;
    for (score, candidate) in scores.iter_mut().zip(candidates) {
        candidate.input(*x, Some(work.x.like(machine, x)?))?;
        candidate.weight_into(work.weight.like(machine, &weight)?)?;
        let input = work.x.written(machine, x)?;
        let kernel = work.weight.written(machine, &weight)?;
        for (group, y) in y.chunks_exact(count).enumerate() {
            let rows = products.input_of(machine, group, input, &mut work.patches)?;
            let g = products.output_of(group, g, &mut work.channels)?;
            let part = &kernel[products.weight_of(group)];
            *score += perturbation::squared(machine, rows, part, sizes, y, g);
        }
    }
    Ok(scores)
}

/// The host computes the layer for each candidate.
fn by_host(
    machine: &Machine,
    layer: &Layer,
    candidates: &[Arc<Layer>],
    [x, weight, g]: [&TensorView; 3],
    work: &mut Work,
) -> Result<Vec<f64>> {
    let forward = layer
        .spec()
        .forward
        .as_ref()
        .ok_or_else(|| not_computable(layer))?;
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
