//! What files an image has: from a file, or from a server by ranges, of which a listing needs few.

use super::system::{Entry, Tree, judged};
use super::{ask, init};
use anyhow::{Context, Result, bail};
use backhand::{FilesystemReader, InnerNode, SquashfsFileReader};
use rootbeam_init::causes;
use rootbeam_init::fetch::client::Client;
use rootbeam_init::messages::Range;
use rootbeam_init::settings::Settings;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// The most of one file that is read, in bytes.
const TEXT: u64 = 256 << 10;
/// What is asked of a server at a time, in bytes.
const BLOCK: u64 = 256 << 10;

/// Lists a squashfs, and reads what is judged of it under these settings.
pub fn list(image: impl Read + Seek + Send + 'static, settings: &Settings) -> Result<Tree> {
    let reader = FilesystemReader::from_reader(BufReader::with_capacity(BLOCK as usize, image))
        .context("its squashfs cannot be listed")?;
    let relative = |path: &Path| path.strip_prefix("/").unwrap_or(path).to_string_lossy().into_owned();
    let mut tree = Tree::default();
    for node in reader.files() {
        let entry = match &node.inner {
            InnerNode::File(_) => Entry::File(node.header.permissions),
            InnerNode::Dir(_) => Entry::Folder,
            InnerNode::Symlink(link) => Entry::Link(link.link.to_string_lossy().into_owned()),
            InnerNode::CharacterDevice(device) if device.device_number == 0 => Entry::Whiteout,
            _ => Entry::Other,
        };
        tree.entries.insert(relative(&node.fullpath), entry);
    }
    let read = |file: &SquashfsFileReader, most: u64| {
        let mut text = Vec::new();
        reader.file(file).reader().take(most).read_to_end(&mut text).map(|_| text)
    };
    let judged = judged(&tree, settings);
    for node in reader.files() {
        let place = relative(&node.fullpath);
        if let (InnerNode::File(file), true) = (&node.inner, judged.contains(&place)) {
            tree.texts.insert(place.clone(), read(file, TEXT).with_context(|| format!("/{place}"))?);
        }
    }
    while let Some(place) = init::unread(&tree, settings) {
        let node = reader.files().find(|node| relative(&node.fullpath) == place);
        let file = node.and_then(|node| if let InnerNode::File(file) = &node.inner { Some(file) } else { None });
        let text = file.map_or(Ok(Vec::new()), |file| read(file, init::HEAD)).with_context(|| format!("/{place}"))?;
        tree.texts.insert(place, text);
    }
    Ok(tree)
}

/// A file on a server that gives ranges.
pub struct Ranged {
    client: Client,
    url: String,
    size: u64,
    at: u64,
    /// Where the held block begins, and its bytes.
    block: (u64, Vec<u8>),
}

impl Ranged {
    /// The file of `size` bytes at `url`.
    pub fn new(client: Client, url: String, size: u64) -> Self {
        Self { client, url, size, at: 0, block: (0, Vec::new()) }
    }

    fn fetch(&self, start: u64) -> Result<Vec<u8>> {
        let count = BLOCK.min(self.size - start);
        let range = Range { start, end: start + count };
        let (head, bytes) = ask::get(&self.client, self.url.clone(), Some(range), count)
            .map_err(|cause| anyhow::Error::msg(causes::fetch_text(&cause)))?;
        if head.range.is_none() {
            bail!("the server answered a range with the whole file");
        }
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
