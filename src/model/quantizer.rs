//! What a quantizer is at one moment: attributes, switch and calibrated values. Immutable.

use std::sync::Arc;

use super::amax::Amax;
use super::bias::RunningBias;
use super::packed::PackedWeight;
use crate::config::{Attributes, Bias, NumBits, QuantType, RotateMode};
use crate::format::int::IntGrid;
use crate::format::{e4m3, nvfp4};
use crate::kernels::fake_quant::{Format, MxFormat};

/// The amax that `use_constant_amax` stands for: the largest E4M3 value, so that FP8's scale is 1.
pub const CONSTANT_AMAX: f32 = crate::format::e4m3::MAX;

/// One quantizer.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantizer {
    /// Format, granularity and the rest of the configuration.
    pub attributes: Attributes,
    /// Whether it does anything.
    pub enabled: bool,
    /// Calibrated or set by the host; without one, every tensor gives its own.
    pub amax: Option<Amax>,
    /// The largest amax of all weights that share one scale (q, k, v; gate, up); only static NVFP4 blocks
    /// have use for it. None: that of this quantizer alone.
    pub global_amax: Option<f32>,
    /// The calibrated bias of an affine quantizer.
    pub bias_value: Option<Amax>,
    /// What that was found from.
    pub collected_bias: Option<RunningBias>,
    /// What the max calibrator has seen since the attributes were set; calibrations add to it.
    pub collected: Option<Amax>,
    /// Factors for the channels of what it sees, applied first, also when disabled.
    pub pre_quant_scale: Option<Arc<[f32]>>,
    /// The largest magnitudes of the channels before that factor, where an algorithm balanced the channels;
    /// what the amax is worth under another factor follows from it.
    pub channel_amax: Option<Arc<[f32]>>,
    /// Of a weight quantizer: what its and the input's factors were before an algorithm balanced the
    /// channels between weight and activation. None: no algorithm did.
    pub balanced_from: Option<Arc<BeforeBalance>>,
    /// What its calibration saw and reached.
    pub record: Option<Arc<CalibrationRecord>>,
    /// Its work is done: the weight itself was replaced by the fake-quantized one.
    pub is_folded: bool,
    /// A weight quantizer with static blocks after its calibration; the reference prints it as another
    /// class.
    pub has_static_block_scale: bool,
    /// The packed weight that took the place of the host's; of a sequential quantizer its first member
    /// has it. A quantizer with one does not change any more.
    pub packed: Option<Arc<PackedWeight>>,
}

impl Quantizer {
    /// A quantizer that has seen nothing.
    pub fn new(attributes: Attributes) -> Self {
        Self {
            enabled: attributes.enable,
            amax: constant_buffer(&attributes),
            attributes,
            global_amax: None,
            bias_value: None,
            collected_bias: None,
            collected: None,
            pre_quant_scale: None,
            channel_amax: None,
            balanced_from: None,
            record: None,
            is_folded: false,
            has_static_block_scale: false,
            packed: None,
        }
    }

    /// The same quantizer under new attributes. What was calibrated stays where it still fits.
    pub fn with_attributes(&self, attributes: Attributes) -> Self {
        let same_blocks = self.attributes.axis == attributes.axis
            && self.attributes.block_sizes == attributes.block_sizes;
        let same_bias = self.attributes.bias == attributes.bias;
        let changed = Self {
            enabled: attributes.enable,
            amax: constant_buffer(&attributes)
                .or_else(|| self.amax.clone().filter(|_| same_blocks)),
            attributes,
            global_amax: self.global_amax.filter(|_| same_blocks),
            bias_value: self.bias_value.clone().filter(|_| same_bias),
            collected_bias: None,
            collected: None,
            pre_quant_scale: self.pre_quant_scale.clone(),
            channel_amax: self.channel_amax.clone(),
            balanced_from: self.balanced_from.clone(),
            record: None,
            is_folded: false,
            has_static_block_scale: self.has_static_block_scale && same_blocks,
            packed: None,
        };
        match changed.keeps_amax() {
            true => changed,
            false => changed.reset(),
        }
    }

    /// The same quantizer, on or off.
    pub fn switched(&self, enabled: bool) -> Self {
        let attributes = Attributes {
            enable: enabled,
            ..self.attributes.clone()
        };
        Self {
            enabled,
            attributes,
            is_folded: self.is_folded && !enabled,
            ..self.clone()
        }
    }

    /// The same quantizer without its rotation.
    pub fn without_rotation(&self) -> Self {
        let mut still = self.clone();
        still.attributes.rotate.enable = false;
        still
    }

