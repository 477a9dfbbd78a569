//! PID 1 and the store.

use super::fetch::{FetchCause, FetchWarning};
use crate::digest::Sha256;
use crate::label::Label;
use crate::trust::{Anchors, KeyId, SignatureFault};
use serde::{Deserialize, Serialize};

/// The place of a source in the order of `rootbeam.image=`, from 0. PID 1 knows the URL behind it.
pub type SourceIndex = u8;

/// What to fetch and what to hold it against.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// URLs of the image in order of preference, checked by the settings.
    pub sources: Vec<String>,
    /// The whole image's SHA-256 from the command line.
    pub sha256: Option<Sha256>,
    /// The SHA-256 of the one manifest that counts, from the command line.
    pub manifest: Option<Sha256>,
    /// Whether an image with neither manifest nor hash is refused.
    pub require_verified: bool,
    /// Whether it may be missing: where every source says that it has none, the news is `Absent`.
    pub optional: bool,
    /// Whether it is to be served before it is whole: then the chunk list comes as its blocks are needed.
    pub streams: bool,
    /// Release of the running kernel, compared with the manifest's.
    pub kernel: Label,
    /// Seconds without a byte after which a connection counts as stalled.
    pub stall_seconds: u32,
    /// What the archive trusts. Where that is a key, only signed manifests count, whatever the fields above say.
    pub anchors: Anchors,
}

/// PID 1 to the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreOrder {
    /// Begin. Sent once; everything that was verified stays over any later trouble.
    Start(Wanted),
    /// A fetch worker was started; its channel comes with this packet as a descriptor (SCM_RIGHTS). Data that the
    /// one before had left in the ring is void.
    Fetcher,
    /// The image of that size may be held: answer to `StoreNews::Size`.
    Admitted,
    /// After `Failed` with a passing cause: go on where it stopped.
    Again,
    /// After `Opened`: the system is booted from this image before it is whole, so from now on no other one counts than that
    /// of this manifest.
    Keep {
        /// SHA-256 of the manifest's bytes.
        manifest: Sha256,
    },
    /// Serve the image as a file through the descriptor of /dev/fuse that comes along, mounted already. Begins when it is
    /// `Opened`.
    Serve {
        /// A read that waits for longer than so many seconds fails with EIO; without them it waits.
        eio_seconds: Option<u32>,
    },
    /// Before `Serve`: keep what is read first, and until `TraceEnds` do not let go of the served file, whose reads
    /// are seen.
    Trace,
    /// Tell what was read first.
    Touched {
        /// From this place of the order on.
        from: u32,
    },
    /// What is read first need not be kept any longer.
    TraceEnds,
    /// The loop device that stands on the served file comes along: set it on the image itself when that is complete.
    Device,
    /// From now on a read of the served file waits so long and no longer, or as long as it takes.
    Patience {
        /// Seconds after that it fails with EIO; none: it waits.
        eio_seconds: Option<u32>,
    },
    /// The boot is over: exit with 0.
    Finish,
}

/// How well the bytes are vouched for, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trust {
    /// A signed manifest, checked with a packed key.
    Signed,
    /// A hash of the image, or of its manifest, on the command line.
    Pinned,
    /// A manifest or checksum file from a server, not signed: guards against damage, not against the server.
    Checksummed,
    /// Nothing to hold the bytes against.
    Unverified,
}

/// The filesystem of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FilesystemKind {
    /// squashfs 4.0.
    Squashfs,
    /// erofs.
    Erofs,
}

/// Compressors by the names that the kernel uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Compressor {
    None,
    Gzip,
    Lzma,
    Lzo,
    Xz,
    Lz4,
    Zstd,
    Deflate,
}

/// What the store found in the complete, verified image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFacts {
    /// Its filesystem.
    pub filesystem: FilesystemKind,
    /// Its compressor.
    pub compressor: Compressor,
    /// True size in bytes; the memfd is rounded up to 4096.
    pub size: u64,
    /// SHA-256 of the whole image, where it was computed or is vouched for by the manifest.
    pub sha256: Option<Sha256>,
    /// How well it is vouched for.
    pub trust: Trust,
    /// The packed keys that signed its manifest.
    pub signers: Vec<KeyId>,
    /// SHA-256 of the manifest's own bytes, by which `rootbeam.manifest=` pins it.
    pub manifest: Option<Sha256>,
    /// The manifest's version.
    pub version: Option<u64>,
    /// When the manifest was made, in seconds since 1970, where a packed key has signed it.
    pub date: Option<u64>,
    /// Further images that its manifest stacks on it, the topmost last; names of files beside it.
    pub layers: Vec<Label>,
}

/// Counts of a fetch, for progress and report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Size of the image.
    pub total: u64,
    /// Bytes in the memfd that passed verification (without chunk hashes: that arrived).
    pub verified: u64,
    /// Bytes that came over the wire for the image, repeats included.
    pub fetched: u64,
    /// Chunks whose hash was wrong.
    pub rejected_chunks: u64,
    /// Requests made.
    pub requests: u32,
    /// Connections that failed, by any cause.
    pub failures: u32,
}

/// What one source did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceTally {
    /// Bytes that came from it for the image.
    pub fetched: u64,
    /// Requests made to it.
    pub requests: u32,
    /// Requests that failed.
    pub failures: u32,
    /// Chunks whose hash was wrong.
    pub rejected_chunks: u64,
    /// What the last one failed with.
    pub trouble: Option<FetchCause>,
}

