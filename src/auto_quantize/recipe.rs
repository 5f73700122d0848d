//! A format that the search may give to a layer: its name, its configuration, and how much it compresses.

use serde_json::{Value, json};

use crate::config::{
    Attributes, Cfg, Entry, Method, NumBits, QuantType, QuantizeConfig, presets, support,
};
use crate::error::{Error, Result};

/// Bits of an element that is not quantized, by definition.
pub const UNQUANTIZED_BITS: f64 = 16.0;

/// Algorithms whose result does not depend on what other layers are quantized to.
const ALGORITHMS: [Method; 7] = [
    Method::Max,
    Method::Mse,
    Method::Histogram,
    Method::SmoothQuant,
    Method::AwqLite,
    Method::AwqFull,
    Method::AwqClip,
];

/// One format.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// Name of the preset, `CUSTOM_<position>`, or `NONE`.
    pub name: String,
    /// What the quantizers of a layer get, by their bare names. None: they stay off.
    pub config: Option<QuantizeConfig>,
    /// Bits of an element of the weight, out of 16.
    pub compression: f64,
    /// What it is told apart and ordered by, among those that compress alike.
    signature: String,
}

impl Recipe {
    /// No quantization.
    pub fn none() -> Self {
        Self {
            name: "NONE".to_owned(),
            config: None,
            compression: 1.0,
            signature: String::new(),
        }
    }

    /// Reads the element at `position` of a list of formats: a preset's name, a configuration, or null.
    pub fn read(value: &Value, position: usize) -> Result<Self> {
        let at = |error: Error| match error {
            Error::Config(text) => {
                Error::Config(format!("quantization_formats[{position}]: {text}"))
            }
            other => other,
        };
        if value.is_null() {
            return Ok(Self::none());
        }
        if !value.is_string() && !value.is_object() {
            return Err(at(Error::Config(format!(
                "{value}, expected the name of a preset, a configuration object or null"
            ))));
        }
        let mut config = QuantizeConfig::from_value(value).map_err(at)?;
        if config.preset.is_none() {
            let same =
                presets::names().find(|name| presets::find(name).is_ok_and(|known| known == value));
            config.preset = same.map(str::to_owned);
        }
        support::check(&config).map_err(at)?;
        let name = match &config.preset {
            Some(preset) => preset.clone(),
            None => format!("CUSTOM_{position}"),
        };
        check(&name, &config).map_err(at)?;
        Ok(Self {
            compression: compression(&config),
            signature: signature(&config),
            config: Some(config),
            name,
        })
    }

    /// Whether it leaves layers as they are.
    pub fn is_none(&self) -> bool {
        self.config.is_none()
    }

    /// Bits of an element of the weight.
    pub fn effective_bits(&self) -> f64 {
        self.compression * UNQUANTIZED_BITS
    }

    /// The name as states and logs have it: `FP8_DEFAULT_CFG(effective-bits: 8.0)`.
    pub fn label(&self) -> String {
        format!("{}(effective-bits: {:?})", self.name, self.effective_bits())
    }

    /// Whether its calibration is AWQ's, which the reference gives a quarter of the batches.
    pub fn is_awq(&self) -> bool {
        let awq = [Method::AwqLite, Method::AwqFull, Method::AwqClip];
        let config = self.config.iter();
        let mut methods = config.flat_map(|config| &config.algorithm);
        methods.any(|algorithm| awq.contains(&algorithm.method))
    }

    /// The same format, whatever it is called.
    pub fn is_same(&self, other: &Self) -> bool {
        self.is_none() == other.is_none() && self.signature == other.signature
    }

    /// Everything that a result depends on.
    pub fn signature(&self) -> &str {
        &self.signature
    }
}

/// Puts recipes in the order of candidates: from the most to the least compressed, no quantization last.
pub fn sort(recipes: &mut [Recipe]) {
    recipes.sort_by(|a, b| {
        let by_bits = a.compression.total_cmp(&b.compression);
        let by_none = a.is_none().cmp(&b.is_none());
        by_bits
            .then(by_none)
            .then_with(|| a.signature.cmp(&b.signature))
    });
}

/// Refuses what cannot be calibrated layer by layer, or would not be fake quantization.
fn check(name: &str, config: &QuantizeConfig) -> Result<()> {
    for algorithm in &config.algorithm {
        if !ALGORITHMS.contains(&algorithm.method) {
            let known: Vec<&str> = ALGORITHMS.iter().map(|method| method.name()).collect();
            return Err(Error::Config(format!(
                "Algorithm '{}' in '{name}' is not supported by auto_quantize yet; expected null or one of {}",
                algorithm.method,
                known.join(", ")
            )));
        }
    }
    if attributes(config).any(|(_, attributes)| attributes.enable && !attributes.fake_quant) {
        return Err(Error::Config(format!(
            "'{name}' packs weights (fake_quant is false), which cannot be searched; search with fake quantization, \
             and call mq_compress() on the result"
        )));
    }
    Ok(())
}

fn attributes(config: &QuantizeConfig) -> impl Iterator<Item = (&Entry, &Attributes)> {
    config.entries.iter().flat_map(|entry| {
        let members = match &entry.cfg {
            None => &[],
            Some(Cfg::One(one)) => std::slice::from_ref(&**one),
            Some(Cfg::Sequential(members)) => members.as_slice(),
        };
        members.iter().map(move |member| (entry, member))
    })
}

/// Bits of an element over 16: what the configuration says, else the least of its enabled entries. As the
/// reference counts, which leaves out the scales of blocks but for those of NVFP4's.
fn compression(config: &QuantizeConfig) -> f64 {
    if let Some(bits) = config.effective_bits {
        return bits / UNQUANTIZED_BITS;
    }
    let enabled =
        attributes(config).filter(|(entry, attributes)| entry.enable && attributes.enable);
    let least = enabled
        .map(|(_, attributes)| bits(attributes) / UNQUANTIZED_BITS)
        .reduce(f64::min);
    least.unwrap_or(1.0)
}

fn bits(attributes: &Attributes) -> f64 {
    if let Some(bits) = attributes.effective_bits {
        return bits;
    }
    let blocks = attributes.block_sizes.as_ref();
    let is_nvfp4 = attributes.num_bits == NumBits::E2M1
        && blocks.is_some_and(|blocks| {
            blocks.quant_type == QuantType::Dynamic
                && blocks.scale_bits == Some(NumBits::E4M3)
                && blocks.blocks.iter().any(|(_, size)| *size == Some(16))
        });
    match attributes.num_bits {
        // Every 16 elements share a scale of 8 bits.
        _ if is_nvfp4 => 4.5,
        NumBits::Int(bits) => f64::from(bits),
        NumBits::Float { exponent, mantissa } => f64::from(exponent + mantissa + 1),
    }
}

/// Entries and algorithms without names and places.
fn signature(config: &QuantizeConfig) -> String {
    let entries: Vec<Value> = config
        .entries
        .iter()
        .map(|entry| {
            let cfg = match &entry.cfg {
                None => Value::Null,
                Some(Cfg::One(one)) => one.to_json(),
                Some(Cfg::Sequential(members)) => members.iter().map(Attributes::to_json).collect(),
            };
            json!([
                entry.pattern.as_str(),
                entry.parent_class,
                cfg,
                entry.enable
            ])
        })
        .collect();
    let algorithm: Vec<Value> = config
        .algorithm
        .iter()
        .map(|algorithm| algorithm.to_json())
        .collect();
    json!([entries, algorithm, config.effective_bits]).to_string()
}
