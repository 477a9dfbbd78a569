//! What a source holds, whatever it is read from.

use anyhow::{Result, bail};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Everything that goes into an image, by path; the root is the empty path. `BTreeMap` orders paths by component, so
/// a folder stands before what is in it, and the order of the image follows from the names alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The entries.
    pub entries: BTreeMap<PathBuf, Entry>,
    /// What was left out because the user said so: the topmost paths.
    pub excluded: Vec<PathBuf>,
    /// Files with ACLs, which squashfs cannot hold.
    pub acls: Vec<PathBuf>,
    /// Folders that a tar has only in the names of what they hold.
    pub implied: Vec<PathBuf>,
    /// Where the members of a tar are, in order, that are excluded or superseded by a later one.
    pub skipped: Vec<Range<u64>>,
}

/// A file, folder or anything else that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub content: Content,
    /// Permission bits, with set-id and sticky.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, seconds since 1970; what is earlier or later than squashfs can say is bounded.
    pub mtime: u32,
    /// Whether it has extended attributes that squashfs can hold.
    pub xattrs: bool,
    /// Whether a tar stores it with holes.
    pub sparse: bool,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A folder.
    Folder,
    /// A regular file of `size` bytes; in a tar, the contents begin `at` that offset.
    File {
        /// Bytes.
        size: u64,
        /// Offset in the tar; none where the source is a folder.
        at: Option<u64>,
    },
    /// A further name of the file at that path of the image.
    Link(PathBuf),
    /// A symbolic link.
    Symlink(PathBuf),
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// A device number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Major number, 12 bits.
    pub major: u32,
    /// Minor number, 20 bits.
    pub minor: u32,
}

impl Device {
    /// As the kernel writes it to disk (`new_encode_dev`).
    pub fn encode(self) -> u32 {
        (self.minor & 0xff) | (self.major << 8) | ((self.minor & !0xff) << 12)
    }
}

impl Entry {
    /// An entry owned by root, of 1970.
    pub fn new(content: Content) -> Self {
        let mode = if content == Content::Folder { 0o755 } else { 0o644 };
        Self { content, mode, uid: 0, gid: 0, mtime: 0, xattrs: false, sparse: false }
    }
}

/// A time in seconds since 1970 as squashfs can say it.
pub fn squashfs_time(seconds: i64) -> u32 {
    u32::try_from(seconds.max(0)).unwrap_or(u32::MAX)
}

impl Inventory {
    /// Makes no entry newer than `epoch`, where there is one, and returns the date of the image: the epoch, else that
    /// of the newest entry.
    pub fn settle_times(&mut self, epoch: Option<u64>) -> Result<u32> {
        let Some(epoch) = epoch else {
            return Ok(self.entries.values().map(|entry| entry.mtime).max().unwrap_or(0));
        };
        let Ok(epoch) = u32::try_from(epoch) else {
            bail!("SOURCE_DATE_EPOCH is {epoch}, and a squashfs can hold times up to {} only: lower it", u32::MAX)
        };
        for entry in self.entries.values_mut() {
            entry.mtime = entry.mtime.min(epoch);
        }
        Ok(epoch)
    }

    fn paths_where(&self, chosen: impl Fn(&Entry) -> bool) -> Vec<&Path> {
        self.entries.iter().filter(|(_, entry)| chosen(entry)).map(|(path, _)| path.as_path()).collect()
    }

    /// What has extended attributes.
    pub fn with_xattrs(&self) -> Vec<&Path> {
        self.paths_where(|entry| entry.xattrs)
    }

    /// Further names of files.
    pub fn hard_links(&self) -> Vec<&Path> {
        self.paths_where(|entry| matches!(entry.content, Content::Link(_)))
    }

    /// Files that the tar stores with holes.
    pub fn sparse(&self) -> Vec<&Path> {
        self.paths_where(|entry| entry.sparse)
    }

    /// The entry that holds the contents of `path`: itself, or what it is a further name of.
    pub fn target<'a>(&'a self, path: &'a Path) -> Option<(&'a Path, &'a Entry)> {
        let entry = self.entries.get(path)?;
        match &entry.content {
            Content::Link(target) => Some((target, self.entries.get(target)?)),
            _ => Some((path, entry)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_encoded_as_the_kernel_does() {
        assert_eq!(Device { major: 5, minor: 1 }.encode(), 0x0501);
        assert_eq!(Device { major: 259, minor: 0x12345 }.encode(), 0x1231_0345);
    }

    #[test]
    fn the_date_is_the_epoch_or_the_newest_entry() {
        let mut inventory = Inventory::default();
        for (name, mtime) in [("a", 10), ("b", 30)] {
            inventory.entries.insert(name.into(), Entry { mtime, ..Entry::new(Content::Fifo) });
        }
        assert_eq!(inventory.clone().settle_times(None).unwrap(), 30);
        assert_eq!(inventory.settle_times(Some(20)).unwrap(), 20);
        let times: Vec<u32> = inventory.entries.values().map(|entry| entry.mtime).collect();
        assert_eq!(times, [10, 20]);
        assert!(inventory.settle_times(Some(1 << 33)).is_err());
        assert_eq!(squashfs_time(-5), 0);
    }
}
