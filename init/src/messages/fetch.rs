//! The store and the fetch worker.

use crate::clock::Utc;
use serde::{Deserialize, Serialize};
use std::fmt;

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
    /// Anything else about the server's certificate.
    Certificate,
    /// The two have no version, suite or extension in common, as far as is known.
    Terms,
    /// What the server sent is no TLS, or contradicts it.
    Foreign,
    /// The connection broke within TLS: a record was damaged, or the server could not serve at that moment.
    Broken,
    /// This machine cannot set up its own side.
    Setup,
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
            | Self::Tls(TlsFault::Broken)
            | Self::WrongBytes
            | Self::WorkerDied => true,
            // Request timeout, too early, too many requests; and a server in trouble.
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            Self::NameUnknown | Self::Tls(_) | Self::Redirect | Self::Protocol => false,
        }
    }

    /// Whether it is something that a source said: there is a way to it. A connection that is refused, or broken before
    /// a word, may be anybody's doing.
    pub fn is_answer(&self) -> bool {
        match self {
            Self::NameUnknown
            | Self::NameServer
            | Self::Refused
            | Self::Unreachable
            | Self::Proxy
            | Self::Reset
            | Self::Stalled
            | Self::WorkerDied => false,
            Self::Tls(_) | Self::Status { .. } | Self::Redirect | Self::Short | Self::Protocol | Self::WrongBytes => {
                true
            }
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

/// What a person is to know although the fetch goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FetchWarning {
    /// The token or a header went to its server by http.
    Open,
    /// A certificate whose only fault is time was let pass, since the image itself is verified by key or hash.
    LetPass {
        /// What the clock said, in seconds since 1970.
        now: u64,
        /// When the certificate is valid.
        valid: Validity,
    },
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
    /// A person is to know this.
    Warning(FetchWarning),
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
