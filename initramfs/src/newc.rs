//! The archive format of the kernel: cpio in its form "newc", a header of hexadecimal digits before each name.

use std::fmt;
use std::ops::Range;

/// The first bytes of an entry.
pub const MAGIC: &[u8; 6] = b"070701";
/// The same format with a sum of the data's bytes, which the kernel takes and does not check.
const MAGIC_WITH_SUM: &[u8; 6] = b"070702";
const HEADER: usize = 110;
const TRAILER: &[u8] = b"TRAILER!!!";
/// The longest name, with its final zero byte: the kernel's PATH_MAX.
const MAX_NAME: usize = 4096;

/// Type bits of a mode, as in stat(2).
pub mod kind {
    /// All type bits.
    pub const MASK: u32 = 0o170_000;
    /// A directory.
    pub const DIRECTORY: u32 = 0o040_000;
    /// A regular file.
    pub const FILE: u32 = 0o100_000;
    /// A symbolic link; its target is the data.
    pub const SYMLINK: u32 = 0o120_000;
    /// A character device.
    pub const CHARACTER: u32 = 0o020_000;
    /// A block device.
    pub const BLOCK: u32 = 0o060_000;
}

/// An entry to write. Owner and group are always root, device and link numbers are always those of a plain file.
#[derive(Clone, Copy, Debug)]
pub struct NewEntry<'a> {
    /// Path without a leading slash.
    pub path: &'a [u8],
    /// Type and permission bits.
    pub mode: u32,
    /// Major and minor number of a device node.
    pub device: (u32, u32),
    /// Content, or the target of a symbolic link.
    pub data: &'a [u8],
}

/// An entry does not fit the format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The size field has 32 bits.
    #[error("{0} has 4 GiB or more, which newc cannot hold")]
    TooLarge(String),
    /// Empty, too long, or with a zero byte.
    #[error("{0:?} is no name that newc can hold")]
    Name(String),
}

/// Writes an archive. Inode numbers count from 1 and every time is the same, so equal entries give equal bytes.
#[derive(Debug)]
pub struct Writer {
    out: Vec<u8>,
    inode: u32,
    mtime: u32,
}

impl Writer {
    /// An empty archive whose entries all have this modification time, in seconds since 1970.
    pub fn new(mtime: u32) -> Self {
        Self { out: Vec::new(), inode: 0, mtime }
    }

    /// Appends an entry.
    pub fn entry(&mut self, entry: NewEntry<'_>) -> Result<(), WriteError> {
        let name = || String::from_utf8_lossy(entry.path).into_owned();
        if entry.path.is_empty() || entry.path.len() >= MAX_NAME || entry.path.contains(&0) {
            return Err(WriteError::Name(name()));
        }
        let size = u32::try_from(entry.data.len()).map_err(|_| WriteError::TooLarge(name()))?;
        self.inode += 1;
        let links = if entry.mode & kind::MASK == kind::DIRECTORY { 2 } else { 1 };
        self.raw(self.inode, links, self.mtime, size, entry);
        Ok(())
    }

    /// Ends the archive and gives its bytes, a multiple of 4.
    pub fn finish(mut self) -> Vec<u8> {
        self.raw(0, 1, 0, 0, NewEntry { path: TRAILER, mode: 0, device: (0, 0), data: b"" });
        self.out
    }

    fn raw(&mut self, inode: u32, links: u32, mtime: u32, size: u32, entry: NewEntry<'_>) {
        let name = entry.path.len() as u32 + 1;
        let (major, minor) = entry.device;
        self.out.extend_from_slice(MAGIC);
        for field in [inode, entry.mode, 0, 0, links, mtime, size, 0, 0, major, minor, name, 0] {
            self.out.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.out.extend_from_slice(entry.path);
        self.out.push(0);
        self.pad();
        self.out.extend_from_slice(entry.data);
        self.pad();
    }

    fn pad(&mut self) {
        self.out.resize(self.out.len().next_multiple_of(4), 0);
    }
}

/// An entry that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path without leading slashes or `./`.
    pub path: Vec<u8>,
    /// Type and permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Modification time, seconds since 1970.
    pub mtime: u32,
    /// Inode number; entries with more than one link and the same number are one file, the data is the last one's.
    pub inode: u32,
    /// Number of links.
    pub links: u32,
    /// Major and minor number of a device node.
    pub device: (u32, u32),
    /// Where the data is in the bytes that were read.
    pub data: Range<usize>,
}

impl Entry {
    /// Type bits of the mode.
    pub fn kind(&self) -> u32 {
        self.mode & kind::MASK
    }
}

/// What is wrong with an archive, and at which byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fault} at byte {at}")]
pub struct ReadError {
    /// Offset of the entry.
    pub at: usize,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What can be wrong with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No header where one has to be.
    NoHeader,
    /// A field with something else than hexadecimal digits.
    Field,
    /// A name that is empty, too long, not ended by a zero byte, or leads upwards.
    Name,
    /// The archive ends within the entry.
    Truncated,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoHeader => "no cpio header",
            Self::Field => "a cpio header with a field that is no number",
            Self::Name => "a cpio entry with an invalid name",
            Self::Truncated => "a cpio archive that ends within an entry",
        })
    }
}

