//! Regular expressions over names of layers.

use regex::bytes::{Regex, RegexBuilder};

/// Compiles an expression on bytes, because `\w` and `\d` are ASCII here, as names are. Errors with what is wrong in
/// one line.
pub fn expression(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(text)
        .unicode(false)
        .build()
        .map_err(|error| {
            // The last line says what is wrong, those before it draw the expression.
            let why = error.to_string();
            why.lines().last().unwrap_or_default().trim().to_owned()
        })
}
