//! Faults that an HTTP server commits on request, as data.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How much a paced answer may make up of what it was late.
const CREDIT: Duration = Duration::from_millis(50);
/// Longer than any claim waits.
pub const FOR_EVER: Duration = Duration::from_secs(24 * 3600);

/// What goes wrong with an answer. An answer may suffer several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answers this status with a short text instead of the contents.
    Status(u16),
    /// Answers this status, and asks to be left alone for so many seconds.
    RetryAfter(u16, u32),
    /// Answers 302 to this location.
    Redirect(String),
    /// Closes the connection without an answer.
    Hangup,
    /// Sends these bytes instead of any answer, and closes.
    Raw(Vec<u8>),
    /// Sends a status line, then up to 8 KiB of random bytes that this seed gives instead of a head, and closes.
    Garbage(u64),
    /// Waits this long before the first byte of the answer.
    Delay(Duration),
    /// Closes the connection after this many bytes of the body.
    CutAfter(u64),
    /// Closes the connection before the byte at this offset of the contents.
    CutAt(u64),
    /// Falls silent after this many bytes of the body, for this long; then closes.
    StallAfter(u64, Duration),
    /// Falls silent for ever before the byte at this offset of the contents.
    StallAt(u64),
    /// Inverts the lowest bit of the byte at this offset of the contents (not of the body).
    FlipBit(u64),
    /// Promises this many bytes more than it sends (fewer, if negative), and closes.
    WrongLength(i64),
    /// Ignores `Range` and answers 200 with everything, though it says that it knows ranges.
    IgnoreRange,
    /// Answers 200 with everything, and says that it knows no ranges.
    NoRanges,
    /// Answers 206, but with a range that begins this many bytes later than asked, and says so.
    ShiftRange(u64),
    /// Answers 206 for the range asked, with bytes that lie this many bytes later (the last ones are missing).
    WrongBytes(u64),
    /// Announces no length: the end of the connection ends the body.
    NoLength,
    /// Sends this validator instead of the true one (and compares `If-Range` with it).
    Etag(String),
    /// Sends a validator that no answer had before, so that no `If-Range` ever holds.
    FreshEtag,
    /// Calls the plain contents encoded so.
    Encoding(String),
    /// One more line in the head, as it is.
    Header(String),
    /// Serves what lies at this path of the site: the file was replaced by renaming another.
    Instead(String),
    /// Sends at most this many bytes of body a second: all answers together that suffer it.
    Rate(u64),
    /// Closes the connection after the whole answer, though it might stay.
    Close,
}

impl Fault {
    /// The byte of the contents at which it happens, for those that happen at one wherever an answer begins.
    pub fn offset(&self) -> Option<u64> {
        match self {
            Self::CutAt(offset) | Self::StallAt(offset) | Self::FlipBit(offset) => Some(*offset),
            _ => None,
        }
    }
}

/// Which requests of a path suffer. For a fault at a byte of the contents those count which get as far as that byte.
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

impl Rule {
    /// A fault for requests of `path`.
    pub fn of(path: &str, when: When, fault: Fault) -> Self {
        Self { path: Some(path.to_owned()), when, fault }
    }

    /// A fault for requests of every path.
    pub fn everywhere(when: When, fault: Fault) -> Self {
        Self { path: None, when, fault }
    }
}

/// A rule in force.
#[derive(Debug)]
pub(super) struct Standing {
    rule: Rule,
    /// How often its byte was reached.
    reached: AtomicUsize,
    /// When what was sent so far is paid for, at its rate.
    paid: Mutex<Instant>,
}

impl Standing {
    pub(super) fn new(rule: Rule) -> Self {
        Self { rule, reached: AtomicUsize::new(0), paid: Mutex::new(Instant::now()) }
    }

    pub(super) fn fault(&self) -> &Fault {
        &self.rule.fault
    }

    /// Whether the `nth` request of `path` has to do with it: it suffers, or it will if it gets to the fault's byte.
    pub(super) fn concerns(&self, path: &str, nth: usize) -> bool {
        let here = self.rule.path.as_deref().is_none_or(|of| of == path);
        here && (self.rule.fault.offset().is_some() || self.rule.when.hits(nth))
    }

    /// How long to wait after so many bytes, at `rate` bytes a second.
    pub(super) fn pace(&self, bytes: usize, rate: u64) -> Duration {
        let now = Instant::now();
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let from = now.checked_sub(CREDIT).map_or(*paid, |earliest| earliest.max(*paid));
        *paid = from + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        paid.saturating_duration_since(now)
    }

    /// An answer got to the fault's byte: whether it happens now.
    pub(super) fn strikes(&self) -> bool {
        self.rule.when.hits(self.reached.fetch_add(1, Ordering::Relaxed) + 1)
    }
}