/// Reads the archive at `start`: its entries and the offset after its trailer. An archive that just ends, without a
/// trailer, is taken as the kernel takes it. Nothing is allocated by what a header claims.
pub fn read(bytes: &[u8], start: usize) -> Result<(Vec<Entry>, usize), ReadError> {
    let mut entries = Vec::new();
    let mut at = start;
    loop {
        let fail = |fault| ReadError { at, fault };
        let header = match bytes.get(at..at.saturating_add(HEADER)) {
            Some(header) => header,
            None if at >= bytes.len() && !entries.is_empty() => return Ok((entries, bytes.len())),
            None => return Err(fail(Fault::Truncated)),
        };
        if !header.starts_with(MAGIC) && !header.starts_with(MAGIC_WITH_SUM) {
            return Err(fail(Fault::NoHeader));
        }
        let field = |number: usize| number_at(&header[6 + 8 * number..14 + 8 * number]).ok_or(fail(Fault::Field));
        let (size, name_size) = (field(6)? as usize, field(11)? as usize);
        if !(2..=MAX_NAME).contains(&name_size) {
            return Err(fail(Fault::Name));
        }
        let name_end = at + HEADER + name_size;
        let name = bytes.get(at + HEADER..name_end).ok_or(fail(Fault::Truncated))?;
        let name = name.strip_suffix(&[0]).filter(|name| !name.contains(&0)).ok_or(fail(Fault::Name))?;
        // Alignment counts from the archive's own beginning, which the kernel keeps at a multiple of 4.
        let align = |offset: usize| start + (offset - start).next_multiple_of(4);
        let data = align(name_end)..align(name_end).saturating_add(size);
        if data.end > bytes.len() && size > 0 {
            return Err(fail(Fault::Truncated));
        }
        let next = align(data.end).min(bytes.len());
        if name == TRAILER {
            return Ok((entries, next));
        }
        let path = plain_path(name).ok_or(fail(Fault::Name))?;
        entries.push(Entry {
            path: path.to_vec(),
            mode: field(1)?,
            owner: (field(2)?, field(3)?),
            mtime: field(5)?,
            inode: field(0)?,
            links: field(4)?,
            device: (field(9)?, field(10)?),
            data: if size == 0 { 0..0 } else { data },
        });
        at = next;
    }
}

/// `name` without leading slashes and `./`; nothing if it leads upwards. `.` itself stays.
fn plain_path(mut name: &[u8]) -> Option<&[u8]> {
    while let Some(rest) = name.strip_prefix(b"/").or(name.strip_prefix(b"./")).filter(|rest| !rest.is_empty()) {
        name = rest;
    }
    (!name.split(|b| *b == b'/').any(|part| part == b"..")).then_some(name)
}

fn number_at(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0u32, |sum, digit| Some(sum << 4 | char::from(*digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut writer = Writer::new(7);
        let plain = |path, mode, data| NewEntry { path, mode, device: (0, 0), data };
        writer.entry(plain(b"dev", kind::DIRECTORY | 0o755, b"")).unwrap();
        let console = NewEntry { device: (5, 1), ..plain(b"dev/console", kind::CHARACTER | 0o600, b"") };
        writer.entry(console).unwrap();
        writer.entry(plain(b"init", kind::FILE | 0o755, b"hello")).unwrap();
        writer.entry(plain(b"odd\xff", kind::SYMLINK | 0o777, b"init")).unwrap();
        writer.finish()
    }

    #[test]
    fn reads_what_it_wrote() {
        let bytes = sample();
        let (entries, end) = read(&bytes, 0).unwrap();
        assert_eq!(end, bytes.len());
        let seen: Vec<_> =
            entries.iter().map(|e| (e.path.as_slice(), e.mode, e.device, e.inode, &bytes[e.data.clone()])).collect();
        assert_eq!(
            seen,
            [
                (b"dev".as_slice(), 0o040_755, (0, 0), 1, b"".as_slice()),
                (b"dev/console", 0o020_600, (5, 1), 2, b""),
                (b"init", 0o100_755, (0, 0), 3, b"hello"),
                (b"odd\xff", 0o120_777, (0, 0), 4, b"init"),
            ]
        );
        assert!(entries.iter().all(|e| e.mtime == 7 && e.owner == (0, 0)));
    }

    #[test]
    fn refuses_every_truncation() {
        let bytes = sample();
        // The kernel takes an archive that ends between two entries, with or without the padding of the last.
        let between = [114..=116, 238..=240, 361..=364, 484..=484];
        for length in 0..bytes.len() - 3 {
            let whole = between.iter().any(|ends| ends.contains(&length));
            assert_eq!(read(&bytes[..length], 0).is_ok(), whole, "cut at {length}");
        }
    }

    #[test]
    fn refuses_hostile_headers() {
        let change = |offset: usize, text: &[u8]| {
            let mut bytes = sample();
            bytes[offset..offset + text.len()].copy_from_slice(text);
            read(&bytes, 0).unwrap_err()
        };
        assert_eq!(change(0, b"070707"), ReadError { at: 0, fault: Fault::NoHeader });
        assert_eq!(change(6, b"+0000001"), ReadError { at: 0, fault: Fault::Field });
        assert_eq!(change(54, b"ffffffff"), ReadError { at: 0, fault: Fault::Truncated });
        assert_eq!(change(94, b"ffffffff"), ReadError { at: 0, fault: Fault::Name });
        assert_eq!(change(94, b"00000000"), ReadError { at: 0, fault: Fault::Name });
        assert_eq!(change(110, b"../"), ReadError { at: 0, fault: Fault::Name });
    }

    #[test]
    fn names_lose_their_leading_slashes_and_dots() {
        for (name, plain) in [("./a/b", "a/b"), ("/a", "a"), (".", "."), ("//./a", "a"), (".hidden", ".hidden")] {
            assert_eq!(plain_path(name.as_bytes()), Some(plain.as_bytes()));
        }
    }
}
