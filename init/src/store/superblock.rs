//! What filesystem an image is, read from its first bytes: found before gigabytes are fetched, and told in words
//! before the kernel answers a mount with EINVAL.

use crate::messages::{Compressor, FilesystemKind};
use backhand::kind::{Kind, LE_V4_0};
use backhand::{BackhandError, Squashfs, compression};
use std::io::Cursor;

/// How many first bytes [`inspect`] wants; an image shorter than that is given whole.
pub const PROBE: usize = 4096;

const SQUASHFS_MAGIC: [u8; 4] = *b"hsqs";
const SQUASHFS_LENGTH: usize = 96;
/// Place of the flag word in a squashfs superblock, and the flag's high byte: options follow the superblock.
const SQUASHFS_FLAGS_HIGH: usize = 25;
const SQUASHFS_OPTIONS: u8 = 0x04;
/// A table that is not there.
const NOT_SET: u64 = u64::MAX;

const EROFS_MAGIC: [u8; 4] = 0xE0F5_E1E2_u32.to_le_bytes();
const EROFS_OFFSET: usize = 1024;
const EROFS_LENGTH: usize = 128;
const EROFS_ZERO_PADDING: u32 = 0x1;
const EROFS_COMPRESSION_CONFIGS: u32 = 0x2;

/// What a superblock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuperblockFacts {
    /// The filesystem.
    pub filesystem: FilesystemKind,
    /// The compressor that the kernel needs for it.
    pub compressor: Compressor,
    /// Bytes that the filesystem occupies, at most the image's size.
    pub bytes_used: u64,
}

/// Why an image cannot be mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockFault {
    /// It has no bytes.
    #[error("it is empty")]
    Empty,
    /// It ends before the length in its own superblock.
    #[error("it has {size} bytes, its filesystem needs {needed}")]
    Truncated {
        /// Bytes that are there.
        size: u64,
        /// Bytes that are needed.
        needed: u64,
    },
    /// Neither squashfs nor erofs.
    #[error("it is neither squashfs nor erofs, it begins with {magic:02x?}")]
    NotAFilesystem {
        /// The first bytes.
        magic: [u8; 4],
    },
    /// The superblock contradicts itself.
    #[error("its superblock contradicts itself")]
    Invalid {
        /// The filesystem that it claims to be.
        filesystem: FilesystemKind,
    },
}

/// Reads the superblock from an image's `first` bytes ([`PROBE`] of them, or all) and holds it against its `size`.
pub fn inspect(first: &[u8], size: u64) -> Result<SuperblockFacts, SuperblockFault> {
    if size == 0 {
        return Err(SuperblockFault::Empty);
    }
    if first.starts_with(&SQUASHFS_MAGIC) {
        return squashfs(first, size);
    }
    match first.get(EROFS_OFFSET..) {
        Some(superblock) if superblock.starts_with(&EROFS_MAGIC) => erofs(superblock, size),
        _ => {
            let mut magic = [0; 4];
            for (to, from) in magic.iter_mut().zip(first) {
                *to = *from;
            }
            Err(SuperblockFault::NotAFilesystem { magic })
        }
    }
}

