//! The pinned compiler wheels of `cuda/*.txt`, installed into `target/cuda`.

use super::source::sha256;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiler and assemblers, installed.
pub struct Tools {
    /// The folder with `bin`, `include` and `nvvm` of the compiler.
    pub compiler: PathBuf,
    root: PathBuf,
}

/// What is pinned: each file installs into an environment or a folder of its own, for two versions of one package
/// cannot share one.
pub const REQUIREMENTS: [&str; 3] = ["requirements", "ptxas-12.0", "ptxas-12.8"];

/// What came of installing.
pub enum Failure {
    /// The package index could not be reached, or does not have a package.
    Unreachable(String),
    /// Anything else.
    Other(String),
}

impl Tools {
    /// Installs what is missing.
    pub fn install(root: &Path) -> Result<Self, Failure> {
        let cuda = root.join("target/cuda");
        let venv = cuda.join("venv");
        std::fs::create_dir_all(&cuda)
            .map_err(|e| Failure::Other(format!("{} cannot be made: {e}", cuda.display())))?;
        let python = venv.join("bin/python");
        if !python.exists() {
            run(Command::new("python3").args(["-m", "venv"]).arg(&venv)).map_err(|e| {
                Failure::Other(format!(
                    "python3 -m venv failed: install Python 3 with venv (make setup). {e}"
                ))
            })?;
        }
        let [compiler, assemblers @ ..] = REQUIREMENTS;
        pip(root, &python, compiler, &venv, &[])?;
        for name in assemblers {
            let folder = cuda.join(name);
            let target = folder.to_string_lossy();
            let options = ["--no-deps", "--upgrade", "--target", &*target];
            pip(root, &python, name, &folder, &options)?;
        }
        Ok(Self {
            compiler: compiler_folder(&venv).map_err(Failure::Other)?,
            root: root.to_owned(),
        })
    }

    /// The assembler of a file of requirements.
    pub fn ptxas(&self, requirements: &str) -> PathBuf {
        let folder = self.root.join("target/cuda").join(requirements);
        folder.join("nvidia/cuda_nvcc/bin/ptxas")
    }
}

/// The pinned packages, file after file.
pub fn packages(root: &Path) -> Result<Vec<(String, Vec<String>)>, String> {
    let read = |name: &str| {
        let path = format!("cuda/{name}.txt");
        let text = std::fs::read_to_string(root.join(&path))
            .map_err(|e| format!("{path} cannot be read: {e}"))?;
        let lines = text
            .lines()
            .filter(|l| !l.starts_with('#') && !l.is_empty());
        Ok((path, lines.map(str::to_owned).collect()))
    };
    REQUIREMENTS.into_iter().map(read).collect()
}

/// Installs a file of requirements, unless the stamp in `folder` says that this was done.
fn pip(
    root: &Path,
    python: &Path,
    name: &str,
    folder: &Path,
    options: &[&str],
) -> Result<(), Failure> {
    let file = root.join(format!("cuda/{name}.txt"));
    let text = std::fs::read(&file)
        .map_err(|e| Failure::Other(format!("{} cannot be read: {e}", file.display())))?;
    let (stamp, wanted) = (folder.join("requirements.sha256"), sha256(&text));
    if std::fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    let mut command = Command::new(python);
    command
        .args(["-m", "pip", "install", "--quiet"])
        .args(["--disable-pip-version-check", "--only-binary", ":all:"])
        .args(options)
        .arg("-r")
        .arg(&file);
    run(&mut command).map_err(|e| {
        Failure::Unreachable(format!(
            "the compiler wheels of cuda/{name}.txt cannot be installed; is the Python package index reachable? {e}"
        ))
    })?;
    std::fs::write(&stamp, wanted)
        .map_err(|e| Failure::Other(format!("{} cannot be written: {e}", stamp.display())))
}

/// `nvidia/cu13` below the packages of whichever Python made the environment.
fn compiler_folder(venv: &Path) -> Result<PathBuf, String> {
    let lib = venv.join("lib");
    let missing = || {
        format!(
            "no compiler in {}: remove target/cuda and run this again",
            lib.display()
        )
    };
    let versions = std::fs::read_dir(&lib).map_err(|_| missing())?;
    versions
        .filter_map(Result::ok)
        .map(|version| version.path().join("site-packages/nvidia/cu13"))
        .find(|folder| folder.join("bin/nvcc").exists())
        .ok_or_else(missing)
}

/// Runs a tool and returns what it said; an error is its command and the end of what it said.
pub fn run(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|e| format!("{name} cannot be started: {e}"))?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return Ok(said.into_owned());
    }
    let lines: Vec<&str> = said.lines().collect();
    let last = lines[lines.len().saturating_sub(30)..].join("\n");
    Err(format!("{name} failed ({}):\n{last}", output.status))
}
