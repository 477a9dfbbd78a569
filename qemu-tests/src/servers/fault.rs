//! Faults that an HTTP server commits on request.

use std::time::Duration;

/// What goes wrong with an answer. An answer may suffer several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answers this status with a short text instead of the contents.
    Status(u16),
    /// Answers 302 to this location.
    Redirect(String),
    /// Closes the connection without an answer.
    Hangup,
    /// Sends these bytes instead of any answer, and closes.
    Raw(Vec<u8>),
    /// Waits this long before the first byte of the answer.
    Delay(Duration),
    /// Closes the connection after this many bytes of the body.
    CutAfter(u64),
    /// Falls silent after this many bytes of the body, for this long; then closes.
    StallAfter(u64, Duration),
    /// Inverts the lowest bit of the byte at this offset of the contents (not of the body).
    FlipBit(u64),
    /// Promises this many bytes more than it sends (fewer, if negative), and closes.
    WrongLength(i64),
    /// Ignores `Range` and answers 200 with everything.
    IgnoreRange,
    /// Answers 206, but with a range that begins this many bytes later than asked.
    ShiftRange(u64),
    /// Announces no length: the end of the connection ends the body.
    NoLength,
    /// Sends this validator instead of the true one (and compares `If-Range` with it).
    Etag(String),
    /// Sends at most this many bytes of body a second.
    Rate(u64),
    /// Closes the connection after the whole answer, though it might stay.
    Close,
}

/// Which requests of a path suffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Every one.
    Always,
    /// The `n`-th, counted from 1.
    Nth(usize),
    /// The first `n`.
    First(usize),
    /// All after the first `n`.
    After(usize),
}

impl When {
    /// Whether the `nth` request (from 1) suffers.
    pub fn hits(self, nth: usize) -> bool {
        match self {
            Self::Always => true,
            Self::Nth(n) => nth == n,
            Self::First(n) => nth <= n,
            Self::After(n) => nth > n,
        }
    }
}

/// A fault, and whom it befalls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Path of the request; every path if `None`.
    pub path: Option<String>,
    /// Which requests of that path.
    pub when: When,
    /// What happens to them.
    pub fault: Fault,
}
