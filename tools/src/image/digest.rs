//! The digests of an image, computed in one reading: the whole file's on one thread, the chunks' on the others.

use rootbeam_init::digest::Sha256;
use rootbeam_init::manifest::LIST_BLOCK;
use rootbeam_init::store::superblock::PROBE;
use sha2::Digest;
use std::io::{self, Read};
use std::num::NonZero;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// What one reading pass hands on at a time. A multiple of every chunk size that a manifest may have is not needed:
/// a segment is as many whole chunks as fit, at least one. Small enough to be in a processor's cache still when the
/// second thread hashes it.
const SEGMENT: usize = 1 << 20;
/// Segments that may wait for a thread; with those being read and hashed this bounds the memory.
const WAITING: usize = 4;

/// The digests of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    /// Bytes read.
    pub size: u64,
    /// SHA-256 of all of them.
    pub sha256: Sha256,
    /// SHA-256 of each chunk, in order.
    pub chunks: Vec<Sha256>,
    /// The first [`PROBE`] bytes, or all: so that what is told of the filesystem is of the bytes that were hashed.
    pub first: Vec<u8>,
}

impl Digests {
    /// The contents of `IMAGE.chunks`.
    pub fn chunk_list(&self) -> Vec<u8> {
        self.chunks.iter().flat_map(|chunk| chunk.0).collect()
    }
}

/// SHA-256 of each block of a chunk list, as the manifest holds them.
pub fn list_hashes(list: &[u8]) -> Vec<Sha256> {
    list.chunks(LIST_BLOCK as usize).map(Sha256::of).collect()
}

struct Segment {
    first_chunk: usize,
    bytes: Vec<u8>,
}

/// Reads `source` to its end and computes its digests for chunks of `chunk_size` bytes, on all cores. `progress` is
/// told of bytes as they are read.
pub fn digest(mut source: impl Read, chunk_size: u32, progress: impl Fn(u64)) -> io::Result<Digests> {
    let chunk = chunk_size as usize;
    let per_segment = (SEGMENT / chunk).max(1);
    let helpers = thread::available_parallelism().map_or(1, NonZero::get).saturating_sub(1).max(1);
    let (whole_in, whole_out) = sync_channel::<Arc<Segment>>(WAITING);
    let (parts_in, parts_out) = sync_channel::<Arc<Segment>>(WAITING);
    let parts_out = Mutex::new(parts_out);

    thread::scope(|scope| {
        let whole = scope.spawn(move || {
            let mut hasher = sha2::Sha256::new();
            whole_out.iter().for_each(|segment| hasher.update(&segment.bytes));
            Sha256(hasher.finalize().into())
        });
        let parts: Vec<_> = (0..helpers).map(|_| scope.spawn(|| hash_chunks(&parts_out, chunk))).collect();

        let read = read_segments(&mut source, per_segment, chunk, [whole_in, parts_in], progress);

        let joined = |_| io::Error::other("a hashing thread panicked");
        let sha256 = whole.join().map_err(joined)?;
        let mut segments = Vec::new();
        for part in parts {
            segments.extend(part.join().map_err(joined)?);
        }
        segments.sort_unstable_by_key(|(first, _)| *first);
        let chunks = segments.into_iter().flat_map(|(_, hashes)| hashes).collect();
        let (size, first) = read?;
        Ok(Digests { size, sha256, chunks, first })
    })
}

/// Reads to the end and hands each segment to both channels, which close when this returns. Returns the size and the
/// first bytes.
fn read_segments(
    source: &mut impl Read,
    per_segment: usize,
    chunk: usize,
    channels: [SyncSender<Arc<Segment>>; 2],
    progress: impl Fn(u64),
) -> io::Result<(u64, Vec<u8>)> {
    let length = per_segment * chunk;
    let (mut size, mut first) = (0, Vec::new());
    for first_chunk in (0..).step_by(per_segment) {
        let mut bytes = Vec::with_capacity(length);
        source.take(length as u64).read_to_end(&mut bytes)?;
        let read = bytes.len();
        if first_chunk == 0 {
            first.extend(bytes.iter().take(PROBE));
        }
        if read > 0 {
            let segment = Arc::new(Segment { first_chunk, bytes });
            for channel in &channels {
                channel.send(segment.clone()).map_err(|_| io::Error::other("a hashing thread panicked"))?;
            }
            size += read as u64;
            progress(read as u64);
        }
        if read < length {
            break;
        }
    }
    Ok((size, first))
}

fn hash_chunks(segments: &Mutex<Receiver<Arc<Segment>>>, chunk: usize) -> Vec<(usize, Vec<Sha256>)> {
    let mut done = Vec::new();
    loop {
        let next = segments.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(segment) = next else { return done };
        done.push((segment.first_chunk, segment.bytes.chunks(chunk).map(Sha256::of).collect()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * 31 % 251) as u8).collect()
    }

    #[test]
    fn equals_hashing_one_after_the_other() {
        for length in [0, 1, 4095, 4096, 4097, SEGMENT, SEGMENT + 1, 2 * SEGMENT + 12_345] {
            let image = bytes(length);
            let expected = Digests {
                size: length as u64,
                sha256: Sha256::of(&image),
                chunks: image.chunks(4096).map(Sha256::of).collect(),
                first: image.iter().copied().take(PROBE).collect(),
            };
            assert_eq!(digest(image.as_slice(), 4096, |_| ()).unwrap(), expected, "{length} bytes");
        }
    }

    #[test]
    fn accepts_chunks_larger_than_a_segment() {
        let image = bytes(9 << 20);
        let found = digest(image.as_slice(), 8 << 20, |_| ()).unwrap();
        assert_eq!(found.chunks, image.chunks(8 << 20).map(Sha256::of).collect::<Vec<_>>());
    }

    #[test]
    fn a_read_error_ends_it() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("bad sector"))
            }
        }
        let source = bytes(5 << 20);
        let error = digest(source.as_slice().chain(Broken), 4096, |_| ()).unwrap_err();
        assert_eq!(error.to_string(), "bad sector");
    }
}