fn squashfs(first: &[u8], size: u64) -> Result<SuperblockFacts, SuperblockFault> {
    let filesystem = FilesystemKind::Squashfs;
    let invalid = SuperblockFault::Invalid { filesystem };
    let Some(bytes) = first.first_chunk::<SQUASHFS_LENGTH>() else {
        return Err(SuperblockFault::Truncated { size, needed: SQUASHFS_LENGTH as u64 });
    };
    // Without the flag the parser stays within these 96 bytes: the options behind them may be compressed, and there
    // is no decompressor here.
    let mut bytes = *bytes;
    if let Some(flags) = bytes.get_mut(SQUASHFS_FLAGS_HIGH) {
        *flags &= !SQUASHFS_OPTIONS;
    }
    let kind = Kind::from_const(LE_V4_0).map_err(|_| invalid)?;
    let parsed: Result<_, BackhandError> =
        Squashfs::superblock_and_compression_options(&mut Cursor::new(bytes.as_slice()), &kind);
    let (superblock, _) = parsed.map_err(|_| invalid)?;
    let needed = superblock.bytes_used;
    let tables = [superblock.id_table, superblock.inode_table, superblock.dir_table];
    let optional = [superblock.xattr_table, superblock.frag_table, superblock.export_table];
    let inside = |table: &u64| (SQUASHFS_LENGTH as u64..needed).contains(table);
    let ordered = superblock.inode_table < superblock.dir_table && superblock.inode_count > 0;
    if !ordered || !tables.iter().all(inside) || !optional.iter().all(|table| *table == NOT_SET || inside(table)) {
        return Err(invalid);
    }
    if needed > size {
        return Err(SuperblockFault::Truncated { size, needed });
    }
    let compressor = match superblock.compressor {
        compression::Compressor::Uncompressed => Compressor::None,
        compression::Compressor::Gzip => Compressor::Gzip,
        compression::Compressor::Lzma => Compressor::Lzma,
        compression::Compressor::Lzo => Compressor::Lzo,
        compression::Compressor::Xz => Compressor::Xz,
        compression::Compressor::Lz4 => Compressor::Lz4,
        compression::Compressor::Zstd => Compressor::Zstd,
    };
    Ok(SuperblockFacts { filesystem, compressor, bytes_used: needed })
}

