//! Files that appear whole or not at all: written beside their place and renamed.

use anyhow::{Context, Result};
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// A file that is being written beside its place. Dropped before [`Output::publish`], it leaves nothing.
pub struct Output {
    file: NamedTempFile,
    place: PathBuf,
}

impl Output {
    /// Begins a file that will be at `place`.
    pub fn beside(place: &Path) -> Result<Self> {
        Self::called(place, ".rootbeam-")
    }

    /// The same, under a name that begins so until it is at its place: by that whoever was killed is cleaned up after.
    pub fn called(place: &Path, prefix: &str) -> Result<Self> {
        let folder = match place.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let file = tempfile::Builder::new()
            .prefix(prefix)
            .tempfile_in(folder)
            .with_context(|| format!("cannot write in the folder {}", folder.display()))?;
        Ok(Self { file, place: place.to_owned() })
    }

    /// The open file.
    pub fn file(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// Where the bytes are until they are published, for a program that writes by name.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The same at another place of the same folder.
    pub fn publish_as(self, place: &Path) -> Result<()> {
        Self { place: place.to_owned(), ..self }.publish()
    }

    /// Makes the file durable and puts it at its place.
    pub fn publish(self) -> Result<()> {
        let Self { file, place } = self;
        // A temporary file is private; what it becomes is to be served.
        std::fs::set_permissions(file.path(), Permissions::from_mode(0o644))
            .and_then(|()| file.as_file().sync_all())
            .with_context(|| format!("cannot finish {}", place.display()))?;
        file.persist(&place).map_err(|e| e.error).with_context(|| format!("cannot rename to {}", place.display()))?;
        Ok(())
    }
}

/// Writes `bytes` to `place`, whole or not at all.
pub fn write(place: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let mut output = Output::beside(place)?;
    output.file().write_all(bytes).with_context(|| format!("cannot write {}", place.display()))?;
    output.publish()
}
