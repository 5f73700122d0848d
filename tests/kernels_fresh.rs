//! The checked-in CUDA kernels belong to their sources, and are what mq promises of them. Needs no compiler and no GPU;
//! `cargo xtask kernels --check` rebuilds them.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const FATBIN: &str = "src/kernels/cuda/kernels.fatbin";
const MANIFEST: &str = "src/kernels/cuda/kernels.json";
/// What a fatbin must hold: PTX for GPUs yet to come, and machine code.
const IMAGES: [&str; 8] = [
    "compute_75",
    "sm_75",
    "sm_80",
    "sm_86",
    "sm_89",
    "sm_90",
    "sm_100",
    "sm_120",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn bytes(path: impl AsRef<Path>) -> Vec<u8> {
    let path = root().join(path);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn manifest() -> Value {
    serde_json::from_slice(&bytes(MANIFEST)).expect("kernels.json is JSON")
}

fn map<'a>(value: &'a Value, key: &str) -> &'a Map<String, Value> {
    let map = value[key].as_object();
    map.unwrap_or_else(|| panic!("{MANIFEST} has no \"{key}\": run `cargo xtask kernels`"))
}

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every `.cu` and `.cuh` file below a folder, from the root.
fn sources(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder of kernels") {
        let path: PathBuf = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "cu" || e == "cuh") {
            let below = path.strip_prefix(root()).expect("below the root");
            let names: Vec<_> = below.iter().map(|name| name.to_string_lossy()).collect();
            found.insert(names.join("/"));
        }
    }
}

#[test]
fn the_fatbin_belongs_to_its_sources() {
    let manifest = manifest();
    let mut found = BTreeSet::new();
    sources(&root().join("src/kernels"), &mut found);
    let listed = map(&manifest, "sources");
    let names: BTreeSet<String> = listed.keys().cloned().collect();
    assert_eq!(found, names, "sources: run `cargo xtask kernels`");
    for (path, recorded) in listed {
        let now = sha256(&bytes(path));
        assert_eq!(
            recorded, &now,
            "{path} has changed: run `cargo xtask kernels`"
        );
    }
    for (path, recorded) in map(&manifest, "packages") {
        let text = String::from_utf8(bytes(path)).expect("UTF-8");
        let pinned: Vec<&str> = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .collect();
        assert_eq!(
            recorded,
            &Value::from(pinned),
            "{path} has changed: run `cargo xtask kernels`"
        );
    }
}

#[test]
fn the_fatbin_is_the_one_of_the_manifest() {
    let (manifest, fatbin) = (manifest(), bytes(FATBIN));
    assert_eq!(
        manifest["fatbin"]["sha256"],
        sha256(&fatbin),
        "{FATBIN}: run `cargo xtask kernels`"
    );
}

/// The images in the fatbin itself, as `compute_75` or `sm_75`, and whether each is compressed with LZ4.
fn images(fatbin: &[u8]) -> Vec<(String, bool)> {
    let number = |at: usize, size: usize| -> usize {
        let field = &fatbin[at..at + size];
        field
            .iter()
            .rev()
            .fold(0, |n, byte| n << 8 | usize::from(*byte))
    };
    assert_eq!(number(0, 4), 0xba55_ed50, "magic number");
    let (mut at, mut images) = (number(6, 2), Vec::new());
    while at < fatbin.len() {
        let kind = ["", "compute", "sm"][number(at, 2)];
        let name = format!("{kind}_{}", number(at + 28, 4));
        images.push((name, number(at + 40, 8) & 0xa000 == 0x2000));
        at += number(at + 4, 4) + number(at + 8, 8);
    }
    assert_eq!(at, fatbin.len(), "the last image ends with the file");
    images
}

#[test]
fn every_architecture_is_there_and_old_drivers_can_unpack_it() {
    let images = images(&bytes(FATBIN));
    let names: Vec<&str> = images.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, IMAGES);
    for (name, is_lz4) in &images {
        assert!(
            is_lz4,
            "{name}: drivers before 12.4 know no compression but LZ4"
        );
    }
    let targets: Vec<String> = map(&manifest(), "targets").keys().cloned().collect();
    assert_eq!(targets, IMAGES[1..]);
}

#[test]
fn old_architectures_have_the_abi_and_the_ptx_of_cuda_12_0() {
    for (name, facts) in map(&manifest(), "targets") {
        let is_new = ["sm_100", "sm_120"].contains(&name.as_str());
        assert_eq!(facts["elf_abi"], if is_new { 8 } else { 7 }, "{name}");
        assert_eq!(facts["ptx"], if is_new { "8.7" } else { "8.0" }, "{name}");
    }
}

#[test]
fn exact_kernels_have_no_inexact_instruction() {
    let manifest = manifest();
    let kernels = map(&manifest, "kernels");
    assert!(!kernels.is_empty());
    for (name, facts) in kernels {
        let class = facts["class"].as_str();
        assert!(matches!(class, Some("exact" | "reducing")), "{name}");
        if class == Some("exact") {
            for banned in ["fma", "ftz", "approx", "full", "float_atomics"] {
                // Steps of a division, written as such: nvcc fuses nothing by itself.
                let is_meant = banned == "fma" && facts["fused"] == true;
                assert!(
                    facts[banned] == 0 || is_meant,
                    "{name} is exact, but its PTX has {banned}; if it may round otherwise than the CPU, mark it: \
                     // mq: reducing {name}"
                );
            }
        }
    }
}

#[test]
fn hot_kernels_do_not_spill() {
    let manifest = manifest();
    for (name, facts) in map(&manifest, "kernels") {
        for what in ["registers", "stack", "spill_stores", "spill_loads"] {
            let counts = facts[what].as_array().expect("a list");
            assert_eq!(counts.len(), IMAGES.len() - 1, "{name}: {what}");
            if what != "registers" && facts["may_spill"] != true {
                assert!(
                    counts.iter().all(|count| count == 0),
                    "{name} has {what} {} (bytes, by architecture); if it is not hot, mark it: // mq: may_spill {name}",
                    facts[what]
                );
            }
        }
    }
}
