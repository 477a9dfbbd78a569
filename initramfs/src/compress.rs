//! The compressions of initramfs archives, modules and firmware.

use std::fmt;
use std::io::{self, BufRead, Read, Write};

/// How files of lzop begin.
const LZOP: &[u8] = b"\x89LZO\0\r\n\x1a\n";

/// A compression that Linux kernels can unpack an initramfs from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// None.
    None,
    /// gzip.
    Gzip,
    /// bzip2.
    Bzip2,
    /// The old format of xz's authors.
    Lzma,
    /// xz.
    Xz,
    /// The file format of lzop.
    Lzo,
    /// lz4 in its legacy frame, the only one that the kernel takes.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// By the first bytes, as the kernel decides.
    pub fn detect(bytes: &[u8]) -> Option<Self> {
        let magics: [(&[u8], Self); 9] = [
            (b"070701", Self::None),
            (b"070702", Self::None),
            (b"\x1f\x8b", Self::Gzip),
            (b"BZh", Self::Bzip2),
            (b"\x5d\x00\x00", Self::Lzma),
            (b"\xfd7zXZ\0", Self::Xz),
            (LZOP, Self::Lzo),
            (b"\x02\x21\x4c\x18", Self::Lz4),
            (b"\x28\xb5\x2f\xfd", Self::Zstd),
        ];
        magics.into_iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, compression)| compression)
    }

    /// The kernel option that must be on for such an initramfs.
    pub fn kernel_option(self) -> Option<&'static str> {
        Some(match self {
            Self::None => return None,
            Self::Gzip => "CONFIG_RD_GZIP",
            Self::Bzip2 => "CONFIG_RD_BZIP2",
            Self::Lzma => "CONFIG_RD_LZMA",
            Self::Xz => "CONFIG_RD_XZ",
            Self::Lzo => "CONFIG_RD_LZO",
            Self::Lz4 => "CONFIG_RD_LZ4",
            Self::Zstd => "CONFIG_RD_ZSTD",
        })
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Lzma => "lzma",
            Self::Xz => "xz",
            Self::Lzo => "lzo",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

/// Why bytes could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The decoder's word.
    #[error("the {0} data is damaged ({1})")]
    Damaged(Compression, io::Error),
    /// More than the caller is ready to hold.
    #[error("the {0} data unpacks to more than {1} bytes")]
    TooLarge(Compression, usize),
}

/// Unpacks one compressed stream at the beginning of `bytes` into at most `limit` bytes; gives them and how many
/// bytes the stream had.
pub fn unpack(compression: Compression, bytes: &[u8], limit: usize) -> Result<(Vec<u8>, usize), UnpackError> {
    let mut rest = bytes;
    let damaged = |error| UnpackError::Damaged(compression, error);
    let out = match compression {
        Compression::None => take(compression, &mut rest, limit)?,
        Compression::Gzip => take(compression, flate2::bufread::GzDecoder::new(&mut rest), limit)?,
        Compression::Bzip2 => take(compression, bzip2::bufread::BzDecoder::new(&mut rest), limit)?,
        Compression::Xz => take(compression, liblzma::bufread::XzDecoder::new(&mut rest), limit)?,
        Compression::Lzma => {
            let stream = liblzma::stream::Stream::new_lzma_decoder(256 << 20).map_err(|e| damaged(e.into()))?;
            take(compression, liblzma::bufread::XzDecoder::new_stream(&mut rest, stream), limit)?
        }
        Compression::Zstd => {
            let decoder = zstd::stream::read::Decoder::with_buffer(&mut rest).map_err(damaged)?;
            take(compression, decoder.single_frame(), limit)?
        }
        Compression::Lz4 => lz4_legacy(&mut rest, limit)?,
        Compression::Lzo => lzop(&mut rest, limit)?,
    };
    Ok((out, bytes.len() - rest.len()))
}

fn take(compression: Compression, decoder: impl Read, limit: usize) -> Result<Vec<u8>, UnpackError> {
    let mut out = Vec::new();
    let bound = (limit as u64).saturating_add(1);
    decoder.take(bound).read_to_end(&mut out).map_err(|error| UnpackError::Damaged(compression, error))?;
    if out.len() > limit { Err(UnpackError::TooLarge(compression, limit)) } else { Ok(out) }
}

