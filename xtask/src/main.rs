//! Development tasks: `cargo xtask header` rewrites the C header.

mod header;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let task = std::env::args().nth(1).unwrap_or_default();
    let outcome = match task.as_str() {
        "header" => header::generate(&root).and_then(|text| {
            std::fs::write(root.join("include/mq.h"), text).map_err(|e| e.to_string())
        }),
        _ => Err("usage: cargo xtask header".to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("xtask {task}: {text}");
            ExitCode::FAILURE
        }
    }
}
