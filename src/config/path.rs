//! Where in the configuration a value stands, for messages: `quant_cfg[2].cfg.block_sizes`.

use std::fmt;

/// A place in a JSON document. It costs nothing until it is printed: every step borrows the one
/// before it.
#[derive(Debug, Clone, Copy)]
pub struct JsonPath<'a> {
    parent: Option<&'a JsonPath<'a>>,
    step: Step<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Step<'a> {
    Root(&'a str),
    Key(&'a str),
    Index(usize),
}

impl<'a> JsonPath<'a> {
    /// Begins a path. `name` is printed as it is, so it may be a path already; "" is the top of
    /// the document.
    pub fn root(name: &'a str) -> Self {
        Self {
            parent: None,
            step: Step::Root(name),
        }
    }

    /// The value at `key` of the object at this place.
    pub fn key<'b>(&'b self, key: &'b str) -> JsonPath<'b> {
        JsonPath {
            parent: Some(self),
            step: Step::Key(key),
        }
    }

    /// Element `index` of the array at this place.
    pub fn index(&self, index: usize) -> JsonPath<'_> {
        JsonPath {
            parent: Some(self),
            step: Step::Index(index),
        }
    }

    /// The innermost key: what a message calls the value.
    pub(super) fn last_key(&self) -> Option<&'a str> {
        match self.step {
            Step::Key(key) => Some(key),
            Step::Root(name) if is_plain(name) => Some(name),
            Step::Root(_) | Step::Index(_) => None,
        }
    }

    /// Writes the steps without a name for the top; tells whether anything was written.
    fn steps(&self, f: &mut fmt::Formatter<'_>) -> Result<bool, fmt::Error> {
        let before = match self.parent {
            Some(parent) => parent.steps(f)?,
            None => false,
        };
        match self.step {
            Step::Root(name) => {
                f.write_str(name)?;
                return Ok(!name.is_empty());
            }
            Step::Key(key) if is_plain(key) => {
                write!(f, "{}{key}", if before { "." } else { "" })?;
            }
            // Debug quotes and escapes, so that a key cannot break the one line of a message.
            Step::Key(key) => write!(f, "[{key:?}]")?,
            Step::Index(index) => write!(f, "[{index}]")?,
        }
        Ok(true)
    }
}

/// Keys that can stand behind a dot. Patterns such as `*weight_quantizer` cannot.
fn is_plain(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

impl fmt::Display for JsonPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.steps(f)? {
            f.write_str("top level")?;
        }
        Ok(())
    }
}
