//! The members of a tar, with what GNU and PAX headers add to them. The tar crate reads a PAX value only up to its
//! first line end, and extended attributes hold any byte.

use super::folder::is_storable;
use std::fs::File;
use std::io::{self, Error, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use tar::Header;

const BLOCK: u64 = 512;
/// Longest name or PAX header that is read.
const EXTENSION_MAX: u64 = 16 << 20;

/// A member of a tar.
pub struct Member {
    /// Its header.
    pub header: Header,
    /// Its name.
    pub name: Vec<u8>,
    /// What it links to, where it is a link.
    pub link: Vec<u8>,
    /// What PAX headers add.
    pub pax: Pax,
    /// Length of its contents.
    pub size: u64,
    /// Where its contents begin.
    pub contents: u64,
    /// All of it in the tar: headers, contents and padding.
    pub span: Range<u64>,
}

/// What the PAX headers before a member say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pax {
    /// Modification time, seconds since 1970, cut off towards the past.
    pub mtime: Option<i64>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Whether the contents are stored with holes.
    pub sparse: bool,
    /// Whether there are extended attributes that squashfs can hold.
    pub xattrs: bool,
    /// Whether there are ACLs.
    pub acl: bool,
    name: Option<Vec<u8>>,
    /// The name of a file with holes, which has a made-up one elsewhere.
    sparse_name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Pax {
    /// Reads records of the form `LENGTH KEY=VALUE\n`; the length counts all of the record.
    fn read(&mut self, mut records: &[u8]) -> Option<()> {
        while !records.is_empty() {
            let space = records.iter().position(|byte| *byte == b' ')?;
            let length: usize = std::str::from_utf8(records.get(..space)?).ok()?.parse().ok()?;
            let record = records.get(space + 1..length)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|byte| *byte == b'=')?;
            self.set(record.get(..equals)?, record.get(equals + 1..)?);
            records = records.get(length..)?;
        }
        Some(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) {
        let text = std::str::from_utf8(value).unwrap_or_default();
        match key {
            b"path" => self.name = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = text.parse().ok(),
            b"mtime" => self.mtime = text.parse::<f64>().ok().map(|seconds| seconds.floor() as i64),
            b"uid" => self.uid = text.parse().ok(),
            b"gid" => self.gid = text.parse().ok(),
            b"GNU.sparse.name" => self.sparse_name = Some(value.to_vec()),
            key if key.starts_with(b"GNU.sparse.") => self.sparse = true,
            key if key.starts_with(b"SCHILY.acl.") => self.acl = true,
            key => {
                let name = key.strip_prefix(b"SCHILY.xattr.").or_else(|| key.strip_prefix(b"LIBARCHIVE.xattr."));
                self.xattrs |= name.is_some_and(is_storable);
            }
        }
    }
}

/// Reads the members of `tar`, to the zero block that ends it or the end of the file.
pub struct Members<'a> {
    tar: &'a File,
    length: u64,
    at: u64,
}

impl<'a> Members<'a> {
    /// Begins at the first member.
    pub fn of(tar: &'a File) -> io::Result<Self> {
        Ok(Self { tar, length: tar.metadata()?.len(), at: 0 })
    }

