//! The attributes of one quantizer: types, defaults, validation, and JSON in both directions.

use serde_json::{Map, Value, json};

use super::bias_rotate::{Bias, Rotate};
use super::block_sizes::BlockSizes;
use super::num_bits::{Axis, NumBits};
use super::path::JsonPath;
use super::read::{
    boolean, invalid, named_enum, number, object, one_of, optional, shown, string, unknown,
};
use crate::error::Result;

named_enum! {
    /// Whether an amax is calibrated or computed from the data at hand.
    pub enum QuantType {
        /// Calibrated.
        Static = "static",
        /// Computed at every call.
        Dynamic = "dynamic",
    }
}

named_enum! {
    /// The float type beside an exported quantizer. It concerns ONNX export alone.
    pub enum HighPrecisionDtype {
        /// float32.
        Float = "Float",
        /// float16.
        Half = "Half",
        /// bfloat16.
        BFloat16 = "BFloat16",
    }
}

named_enum! {
    /// What is collected during calibration.
    pub enum Calibrator {
        /// The largest absolute value.
        Max = "max",
        /// A histogram of absolute values.
        Histogram = "histogram",
    }
}

/// Every attribute, in the order [`Attributes::to_json`] writes them.
pub(super) const KEYS: &[&str] = &[
    "num_bits",
    "effective_bits",
    "enable",
    "axis",
    "fake_quant",
    "unsigned",
    "narrow_range",
    "learn_amax",
    "type",
    "block_sizes",
    "bias",
    "trt_high_precision_dtype",
    "calibrator",
    "rotate",
    "pass_through_bwd",
    "backend",
    "backend_extra_args",
    "use_constant_amax",
    "constant_amax",
];

/// The `(E, M)` of the formats that exist.
const FLOAT_FORMATS: &[(u32, u32)] = &[(4, 3), (5, 2), (3, 2), (2, 3), (2, 1), (1, 2)];

/// The `(E, M)` that work without dynamic blocks.
const FREE_FLOAT_FORMATS: &[(u32, u32)] = &[(4, 3), (2, 1)];

/// A complete set of quantizer attributes. What is read from JSON is valid; a field that is set
/// directly is not checked again.
#[derive(Debug, Clone, PartialEq)]
pub struct Attributes {
    /// Format of a quantized value.
    pub num_bits: NumBits,
    /// What one element costs in `auto_quantize`, where it is not `num_bits`; in (0, 16].
    pub effective_bits: Option<f64>,
    /// Whether the quantizer does anything.
    pub enable: bool,
    /// The dimensions with an amax of their own; `None`: one amax for the tensor.
    pub axis: Option<Axis>,
    /// Quantize and dequantize at once; false keeps the low-bit codes.
    pub fake_quant: bool,
    /// Integers without a sign.
    pub unsigned: bool,
    /// Integers without the most negative code.
    pub narrow_range: bool,
    /// Always false: the reference keeps the key for old configurations.
    pub learn_amax: bool,
    /// Key `type`: whether amax is calibrated.
    pub quant_type: QuantType,
    /// Blocks with a scale each; never together with `axis`.
    pub block_sizes: Option<BlockSizes>,
    /// Affine quantization.
    pub bias: Option<Bias>,
    /// Concerns ONNX export alone.
    pub trt_high_precision_dtype: HighPrecisionDtype,
    /// What is collected during calibration.
    pub calibrator: Calibrator,
    /// Rotation of the input.
    pub rotate: Rotate,
    /// Concerns training alone.
    pub pass_through_bwd: bool,
    /// Name of a custom implementation.
    pub backend: Option<String>,
    /// Its arguments; an object.
    pub backend_extra_args: Option<Value>,
    /// Amax is 448, whatever the data; never together with `constant_amax`.
    pub use_constant_amax: bool,
    /// Amax is this number, whatever the data.
    pub constant_amax: Option<f64>,
}

impl Default for Attributes {
    fn default() -> Self {
        Self {
            num_bits: NumBits::Int(8),
            effective_bits: None,
            enable: true,
            axis: None,
            fake_quant: true,
            unsigned: false,
            narrow_range: false,
            learn_amax: false,
            quant_type: QuantType::Static,
            block_sizes: None,
            bias: None,
            trt_high_precision_dtype: HighPrecisionDtype::Float,
            calibrator: Calibrator::Max,
            rotate: Rotate::default(),
            pass_through_bwd: true,
            backend: None,
            backend_extra_args: None,
            use_constant_amax: false,
            constant_amax: None,
        }
    }
}

