//! Development tasks: `cargo xtask header` rewrites the C header, `cargo xtask kernels` compiles the CUDA kernels.

mod header;
mod kernels;

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask header | kernels [--check]";

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["header"] => header::generate(&root).and_then(|text| {
            std::fs::write(root.join("include/mq.h"), text).map_err(|e| e.to_string())
        }),
        ["kernels"] => kernels::write(&root),
        ["kernels", "--check"] => kernels::check(&root),
        _ => Err(USAGE.to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("xtask {}: {text}", words.join(" "));
            ExitCode::FAILURE
        }
    }
}