    /// The next member.
    pub fn next(&mut self) -> io::Result<Option<Member>> {
        let start = self.at;
        let mut pax = Pax::default();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            let kind = header.entry_type();
            if kind.is_pax_local_extensions() {
                let records = self.extension(&header)?;
                pax.read(&records).ok_or_else(|| damaged("a PAX header is damaged"))?;
            } else if kind.is_gnu_longname() {
                long_name = Some(until_nul(self.extension(&header)?));
            } else if kind.is_gnu_longlink() {
                long_link = Some(until_nul(self.extension(&header)?));
            } else {
                self.skip_sparse_map(&header)?;
                let size = pax.size.map_or_else(|| header.entry_size(), Ok)?;
                // A header of these kinds may give a size, but no contents follow.
                let has_contents = !kind.is_hard_link() && !kind.is_symlink() && !kind.is_dir();
                let size = if has_contents { size } else { 0 };
                let contents = self.at;
                self.advance(size)?;
                let name = pax.sparse_name.take().or(pax.name.take()).or(long_name);
                let link = pax.link.take().or(long_link);
                return Ok(Some(Member {
                    name: name.unwrap_or_else(|| header.path_bytes().into_owned()),
                    link: link.or_else(|| header.link_name_bytes().map(|link| link.into_owned())).unwrap_or_default(),
                    pax,
                    size,
                    contents,
                    span: start..self.at,
                    header,
                }));
            }
        }
    }

    fn header(&mut self) -> io::Result<Option<Header>> {
        if self.at == self.length {
            return Ok(None);
        }
        let block = self.block()?;
        if block == [0; BLOCK as usize] {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        // The checksum is taken with eight spaces in its own place.
        let spaces = 8 * u32::from(b' ');
        let (before, after) = (block.iter().take(148), block.iter().skip(156));
        if header.cksum()? != before.chain(after).map(|byte| u32::from(*byte)).sum::<u32>() + spaces {
            return Err(damaged("a header's checksum is wrong"));
        }
        Ok(Some(header))
    }

    fn block(&mut self) -> io::Result<[u8; BLOCK as usize]> {
        let mut block = [0; BLOCK as usize];
        self.tar.read_exact_at(&mut block, self.at).map_err(cut)?;
        self.at += BLOCK;
        Ok(block)
    }

    fn extension(&mut self, header: &Header) -> io::Result<Vec<u8>> {
        let size = header.entry_size()?;
        if size > EXTENSION_MAX {
            return Err(damaged("a name or PAX header is too long"));
        }
        let mut bytes = vec![0; size as usize];
        self.tar.read_exact_at(&mut bytes, self.at).map_err(cut)?;
        self.advance(size)?;
        Ok(bytes)
    }

    /// GNU's old form of a file with holes has further blocks with their places, each with a word on the next.
    fn skip_sparse_map(&mut self, header: &Header) -> io::Result<()> {
        if !header.entry_type().is_gnu_sparse() {
            return Ok(());
        }
        let mut more = header.as_gnu().is_some_and(|gnu| gnu.is_extended());
        while more {
            more = self.block()?.get(504) == Some(&1);
        }
        Ok(())
    }

    fn advance(&mut self, size: u64) -> io::Result<()> {
        let end = size.checked_next_multiple_of(BLOCK).and_then(|padded| self.at.checked_add(padded));
        // Some writers leave the padding of the last member out.
        match end {
            Some(end) if self.at + size <= self.length => {
                self.at = end.min(self.length);
                Ok(())
            }
            _ => Err(cut(ErrorKind::UnexpectedEof.into())),
        }
    }
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}

fn cut(error: Error) -> Error {
    match error.kind() {
        ErrorKind::UnexpectedEof => Error::new(ErrorKind::UnexpectedEof, "it is truncated: copy or make it again"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_values_hold_any_byte() {
        let mut pax = Pax::default();
        let records = b"20 mtime=-1.5000000\n27 SCHILY.xattr.user.a=\n=1\n19 path=a\xff\nb = c d\n";
        assert_eq!(pax.read(records), Some(()));
        let name = Some(b"a\xff\nb = c d".to_vec());
        assert_eq!(pax, Pax { mtime: Some(-2), xattrs: true, name, ..Pax::default() });
    }

    #[test]
    fn damaged_pax_records_are_refused() {
        for bad in [&b"x"[..], b"5 a=b", b"99 a=b\n", b"6 ab\n", b"0 a=b\n", b"6 a=bc"] {
            assert_eq!(Pax::default().read(bad), None, "{:?}", String::from_utf8_lossy(bad));
        }
    }
}
