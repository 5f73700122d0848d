//! From the sources to PTX, from PTX to machine code, and both into one fatbin.

use super::ptx::{self, Inexact};
use super::resources::{self, Resources};
use super::tools::{Tools, run};
use super::{elf, fatbin};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One architecture: who assembles it, from which version of PTX, to which ABI of cubins (docs/cuda.md, "Drivers").
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The architecture: 75 for sm_75.
    pub sm: u32,
    /// The file of requirements with the assembler.
    pub ptxas: &'static str,
    /// The `.version` of its PTX.
    pub ptx: &'static str,
    /// The ABI its cubin must have.
    pub abi: u8,
}

const fn cuda_12_0(sm: u32) -> Target {
    let (ptxas, ptx, abi) = ("ptxas-12.0", "8.0", 7);
    Target {
        sm,
        ptxas,
        ptx,
        abi,
    }
}

const fn cuda_12_8(sm: u32) -> Target {
    let (ptxas, ptx, abi) = ("ptxas-12.8", "8.7", 8);
    Target {
        sm,
        ptxas,
        ptx,
        abi,
    }
}

/// Every architecture with machine code. The PTX of the first goes into the fatbin too.
pub const TARGETS: [Target; 7] = [
    cuda_12_0(75),
    cuda_12_0(80),
    cuda_12_0(86),
    cuda_12_0(89),
    cuda_12_0(90),
    cuda_12_8(100),
    cuda_12_8(120),
];

/// Of nvcc, beside `-arch`. `-Werror` and `-fmad` are named once more for the assembler below.
pub const NVCC_FLAGS: [&str; 8] = [
    "-ptx",
    "-std=c++17",
    "-fmad=false",
    "-ftz=false",
    "-prec-div=true",
    "-prec-sqrt=true",
    "-Werror",
    "all-warnings",
];
/// Of ptxas, beside `-arch`.
pub const PTXAS_FLAGS: [&str; 6] = ["-m64", "-O3", "--fmad", "false", "--warning-as-error", "-v"];
/// Of fatbinary. `speed` is LZ4; the default is Zstandard, which drivers before 12.4 do not know.
pub const FATBINARY_FLAGS: [&str; 4] = [
    "-64",
    "--cmdline=--fmad false",
    "--compress-all",
    "--compress-mode=speed",
];

/// What came of one architecture.
#[derive(Debug)]
pub struct Assembled {
    /// Counts in its PTX, by entry point.
    pub inexact: BTreeMap<String, Inexact>,
    /// What the assembler said, by entry point.
    pub resources: BTreeMap<String, Resources>,
}

/// The fatbin, and what was seen on the way, in the order of `TARGETS`.
pub struct Built {
    /// The bytes of the fatbin.
    pub fatbin: Vec<u8>,
    /// One for each of `TARGETS`.
    pub targets: Vec<Assembled>,
}

/// Builds everything, as many architectures at a time as there are cores. `unit` is the folder of `all.cu`, `work` one
/// for files on the way.
pub fn build(tools: &Tools, unit: &Path, work: &Path) -> Result<Built, String> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(TARGETS.len()) {
            scope.spawn(|| {
                while let Some(target) = TARGETS.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = assemble(tools, target, unit, work)
                        .map_err(|text| format!("sm_{}: {text}", target.sm));
                    if let Ok(mut done) = done.lock() {
                        done.push((target.sm, outcome));
                    }
                }
            });
        }
    });
    let mut done = done
        .into_inner()
        .map_err(|_| "a thread of the build stopped")?;
    done.sort_by_key(|(sm, _)| *sm);
    let targets: Result<Vec<_>, _> = done.into_iter().map(|(_, outcome)| outcome).collect();
    let targets = targets?;
    Ok(Built {
        fatbin: join(tools, work)?,
        targets,
    })
}

fn assemble(tools: &Tools, target: &Target, unit: &Path, work: &Path) -> Result<Assembled, String> {
    let sm = target.sm;
    let raw = work.join(format!("raw_{sm}.ptx"));
    let mut nvcc = Command::new(tools.compiler.join("bin/nvcc"));
    // From the folder of the unit, so that nothing depends on where the repository is.
    nvcc.current_dir(unit)
        .env_remove("NVCC_APPEND_FLAGS")
        .env_remove("NVCC_PREPEND_FLAGS")
        .args(NVCC_FLAGS)
        .arg(format!("-arch=compute_{sm}"))
        .arg("all.cu")
        .arg("-o")
        .arg(&raw);
    run(&mut nvcc)?;
    let text = ptx::normalize(&read_text(&raw)?, target.ptx)?;
    let names = (format!("compute_{sm}.ptx"), format!("sm_{sm}.cubin"));
    let path = work.join(&names.0);
    std::fs::write(&path, &text).map_err(|e| format!("{} cannot be written: {e}", names.0))?;

    let mut ptxas = Command::new(tools.ptxas(target.ptxas));
    ptxas
        .current_dir(work)
        .args(PTXAS_FLAGS)
        .arg(format!("-arch=sm_{sm}"))
        .args([&names.0, "-o", &names.1]);
    let log = run(&mut ptxas).map_err(|e| {
        format!(
            "{e}\nThe PTX is that of {} as far as version {} of the language goes: if an instruction is too new, use \
             another on this architecture.",
            names.0, target.ptx
        )
    })?;
    let cubin = read_bytes(&work.join(&names.1))?;
    let found = elf::read(&cubin).map_err(|e| format!("{}: {e}", names.1))?;
    if (found.sm, found.abi) != (sm, target.abi) {
        return Err(format!(
            "{} is of sm_{} with ABI {}, expected ABI {}",
            names.1, found.sm, found.abi, target.abi
        ));
    }
    Ok(Assembled {
        inexact: ptx::entries(&text)?,
        resources: resources::read(&log)?,
    })
}

fn join(tools: &Tools, work: &Path) -> Result<Vec<u8>, String> {
    let mut fatbinary = Command::new(tools.compiler.join("bin/fatbinary"));
    fatbinary
        .current_dir(work)
        .args(FATBINARY_FLAGS)
        .arg("--create=kernels.fatbin");
    let first = TARGETS[0].sm;
    fatbinary.arg(format!(
        "--image3=kind=ptx,sm={first},file=compute_{first}.ptx"
    ));
    for Target { sm, .. } in TARGETS {
        fatbinary.arg(format!("--image3=kind=elf,sm={sm},file=sm_{sm}.cubin"));
    }
    run(&mut fatbinary)?;
    let bytes = read_bytes(&work.join("kernels.fatbin"))?;
    let images = fatbin::read(&bytes)?;
    if let Some(image) = images.iter().find(|image| image.is_zstd) {
        return Err(format!(
            "{} is compressed with Zstandard, which drivers before 12.4 do not know",
            image.name()
        ));
    }
    let found: Vec<_> = images.iter().map(fatbin::Image::name).collect();
    if found != image_names() {
        return Err(format!(
            "the fatbin holds {}, expected {}",
            found.join(", "),
            image_names().join(", ")
        ));
    }
    Ok(bytes)
}

/// What the fatbin holds, in order.
pub fn image_names() -> Vec<String> {
    let code = TARGETS.iter().map(|target| format!("sm_{}", target.sm));
    std::iter::once(format!("compute_{}", TARGETS[0].sm))
        .chain(code)
        .collect()
}

fn read_bytes(path: &PathBuf) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| format!("{} cannot be read: {e}", path.display()))
}

fn read_text(path: &PathBuf) -> Result<String, String> {
    String::from_utf8(read_bytes(path)?).map_err(|_| format!("{} is not UTF-8", path.display()))
}
