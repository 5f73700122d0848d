//! The layers that AWQ treats, and how far one scale of their weight reaches.

use std::sync::Arc;

use super::super::balance;
use crate::config::{Axis, QuantType};
use crate::error::{Error, Result};
use crate::kernels::Machine;
use crate::model::{Amax, Kind, Layer, Quantizer, Slot, SlotState, apply_quantizer};
use crate::tensor::TensorView;

/// A linear layer with a weight quantizer that AWQ can search for.
pub(super) struct Target {
    /// Name of the layer.
    pub name: String,
    pub slot: Arc<Slot>,
    /// Of a sequential quantizer the first, which has the blocks.
    pub quantizer: Arc<Quantizer>,
    pub reach: Reach,
    weight: TensorView,
}

/// Which elements of the weight share an amax.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Never those of rows further apart than this; the rows of a group begin at a multiple of it.
    Rows(usize),
    /// All of them.
    Tensor,
    /// Those of a column.
    Columns,
}

impl Target {
    /// The layer as a target; None when its weight is not to be quantized. Errors when the algorithm does not
    /// fit the formats.
    pub(super) fn find(layer: &Layer) -> Result<Option<Self>> {
        let Some(slot) = layer.weight_slot().filter(|_| balance::fits(layer)) else {
            return Ok(None);
        };
        let state = slot.state();
        let (Some(quantizer), Some(weight)) = (state.members().first(), slot.weight()) else {
            return Ok(None);
        };
        let invalid = |what: String| {
            Error::Config(format!(
                "`{}`: AWQ does not fit {what}; give it another algorithm, or disable it",
                slot.name()
            ))
        };
        let reach = reach(quantizer).map_err(invalid)?;
        check_input(&layer.input_slot().state()).map_err(|what| {
            Error::Config(format!(
                "`{}`: AWQ needs one amax for the tensor or the last axis, found {what}",
                layer.input_slot().name()
            ))
        })?;
        Ok(Some(Self {
            name: layer.name().to_owned(),
            slot: Arc::clone(slot),
            quantizer: Arc::clone(quantizer),
            reach,
            weight: *weight,
        }))
    }

    /// Inputs of the layer.
    pub(super) fn channels(&self) -> usize {
        self.weight.shape().dims()[1]
    }

    /// Outputs of the layer.
    pub(super) fn rows(&self) -> usize {
        self.weight.shape().dims()[0]
    }

    /// The weight in the host's memory.
    pub(super) fn weight(&self) -> &TensorView {
        &self.weight
    }

    /// Elements of a row that share an amax, the row itself if there are no blocks.
    pub(super) fn block(&self) -> usize {
        let blocks = self.quantizer.attributes.block_sizes.as_ref();
        let last = blocks.and_then(|b| b.blocks.iter().find(|(axis, _)| matches!(axis, -1 | 1)));
        let size = last.and_then(|(_, size)| *size);
        size.and_then(|size| usize::try_from(size).ok())
            .map_or(self.channels(), |size| size.min(self.channels()))
    }

    /// The block whose amax can be clipped on its own.
    pub(super) fn clip_block(&self) -> Option<usize> {
        let is_calibrated = self.quantizer.is_calibrated_by_data();
        let is_static = self.quantizer.has_static_blocks();
        (is_static && is_calibrated && self.reach == Reach::Rows(1)).then(|| self.block())
    }

    /// Whether there is one amax for the tensor that can be clipped: that of dynamic NVFP4 blocks.
    pub(super) fn clips_as_a_whole(&self) -> bool {
        self.quantizer.kind() == Some(Kind::Nvfp4Dynamic) && self.quantizer.is_calibrated_by_data()
    }

    /// Fake-quantizes some rows of a weight, under given amax values or the rows' own.
    pub(super) fn quantize_rows(
        &self,
        machine: &Machine,
        amax: Option<Vec<f32>>,
        x: &TensorView,
        out: &TensorView,
    ) -> Result<()> {
        let quantizer = self.quantizer_with(amax);
        apply_quantizer(machine, &quantizer, self.slot.name(), x, out)
    }

    /// The quantizer with given amax values, or none but a constant one, for weights that were scaled already.
    pub(super) fn quantizer_with(&self, amax: Option<Vec<f32>>) -> Quantizer {
        Quantizer {
            amax: amax.map(|values| Amax::new(values, &[])).or_else(|| {
                self.quantizer
                    .amax
                    .clone()
                    .filter(|_| self.has_constant_amax())
            }),
            pre_quant_scale: None,
            ..(*self.quantizer).clone()
        }
    }

    fn has_constant_amax(&self) -> bool {
        let a = &self.quantizer.attributes;
        a.constant_amax.is_some() || a.use_constant_amax
    }
}

fn reach(q: &Quantizer) -> std::result::Result<Reach, String> {
    let a = &q.attributes;
    if a.bias.is_some() {
        return Err("a quantizer with a bias".to_owned());
    }
    if a.rotate.enable {
        return Err("a quantizer that rotates".to_owned());
    }
    match q.kind() {
        Some(Kind::Nvfp4Dynamic) => return Ok(Reach::Tensor),
        Some(Kind::Mx(_)) => return Ok(Reach::Rows(1)),
        Some(Kind::Amax(_)) => {}
        Some(Kind::Nvfp4Static { .. }) => return Err("static NVFP4 blocks".to_owned()),
        Some(Kind::Nf4 { .. }) => return Err("NF4".to_owned()),
        None => return Err(format!("num_bits {}", a.num_bits)),
    }
    if a.constant_amax.is_some() || a.use_constant_amax {
        return Ok(Reach::Rows(1));
    }
    if let Some(blocks) = &a.block_sizes {
        let mut rows = 1;
        let mut along_rows = false;
        for (axis, size) in &blocks.blocks {
            match (axis, size) {
                (-1 | 1, _) => along_rows = true,
                (-2 | 0, Some(size)) => rows = usize::try_from(*size).unwrap_or(usize::MAX),
                _ => return Err("blocks over whole columns".to_owned()),
            }
        }
        return match along_rows {
            true => Ok(Reach::Rows(rows)),
            false => Err("blocks that are not along the rows".to_owned()),
        };
    }
    match &a.axis {
        None => Ok(Reach::Tensor),
        Some(Axis::One(0 | -2)) => Ok(Reach::Rows(1)),
        Some(Axis::One(_)) => Ok(Reach::Columns),
        Some(Axis::Many(axes)) => match axes[..] {
            [0 | -2] => Ok(Reach::Rows(1)),
            [1 | -1] => Ok(Reach::Columns),
            _ => Err("an axis in two dimensions".to_owned()),
        },
    }
}

/// What the input quantizer may be: off, dynamic, or with one amax for the tensor or each channel.
fn check_input(state: &SlotState) -> std::result::Result<(), String> {
    let SlotState::Single(q) = state else {
        return match state.is_enabled() {
            true => Err("a sequential quantizer".to_owned()),
            false => Ok(()),
        };
    };
    let a = &q.attributes;
    if !q.is_calibrated_by_data() {
        return Ok(());
    }
    if a.bias.is_some() {
        return Err("a bias".to_owned());
    }
    let has_blocks = a
        .block_sizes
        .as_ref()
        .is_some_and(|b| b.quant_type == QuantType::Static);
    match (&a.axis, has_blocks) {
        (_, true) => Err("static blocks".to_owned()),
        (None | Some(Axis::One(-1)), _) => Ok(()),
        (Some(axis), _) => Err(format!("axis {axis:?}")),
    }
}
