//! `kernels.json`: from what the fatbin was made, and what was seen in it. One fact a line, so that a change reads well.

use super::compiler::{Built, FATBINARY_FLAGS, NVCC_FLAGS, PTXAS_FLAGS, TARGETS, image_names};
use super::ptx::Inexact;
use super::resources::Resources;
use super::source::{Marks, Source, sha256};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// The text of the manifest.
pub fn text(
    built: &Built,
    sources: &[Source],
    marks: &Marks,
    packages: Vec<(String, Vec<String>)>,
) -> Result<String, String> {
    let mut all = Map::new();
    all.insert(
        "_comment".to_owned(),
        "Written by `cargo xtask kernels`; docs/cuda.md explains it. Lists of numbers are in the order of \"targets\"."
            .into(),
    );
    let sources = sources
        .iter()
        .map(|source| (source.path.clone(), Value::from(source.sha256.as_str())));
    all.insert("sources".to_owned(), Value::Object(sources.collect()));
    let packages = packages
        .into_iter()
        .map(|(path, lines)| (path, lines.into()));
    all.insert("packages".to_owned(), Value::Object(packages.collect()));
    all.insert(
        "flags".to_owned(),
        json!({
            "nvcc": NVCC_FLAGS.join(" "),
            "ptxas": PTXAS_FLAGS.join(" "),
            "fatbinary": FATBINARY_FLAGS.join(" "),
        }),
    );
    let targets = TARGETS.iter().map(|target| {
        let facts = json!({ "ptxas": target.ptxas, "ptx": target.ptx, "elf_abi": target.abi });
        (format!("sm_{}", target.sm), facts)
    });
    all.insert("targets".to_owned(), Value::Object(targets.collect()));
    all.insert("kernels".to_owned(), kernels(built, marks)?);
    // Last, so that the first difference between two manifests is a cause.
    all.insert(
        "fatbin".to_owned(),
        json!({
            "bytes": built.fatbin.len(),
            "sha256": sha256(&built.fatbin),
            "images": image_names(),
        }),
    );
    Ok(pretty(&all))
}

fn kernels(built: &Built, marks: &Marks) -> Result<Value, String> {
    let names: BTreeSet<&String> = built
        .targets
        .iter()
        .flat_map(|t| t.inexact.keys())
        .collect();
    if names.is_empty() {
        return Err("the sources have no kernel".to_owned());
    }
    marks.check_names(names.iter().copied())?;
    let mut kernels = Map::new();
    for name in names {
        let mut total = Inexact::default();
        let mut resources = Vec::new();
        for (target, built) in TARGETS.iter().zip(&built.targets) {
            let missing = || format!("sm_{} lacks the kernel {name}", target.sm);
            total.add(built.inexact.get(name).ok_or_else(missing)?);
            resources.push(built.resources.get(name).ok_or_else(missing)?);
        }
        let list = |what: fn(&Resources) -> u64| -> Value {
            resources.iter().map(|r| what(r)).collect::<Vec<_>>().into()
        };
        let facts = json!({
            "class": if marks.is_reducing(name) { "reducing" } else { "exact" },
            "fused": marks.is_fused(name),
            "may_spill": marks.may_spill(name),
            "fma": total.fma,
            "ftz": total.ftz,
            "approx": total.approx,
            "full": total.full,
            "float_atomics": total.atomic,
            "registers": list(|r| r.registers),
            "shared": list(|r| r.shared),
            "stack": list(|r| r.stack),
            "spill_stores": list(|r| r.spill_stores),
            "spill_loads": list(|r| r.spill_loads),
        });
        kernels.insert(name.clone(), facts);
    }
    Ok(Value::Object(kernels))
}

/// JSON with one line for each member of a member.
fn pretty(all: &Map<String, Value>) -> String {
    let members: Vec<String> = all
        .iter()
        .map(|(key, value)| {
            let lines: Vec<String> = match value {
                Value::Object(inner) => inner
                    .iter()
                    .map(|(key, value)| format!("    {}: {value}", json!(key)))
                    .collect(),
                _ => return format!("  {}: {value}", json!(key)),
            };
            format!("  {}: {{\n{}\n  }}", json!(key), lines.join(",\n"))
        })
        .collect();
    format!("{{\n{}\n}}\n", members.join(",\n"))
}