/// `struct erofs_super_block`: 128 bytes, little-endian.
fn erofs(superblock: &[u8], size: u64) -> Result<SuperblockFacts, SuperblockFault> {
    let filesystem = FilesystemKind::Erofs;
    let invalid = SuperblockFault::Invalid { filesystem };
    let Some(bytes) = superblock.first_chunk::<EROFS_LENGTH>() else {
        return Err(SuperblockFault::Truncated { size, needed: (EROFS_OFFSET + EROFS_LENGTH) as u64 });
    };
    let u32_at = |at: usize| bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b));
    let block_bits = bytes.get(12).copied().unwrap_or_default();
    // The kernel takes blocks of 512 bytes up to its page size, which is 64 KiB at most.
    if !(9..=16).contains(&block_bits) {
        return Err(invalid);
    }
    let needed = u64::from(u32_at(36)) << block_bits;
    if needed == 0 {
        return Err(invalid);
    }
    if needed > size {
        return Err(SuperblockFault::Truncated { size, needed });
    }
    let features = u32_at(80);
    let algorithms = u32_at(84) & 0xffff;
    // Where no configurations are listed, that word is lz4's distance instead.
    let compressor = if features & EROFS_COMPRESSION_CONFIGS != 0 {
        let known = [(8, Compressor::Zstd), (4, Compressor::Deflate), (2, Compressor::Lzma), (1, Compressor::Lz4)];
        known.into_iter().find(|(bit, _)| algorithms & bit != 0).map_or(Compressor::None, |(_, name)| name)
    } else if features & EROFS_ZERO_PADDING != 0 {
        Compressor::Lz4
    } else {
        Compressor::None
    };
    Ok(SuperblockFacts { filesystem, compressor, bytes_used: needed })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good_squashfs(compressor: u16) -> Vec<u8> {
        let mut bytes = vec![0; PROBE];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, b"hsqs");
        put(4, &1_u32.to_le_bytes());
        put(12, &131_072_u32.to_le_bytes());
        put(20, &compressor.to_le_bytes());
        put(22, &17_u16.to_le_bytes());
        put(24, &0x0400_u16.to_le_bytes());
        put(26, &1_u16.to_le_bytes());
        put(28, &4_u16.to_le_bytes());
        put(40, &4000_u64.to_le_bytes());
        put(48, &3900_u64.to_le_bytes());
        put(56, &NOT_SET.to_le_bytes());
        put(64, &1000_u64.to_le_bytes());
        put(72, &2000_u64.to_le_bytes());
        put(80, &NOT_SET.to_le_bytes());
        put(88, &NOT_SET.to_le_bytes());
        bytes
    }

    fn good_erofs(features: u32, algorithms: u16) -> Vec<u8> {
        let mut bytes = vec![0; PROBE];
        let mut put = |at: usize, value: &[u8]| bytes[1024 + at..1024 + at + value.len()].copy_from_slice(value);
        put(0, &EROFS_MAGIC);
        put(12, &[12]);
        put(36, &2_u32.to_le_bytes());
        put(80, &features.to_le_bytes());
        put(84, &algorithms.to_le_bytes());
        bytes
    }

    #[test]
    fn reads_each_compressor_of_squashfs() {
        let names = [
            Compressor::None,
            Compressor::Gzip,
            Compressor::Lzma,
            Compressor::Lzo,
            Compressor::Xz,
            Compressor::Lz4,
            Compressor::Zstd,
        ];
        for (number, compressor) in names.into_iter().enumerate() {
            let facts = SuperblockFacts { filesystem: FilesystemKind::Squashfs, compressor, bytes_used: 4000 };
            assert_eq!(inspect(&good_squashfs(number as u16), 4096), Ok(facts));
        }
        let invalid = SuperblockFault::Invalid { filesystem: FilesystemKind::Squashfs };
        assert_eq!(inspect(&good_squashfs(7), 4096), Err(invalid));
    }

    #[test]
    fn reads_each_compressor_of_erofs() {
        let of = |features, algorithms| inspect(&good_erofs(features, algorithms), 8192).map(|f| f.compressor);
        assert_eq!(of(0, 0), Ok(Compressor::None));
        assert_eq!(of(1, 65_535), Ok(Compressor::Lz4));
        assert_eq!(of(3, 1), Ok(Compressor::Lz4));
        assert_eq!(of(3, 2), Ok(Compressor::Lzma));
        assert_eq!(of(3, 4), Ok(Compressor::Deflate));
        assert_eq!(of(3, 9), Ok(Compressor::Zstd));
    }

    #[test]
    fn tells_what_is_missing_of_a_truncated_image() {
        let fault = SuperblockFault::Truncated { size: 3999, needed: 4000 };
        assert_eq!(inspect(&good_squashfs(6), 3999), Err(fault));
        assert_eq!(inspect(&good_erofs(0, 0), 8191), Err(SuperblockFault::Truncated { size: 8191, needed: 8192 }));
        let fault = SuperblockFault::Truncated { size: 50, needed: 96 };
        assert_eq!(inspect(&good_squashfs(6)[..50], 50), Err(fault));
        let fault = SuperblockFault::Truncated { size: 1030, needed: 1152 };
        assert_eq!(inspect(&good_erofs(0, 0)[..1030], 1030), Err(fault));
    }

    #[test]
    fn tells_an_empty_image_and_another_file_from_a_filesystem() {
        assert_eq!(inspect(&[], 0), Err(SuperblockFault::Empty));
        assert_eq!(inspect(b"<html>", 6), Err(SuperblockFault::NotAFilesystem { magic: *b"<htm" }));
        assert_eq!(inspect(b"hi", 2), Err(SuperblockFault::NotAFilesystem { magic: *b"hi\0\0" }));
    }

    #[test]
    fn refuses_a_superblock_that_contradicts_itself() {
        let invalid = Err(SuperblockFault::Invalid { filesystem: FilesystemKind::Squashfs });
        for (at, value) in [(12, 5000_u64), (14, 0), (22, 3), (28, 3), (64, 4001), (64, 2500), (80, 4000), (4, 0)] {
            let mut bytes = good_squashfs(6);
            let width = if at >= 40 { 8 } else { 2 };
            bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
            assert_eq!(inspect(&bytes, 1 << 20), invalid, "{value} at {at}");
        }
        let mut bytes = good_erofs(0, 0);
        bytes[1024 + 12] = 17;
        assert_eq!(inspect(&bytes, 1 << 30), Err(SuperblockFault::Invalid { filesystem: FilesystemKind::Erofs }));
    }

    #[test]
    fn no_superblock_makes_it_panic() {
        let mut state = 0x2545_F491_4F6C_DD1D_u64;
        for round in 0..20_000 {
            let mut bytes = if round % 2 == 0 { good_squashfs(round as u16 % 8) } else { good_erofs(3, 15) };
            for _ in 0..8 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let at = if round % 2 == 0 { state as usize % 96 } else { 1024 + state as usize % 128 };
                bytes[at] = (state >> 32) as u8;
            }
            let size = state % 10_000;
            if let Ok(facts) = inspect(&bytes, size) {
                assert!(facts.bytes_used <= size);
            }
        }
    }
}