    /// The same quantizer after its weight was folded.
    pub fn folded(&self, keep_attributes: bool) -> Self {
        let amax = self.amax.clone().filter(|_| keep_attributes);
        Self {
            is_folded: self.enabled || self.is_folded,
            collected: self.collected.clone().filter(|_| keep_attributes),
            has_static_block_scale: self.has_static_block_scale && amax.is_some(),
            amax,
            // Already in the weight, as is the rotation.
            pre_quant_scale: None,
            balanced_from: None,
            ..self.switched(false).without_rotation()
        }
    }

    /// The same quantizer without what it was calibrated to.
    pub fn reset(&self) -> Self {
        Self {
            amax: constant_buffer(&self.attributes),
            global_amax: None,
            bias_value: None,
            collected_bias: None,
            collected: None,
            channel_amax: None,
            has_static_block_scale: false,
            record: None,
            ..self.clone()
        }
    }

    /// What its calibration saw, without the error it reached: for when its scales are changed afterwards.
    pub(crate) fn record_without_error(&self) -> Option<Arc<CalibrationRecord>> {
        let record = self.record.as_deref()?;
        Some(Arc::new(CalibrationRecord {
            error: None,
            ..record.clone()
        }))
    }

    /// Whether its amax is a single value for tensors of every shape.
    pub fn has_one_amax(&self) -> bool {
        let a = &self.attributes;
        let found_by_blocks = matches!(self.kind(), Some(Kind::Nvfp4Dynamic | Kind::Mx(_)));
        a.constant_amax.is_some() || found_by_blocks || a.axis.is_none() && a.block_sizes.is_none()
    }

    /// Whether it changes what it sees before it quantizes, also when it is off.
    pub fn changes_input(&self) -> bool {
        self.pre_quant_scale.is_some() || self.attributes.rotate.enable
    }

    /// Whether what it rotated is rotated back after it.
    pub fn rotates_back(&self) -> bool {
        let rotate = &self.attributes.rotate;
        rotate.enable && rotate.mode == RotateMode::RotateBack
    }

    /// The bias it takes off and adds again, and the calibrated value of it.
    pub fn applied_bias(&self) -> Option<(&Bias, Option<&Amax>)> {
        let bias = self.attributes.bias.as_ref()?;
        // As in the reference, formats that find their own block scales leave the bias out.
        match self.kind() {
            Some(Kind::Amax(_)) => Some((bias, self.bias_value.as_ref())),
            _ => None,
        }
    }

    /// Whether a calibration finds its bias.
    pub fn collects_bias(&self) -> bool {
        let bias = self.attributes.bias.as_ref();
        self.enabled && bias.is_some_and(|bias| bias.quant_type == QuantType::Static)
    }

    /// Whether a calibration gives it an amax.
    pub fn is_calibrated_by_data(&self) -> bool {
        self.enabled && self.keeps_amax() && self.attributes.constant_amax.is_none()
    }

    /// Whether it has use for an amax of its own, calibrated or set.
    pub fn keeps_amax(&self) -> bool {
        let finds_its_own = match self.kind() {
            Some(Kind::Mx(_)) => true,
            // Dynamic blocks still want the amax of the tensor.
            Some(Kind::Nvfp4Dynamic) => self.attributes.quant_type == QuantType::Dynamic,
            _ => self.attributes.is_dynamic(),
        };
        !finds_its_own && !self.attributes.use_constant_amax
    }

    /// Whether it has blocks of a fixed size with an amax each.
    pub fn has_static_blocks(&self) -> bool {
        let blocks = self.attributes.block_sizes.as_ref();
        blocks.is_some_and(|blocks| {
            blocks.quant_type == QuantType::Static
                && blocks.blocks.iter().any(|(_, size)| size.is_some())
        })
    }

    /// How it turns a tensor into a quantized one; None for a format this version does not build, which
    /// the configuration refuses before.
    pub fn kind(&self) -> Option<Kind> {
        let a = &self.attributes;
        let blocks = a.block_sizes.as_ref();
        let dynamic = blocks.is_some_and(|blocks| blocks.quant_type == QuantType::Dynamic);
        match (a.num_bits, blocks.and_then(|blocks| blocks.scale_bits)) {
            (NumBits::Int(bits @ 2..=8), None) => {
                let grid = IntGrid::new(bits, a.unsigned, a.narrow_range);
                Some(Kind::Amax(Format::Int(grid)))
            }
            (NumBits::E4M3, None) => Some(Kind::Amax(Format::E4m3)),
            (NumBits::Int(4), Some(NumBits::Int(8))) if !dynamic => {
                let groups = blocks?.scale_block_sizes.as_ref()?.first()?;
                usize::try_from(groups.1)
                    .ok()
                    .map(|group| Kind::Nf4 { group })
            }
            (element, Some(NumBits::E8M0)) if dynamic => mx_format(element).map(Kind::Mx),
            (NumBits::E2M1, Some(NumBits::E4M3)) if dynamic => Some(Kind::Nvfp4Dynamic),
            (NumBits::E2M1, Some(NumBits::E4M3)) => Some(Kind::Nvfp4Static {
                largest_scale: match blocks.is_some_and(|blocks| blocks.four_over_six) {
                    true => nvfp4::FOUR_OVER_SIX_MAX_SCALE,
                    false => e4m3::MAX,
                },
            }),
            _ => None,
        }
    }
}