impl Attributes {
    /// Reads a set of attributes; what is not given has its default.
    pub fn from_json(value: &Value, at: &JsonPath) -> Result<Self> {
        refuse_lone_enable(value, at)?;
        Self::read(value, at)
    }

    /// These attributes with the given ones replaced. The whole result is checked, so that `axis`
    /// must be set to null by whoever adds `block_sizes`.
    pub fn merged(&self, update: &Value, at: &JsonPath) -> Result<Self> {
        let update = object(update, "an object of attributes", at)?;
        let mut whole = match self.to_json() {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        for (key, value) in update {
            // At the top of an update a lone {"enable": true} is what switches a quantizer on.
            if key != "rotate" {
                refuse_lone_enable(value, &at.key(key))?;
            }
            whole.insert(key.clone(), value.clone());
        }
        Self::read(&Value::Object(whole), at)
    }

    /// All attributes with the reference's keys. [`Attributes::from_json`] reads them back.
    pub fn to_json(&self) -> Value {
        json!({
            "num_bits": self.num_bits.to_json(),
            "effective_bits": self.effective_bits,
            "enable": self.enable,
            "axis": self.axis.as_ref().map(Axis::to_json),
            "fake_quant": self.fake_quant,
            "unsigned": self.unsigned,
            "narrow_range": self.narrow_range,
            "learn_amax": self.learn_amax,
            "type": self.quant_type.name(),
            "block_sizes": self.block_sizes.as_ref().map(BlockSizes::to_json),
            "bias": self.bias.as_ref().map(Bias::to_json),
            "trt_high_precision_dtype": self.trt_high_precision_dtype.name(),
            "calibrator": self.calibrator.name(),
            "rotate": self.rotate.to_json(),
            "pass_through_bwd": self.pass_through_bwd,
            "backend": self.backend,
            "backend_extra_args": self.backend_extra_args,
            "use_constant_amax": self.use_constant_amax,
            "constant_amax": self.constant_amax,
        })
    }

    /// Whether `value` switches a quantizer on or off and says nothing else.
    pub fn only_toggles(value: &Value) -> bool {
        value
            .as_object()
            .is_some_and(|map| map.len() == 1 && map.get("enable").is_some_and(Value::is_boolean))
    }

    /// Whether amax is computed from the data at every call. The type of whole-dimension blocks
    /// counts too: `{"-1": null, "type": "dynamic"}` is per token.
    pub fn is_dynamic(&self) -> bool {
        let blocks_are = |blocks: &BlockSizes| blocks.quant_type == QuantType::Dynamic;
        self.quant_type == QuantType::Dynamic || self.block_sizes.as_ref().is_some_and(blocks_are)
    }

    fn read(value: &Value, at: &JsonPath) -> Result<Self> {
        let mut read = Self::default();
        for (key, value) in object(value, "an object of attributes", at)? {
            read.set(key, value, at)?;
        }
        read.check(at)?;
        Ok(read)
    }

    fn set(&mut self, key: &str, value: &Value, parent: &JsonPath) -> Result<()> {
        let at = &parent.key(key);
        match key {
            "num_bits" => self.num_bits = NumBits::from_json(value, at)?,
            "effective_bits" => self.effective_bits = optional(value, at, effective_bits)?,
            "enable" => self.enable = boolean(value, at)?,
            "axis" => self.axis = optional(value, at, Axis::from_json)?,
            "fake_quant" => self.fake_quant = boolean(value, at)?,
            "unsigned" => self.unsigned = boolean(value, at)?,
            "narrow_range" => self.narrow_range = boolean(value, at)?,
            "learn_amax" => {
                self.learn_amax = boolean(value, at)?;
                if self.learn_amax {
                    let text = "learn_amax is deprecated and reserved for backward compatibility; remove it";
                    return Err(invalid(at, text));
                }
            }
            "type" => self.quant_type = one_of(value, at, QuantType::ALL)?,
            "block_sizes" => self.block_sizes = optional(value, at, BlockSizes::from_json)?,
            "bias" => self.bias = optional(value, at, Bias::from_json)?,
            "trt_high_precision_dtype" => {
                self.trt_high_precision_dtype = one_of(value, at, HighPrecisionDtype::ALL)?;
            }
            "calibrator" => self.calibrator = one_of(value, at, Calibrator::ALL)?,
            "rotate" => self.rotate = Rotate::from_json(value, at)?,
            "pass_through_bwd" => self.pass_through_bwd = boolean(value, at)?,
            "backend" => {
                self.backend =
                    optional(value, at, |value, at| string(value, at).map(str::to_owned))?
            }
            "backend_extra_args" => {
                let read = |value: &Value, at: &JsonPath| {
                    object(value, "an object of arguments", at).cloned()
                };
                self.backend_extra_args = optional(value, at, read)?.map(Value::Object);
            }
            "use_constant_amax" => self.use_constant_amax = boolean(value, at)?,
            "constant_amax" => self.constant_amax = optional(value, at, constant_amax)?,
            _ => return Err(unknown("attribute", key, KEYS, parent)),
        }
        Ok(())
    }

    /// The rules that concern more than one attribute.
    fn check(&self, at: &JsonPath) -> Result<()> {
        if let (Some(axis), Some(blocks)) = (&self.axis, &self.block_sizes) {
            let (text, blocks) = (
                "axis must be None when block_sizes is not None",
                blocks.python_repr(),
            );
            return Err(invalid(
                at,
                format_args!("{text}; got axis {axis} and block_sizes {blocks}"),
            ));
        }
        if self.use_constant_amax && self.constant_amax.is_some() {
            let text = "use_constant_amax and constant_amax are mutually exclusive; set only one";
            return Err(invalid(at, text));
        }
        // A custom backend gives num_bits its own meaning.
        if self.backend.is_none() {
            self.check_num_bits(&at.key("num_bits"))?;
        }
        Ok(())
    }

    fn check_num_bits(&self, at: &JsonPath) -> Result<()> {
        self.num_bits.require_positive(at)?;
        let NumBits::Float { exponent, mantissa } = self.num_bits else {
            return Ok(());
        };
        if !FLOAT_FORMATS.contains(&(exponent, mantissa)) {
            let text = "Supported FPx quantization formats: FP8 (E4M3, E5M2), FP6 (E3M2, E2M3), FP4 (E2M1); got";
            return Err(invalid(at, format_args!("{text} {}", self.num_bits)));
        }
        let dynamic_blocks = self
            .block_sizes
            .as_ref()
            .is_some_and(|blocks| blocks.quant_type == QuantType::Dynamic);
        if !FREE_FLOAT_FORMATS.contains(&(exponent, mantissa)) && !dynamic_blocks {
            let text = "Only blockwise dynamic quantization is supported with quantization formats";
            let remedy = "add block_sizes with \"type\": \"dynamic\"";
            return Err(invalid(
                at,
                format_args!("{text} E{exponent}M{mantissa}; {remedy}"),
            ));
        }
        Ok(())
    }
}

/// `{"enable": true}` where a configuration was meant says nothing about the format. The reference
/// looks for it at every depth but in `rotate`, where it is a complete configuration.
fn refuse_lone_enable(value: &Value, at: &JsonPath) -> Result<()> {
    match value {
        Value::Object(map) => {
            if Attributes::only_toggles(value) && map.get("enable") == Some(&Value::Bool(true)) {
                let text = "Cannot specify only {\"enable\": true}; give the attributes too, such as num_bits";
                return Err(invalid(at, text));
            }
            let nested = map.iter().filter(|(key, _)| *key != "rotate");
            nested
                .into_iter()
                .try_for_each(|(key, value)| refuse_lone_enable(value, &at.key(key)))
        }
        Value::Array(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(i, item)| refuse_lone_enable(item, &at.index(i))),
        _ => Ok(()),
    }
}

/// Costs more than 16 bits would be no quantization.
pub(super) fn effective_bits(value: &Value, at: &JsonPath) -> Result<f64> {
    match number(value, at)? {
        bits if bits > 0.0 && bits <= 16.0 => Ok(bits),
        _ => Err(invalid(
            at,
            format_args!("effective_bits must be in (0, 16], got {}", shown(value)),
        )),
    }
}

fn constant_amax(value: &Value, at: &JsonPath) -> Result<f64> {
    match number(value, at)? {
        // Amax is float32 wherever it is used.
        amax if amax as f32 > 0.0 && (amax as f32).is_finite() => Ok(amax),
        _ => Err(invalid(
            at,
            format_args!(
                "constant_amax must be a positive value of float32, got {}",
                shown(value)
            ),
        )),
    }
}
