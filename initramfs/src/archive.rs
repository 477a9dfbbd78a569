//! Reading an initramfs file as the kernel does: archives one after the other, each compressed in its own way,
//! with zero bytes between.

use crate::compress::{Compression, UnpackError, unpack};
use crate::newc::{self, Entry, ReadError};

/// The most bytes that all archives of one file may unpack to.
pub const MAX_UNPACKED: usize = 2 << 30;

/// One of the archives of a file. A compressed stream that itself holds several is one archive with all entries.
#[derive(Clone, Debug)]
pub struct Archive {
    /// How it is compressed.
    pub compression: Compression,
    /// Where it begins in the file, in bytes.
    pub offset: usize,
    /// Bytes that it has in the file.
    pub packed: usize,
    /// What its entries' data ranges point into.
    pub bytes: Vec<u8>,
    /// Its entries, in order.
    pub entries: Vec<Entry>,
}

impl Archive {
    /// The content of an entry.
    pub fn data(&self, entry: &Entry) -> &[u8] {
        self.bytes.get(entry.data.clone()).unwrap_or_default()
    }
}

/// Why a file is not an initramfs.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Nothing but zero bytes, or nothing at all.
    #[error("the file holds no archive")]
    Empty,
    /// Neither cpio nor a known compression.
    #[error("neither a cpio archive nor a compression that Linux knows, at byte {0}")]
    Unknown(usize),
    /// A stream that does not unpack.
    #[error("the archive at byte {0}: {1}")]
    Unpack(usize, UnpackError),
    /// A stream that unpacks, and what comes out is no archive.
    #[error("the archive at byte {0}, unpacked: {1}")]
    Cpio(usize, ReadError),
}

/// Reads all archives of a file.
pub fn read(file: &[u8]) -> Result<Vec<Archive>, ArchiveError> {
    let mut archives = Vec::new();
    let mut room = MAX_UNPACKED;
    let mut at = 0;
    while let Some(offset) = file.get(at..).and_then(|rest| rest.iter().position(|b| *b != 0)).map(|gap| at + gap) {
        let rest = &file[offset..];
        let compression = Compression::detect(rest).ok_or(ArchiveError::Unknown(offset))?;
        let (bytes, entries, packed) = if compression == Compression::None {
            let (entries, end) = newc::read(rest, 0).map_err(|error| ArchiveError::Cpio(offset, error))?;
            (rest[..end].to_vec(), entries, end)
        } else {
            let (bytes, packed) = unpack(compression, rest, room).map_err(|e| ArchiveError::Unpack(offset, e))?;
            let entries = members(&bytes).map_err(|error| ArchiveError::Cpio(offset, error))?;
            (bytes, entries, packed)
        };
        room = room.saturating_sub(bytes.len());
        at = offset + packed.max(1);
        archives.push(Archive { compression, offset, packed, bytes, entries });
    }
    if archives.is_empty() { Err(ArchiveError::Empty) } else { Ok(archives) }
}

/// The entries of all archives in unpacked bytes.
fn members(bytes: &[u8]) -> Result<Vec<Entry>, ReadError> {
    let mut entries = Vec::new();
    let mut at = 0;
    while let Some(start) = bytes.get(at..).and_then(|rest| rest.iter().position(|b| *b != 0)).map(|gap| at + gap) {
        let (more, end) = newc::read(bytes, start)?;
        entries.extend(more);
        at = end;
    }
    Ok(entries)
}
