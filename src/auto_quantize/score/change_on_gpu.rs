//! What a format changes in the output of a layer whose tensors lie on a GPU: everything stays there but the scores.

use std::sync::Arc;

use super::products::Products;
use crate::error::{Error, Result};
use crate::kernels::cuda::{DeviceBuffer, Gpu};
use crate::kernels::perturbation::cuda::{Workspace, product, squared};
use crate::model::Layer;
use crate::tensor::TensorView;

/// As `change::scores`. The scores are fetched: the tap of a gradient waits for the stream.
pub(super) fn scores(
    gpu: &Arc<Gpu>,
    layer: &Layer,
    candidates: &[Arc<Layer>],
    [x, weight, g]: [&TensorView; 3],
    products: &Products,
) -> Result<Vec<f64>> {
    if !products.is_plain() {
        return Err(Error::Unsupported(format!(
            "layer `{}`: the formats of convolutions are not searched in device memory by this version; list it in \
             disabled_layers, or use tensors in host memory",
            layer.name()
        )));
    }
    let dtype = x.dtype();
    if weight.dtype() != dtype || g.dtype() != dtype {
        return Err(Error::Unsupported(format!(
            "layer `{}`: an input of {dtype}, a weight of {} and a gradient of {}; in device memory all three are of one \
             dtype",
            layer.name(),
            weight.dtype(),
            g.dtype()
        )));
    }
    let mut scores = vec![0.0; candidates.len()];
    if x.count() == 0 || g.count() == 0 {
        return Ok(scores);
    }
    let sizes = products.sizes;
    let y = DeviceBuffer::new(gpu, sizes.tokens * sizes.outputs * size_of::<f32>())?;
    let own = [x, weight].map(|tensor| DeviceBuffer::new(gpu, tensor.size_bytes()));
    let [input, kernel] = own;
    let (input, kernel) = (input?, kernel?);
    let (changed, rounded) = (
        x.at_address(input.address()),
        weight.at_address(kernel.address()),
    );
    let workspace = Workspace::new(gpu, sizes)?;
    product(gpu, x, weight, sizes, y.address());
    for (score, candidate) in scores.iter_mut().zip(candidates) {
        candidate.input(*x, Some(changed))?;
        candidate.weight_into(rounded)?;
        let operands = [&changed, &rounded, g];
        *score = squared(gpu, operands, sizes, y.address(), &workspace)?;
    }
    gpu.take_failure()?;
    Ok(scores)
}
