//! `rootbeam image`: build, describe and verify root images.

pub mod build;
pub mod digest;
pub mod manifest;
pub mod publish;
pub(crate) mod remote;
pub mod show;
pub mod stream_hash;
pub mod verify;

use crate::term::Term;
use anyhow::Result;
use clap::Subcommand;
use rootbeam_init::store::superblock::{self, SuperblockFacts, SuperblockFault};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// What can be done with an image.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a squashfs image from a folder or a tar
    Build(build::Args),
    /// Write IMAGE.manifest and IMAGE.chunks, by which a boot verifies the image
    Manifest(manifest::Args),
    /// Put an image where machines fetch it: immutable names, and latest.manifest swapped at the end
    Publish(publish::Args),
    /// Tell what an image or a manifest is, and what a machine needs to boot it in RAM
    Show(show::Args),
    /// Check every chunk of an image, a file or a URL, against its manifest
    Verify(verify::Args),
}

/// Runs `rootbeam image …`.
pub fn run(command: Command, term: &Term) -> Result<()> {
    match command {
        Command::Build(args) => build::run(args, term),
        Command::Manifest(args) => manifest::run(args, term),
        Command::Publish(args) => publish::run(args, term),
        Command::Show(args) => show::run(args),
        Command::Verify(args) => verify::run(args, term),
    }
}

/// `path` with `suffix` appended to its name.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The filesystem of the image in a file, by its first bytes and its size; what no boot would mount is refused.
fn filesystem(file: &Path, first: &[u8], size: u64) -> Result<SuperblockFacts> {
    superblock::inspect(first, size).map_err(|fault| {
        let remedy = match fault {
            SuperblockFault::Truncated { .. } => "copy it again",
            _ => "a root image is a squashfs or erofs that is not compressed again",
        };
        anyhow::anyhow!("{}: {fault}; {remedy}", file.display())
    })
}

/// The date that reproducible builds ask for by `SOURCE_DATE_EPOCH`, in seconds since 1970.
pub fn source_date_epoch() -> Result<Option<u64>> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => match text.parse() {
            Ok(seconds) => Ok(Some(seconds)),
            Err(_) => anyhow::bail!(
                "SOURCE_DATE_EPOCH is {text:?}, which is no number of seconds since 1970: correct or unset it"
            ),
        },
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
