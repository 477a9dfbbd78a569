//! Stream-hash lists, as Fedora CoreOS publishes them beside its images: a SHA-256 for each chunk of a file.

use rootbeam_init::digest::Sha256;
use sha2::Digest;
use std::io::{self, Read};

/// The largest chunk that is taken, in bytes.
pub const MAX_CHUNK: u64 = 64 << 20;
/// The largest list that is read, in bytes: that of a 126 GiB image in chunks of 64 KiB.
pub const MAX_BYTES: u64 = 128 << 20;

/// Bytes of a line: 64 digits and its end.
const LINE: usize = 65;

/// What a list promises of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamHash {
    /// Bytes a chunk; the last may be shorter.
    pub chunk_size: u64,
    /// SHA-256 of each chunk, in order; at least one.
    pub chunks: Vec<Sha256>,
}

/// Why a text is no list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// More than [`MAX_BYTES`].
    #[error("it has {0} bytes, more than the {MAX_BYTES} that are read")]
    TooLarge(u64),
    /// The first line is another one.
    #[error("its first line is not `stream-hash sha256 CHUNK-SIZE`")]
    Header,
    /// A digest that is not read.
    #[error("its digests are not sha256, which alone is read")]
    Algorithm,
    /// A chunk size out of bounds.
    #[error("its chunk size is no number from 1 to {MAX_CHUNK}")]
    ChunkSize,
    /// A line that is no digest.
    #[error("line {0} is not 64 hexadecimal digits")]
    Digest(usize),
    /// No line after the first.
    #[error("it lists no chunk")]
    Empty,
}

impl StreamHash {
    /// Reads a list: `stream-hash sha256 CHUNK-SIZE`, then a digest a line.
    pub fn parse(text: &[u8]) -> Result<Self, Refusal> {
        let length = text.len() as u64;
        if length > MAX_BYTES {
            return Err(Refusal::TooLarge(length));
        }
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let mut lines = text.split(|byte| *byte == b'\n').map(std::str::from_utf8);
        let header = lines.next().and_then(Result::ok).ok_or(Refusal::Header)?;
        let chunk_size = chunk_size(header)?;
        let mut chunks = Vec::with_capacity(text.len() / LINE);
        for (number, line) in (2..).zip(lines) {
            let digest = line.ok().and_then(|line| Sha256::parse(line).ok());
            chunks.push(digest.ok_or(Refusal::Digest(number))?);
        }
        if chunks.is_empty() { Err(Refusal::Empty) } else { Ok(Self { chunk_size, chunks }) }
    }

    /// `source`, whose bytes are held against the list while they are read; a read that finds another one fails with
    /// a [`Fault`] within its error, and so does an end too early or too late.
    pub fn check<R: Read>(self, source: R) -> Checked<R> {
        Checked { source, list: self, chunk: 0, filled: 0, hasher: sha2::Sha256::new() }
    }
}

fn chunk_size(header: &str) -> Result<u64, Refusal> {
    let mut words = header.split(' ');
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some("stream-hash"), Some("sha256"), Some(size), None) => {
            let plain = size.bytes().all(|byte| byte.is_ascii_digit());
            let size = size.parse().ok().filter(|size| plain && (1..=MAX_CHUNK).contains(size));
            size.ok_or(Refusal::ChunkSize)
        }
        (Some("stream-hash"), Some(_), Some(_), None) => Err(Refusal::Algorithm),
        _ => Err(Refusal::Header),
    }
}

/// How a file differs from its list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A chunk is another one.
    #[error("chunk {chunk} is not the listed one (from byte {offset}, SHA-256 {found}, listed {listed})")]
    Wrong {
        /// Its number, from 0.
        chunk: u64,
        /// Where it begins.
        offset: u64,
        /// What is there.
        found: Sha256,
        /// What should be.
        listed: Sha256,
    },
    /// It ends before the last chunk.
    #[error("it ends after {size} bytes, and {chunks} chunks of {chunk_size} bytes are listed")]
    Missing {
        /// Bytes that are there.
        size: u64,
        /// Chunks in the list.
        chunks: u64,
        /// Bytes a chunk.
        chunk_size: u64,
    },
    /// It goes on after the last chunk.
    #[error("it goes on after the {0} bytes of the listed chunks")]
    Extra(u64),
}

