//! Where the beds keep what they download and build, and where the shipped binaries are.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// The folder of the workspace.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/")).to_owned()
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| project().join("target"), PathBuf::from)
}

/// The beds' cache, `target/beds` unless `ROOTBEAM_BEDS` names another folder. Safe to delete.
pub fn beds() -> Result<PathBuf> {
    folder(std::env::var_os("ROOTBEAM_BEDS").map_or_else(|| target().join("beds"), PathBuf::from))
}

/// A folder of the beds' cache, made where it is missing.
pub fn cache(name: &str) -> Result<PathBuf> {
    folder(beds()?.join(name))
}

fn folder(path: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

/// The `/init` that ships, as `make build` leaves it.
pub fn shipped_init() -> Result<PathBuf> {
    shipped("init")
}

/// The host tool that ships, as `make build` leaves it.
pub fn shipped_rootbeam() -> Result<PathBuf> {
    shipped("rootbeam")
}

fn shipped(name: &str) -> Result<PathBuf> {
    let folder = std::env::var_os("ROOTBEAM_OUT").map_or_else(|| project().join("out"), PathBuf::from);
    let path = folder.join(name);
    if !path.exists() {
        bail!("{} is missing: run `make build`", path.display());
    }
    Ok(path)
}

/// A helper program of this package (`probe`, `ns-run`): cargo builds it beside the tests that use it.
pub fn helper(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell the path of this program")?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("no {name} near {}: run `cargo build -p rootbeam-qemu-tests`", own.display()))
}

/// The SHA-256, in hex, of a file that stays as it is while this program runs. Each file is read once, by a program that
/// is optimized, which a debug build of this one is not.
pub fn sum(file: &Path) -> Result<String> {
    static KNOWN: Mutex<BTreeMap<PathBuf, String>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(sum) = known.get(file) {
        return Ok(sum.clone());
    }
    let said = crate::command::run(Command::new("sha256sum").arg("--zero").arg(file))?;
    let sum = said.split(' ').next().unwrap_or_default().to_owned();
    known.insert(file.to_owned(), sum.clone());
    Ok(sum)
}

/// Runs `make` once, whoever asks first: other threads and other test programs wait at a lock file and then find
/// `path` made. `make` gets a path beside it, and what it leaves there is renamed; half a result is never seen.
pub fn once(path: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let beside = |suffix: &str| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(suffix);
        path.with_file_name(name)
    };
    let lock = File::create(beside(".lock")).with_context(|| format!("cannot lock {}", path.display()))?;
    lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    if path.exists() {
        return Ok(());
    }
    let half = beside(".part");
    remove(&half)?;
    make(&half).with_context(|| format!("cannot make {}", path.display()))?;
    fs::rename(&half, path).with_context(|| format!("cannot rename {} to {}", half.display(), path.display()))
}

fn remove(path: &Path) -> Result<()> {
    let gone = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    gone.with_context(|| format!("cannot remove {}", path.display()))
}
