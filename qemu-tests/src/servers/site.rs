//! What an HTTP server has to serve.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Contents by path.
#[derive(Clone, Debug, Default)]
pub struct Site(BTreeMap<String, Content>);

/// Something to serve.
#[derive(Clone, Debug)]
pub enum Content {
    /// Bytes in memory.
    Bytes(Arc<[u8]>),
    /// A file, read as it is asked for.
    File(PathBuf),
}

impl Site {
    /// An empty site.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a file at `path` (which begins with a slash).
    pub fn file(self, path: &str, file: &Path) -> Self {
        self.content(path, Content::File(file.to_owned()))
    }

    /// With bytes at `path` (which begins with a slash).
    pub fn bytes(self, path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.content(path, Content::Bytes(bytes.into().into()))
    }

    /// With contents at `path` (which begins with a slash).
    pub fn content(mut self, path: &str, content: Content) -> Self {
        self.0.insert(path.to_owned(), content);
        self
    }

    /// With every file of `folder` at its root, subfolders left out.
    pub fn folder(mut self, folder: &Path) -> Result<Self> {
        for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let path = entry?.path();
            if path.is_file() {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                self = self.file(&format!("/{name}"), &path);
            }
        }
        Ok(self)
    }

    /// What lies at `path`.
    pub fn get(&self, path: &str) -> Option<&Content> {
        self.0.get(path)
    }
}

impl Content {
    /// Opens it for reading at any offset.
    pub fn open(&self) -> io::Result<Reader> {
        Ok(match self {
            Self::Bytes(bytes) => Reader::Bytes(Arc::clone(bytes)),
            Self::File(path) => {
                let file = File::open(path)?;
                let size = file.metadata()?.len();
                Reader::File(file, size)
            }
        })
    }
}

/// Open contents.
#[derive(Debug)]
pub enum Reader {
    /// Bytes in memory.
    Bytes(Arc<[u8]>),
    /// A file and its size.
    File(File, u64),
}

impl Reader {
    /// Size in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, size) => *size,
        }
    }

    /// Reads at `offset`, up to the buffer's length; zero at the end.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::Bytes(bytes) => {
                let rest = usize::try_from(offset).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
                let count = rest.len().min(buffer.len());
                if let (Some(to), Some(from)) = (buffer.get_mut(..count), rest.get(..count)) {
                    to.copy_from_slice(from);
                }
                Ok(count)
            }
            Self::File(file, _) => file.read_at(buffer, offset),
        }
    }
}