/// A reader that gives only bytes of chunks that are being held against a list. The bytes of a chunk are given before
/// its end was seen: only a reading that came to its end without an error tells that all were right.
pub struct Checked<R> {
    source: R,
    list: StreamHash,
    /// The chunk that is being read.
    chunk: u64,
    /// How many of its bytes were read.
    filled: u64,
    hasher: sha2::Sha256,
}

impl<R> Checked<R> {
    fn offset(&self) -> u64 {
        self.chunk * self.list.chunk_size
    }

    fn listed(&self) -> Option<Sha256> {
        self.list.chunks.get(usize::try_from(self.chunk).ok()?).copied()
    }

    /// The chunk that is being read is complete.
    fn close(&mut self) -> Result<(), Fault> {
        let listed = self.listed().ok_or(Fault::Extra(self.offset()))?;
        let found = Sha256(std::mem::take(&mut self.hasher).finalize().into());
        if found != listed {
            return Err(Fault::Wrong { chunk: self.chunk, offset: self.offset(), found, listed });
        }
        self.chunk += 1;
        self.filled = 0;
        Ok(())
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while !bytes.is_empty() {
            if self.listed().is_none() {
                return Err(Fault::Extra(self.offset()));
            }
            let room = self.list.chunk_size - self.filled;
            let (part, rest) = bytes.split_at(bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            self.hasher.update(part);
            self.filled += part.len() as u64;
            if self.filled == self.list.chunk_size {
                self.close()?;
            }
            bytes = rest;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Fault> {
        let chunks = self.list.chunks.len() as u64;
        let size = self.offset() + self.filled;
        // Only the last chunk may be short.
        if self.chunk + u64::from(self.filled > 0) < chunks {
            return Err(Fault::Missing { size, chunks, chunk_size: self.list.chunk_size });
        }
        if self.filled > 0 { self.close() } else { Ok(()) }
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let read = self.source.read(buffer)?;
        match buffer.get(..read) {
            Some([]) | None => self.end().map_err(io::Error::other)?,
            Some(bytes) => self.take(bytes).map_err(io::Error::other)?,
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(bytes: &[u8], chunk: usize) -> StreamHash {
        StreamHash { chunk_size: chunk as u64, chunks: bytes.chunks(chunk).map(Sha256::of).collect() }
    }

    fn text(list: &StreamHash) -> String {
        let digests: String = list.chunks.iter().map(|digest| format!("{digest}\n")).collect();
        format!("stream-hash sha256 {}\n{digests}", list.chunk_size)
    }

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * 31 % 251) as u8).collect()
    }

    /// Reads `found` against the list of `promised` in chunks of 100 bytes, by reads of `step` bytes.
    fn check(promised: &[u8], found: &[u8], step: usize) -> Result<usize, Fault> {
        let mut checked = list(promised, 100).check(found);
        let mut buffer = vec![0; step];
        let mut sum = 0;
        loop {
            match checked.read(&mut buffer) {
                Ok(0) => return Ok(sum),
                Ok(read) => sum += read,
                Err(error) => return Err(error.downcast::<Fault>().unwrap()),
            }
        }
    }

    #[test]
    fn reads_a_list_with_and_without_its_last_line_end() {
        let expected = list(&bytes(250), 100);
        let text = text(&expected);
        assert_eq!(StreamHash::parse(text.as_bytes()), Ok(expected.clone()));
        assert_eq!(StreamHash::parse(text.trim_end().as_bytes()), Ok(expected.clone()));
        assert_eq!(
            StreamHash::parse(text.to_uppercase().replace("STREAM-HASH SHA256", "stream-hash sha256").as_bytes()),
            Ok(expected)
        );
    }

    #[test]
    fn refuses_what_is_no_list_and_names_the_line() {
        let digest = "a".repeat(64);
        for (text, refusal) in [
            (String::new(), Refusal::Header),
            ("\n".into(), Refusal::Header),
            ("<html>".into(), Refusal::Header),
            (format!("{digest}\n"), Refusal::Header),
            ("stream-hash sha256".into(), Refusal::Header),
            (format!("stream-hash sha256 64 k\n{digest}"), Refusal::Header),
            (format!("stream-hash  sha256 64\n{digest}"), Refusal::Header),
            (format!("stream-hash sha512 64\n{digest}"), Refusal::Algorithm),
            (format!("stream-hash sha256 0\n{digest}"), Refusal::ChunkSize),
            (format!("stream-hash sha256 +5\n{digest}"), Refusal::ChunkSize),
            (format!("stream-hash sha256 -5\n{digest}"), Refusal::ChunkSize),
            (format!("stream-hash sha256 \n{digest}"), Refusal::ChunkSize),
            (format!("stream-hash sha256 67108865\n{digest}"), Refusal::ChunkSize),
            (format!("stream-hash sha256 99999999999999999999\n{digest}"), Refusal::ChunkSize),
            ("stream-hash sha256 64".into(), Refusal::Empty),
            ("stream-hash sha256 64\n".into(), Refusal::Empty),
            (format!("stream-hash sha256 64\n{digest}\n\n"), Refusal::Digest(3)),
            (format!("stream-hash sha256 64\n{digest}\n{digest}a"), Refusal::Digest(3)),
            (format!("stream-hash sha256 64\n{digest}\r\n"), Refusal::Digest(2)),
            (format!("stream-hash sha256 64\n{}\n", "g".repeat(64)), Refusal::Digest(2)),
            (format!("stream-hash sha256 64\n{}\n", "é".repeat(32)), Refusal::Digest(2)),
        ] {
            assert_eq!(StreamHash::parse(text.as_bytes()), Err(refusal), "{text:?}");
        }
        assert_eq!(StreamHash::parse(b"stream-hash sha256 64\n\xff\xfe"), Err(Refusal::Digest(2)));
        assert_eq!(StreamHash::parse(b"\xff"), Err(Refusal::Header));
        let large = vec![b'a'; MAX_BYTES as usize + 1];
        assert_eq!(StreamHash::parse(&large), Err(Refusal::TooLarge(MAX_BYTES + 1)));
        assert!(StreamHash::parse(format!("stream-hash sha256 {MAX_CHUNK}\n{digest}").as_bytes()).is_ok());
    }

    #[test]
    fn gives_all_bytes_of_a_file_that_is_as_listed() {
        for length in [1, 99, 100, 101, 250, 300] {
            let image = bytes(length);
            for step in [1, 7, 100, 1000] {
                assert_eq!(check(&image, &image, step), Ok(length), "{length} bytes by {step}");
            }
        }
    }

    #[test]
    fn names_the_wrong_chunk_and_what_is_missing_or_too_much() {
        let image = bytes(250);
        for (flipped, chunk) in [(0, 0), (99, 0), (100, 1), (249, 2)] {
            let mut wrong = image.clone();
            wrong[flipped] ^= 1;
            for step in [1, 70, 1000] {
                let fault = check(&image, &wrong, step).unwrap_err();
                assert!(matches!(fault, Fault::Wrong { chunk: c, offset, .. } if c == chunk && offset == chunk * 100));
            }
        }
        let missing = |size| Err(Fault::Missing { size, chunks: 3, chunk_size: 100 });
        for size in [0, 1, 99, 100, 199, 200] {
            assert_eq!(check(&image, &image[..size], 64), missing(size as u64), "{size} bytes");
        }
        assert!(matches!(check(&image, &image[..249], 64), Err(Fault::Wrong { chunk: 2, .. })));
        // A longer last chunk is another chunk; one beyond the last is too much.
        let longer = [&image[..], b"x"].concat();
        assert!(matches!(check(&image, &longer, 64), Err(Fault::Wrong { chunk: 2, .. })));
        assert_eq!(check(&image[..200], &image[..201], 64), Err(Fault::Extra(200)));
    }
}
