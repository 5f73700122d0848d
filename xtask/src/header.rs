//! Generates `include/mq.h` from `src/ffi`, or checks that it is current.

use std::path::Path;

/// Only the boundary is parsed, in reading order: nothing internal can leak into the header.
const FILES: [&str; 16] = [
    "status",
    "guard",
    "context",
    "callback",
    "tensor",
    "layer_forward",
    "layer_desc",
    "model",
    "tap",
    "verb",
    "calibration",
    "search_host",
    "auto_quantize",
    "compress",
    "cuda",
    "quantizer",
];
const LAST: &str = "fake_quant";

/// The text of the header.
pub fn generate(root: &Path) -> Result<String, String> {
    let mut config = cbindgen::Config::from_file(root.join("include/cbindgen.toml"))?;
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).map_err(|e| e.to_string())?;
    let macros = version_macros(&manifest).ok_or("Cargo.toml has no version = \"x.y.z\" line")?;
    config.after_includes = config
        .after_includes
        .map(|text| format!("{text}\n\n{macros}"));
    let mut builder = cbindgen::Builder::new().with_config(config);
    for file in FILES.iter().chain([&LAST]) {
        builder = builder.with_src(root.join(format!("src/ffi/{file}.rs")));
    }
    let bindings = builder.generate().map_err(|e| e.to_string())?;
    let mut text = Vec::new();
    bindings.write(&mut text);
    String::from_utf8(text).map_err(|e| e.to_string())
}

/// The version has one home, Cargo.toml.
fn version_macros(manifest: &str) -> Option<String> {
    let line = manifest
        .lines()
        .find(|line| line.starts_with("version = "))?;
    let version = line.split('"').nth(1)?;
    let mut parts = version.split('.');
    let (major, minor, patch) = (parts.next()?, parts.next()?, parts.next()?);
    Some(format!(
        "#define MQ_VERSION_MAJOR {major}\n#define MQ_VERSION_MINOR {minor}\n#define MQ_VERSION_PATCH {patch}\n\
         #define MQ_VERSION (MQ_VERSION_MAJOR << 16 | MQ_VERSION_MINOR << 8 | MQ_VERSION_PATCH)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checked_in_header_is_current() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let on_disk = std::fs::read_to_string(root.join("include/mq.h")).expect("include/mq.h");
        let fresh = generate(&root).expect("cbindgen");
        assert!(
            on_disk == fresh,
            "include/mq.h is stale: run `cargo xtask header`"
        );
    }
}