/// The frame of `lz4 -l`: the magic, then blocks of at most 8 MiB, each behind its packed size. The end is the
/// data's end, or a size that none can have: the padding before, or the magic of, the next archive.
fn lz4_legacy(rest: &mut &[u8], limit: usize) -> Result<Vec<u8>, UnpackError> {
    const BLOCK: usize = 8 << 20;
    const LARGEST_PACKED: usize = BLOCK + BLOCK / 255 + 16;
    let damaged = |text: &str| UnpackError::Damaged(Compression::Lz4, io::Error::other(text.to_owned()));
    let mut out = Vec::new();
    rest.consume(4);
    while let Some((size, blocks)) = rest.split_first_chunk::<4>() {
        let size = u32::from_le_bytes(*size) as usize;
        if size == 0 || size > LARGEST_PACKED {
            break;
        }
        let block = blocks.get(..size).ok_or_else(|| damaged("it ends within a block"))?;
        let room = BLOCK.min(limit.saturating_sub(out.len()));
        let start = out.len();
        out.resize(start + BLOCK, 0);
        let written = lz4_flex::block::decompress_into(block, &mut out[start..])
            .map_err(|error| UnpackError::Damaged(Compression::Lz4, io::Error::other(error.to_string())))?;
        if written > room {
            return Err(UnpackError::TooLarge(Compression::Lz4, limit));
        }
        out.truncate(start + written);
        *rest = &blocks[size..];
    }
    Ok(out)
}

/// The file format of lzop, as far as the kernel reads it (lib/decompress_unlzo.c): a header, then blocks behind their
/// sizes and checksums, and a size of zero at the end. The checksums are passed over, as the kernel does.
fn lzop(rest: &mut &[u8], limit: usize) -> Result<Vec<u8>, UnpackError> {
    /// The largest block that lzop makes.
    const BLOCK: usize = 64 << 20;
    const ADLER32_D: u32 = 0x1;
    const ADLER32_C: u32 = 0x2;
    const CRC32_D: u32 = 0x100;
    const CRC32_C: u32 = 0x200;
    const FILTER: u32 = 0x800;
    let damaged = |text: &str| UnpackError::Damaged(Compression::Lzo, io::Error::other(text.to_owned()));
    let mut take = |count: usize| {
        let (taken, behind) = rest.split_at_checked(count).ok_or_else(|| damaged("it ends too early"))?;
        *rest = behind;
        Ok::<_, UnpackError>(taken)
    };
    let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
    take(LZOP.len())?;
    // Its own version, that of its library, the one that is needed, and the method.
    let version = number(&take(7)?[..2]);
    let is_new = version >= 0x0940;
    take(usize::from(is_new))?;
    let flags = number(take(4)?);
    let filter = if flags & FILTER == 0 { 0 } else { 4 };
    // The file's mode and time; then its name, and the header's checksum.
    take(filter + if is_new { 12 } else { 8 })?;
    let name = usize::from(take(1)?[0]);
    take(name + 4)?;
    let counted = |wanted: &[u32]| 4 * wanted.iter().filter(|flag| flags & **flag != 0).count();
    let mut out = Vec::new();
    loop {
        let size = number(take(4)?) as usize;
        if size == 0 {
            return Ok(out);
        }
        let packed = number(take(4)?) as usize;
        if size > BLOCK || packed > size {
            return Err(damaged("a block has a size that none can have"));
        }
        if size > limit.saturating_sub(out.len()) {
            return Err(UnpackError::TooLarge(Compression::Lzo, limit));
        }
        // A block that does not shrink is kept as it is, with one kind of checksum.
        take(counted(&[ADLER32_D, CRC32_D]) + if packed < size { counted(&[ADLER32_C, CRC32_C]) } else { 0 })?;
        let block = take(packed)?;
        let start = out.len();
        if packed == size {
            out.extend_from_slice(block);
        } else {
            out.resize(start + size, 0);
            match lzokay::decompress::decompress(block, &mut out[start..]) {
                Ok(written) if written == size => {}
                Ok(_) => return Err(damaged("a block is shorter than it says")),
                Err(error) => {
                    return Err(UnpackError::Damaged(Compression::Lzo, io::Error::other(error.to_string())));
                }
            }
        }
    }
}

