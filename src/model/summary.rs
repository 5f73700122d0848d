//! The summary of all quantizers: the reference's text, and JSON.

use serde_json::{Value, json};

use super::layer::Layer;
use super::quantizer::{Kind, Quantizer, SlotState};
use super::registry::{Mode, Model};
use super::slot::Slot;
use crate::config::NumBits;

/// How to write a summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SummaryFormat {
    /// One line for each quantizer, as the reference prints it.
    Text,
    /// An object.
    Json,
}

/// Bits an element has that is not quantized: what the formats are measured against.
const UNQUANTIZED_BITS: f64 = 16.0;

impl Model {
    /// Describes every quantizer.
    pub fn summary(&self, format: SummaryFormat) -> String {
        match format {
            SummaryFormat::Text => self.text(),
            SummaryFormat::Json => self.json().to_string(),
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut count = 0;
        for (slot, member) in self.quantizers() {
            let Ok(quantizer) = slot.one(member) else {
                continue;
            };
            count += 1;
            let name = slot.member_name(member);
            text += &format!("{name:80} {}\n", describe(&quantizer));
        }
        text + &format!("{count} TensorQuantizers found in model\n")
    }

    fn json(&self) -> Value {
        let layers: Vec<Value> = self
            .layers()
            .iter()
            .map(|layer| layer_json(layer))
            .collect();
        let quantizers: Vec<Value> = self.slots().iter().map(|slot| slot_json(slot)).collect();
        json!({
            "mode": match self.mode() {
                Mode::Registered => "registered",
                Mode::Calibrating => "calibrating",
                Mode::Quantized => "quantized",
            },
            "effective_bits": self.effective_bits(),
            "weight_bytes_before": self.weight_bytes(false),
            "weight_bytes_after": self.weight_bytes(true),
            "layers": layers,
            "quantizers": quantizers,
        })
    }

    /// Bytes of all weights as registered, or as they are now: codes and scales where they are packed.
    pub fn weight_bytes(&self, packed: bool) -> usize {
        let of = |layer: &Layer| {
            let slot = layer.weight_slot().filter(|_| packed);
            match slot.and_then(|slot| slot.packed()) {
                Some(packed) => packed.size_bytes(),
                None => layer.spec().weight.as_ref().map_or(0, |w| w.size_bytes()),
            }
        };
        self.layers().iter().map(|layer| of(layer)).sum()
    }

    /// Bits per weight element, averaged over the elements of all weights: the smallest of a
    /// quantizer's formats counts, as the reference counts it, and 16 where there is none.
    pub fn effective_bits(&self) -> Option<f64> {
        let (mut bits, mut elements) = (0.0, 0.0);
        for layer in self.layers() {
            if let (Some(weight), Some(slot)) = (&layer.spec().weight, layer.weight_slot()) {
                let count = weight.count() as f64;
                elements += count;
                bits += count * weight_bits(slot, self.mode());
            }
        }
        (elements > 0.0).then(|| bits / elements)
    }
}

fn weight_bits(slot: &Slot, mode: Mode) -> f64 {
    let state = slot.state();
    let enabled = state.members().iter().filter(|q| q.enabled || q.is_folded);
    match mode {
        Mode::Registered => UNQUANTIZED_BITS,
        _ => enabled
            .map(|q| format_bits(q))
            .fold(UNQUANTIZED_BITS, f64::min),
    }
}

fn format_bits(quantizer: &Quantizer) -> f64 {
    let attributes = &quantizer.attributes;
    attributes
        .effective_bits
        .unwrap_or(match attributes.num_bits {
            NumBits::Int(bits) => f64::from(bits),
            NumBits::Float { exponent, mantissa } => f64::from(exponent + mantissa + 1),
        })
}

fn layer_json(layer: &Layer) -> Value {
    let spec = layer.spec();
    json!({
        "name": spec.name,
        "class_name": spec.class_name.as_deref().or(spec.kind.class_name()),
        "weight_shape": spec.weight.as_ref().map(|w| w.shape().dims().to_vec()),
        "weight_dtype": spec.weight.as_ref().map(|w| w.dtype().to_string()),
        "packed": layer.weight_slot().and_then(|slot| slot.packed()).map(|packed| packed.to_json()),
        "fused_group": spec.fused_group,
        "shared_input_group": spec.shared_input_group,
    })
}

fn slot_json(slot: &Slot) -> Value {
    let state = slot.state();
    let members: Vec<Value> = state.members().iter().map(|q| quantizer_json(q)).collect();
    let mut value = match (&*state, members) {
        (SlotState::Single(_), mut one) => one.pop().unwrap_or(Value::Null),
        (SlotState::Sequential(_), members) => json!({
            "enabled": state.is_enabled(),
            "members": members,
        }),
    };
    value["name"] = json!(slot.name());
    value["class_name"] = json!(slot.class_name());
    value
}

fn quantizer_json(quantizer: &Quantizer) -> Value {
    json!({
        "enabled": quantizer.enabled,
        "attributes": quantizer.attributes.to_json(),
        "amax": quantizer.amax.as_ref().map(|amax| json!({
            "shape": amax.shape(),
            "values": amax.values(),
        })),
        "bias": quantizer.bias_value.as_ref().map(|bias| json!({
            "shape": bias.shape(),
            "values": bias.values(),
        })),
        "global_amax": quantizer.global_amax,
        "pre_quant_scale": quantizer.pre_quant_scale.as_deref(),
    })
}

/// One quantizer as the reference prints it.
fn describe(quantizer: &Quantizer) -> String {
    let class = match quantizer.has_static_block_scale {
        true => "StaticBlockScaleQuantizer",
        false => "TensorQuantizer",
    };
    let number = |v: f32| match quantizer.has_static_block_scale {
        true => format!("{v:.4}"),
        false => scientific(v),
    };
    let scale = quantizer
        .pre_quant_scale
        .as_deref()
        .map(|scale| format!(" pre_quant_scale={}", range(scale, &number)))
        .unwrap_or_default();
    if !quantizer.enabled {
        return format!("{class}(disabled{scale}{})", rotation(quantizer));
    }
    let a = &quantizer.attributes;
    let unsigned = if a.unsigned { "unsigned " } else { "" };
    let narrow = if a.narrow_range { " narrow" } else { "" };
    let fake = if a.fake_quant { " fake" } else { "" };
    let blocks = match (&a.block_sizes, &a.axis) {
        (Some(blocks), _) => format!(" block_sizes={},", blocks.python_repr()),
        (None, Some(axis)) => format!(" axis={axis}"),
        (None, None) => " per-tensor".to_owned(),
    };
    let amax = if a.use_constant_amax {
        format!("{}(const)", scientific(super::quantizer::CONSTANT_AMAX))
    } else {
        match &quantizer.amax {
            _ if matches!(quantizer.kind(), Some(Kind::Mx(_))) => "None".to_owned(),
            None => "dynamic".to_owned(),
            Some(amax) => range(amax.values(), &number),
        }
    };
    let bias = a.bias.as_ref().map_or(String::new(), |bias| {
        format!(" bias={}", bias.python_repr())
    });
    let rotation = rotation(quantizer);
    format!(
        "{class}({unsigned}{} bit{narrow}{fake}{blocks} amax={amax}{scale}{rotation} calibrator=MaxCalibrator{bias} quant)",
        a.num_bits
    )
}

fn rotation(quantizer: &Quantizer) -> String {
    let rotate = &quantizer.attributes.rotate;
    if !rotate.enable {
        return String::new();
    }
    let back = if quantizer.rotates_back() {
        " (rotate_back)"
    } else {
        ""
    };
    let fp32 = if rotate.rotate_fp32 { " (fp32)" } else { "" };
    let block = rotate
        .block_size
        .map_or(String::new(), |n| format!(" (block={n})"));
    format!(" rotated{back}{fp32}{block}")
}

/// A value, or the range and number of several.
fn range(values: &[f32], number: &impl Fn(f32) -> String) -> String {
    match values {
        [] => "[](0)".to_owned(),
        [one] => number(*one),
        many => {
            let low = many.iter().copied().fold(f32::INFINITY, f32::min);
            let high = many.iter().copied().fold(0.0, f32::max);
            format!("[{}, {}]({})", number(low), number(high), many.len())
        }
    }
}

/// Two decimals and an exponent of at least two digits, as Python's `.2e` writes it.
fn scientific(value: f32) -> String {
    let text = format!("{value:.2e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => {
            let (sign, digits) = match exponent.strip_prefix('-') {
                Some(digits) => ('-', digits),
                None => ('+', exponent),
            };
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_look_as_python_writes_them() {
        assert_eq!(scientific(0.0), "0.00e+00");
        assert_eq!(scientific(3.234), "3.23e+00");
        assert_eq!(scientific(448.0), "4.48e+02");
        assert_eq!(scientific(0.000_012_3), "1.23e-05");
        assert_eq!(scientific(1.5e-12), "1.50e-12");
    }
}
