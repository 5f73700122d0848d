//! The sources of the kernels, their hashes, and the marks in them.
//!
//! A mark is a line of its own, anywhere in a source, by custom above the kernel:
//! `// mq: reducing NAME...` (may fuse products into sums), `// mq: fused NAME...` (exact; its fused steps are those of
//! divisions that are rounded correctly) or `// mq: may_spill NAME...` (not hot).
//! A name is that of an entry point; a `*` at its end stands for any rest. What is not marked is exact and hot.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where the sources are, from the root of the repository.
const FOLDER: &str = "src/kernels";

/// One source.
pub struct Source {
    /// From the root of the repository, with `/`.
    pub path: String,
    /// In hexadecimal.
    pub sha256: String,
    text: String,
}

/// What the marks say.
#[derive(Debug, Default)]
pub struct Marks(BTreeMap<&'static str, Vec<String>>);

const KINDS: [&str; 3] = ["reducing", "fused", "may_spill"];

/// Every `.cu` and `.cuh` file under `src/kernels`, in the order of their paths.
pub fn all(root: &Path) -> Result<Vec<Source>, String> {
    let mut paths = Vec::new();
    collect(&root.join(FOLDER), &mut paths)?;
    let mut sources = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path)
            .map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
        let below = path.strip_prefix(root).unwrap_or(&path);
        let names: Vec<_> = below.iter().map(|name| name.to_string_lossy()).collect();
        sources.push(Source {
            path: names.join("/"),
            sha256: sha256(text.as_bytes()),
            text,
        });
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(sources)
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{} cannot be listed: {e}", folder.display());
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            collect(&path, paths)?;
        } else if path.extension().is_some_and(|e| e == "cu" || e == "cuh") {
            paths.push(path);
        }
    }
    Ok(())
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Marks {
    /// Collects the marks of all sources.
    pub fn read(sources: &[Source]) -> Result<Self, String> {
        let mut marks = Self::default();
        for source in sources {
            for (number, line) in source.text.lines().enumerate() {
                if let Some(mark) = line.trim().strip_prefix("// mq:") {
                    let place = format!("{}:{}", source.path, number + 1);
                    marks.add(mark, &place)?;
                }
            }
        }
        Ok(marks)
    }

    fn add(&mut self, mark: &str, place: &str) -> Result<(), String> {
        let mut words = mark.split([' ', ',']).filter(|word| !word.is_empty());
        let word = words.next().unwrap_or_default();
        let Some(kind) = KINDS.into_iter().find(|kind| *kind == word) else {
            return Err(format!(
                "{place}: \"// mq: {word}\" is no mark; use \"// mq: reducing NAME...\", \"// mq: fused NAME...\" or \"// mq: may_spill NAME...\""
            ));
        };
        let names: Vec<String> = words.map(str::to_owned).collect();
        if names.is_empty() {
            return Err(format!(
                "{place}: name the entry points after \"// mq: {kind}\"; a * at the end of a name stands for any rest"
            ));
        }
        self.0.entry(kind).or_default().extend(names);
        Ok(())
    }

    /// Whether an entry point may round otherwise than the CPU.
    pub fn is_reducing(&self, entry: &str) -> bool {
        self.has("reducing", entry)
    }

    /// Whether an entry point is exact with fused steps.
    pub fn is_fused(&self, entry: &str) -> bool {
        self.has("fused", entry)
    }

    /// Whether an entry point is not hot.
    pub fn may_spill(&self, entry: &str) -> bool {
        self.has("may_spill", entry)
    }

    fn has(&self, kind: &str, entry: &str) -> bool {
        let names = self.0.get(kind);
        names.is_some_and(|names| names.iter().any(|name| matches(name, entry)))
    }

    /// Refuses a mark that names no entry point: it would be a mark misspelt, or of a kernel that is gone.
    pub fn check_names<'a>(
        &self,
        entries: impl Iterator<Item = &'a String> + Clone,
    ) -> Result<(), String> {
        for (kind, names) in &self.0 {
            for name in names {
                if !entries.clone().any(|entry| matches(name, entry)) {
                    return Err(format!("\"// mq: {kind} {name}\" names no entry point"));
                }
            }
        }
        Ok(())
    }
}

fn matches(name: &str, entry: &str) -> bool {
    match name.strip_suffix('*') {
        Some(start) => entry.starts_with(start),
        None => entry == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(text: &str) -> Result<Marks, String> {
        let (path, sha256) = ("a.cu".to_owned(), String::new());
        let text = text.to_owned();
        Marks::read(&[Source { path, sha256, text }])
    }

    #[test]
    fn marks_name_entry_points() {
        let marks = marks("  // mq: reducing sum, dot_*\n// mq: may_spill sum\n").expect("marks");
        assert!(marks.is_reducing("sum") && marks.is_reducing("dot_f32"));
        assert!(!marks.is_reducing("sum_f32") && !marks.may_spill("dot_f32"));
        assert!(marks.may_spill("sum"));
        let entries = ["sum".to_owned()];
        let error = marks
            .check_names(entries.iter())
            .expect_err("dot_* is gone");
        assert!(error.contains("dot_*"), "{error}");
    }

    #[test]
    fn a_mark_without_a_name_or_of_another_kind_is_refused() {
        assert!(marks("// mq: reducing\n").is_err());
        assert!(marks("// mq: fast sum\n").is_err());
    }
}
