//! Shell patterns over dotted names, with the meaning of Python's `fnmatch.fnmatchcase`.
//!
//! `*` crosses dots, `?` is one character, `[kv]`, `[a-z]` and `[!x]` are sets, and the whole name
//! must match. The odd corners are those of CPython 3.11: `[` without `]` is a letter, a range that
//! runs backwards drops out.

use std::fmt::Write as _;

use regex::Regex;

use crate::error::{Error, Result};

/// Matches no character; the engine has no other word for it.
const NOTHING: &str = r"[^\x{0}-\x{10FFFF}]";

/// Longer patterns than this are a mistake of the caller's.
const MAX_BYTES: usize = 4096;

fn too_long(glob: &str) -> Error {
    let start: String = glob.chars().take(40).collect();
    let bytes = glob.len();
    Error::Config(format!(
        "the pattern {start:?}... is too long to compile: {bytes} bytes"
    ))
}

/// A compiled pattern.
#[derive(Debug, Clone)]
pub struct Pattern {
    glob: String,
    regex: Regex,
}

impl Pattern {
    /// Compiles a pattern. Every text is a valid one; only an absurdly long one is refused.
    pub fn new(glob: &str) -> Result<Self> {
        if glob.len() > MAX_BYTES {
            return Err(too_long(glob));
        }
        let regex = Regex::new(&translate(glob)).map_err(|_| too_long(glob))?;
        Ok(Self {
            glob: glob.to_owned(),
            regex,
        })
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.glob
    }

    /// Whether the whole of `name` matches.
    pub fn matches(&self, name: &str) -> bool {
        self.regex.is_match(name)
    }

    /// As [`Pattern::matches`], and also with the index of a list of quantizers left out, so that
    /// `*weight_quantizer` reaches `experts.w1_weight_quantizers.3` and `weight_quantizer.0`.
    pub fn matches_quantizer(&self, name: &str) -> bool {
        self.matches(name) || without_list_index(name).is_some_and(|name| self.matches(&name))
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.glob == other.glob
    }
}

/// `a.weight_quantizers.3.b` as `a.weight_quantizer.b`; `None` when there is nothing to leave out.
fn without_list_index(name: &str) -> Option<String> {
    let is_index = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let mut kept: Vec<&str> = Vec::new();
    let mut changed = false;
    // Only one index may follow a list, hence the look at the part just before, not at `kept`.
    let mut list = None;
    for part in name.split('.') {
        match list.take() {
            Some(singular) if is_index(part) => {
                kept.pop();
                kept.push(singular);
                changed = true;
            }
            _ => {
                kept.push(part);
                let singular = part.strip_suffix('s').unwrap_or(part);
                let of_list = ["weight_quantizer", "input_quantizer"]
                    .iter()
                    .any(|end| singular.ends_with(end));
                list = of_list.then_some(singular);
            }
        }
    }
    changed.then(|| kept.join("."))
}

/// The regular expression that matches what `fnmatch` matches.
fn translate(glob: &str) -> String {
    let chars: Vec<char> = glob.chars().collect();
    let mut regex = String::from(r"(?s)\A");
    let mut i = 0;
    while let Some(&c) = chars.get(i) {
        i += 1;
        match c {
            '*' => {
                // Runs of stars mean one star.
                if chars.get(i) != Some(&'*') {
                    regex.push_str(".*");
                }
            }
            '?' => regex.push('.'),
            '[' => match set_end(&chars, i) {
                Some(end) => {
                    set(&chars[i..end], &mut regex);
                    i = end + 1;
                }
                None => escape('[', &mut regex),
            },
            _ => escape(c, &mut regex),
        }
    }
    regex.push_str(r"\z");
    regex
}

/// Where the `]` of a set stands whose content begins at `start`. A `]` that comes first, or first
/// after `!`, is content.
fn set_end(chars: &[char], start: usize) -> Option<usize> {
    let mut from = start;
    if chars.get(from) == Some(&'!') {
        from += 1;
    }
    if chars.get(from) == Some(&']') {
        from += 1;
    }
    (from..chars.len()).find(|&i| chars[i] == ']')
}

/// Appends the class for the content of `[...]`, which is never empty.
fn set(content: &[char], regex: &mut String) {
    let mut chunks = range_chunks(content);
    let negated = chunks[0].first() == Some(&'!');
    if negated {
        chunks[0].remove(0);
    }
    if chunks[0].is_empty() {
        if chunks.len() == 1 {
            // All ranges dropped out: nothing, or the negation of nothing.
            regex.push_str(if negated { "." } else { NOTHING });
            return;
        }
        // What is left begins with the hyphen of a range: a letter in Python's classes.
        let mut first = vec!['-'];
        first.append(&mut chunks[1]);
        chunks.splice(0..2, [first]);
    }
    regex.push_str(if negated { "[^" } else { "[" });
    for (i, chunk) in chunks.iter().enumerate() {
        if i > 0 {
            regex.push('-');
        }
        chunk.iter().for_each(|&c| escape(c, regex));
    }
    regex.push(']');
}

/// Cuts the content of a set at the hyphens that make ranges: between two chunks lies a range from
/// the last character of the one to the first of the other. Backward ranges are taken out.
fn range_chunks(content: &[char]) -> Vec<Vec<char>> {
    let mut chunks: Vec<Vec<char>> = Vec::new();
    let mut start = 0;
    let mut search = if content[0] == '!' { 2 } else { 1 };
    while let Some(hyphen) = (search..content.len()).find(|&i| content[i] == '-') {
        chunks.push(content[start..hyphen].to_vec());
        start = hyphen + 1;
        search = hyphen + 3;
    }
    let rest = content[start..].to_vec();
    match chunks.last_mut() {
        Some(last) if rest.is_empty() => last.push('-'),
        _ => chunks.push(rest),
    }
    for k in (1..chunks.len()).rev() {
        if chunks[k - 1].last() > chunks[k].first() {
            let tail = chunks.remove(k);
            chunks[k - 1].pop();
            chunks[k - 1].extend(&tail[1..]);
        }
    }
    chunks
}

/// Appends `c` as itself, in a class or outside, whatever it means to the regex language.
fn escape(c: char, regex: &mut String) {
    if c.is_ascii_alphanumeric() || c == '_' {
        regex.push(c);
    } else {
        // Writing to a String cannot fail.
        let _ = write!(regex, r"\x{{{:X}}}", u32::from(c));
    }
}
