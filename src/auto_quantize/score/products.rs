//! A layer as products of matrices: a linear one is one, a convolution one for each of its groups.

use std::ops::Range;

use super::work::Buffer;
use crate::error::{Error, Result};
use crate::kernels::Machine;
use crate::kernels::perturbation::Sizes;
use crate::kernels::unfold::{self, Patches};
use crate::model::{Layer, LayerKind};
use crate::tensor::{Shape, TensorView};

/// Products of one size, one for each group of channels.
pub(super) struct Products {
    /// Of a product.
    pub sizes: Sizes,
    /// How many.
    pub groups: usize,
    /// Of a convolution.
    patches: Option<Patches>,
}

impl Products {
    /// What `layer` computes of `x`, whose output has the shape of `g`. None: mq cannot compute it.
    pub fn of(layer: &Layer, x: &TensorView, g: &TensorView) -> Result<Option<Self>> {
        let (Some(weight), None) = (layer.spec().weight, &layer.spec().forward) else {
            return Ok(None);
        };
        let weight = weight.shape().dims();
        let (products, expected) = match layer.spec().kind {
            LayerKind::Linear => {
                let products = Self {
                    sizes: Sizes {
                        tokens: x.count() / weight[1].max(1),
                        inputs: weight[1],
                        outputs: weight[0],
                    },
                    groups: 1,
                    patches: None,
                };
                let mut extents = x.shape().dims().to_vec();
                extents.pop();
                extents.push(weight[0]);
                (products, extents)
            }
            LayerKind::Conv { spatial } => {
                let patches = patches(layer, weight, spatial, x)?;
                let groups = patches.channels / weight[1];
                let products = Self {
                    sizes: Sizes {
                        tokens: patches.tokens(),
                        inputs: patches.patch(weight[1]),
                        outputs: weight[0] / groups,
                    },
                    groups,
                    patches: Some(patches),
                };
                // A single image may come without the axis of the batch.
                let batch = (x.shape().dims().len() == spatial + 2).then_some(patches.batch);
                let mut extents: Vec<usize> = batch.into_iter().collect();
                extents.push(weight[0]);
                extents.extend(&patches.output[3 - spatial..]);
                (products, extents)
            }
            _ => return Ok(None),
        };
        let expected = Shape::new(&expected).map_err(|text| {
            Error::InvalidArgument(format!("layer `{}`: its output: {text}", layer.name()))
        })?;
        match g.shape() == &expected {
            true => Ok(Some(products)),
            false => Err(Error::InvalidArgument(format!(
                "layer `{}`: a gradient of shape {:?}, expected {expected:?}, the shape of its output for an input of {:?}",
                layer.name(),
                g.shape(),
                x.shape()
            ))),
        }
    }

    /// The convolution whose patches are its rows; None: it is the product of the tensors as they are.
    pub fn patches(&self) -> Option<&Patches> {
        self.patches.as_ref()
    }

    /// The elements of a group's part of the weight.
    pub fn weight_of(&self, group: usize) -> Range<usize> {
        let count = self.sizes.inputs * self.sizes.outputs;
        group * count..(group + 1) * count
    }

    /// The left operand of a group's product.
    pub fn input_of<'a>(
        &self,
        machine: &Machine,
        group: usize,
        x: &'a [f32],
        to: &'a mut Buffer,
    ) -> Result<&'a [f32]> {
        let Some(patches) = &self.patches else {
            return Ok(x);
        };
        let count = patches.channels / self.groups;
        let to = to.floats(self.sizes.tokens * self.sizes.inputs)?;
        unfold::run(machine, x, patches, group * count, count, to);
        Ok(to)
    }

    /// A group's part of the output, or of a gradient there, with channels last.
    pub fn output_of<'a>(
        &self,
        group: usize,
        y: &'a [f32],
        to: &'a mut Buffer,
    ) -> Result<&'a [f32]> {
        let Some(patches) = &self.patches else {
            return Ok(y);
        };
        let outputs = self.sizes.outputs;
        let extents = [
            patches.batch,
            self.groups * outputs,
            patches.output.iter().product(),
        ];
        let to = to.floats(self.sizes.tokens * outputs)?;
        unfold::channels_last(y, extents, group * outputs, outputs, to);
        Ok(to)
    }
}

fn patches(layer: &Layer, weight: &[usize], spatial: usize, x: &TensorView) -> Result<Patches> {
    let invalid =
        |text: String| Error::InvalidArgument(format!("layer `{}`: {text}", layer.name()));
    let dims = x.shape().dims();
    let (batch, image) = match dims.len() {
        rank if rank == spatial + 2 => (dims[0], &dims[1..]),
        rank if rank == spatial + 1 => (1, dims),
        _ => {
            return Err(invalid(format!(
                "an input of shape {dims:?}, expected [batch, channels, ...] with {spatial} extents"
            )));
        }
    };
    let groups = image[0].checked_div(weight[1]).unwrap_or(0);
    if groups == 0 || groups * weight[1] != image[0] || !weight[0].is_multiple_of(groups) {
        return Err(invalid(format!(
            "{} channels in, which a weight of shape {weight:?} does not divide into groups",
            image[0]
        )));
    }
    // The axes that there are come last.
    let last = |extents: &[usize], other: usize| {
        let mut all = [other; 3];
        all[3 - spatial..].copy_from_slice(&extents[..spatial]);
        all
    };
    let moves = layer.spec().convolution;
    let (stride, padding) = (last(&moves.stride, 1), last(&moves.padding, 0));
    let (dilation, input) = (last(&moves.dilation, 1), last(&image[1..], 1));
    let kernel = last(&weight[2..], 1);
    let output = Patches::output(input, kernel, stride, padding, dilation).ok_or_else(|| {
        invalid(format!(
            "a kernel of {kernel:?} (stride {stride:?}, padding {padding:?}, dilation {dilation:?}) does not fit an \
             input of {input:?}"
        ))
    })?;
    Ok(Patches {
        batch,
        channels: image[0],
        input,
        kernel,
        stride,
        padding,
        dilation,
        output,
    })
}
