//! The words of the engine: what happens to it, and what it wants done.

use crate::digest::Sha256;
use crate::messages::{FetchCause, Head, Range, StoreNews};

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A fetch worker is there.
    Fetcher,
    /// The fetch worker is gone, or talks nonsense and was let go.
    FetcherLost,
    /// The size that was named may be held.
    Admitted,
    /// Go on after a failure.
    Again,
    /// An answer began.
    Head {
        /// The job.
        job: u32,
        /// Its head.
        head: Head,
    },
    /// A job's body is complete and was taken in; for a document, with its bytes.
    End {
        /// The job.
        job: u32,
        /// The bytes of a document, else none.
        document: Vec<u8>,
    },
    /// A job failed; what came before was taken in.
    Failed {
        /// The job.
        job: u32,
        /// Why.
        cause: FetchCause,
    },
    /// The whole image was hashed, where that was asked.
    Hashed(Option<Sha256>),
    /// What a store that died left was looked at.
    Recovered,
    /// The image is sealed.
    Sealed,
    /// The kernel refused memory.
    NoMemory {
        /// The error number.
        errno: i32,
    },
    /// Time passed.
    Timer,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Order a request.
    Get(Request),
    /// Give a request up.
    Cancel {
        /// Its lane.
        lane: u8,
        /// Its job.
        job: u32,
    },
    /// The body that comes by a lane begins at this byte of the file.
    Receive {
        /// The lane.
        lane: u8,
        /// Offset in the file.
        at: u64,
    },
    /// Give the image's file this size, empty of what it held.
    Allocate {
        /// True size in bytes.
        size: u64,
    },
    /// Forget the running hash of the whole, and what is being judged: bytes come from the first one again.
    StartOver,
    /// Look at what a store that died left ([`Engine::recover`] each chunk), and say `Recovered`.
    Recover,
    /// All chunks are there: hash the whole where that is asked, and say `Hashed`.
    Complete {
        /// Whether the whole must be hashed.
        hash: bool,
    },
    /// Seal the image and say `Sealed`.
    Seal,
    /// Let the fetch worker go.
    DropFetcher,
    /// Tell PID 1.
    News(StoreNews),
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its job number.
    pub job: u32,
    /// Its lane.
    pub lane: u8,
    /// What is asked.
    pub asked: Asked,
    /// Seconds of silence after which the connection counts as stalled.
    pub stall_seconds: u32,
}

/// What a request asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The URL.
    pub url: String,
    /// The bytes wanted; none is the whole file.
    pub range: Option<Range>,
    /// Validator for If-Range.
    pub if_range: Option<String>,
    /// The most bytes of a body that are wanted.
    pub limit: u64,
}

/// What to do with the body's bytes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    /// They are of no use.
    Skip,
    /// They wait in the ring for an answer of PID 1.
    Hold,
    /// Collect them, at most so many.
    Document {
        /// The bound in bytes.
        limit: usize,
    },
    /// Cut them into chunks; each is hashed where there are hashes.
    Chunks {
        /// Whether they are the image's, or the chunk list's.
        image: bool,
    },
}
