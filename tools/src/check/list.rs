//! What files an image has: from a file, or from a server by ranges, of which a listing needs few.

use super::system::{Entry, READ, Tree};
use crate::image::remote::Remote;
use anyhow::{Context, Result, bail};
use backhand::{FilesystemReader, InnerNode};
use reqwest::Url;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// The most of one file that is read, in bytes.
const TEXT: u64 = 256 << 10;
/// What is asked of a server at a time, in bytes.
const BLOCK: u64 = 256 << 10;

/// Lists a squashfs.
pub fn list(image: impl Read + Seek + Send + 'static) -> Result<Tree> {
    let reader = FilesystemReader::from_reader(BufReader::with_capacity(BLOCK as usize, image))
        .context("its squashfs cannot be listed")?;
    let relative = |path: &Path| path.strip_prefix("/").unwrap_or(path).to_string_lossy().into_owned();
    let mut tree = Tree::default();
    for node in reader.files() {
        let entry = match &node.inner {
            InnerNode::File(_) => Entry::File(node.header.permissions),
            InnerNode::Dir(_) => Entry::Folder,
            InnerNode::Symlink(link) => Entry::Link(link.link.to_string_lossy().into_owned()),
            _ => Entry::Other,
        };
        tree.entries.insert(relative(&node.fullpath), entry);
    }
    for wanted in READ {
        let Some((place, _)) = tree.resolve(wanted) else { continue };
        let node = reader.files().find(|node| relative(&node.fullpath) == place);
        if let Some(InnerNode::File(file)) = node.map(|node| &node.inner) {
            let mut text = Vec::new();
            reader.file(file).reader().take(TEXT).read_to_end(&mut text).with_context(|| format!("/{place}"))?;
            tree.texts.insert(wanted.to_owned(), text);
        }
    }
    Ok(tree)
}

/// A file on a server that gives ranges.
pub struct Ranged {
    remote: Remote,
    url: Url,
    size: u64,
    at: u64,
    /// Where the held block begins, and its bytes.
    block: (u64, Vec<u8>),
}

impl Ranged {
    /// The file of `size` bytes at `url`.
    pub fn new(remote: Remote, url: &str, size: u64) -> Result<Self> {
        Ok(Self { remote, url: Url::parse(url)?, size, at: 0, block: (0, Vec::new()) })
    }

    fn fetch(&self, start: u64) -> Result<Vec<u8>> {
        let count = BLOCK.min(self.size - start);
        let response = self.remote.ask(&self.url, Some((start, count))).map_err(anyhow::Error::msg)?;
        if response.status().as_u16() != 206 {
            bail!("the server answered {} to a range", response.status());
        }
        let mut bytes = Vec::new();
        response.take(count).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != count {
            bail!("the server sent {} of {count} bytes", bytes.len());
        }
        Ok(bytes)
    }
}

impl Read for Ranged {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.size || buffer.is_empty() {
            return Ok(0);
        }
        let start = self.at - self.at % BLOCK;
        if self.block.1.is_empty() || self.block.0 != start {
            self.block = (start, self.fetch(start).map_err(io::Error::other)?);
        }
        let rest = self.block.1.get((self.at - start) as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Ranged {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(place) => Some(place),
            SeekFrom::End(offset) => self.size.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.at.checked_add_signed(offset),
        };
        self.at = place.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