/// Why the store gave up, or pauses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreCause {
    /// Every source failed; the last cause of the one that got furthest.
    Fetch {
        /// The source.
        source: SourceIndex,
        /// What it failed with.
        cause: FetchCause,
    },
    /// The manifest is refused.
    ManifestTooLarge {
        /// Where it came from.
        source: SourceIndex,
        /// Its size as far as it is known.
        bytes: u64,
    },
    /// The manifest is not readable as one.
    ManifestMalformed {
        /// Where it came from.
        source: SourceIndex,
    },
    /// The manifest describes another file than the one that is there: size or name differ.
    ManifestOfAnotherImage {
        /// Where it came from.
        source: SourceIndex,
        /// Size in the manifest.
        said: u64,
        /// Size of the file that the server has.
        found: u64,
    },
    /// The chunk list does not match the manifest.
    ChunkList {
        /// Where it came from.
        source: SourceIndex,
    },
    /// There is no manifest, and this boot takes no image without one.
    ManifestMissing {
        /// The first source that has none.
        source: SourceIndex,
    },
    /// A key is packed, and the manifest is not signed as it must be.
    Signature {
        /// Where the manifest came from.
        source: SourceIndex,
        /// What its signatures lack.
        fault: SignatureFault,
    },
    /// The manifest is not the one that was asked for.
    ManifestHash {
        /// Where it came from.
        source: SourceIndex,
        /// The hash asked for.
        expected: Sha256,
        /// The hash of its bytes.
        found: Sha256,
    },
    /// The manifest is older than this archive boots.
    ManifestTooOld {
        /// Where it came from.
        source: SourceIndex,
        /// Its version.
        version: u64,
        /// The least version that boots.
        floor: u64,
    },
    /// The manifest requires another kernel.
    Kernel {
        /// The release that it requires.
        required: Label,
    },
    /// Chunk `chunk` has the wrong hash from every source.
    WrongChunk {
        /// Number of the chunk, from 0.
        chunk: u64,
        /// Of how many.
        chunks: u64,
        /// First byte.
        offset: u64,
        /// The last source asked.
        source: SourceIndex,
    },
    /// The whole image has the wrong hash.
    WrongHash {
        /// The hash asked for.
        expected: Sha256,
        /// The hash found.
        found: Sha256,
    },
    /// No bytes.
    Empty {
        /// Where it came from.
        source: SourceIndex,
    },
    /// The file ends before the length in its own superblock.
    Truncated {
        /// Bytes that are there.
        size: u64,
        /// Bytes that the filesystem needs.
        needed: u64,
    },
    /// Neither squashfs nor erofs.
    NotAFilesystem {
        /// The first bytes.
        magic: [u8; 4],
    },
    /// The superblock contradicts itself.
    Superblock {
        /// The filesystem that it claims to be.
        filesystem: FilesystemKind,
    },
    /// Verification is required and there is nothing to verify by.
    Unverified,
    /// The kernel refused memory for the image.
    Memory {
        /// The error number.
        errno: i32,
    },
}

impl StoreCause {
    /// Whether it is about what a source said, which has answered then.
    pub fn is_answer(&self) -> bool {
        match self {
            Self::Fetch { cause, .. } => cause.is_answer(),
            Self::Memory { .. } => false,
            _ => true,
        }
    }
}

/// The store to PID 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreNews {
    /// The size is known: may it be held? Answered by `Admitted`, or by the end of the boot.
    Size {
        /// Bytes.
        bytes: u64,
    },
    /// A source gave an answer, be it a refusal: there is a way to it. Said at most once a second.
    Answered,
    /// Where the fetch stands; at most ten a second.
    Progress(Tally),
    /// A source failed and is tried again, or the next one is.
    Trouble {
        /// The source.
        source: SourceIndex,
        /// The cause.
        cause: FetchCause,
        /// Until the next try, in milliseconds.
        pause_ms: u32,
    },
    /// The image is the one that was asked for, and each of its chunks can be verified alone: it could be served.
    Opened {
        /// What it is.
        facts: ImageFacts,
    },
    /// A read has waited for seconds; said of another that has as well, once that one goes on.
    ReadWaits,
    /// No read has waited for seconds any more.
    ReadGoesOn,
    /// Chunks of the served image in the order in which they are first read: answer to `StoreOrder::Touched`. Where there
    /// are no more for now, they are fewer than [`PIECE`](crate::store::PIECE).
    Touched {
        /// Bytes of the image.
        size: u64,
        /// Bytes a chunk.
        chunk_size: u32,
        /// SHA-256 of the image.
        sha256: Sha256,
        /// The chunks.
        chunks: Vec<u32>,
    },
    /// The loop device stands on the image itself, and nothing is served any more.
    Released,
    /// The kernel did not set the loop device on the image; it is served on, from memory.
    NotReleased {
        /// The error number.
        errno: i32,
    },
    /// The served file has ended, and the loop device does not stand on the image itself: nothing more of it can be read.
    Lost,
    /// A source has nothing that this boot takes, and others may have it.
    Unfit {
        /// The source.
        source: SourceIndex,
        /// What is wrong with what it has.
        cause: StoreCause,
    },
    /// A fetch worker is wanted: none is there, or it is stuck and shall be ended first.
    NeedFetcher,
    /// A time server said what time it is, in seconds since 1970; nobody vouches for it.
    Time {
        /// The time.
        seconds: u64,
    },
    /// The fetch worker wants this to be known; each kind once.
    Warning(FetchWarning),
    /// What a source did; one for each that was asked, before `Done`.
    Source {
        /// The source.
        source: SourceIndex,
        /// What it did.
        tally: SourceTally,
    },
    /// The image is complete, verified and sealed.
    Done {
        /// What it is.
        facts: ImageFacts,
        /// How it came.
        tally: Tally,
    },
    /// No source has it, and it was optional.
    Absent,
    /// It failed. After a passing cause, `Again` goes on.
    Failed(StoreCause),
}
