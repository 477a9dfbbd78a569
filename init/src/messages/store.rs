//! PID 1 and the store; the store and the fetch worker.

use crate::clock::Utc;
use crate::digest::Sha256;
use crate::label::Label;
use crate::trust::{Anchors, KeyId, SignatureFault};
use serde::{Deserialize, Serialize};
use std::fmt;

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
    /// After `Opened`: serve the image as a file through the descriptor of /dev/fuse that comes along, mounted already.
    Serve,
    /// The loop device that stands on the served file comes along: set it on the image itself when that is complete.
    Device,
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

/// What TLS objected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsFault {
    /// The certificate, or one between it and its root, is not valid yet, or no longer, by this machine's clock.
    Time {
        /// What the clock said, in seconds since 1970.
        now: u64,
        /// When the certificate is valid.
        valid: Validity,
    },
    /// The certificate is for another name.
    Name,
    /// No packed root signed it, or there are no packed roots.
    Issuer,
    /// The server wants another client certificate than this machine has, or any.
    Client,
    /// Anything else of the handshake.
    Other,
}

/// The bound of a certificate's validity that a clock missed, in seconds since 1970. `Display` continues "is".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Validity {
    /// It begins then.
    From(u64),
    /// It ends then.
    Until(u64),
}

impl fmt::Display for Validity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(seconds) => write!(f, "valid only from {}", Utc(*seconds)),
            Self::Until(seconds) => write!(f, "valid only until {}", Utc(*seconds)),
        }
    }
}

/// Why one request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FetchCause {
    /// The name has no address (definite answer).
    NameUnknown,
    /// No name server answered, or with a passing error.
    NameServer,
    /// Connection refused.
    Refused,
    /// No route, or the host does not answer.
    Unreachable,
    /// The connection broke.
    Reset,
    /// No byte for the stall limit.
    Stalled,
    /// The HTTP proxy cannot be reached, or makes no connection to the server.
    Proxy,
    /// TLS objected.
    Tls(TlsFault),
    /// An answer other than 200 and 206.
    Status {
        /// The HTTP status.
        status: u16,
        /// `Retry-After`, in seconds.
        retry_after: Option<u32>,
    },
    /// More redirects than are followed, or one that is not allowed (https to http).
    Redirect,
    /// The body ended early.
    Short,
    /// The answer contradicts itself or the request: wrong range, unasked encoding.
    Protocol,
    /// The bytes have a wrong hash, and other sources may have right ones.
    WrongBytes,
    /// The fetch worker died.
    WorkerDied,
}

impl FetchCause {
    /// Whether the same request can succeed later with nothing changed on this machine. A name, a file or a
    /// certificate may be put right too, but nobody knows when.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::NameServer
            | Self::Refused
            | Self::Unreachable
            | Self::Proxy
            | Self::Reset
            | Self::Stalled
            | Self::Short
            | Self::WrongBytes
            | Self::WorkerDied => true,
            // Request timeout, too early, too many requests; and a server in trouble.
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            Self::NameUnknown | Self::Tls(_) | Self::Redirect | Self::Protocol => false,
        }
    }

    /// Whether the answer says that there is no such file: stores that hide their listing say 403 for 404.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Status { status: 403 | 404 | 410, .. })
    }

    /// Whether the answer says for certain that there is no such file. A 403 does not: an image that nobody may read is
    /// no image that is absent.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Status { status: 404 | 410, .. })
    }
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

/// The store to PID 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreNews {
    /// The size is known: may it be held? Answered by `Admitted`, or by the end of the boot.
    Size {
        /// Bytes.
        bytes: u64,
    },
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
    /// The loop device stands on the image itself, and nothing is served any more.
    Released,
    /// The kernel did not set the loop device on the image; it is served on, from memory.
    NotReleased {
        /// The error number.
        errno: i32,
    },
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

/// A half-open byte range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

/// The store to the fetch worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FetchOrder {
    /// Request `url`; answered by `Head`, `Data`…, `End`, or by `Failed`. One job runs at a time in a lane; the
    /// lane's next order is taken up when it has ended.
    Get {
        /// The lane of the ring that the body goes to.
        lane: u8,
        /// Number of the job, rising.
        job: u32,
        /// The URL.
        url: String,
        /// The bytes wanted; none is the whole file without a Range header.
        range: Option<Range>,
        /// A strong validator for If-Range.
        if_range: Option<String>,
        /// Give up the body after so many bytes.
        limit: u64,
        /// Seconds without a byte after which the job fails with `Stalled`.
        stall_seconds: u32,
    },
    /// Give a job up; answered by its `Failed` or `End` if that is not on its way already.
    Cancel {
        /// Its lane.
        lane: u8,
        /// Its number.
        job: u32,
    },
    /// So many bytes of a lane are free again.
    Consumed {
        /// The lane.
        lane: u8,
        /// Bytes.
        bytes: u32,
    },
}

/// The head of an answer, reduced to what the store uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// 200 or 206.
    pub status: u16,
    /// Content-Length.
    pub length: Option<u64>,
    /// From Content-Range: the range, and the whole size where it is given.
    pub range: Option<Range>,
    /// The whole file's size where the answer tells it.
    pub size: Option<u64>,
    /// A strong ETag, or Last-Modified, fit for If-Range; at most 512 bytes.
    pub validator: Option<String>,
}

/// The fetch worker to the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FetchNews {
    /// A time server was asked, since a certificate failed for time; this is what it says, in seconds since 1970.
    Time {
        /// The time.
        seconds: u64,
    },
    /// The answer began.
    Head {
        /// The lane.
        lane: u8,
        /// The job.
        job: u32,
        /// The head.
        head: Head,
    },
    /// So many further bytes of the body stand in the lane, behind those before.
    Data {
        /// The lane.
        lane: u8,
        /// The job.
        job: u32,
        /// Bytes.
        bytes: u32,
    },
    /// The body is complete.
    End {
        /// The lane.
        lane: u8,
        /// The job.
        job: u32,
    },
    /// The job failed; the bytes announced before still count.
    Failed {
        /// The lane.
        lane: u8,
        /// The job.
        job: u32,
        /// Why.
        cause: FetchCause,
    },
}