/// The factors of a layer before an algorithm moved magnitude between its weight and its input.
#[derive(Debug, Clone, PartialEq)]
pub struct BeforeBalance {
    /// The `pre_quant_scale` of the input quantizer.
    pub input: Option<Arc<[f32]>>,
    /// That of the weight quantizer.
    pub weight: Option<Arc<[f32]>>,
}

/// What a calibration saw and reached, for reports.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CalibrationRecord {
    /// Name of the algorithm.
    pub algorithm: &'static str,
    /// Tokens (rows of the last axis) that passed the tap; None for weights.
    pub tokens: Option<u64>,
    /// Where the amax came from when no token passed.
    pub filled_from: Option<String>,
    /// What the calibration lowered, and by how much.
    pub error: Option<QuantizationError>,
}

/// A relative squared error before and after a calibration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuantizationError {
    /// Of what.
    pub of: ErrorOf,
    /// With the largest magnitudes as amax, and no factors.
    pub before: f64,
    /// As calibrated.
    pub after: f64,
}

/// What an error is measured on: `|quantized - original|^2 / |original|^2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorOf {
    /// The elements of the tensor itself.
    Tensor,
    /// The layer's output over the calibration tokens.
    Output,
}

impl ErrorOf {
    /// As reports say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tensor => "tensor",
            Self::Output => "output",
        }
    }
}

/// How a quantizer works.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Every block of the granularity has an amax, calibrated or its own.
    Amax(Format),
    /// Blocks find a power of two by themselves; nothing is calibrated.
    Mx(MxFormat),
    /// Blocks find their E4M3 scale by themselves, under the calibrated amax of the tensor.
    Nvfp4Dynamic,
    /// Blocks have calibrated amax values, whose scales are E4M3 under the largest of them.
    Nvfp4Static {
        /// The scale that the tensor's largest block gets: 448, or 256 for four-over-six.
        largest_scale: f32,
    },
    /// Blocks have calibrated amax values, which are 8-bit integers in groups themselves.
    Nf4 {
        /// Blocks in a group.
        group: usize,
    },
}

/// The MX format with these elements.
fn mx_format(element: NumBits) -> Option<MxFormat> {
    match element {
        NumBits::Int(8) => Some(MxFormat::Int8),
        NumBits::Float { exponent, mantissa } => match (exponent, mantissa) {
            (4, 3) => Some(MxFormat::E4m3),
            (5, 2) => Some(MxFormat::E5m2),
            (3, 2) => Some(MxFormat::E3m2),
            (2, 3) => Some(MxFormat::E2m3),
            (2, 1) => Some(MxFormat::E2m1),
            (1, 2) => Some(MxFormat::E1m2),
            _ => None,
        },
        NumBits::Int(_) => None,
    }
}

/// `constant_amax` is kept like a calibrated one.
fn constant_buffer(attributes: &Attributes) -> Option<Amax> {
    let value = attributes.constant_amax?;
    Some(Amax::new(vec![value as f32], &[]))
}

/// What a slot holds: one quantizer, or several applied one after the other.
#[derive(Debug, Clone, PartialEq)]
pub enum SlotState {
    /// A plain quantizer.
    Single(Arc<Quantizer>),
    /// A sequential quantizer; its members are named `<slot>.0`, `<slot>.1`, ...
    Sequential(Vec<Arc<Quantizer>>),
}

impl SlotState {
    /// The quantizers in the order in which they are applied.
    pub fn members(&self) -> &[Arc<Quantizer>] {
        match self {
            Self::Single(one) => std::slice::from_ref(one),
            Self::Sequential(members) => members,
        }
    }

    /// Whether any member is enabled.
    pub fn is_enabled(&self) -> bool {
        self.members().iter().any(|member| member.enabled)
    }

    /// The same state with every member changed.
    pub fn map(&self, change: impl FnMut(&Arc<Quantizer>) -> Arc<Quantizer>) -> Self {
        match self {
            Self::Single(one) => Self::Single({ change }(one)),
            Self::Sequential(members) => Self::Sequential(members.iter().map(change).collect()),
        }
    }
}
