//! Calibration algorithms: their names, and reading `algorithm` into validated fields.

use serde_json::{Map, Value};

use super::algorithm_fields as fields;
use super::path::JsonPath;
use super::pattern::Pattern;
use super::quantize;
use super::read::{hint, invalid, named_enum, quoted, shown, unknown};
use crate::error::Result;

named_enum! {
    /// A calibration algorithm.
    pub enum Method {
        /// Largest absolute value.
        Max = "max",
        /// Search for the amax of least squared error.
        Mse = "mse",
        /// The same, weighted with the local Hessian.
        LocalHessian = "local_hessian",
        /// Histograms of activations; the amax by entropy, least squared error or percentile. mq's own name
        /// for what the reference offers as a calibrator only.
        Histogram = "histogram",
        /// SmoothQuant.
        SmoothQuant = "smoothquant",
        /// AWQ: scales only.
        AwqLite = "awq_lite",
        /// AWQ: clipping only.
        AwqClip = "awq_clip",
        /// AWQ: scales, then clipping. `awq` is another name.
        AwqFull = "awq_full",
        /// SVDQuant.
        SvdQuant = "svdquant",
        /// GPTQ.
        Gptq = "gptq",
        /// Headroom for NVFP4 activations.
        Nvfp4ActHeadroom = "nvfp4_act_headroom",
        /// Learned step sizes.
        Lsq = "lsq",
        /// Real quantization of reference 0.21.
        RealQuantize = "real_quantize",
    }
}

impl Method {
    pub(super) fn find(name: &str) -> Option<Self> {
        let name = if name == "awq" { "awq_full" } else { name };
        Self::ALL
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, method)| *method)
    }
}

/// One algorithm with all its fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Algorithm {
    /// Which one.
    pub method: Method,
    /// Every field the method has, checked; what was not given has its default. Names, ranges
    /// and defaults are the table in `algorithm_fields.rs`.
    pub fields: Map<String, Value>,
    /// The layers, and quantizers of the host's own, that it is for, by name; None: all.
    layers: Option<Vec<Pattern>>,
}

impl Algorithm {
    /// Reads `null` (no calibration), a name, an object with `method`, or a list of those.
    pub fn parse(value: &Value, at: &JsonPath) -> Result<Vec<Self>> {
        match value {
            Value::Array(items) => {
                let read = |(i, item)| Self::one(item, &at.index(i));
                Ok(items
                    .iter()
                    .enumerate()
                    .map(read)
                    .collect::<Result<Vec<_>>>()?
                    .into_iter()
                    .flatten()
                    .collect())
            }
            _ => Ok(Self::one(value, at)?.into_iter().collect()),
        }
    }

    /// As [`Algorithm::parse`], from text: JSON, a bare name, or nothing for no calibration.
    pub fn parse_text(text: &str) -> Result<Vec<Self>> {
        let text = text.trim();
        let at = &JsonPath::root("algorithm");
        let is_name = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        match text {
            "" | "null" => Ok(Vec::new()),
            _ if is_name => Self::parse(&Value::from(text), at),
            _ => Self::parse(&quantize::json(text)?, at),
        }
    }

    /// The form that [`Algorithm::parse`] reads: `method` and every field.
    pub fn to_json(&self) -> Value {
        let mut map = Map::from_iter([("method".to_owned(), Value::from(self.method.name()))]);
        map.extend(self.fields.clone());
        Value::Object(map)
    }

    /// Whether it is for a layer, or a quantizer of the host's own, of that name.
    pub fn concerns(&self, name: &str) -> bool {
        let layers = self.layers.as_ref();
        layers.is_none_or(|layers| layers.iter().any(|pattern| pattern.matches(name)))
    }

    /// A field that is true or false; false for a field the method does not have.
    pub fn flag(&self, field: &str) -> bool {
        self.fields
            .get(field)
            .and_then(Value::as_bool)
            .unwrap_or(false)
    }

    /// A number the method has; its range was checked.
    pub fn number(&self, field: &str) -> f64 {
        let value = self.fields.get(field).and_then(Value::as_f64);
        debug_assert!(value.is_some(), "{field}");
        value.unwrap_or_default()
    }

    /// A count the method has, at least 1.
    pub fn count(&self, field: &str) -> usize {
        let value = self.fields.get(field).and_then(Value::as_u64);
        debug_assert!(value.is_some(), "{field}");
        value.map_or(1, |count| usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// A choice the method has.
    pub fn choice(&self, field: &str) -> &str {
        let value = self.fields.get(field).and_then(Value::as_str);
        value.unwrap_or_default()
    }

    fn one(value: &Value, at: &JsonPath) -> Result<Option<Self>> {
        let none = Map::new();
        match value {
            Value::Null => Ok(None),
            Value::String(name) => Self::read(name, &none, at).map(Some),
            Value::Object(map) => match map.get("method") {
                Some(Value::String(name)) => Self::read(name, map, at).map(Some),
                Some(other) => {
                    let text = format!(
                        "method must be a name, got {}; no calibration is null",
                        shown(other)
                    );
                    Err(invalid(&at.key("method"), text))
                }
                None => {
                    let text = "'method' is missing; an algorithm looks like {\"method\": \"max\"}";
                    Err(invalid(at, format_args!("{text}, got {}", shown(value))))
                }
            },
            _ => {
                let text =
                    "an algorithm is null, a name, an object with \"method\", or a list of those";
                Err(invalid(at, format_args!("{text}, got {}", shown(value))))
            }
        }
    }

    fn read(name: &str, given: &Map<String, Value>, at: &JsonPath) -> Result<Self> {
        let method = Method::find(name).ok_or_else(|| {
            let known: Vec<&str> = Method::ALL.iter().map(|(known, _)| *known).collect();
            invalid(
                at,
                format_args!("Algorithm {} not found{}", quoted(name), hint(name, &known)),
            )
        })?;
        let known: Vec<&str> = fields::of(method).map(|field| field.name).collect();
        if let Some(key) = given
            .keys()
            .find(|key| *key != "method" && !known.contains(&key.as_str()))
        {
            return Err(unknown(&format!("field of {method}"), key, &known, at));
        }
        let mut read = Map::new();
        for field in fields::of(method) {
            let default = field.default_value();
            let value = given.get(field.name).unwrap_or(&default);
            read.insert(
                field.name.to_owned(),
                field.read(value, method, &at.key(field.name))?,
            );
        }
        fields::check_together(method, &read, at)?;
        let layers = read.get("layers").and_then(Value::as_array).map(|globs| {
            let globs = globs.iter().filter_map(Value::as_str);
            globs.map(Pattern::new).collect::<Result<Vec<_>>>()
        });
        Ok(Self {
            method,
            layers: layers.transpose()?,
            fields: read,
        })
    }
}
