//! Compiles the CUDA kernels into the checked-in fatbin, or checks that it is what its sources give. `docs/cuda.md`.

mod compiler;
mod elf;
mod fatbin;
mod manifest;
mod ptx;
mod resources;
mod source;
mod tools;

use std::path::Path;
use tools::{Failure, Tools};

const UNIT: &str = "src/kernels/cuda";
const FATBIN: &str = "src/kernels/cuda/kernels.fatbin";
const MANIFEST: &str = "src/kernels/cuda/kernels.json";

/// What is checked in.
struct Artifacts {
    fatbin: Vec<u8>,
    manifest: String,
}

/// Builds, and writes the fatbin and its manifest.
pub fn write(root: &Path) -> Result<(), String> {
    let tools = Tools::install(root).map_err(|failure| match failure {
        Failure::Unreachable(text) | Failure::Other(text) => text,
    })?;
    let fresh = build(root, &tools, "build")?;
    let put = |path: &str, bytes: &[u8]| {
        std::fs::write(root.join(path), bytes).map_err(|e| format!("{path} cannot be written: {e}"))
    };
    put(FATBIN, &fresh.fatbin)?;
    put(MANIFEST, fresh.manifest.as_bytes())?;
    println!("{FATBIN}: {} bytes", fresh.fatbin.len());
    Ok(())
}

/// Builds into `target`, and compares with what is checked in.
pub fn check(root: &Path) -> Result<(), String> {
    let tools = match Tools::install(root) {
        Ok(tools) => tools,
        Err(Failure::Other(text)) => return Err(text),
        Err(Failure::Unreachable(_)) if std::env::var("MQ_OFFLINE").is_ok_and(|v| v == "1") => {
            println!("NOT CHECKED (MQ_OFFLINE=1): the kernels were not rebuilt from their sources");
            return Ok(());
        }
        Err(Failure::Unreachable(text)) => {
            return Err(format!(
                "{text}\nMQ_OFFLINE=1 leaves the rebuilding of the kernels out."
            ));
        }
    };
    let fresh = build(root, &tools, "check")?;
    let get = |path: &str| {
        std::fs::read(root.join(path))
            .map_err(|e| format!("{path} cannot be read: {e}; run `cargo xtask kernels`"))
    };
    let manifest = String::from_utf8(get(MANIFEST)?).map_err(|_| "the manifest is not UTF-8")?;
    if let Some(difference) = difference(&manifest, &fresh.manifest) {
        return Err(format!(
            "{MANIFEST} is not what the sources give: run `cargo xtask kernels`\n{difference}"
        ));
    }
    if get(FATBIN)? != fresh.fatbin {
        return Err(format!(
            "{FATBIN} is not what the sources give, though the manifest is: run `cargo xtask kernels`"
        ));
    }
    println!("{FATBIN} is what its sources give");
    Ok(())
}

fn build(root: &Path, tools: &Tools, folder: &str) -> Result<Artifacts, String> {
    let work = root.join("target/cuda").join(folder);
    // The tools run from several folders.
    let failed = |e: std::io::Error| format!("{} cannot be made: {e}", work.display());
    if work.exists() {
        std::fs::remove_dir_all(&work).map_err(failed)?;
    }
    std::fs::create_dir_all(&work).map_err(failed)?;
    let sources = source::all(root)?;
    let marks = source::Marks::read(&sources)?;
    let packages = tools::packages(root)?;
    let built = compiler::build(tools, &root.join(UNIT), &work)?;
    let manifest = manifest::text(&built, &sources, &marks, packages)?;
    let fatbin = built.fatbin;
    Ok(Artifacts { fatbin, manifest })
}

/// The first line in which two manifests differ.
fn difference(checked_in: &str, fresh: &str) -> Option<String> {
    let (mut old, mut new) = (checked_in.lines(), fresh.lines());
    loop {
        match (old.next(), new.next()) {
            (None, None) => return None,
            (old, new) if old == new => {}
            (old, new) => {
                let line = |line: Option<&str>| line.unwrap_or("nothing").trim().to_owned();
                return Some(format!(
                    "checked in: {}\nfresh:      {}",
                    line(old),
                    line(new)
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::difference;

    #[test]
    fn the_first_difference_is_shown() {
        assert_eq!(difference("a\nb\n", "a\nb\n"), None);
        let text = difference("a\nb\n", "a\nc\n").expect("a difference");
        assert_eq!(text, "checked in: b\nfresh:      c");
        assert!(
            difference("a\n", "a\nb\n")
                .expect("longer")
                .contains("nothing")
        );
    }
}