/// Unpacks a whole file by its first bytes: a module or a firmware file, which may also be plain.
pub fn unpack_file(bytes: Vec<u8>, limit: usize) -> Result<Vec<u8>, UnpackError> {
    match Compression::detect(&bytes) {
        Some(compression @ (Compression::Gzip | Compression::Xz | Compression::Zstd)) => {
            unpack(compression, &bytes, limit).map(|(out, _)| out)
        }
        _ => Ok(bytes),
    }
}

/// What the packer writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Packing {
    /// Zstandard, level 19: the smallest that unpacks fast.
    #[default]
    Zstd,
    /// gzip, level 9: what every kernel can unpack.
    Gzip,
    /// xz with CRC32, the only check that the kernel knows.
    Xz,
    /// Not compressed.
    None,
}

impl Packing {
    /// The format that it makes.
    pub fn compression(self) -> Compression {
        match self {
            Self::Zstd => Compression::Zstd,
            Self::Gzip => Compression::Gzip,
            Self::Xz => Compression::Xz,
            Self::None => Compression::None,
        }
    }

    /// Packs `bytes`; equal bytes give equal results, whatever the number of processors. `taken` is told how many
    /// bytes more the compressor has taken.
    pub fn pack(self, bytes: &[u8], taken: impl FnMut(u64)) -> io::Result<Vec<u8>> {
        match self {
            Self::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 19)?;
                // With at least one worker the result does not depend on how many there are.
                encoder.multithread(std::thread::available_parallelism().map_or(1, |n| n.get() as u32))?;
                encoder.include_checksum(true)?;
                feed(&mut encoder, bytes, taken)?;
                encoder.finish()
            }
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
                feed(&mut encoder, bytes, taken)?;
                encoder.finish()
            }
            Self::Xz => {
                let stream = liblzma::stream::Stream::new_easy_encoder(6, liblzma::stream::Check::Crc32)?;
                let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
                feed(&mut encoder, bytes, taken)?;
                encoder.finish()
            }
            Self::None => Ok(bytes.to_vec()),
        }
    }
}

fn feed(encoder: &mut impl Write, bytes: &[u8], mut taken: impl FnMut(u64)) -> io::Result<()> {
    bytes.chunks(256 << 10).try_for_each(|chunk| {
        encoder.write_all(chunk)?;
        taken(chunk.len() as u64);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        (0..20_000u32).flat_map(|i| (i / 7).to_le_bytes()).collect()
    }

    #[test]
    fn unpacks_what_it_packed_and_stops_where_the_stream_ends() {
        for packing in [Packing::Zstd, Packing::Gzip, Packing::Xz] {
            let packed = packing.pack(&sample(), |_| ()).unwrap();
            assert_eq!(Compression::detect(&packed), Some(packing.compression()));
            let followed = [packed.as_slice(), b"\0\0\0\x00070701"].concat();
            let (out, used) = unpack(packing.compression(), &followed, 2 << 20).unwrap();
            assert!(out == sample() && used == packed.len(), "{packing:?}");
        }
    }

    #[test]
    fn packs_the_same_bytes_twice() {
        for packing in [Packing::Zstd, Packing::Gzip, Packing::Xz] {
            assert!(
                packing.pack(&sample(), |_| ()).unwrap() == packing.pack(&sample(), |_| ()).unwrap(),
                "{packing:?}"
            );
        }
    }

    #[test]
    fn refuses_more_than_the_limit_and_damage() {
        for packing in [Packing::Zstd, Packing::Gzip, Packing::Xz] {
            let packed = packing.pack(&sample(), |_| ()).unwrap();
            let refused = unpack(packing.compression(), &packed, sample().len() - 1);
            assert!(matches!(refused, Err(UnpackError::TooLarge(..))), "{packing:?}");
            let cut = unpack(packing.compression(), &packed[..packed.len() / 2], 2 << 20);
            assert!(matches!(cut, Err(UnpackError::Damaged(..))), "{packing:?}");
        }
    }
}
