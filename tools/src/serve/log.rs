//! The access log: a line a request, for a person to read.

use crate::term::{Bytes, Rate};
use axum::http::{Method, StatusCode};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

type Sink = dyn Fn(&str) + Send + Sync;

/// Where the lines go.
#[derive(Clone)]
pub struct Log(Option<Arc<Sink>>);

impl Log {
    /// Nowhere.
    pub fn none() -> Self {
        Self(None)
    }

    /// To standard error.
    pub fn stderr() -> Self {
        Self::to(|line| eprintln!("{line}"))
    }

    /// To `sink`, line by line.
    pub fn to(sink: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(sink)))
    }

    fn write(&self, entry: &Entry) {
        if let Some(sink) = &self.0 {
            sink(&entry.line(entry.began.elapsed()));
        }
    }
}

/// A request and what became of it. It is logged when it goes away: after the last byte, or when the client does.
pub struct Entry {
    log: Log,
    at: SystemTime,
    began: Instant,
    client: IpAddr,
    method: Method,
    path: String,
    /// The answer.
    pub status: StatusCode,
    /// What was asked for of what there is.
    pub part: Option<Part>,
    /// Bytes of the body handed to the connection.
    pub sent: u64,
    /// Bytes that the body should have.
    pub length: u64,
    /// What else is worth saying.
    pub remark: Option<String>,
}

/// A range of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// First byte.
    pub first: u64,
    /// Last byte.
    pub last: u64,
    /// Length of the file.
    pub of: u64,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {}-{}/{}", self.first, self.last, self.of)
    }
}

impl Entry {
    /// A request that arrives now.
    pub fn new(log: Log, client: IpAddr, method: Method, path: String) -> Self {
        Self {
            log,
            at: SystemTime::now(),
            began: Instant::now(),
            client,
            method,
            path,
            status: StatusCode::OK,
            part: None,
            sent: 0,
            length: 0,
            remark: None,
        }
    }

    fn line(&self, took: Duration) -> String {
        let Self { client, method, path, status, sent, .. } = self;
        let mut line = format!("{} {client} {method} {} {}", clock(self.at), printable(path), status.as_u16());
        if let Some(part) = self.part {
            line += &format!(" {part}");
        }
        if *sent > 0 {
            let milliseconds = took.as_secs_f64() * 1000.0;
            line += &format!(" {} in {milliseconds:.1} ms, {}", Bytes(*sent), Rate { bytes: *sent, time: took });
        }
        if *sent < self.length {
            line += &format!(" cut off, {} missing", Bytes(self.length - sent));
        }
        if let Some(remark) = &self.remark {
            line += &format!(" ({remark})");
        }
        line
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.log.write(self);
    }
}

/// A path without what could move a terminal's cursor.
fn printable(path: &str) -> String {
    path.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// The time as HTTP says it, without the weekday: `14 Nov 2023 22:13:20 GMT`.
fn clock(at: SystemTime) -> String {
    let text = httpdate::fmt_http_date(at);
    text.split_once(", ").map_or(text.clone(), |(_, rest)| rest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        let mut entry = Entry::new(Log::none(), [10, 0, 0, 7].into(), Method::GET, "/web.squashfs".into());
        entry.at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        entry
    }

    #[test]
    fn a_line_tells_who_what_and_how_fast() {
        let mut entry = entry();
        entry.status = StatusCode::PARTIAL_CONTENT;
        entry.part = Some(Part { first: 0, last: 1_048_575, of: 104_857_600 });
        (entry.sent, entry.length) = (1 << 20, 1 << 20);
        assert_eq!(
            entry.line(Duration::from_millis(4)),
            "14 Nov 2023 22:13:20 GMT 10.0.0.7 GET /web.squashfs 206 bytes 0-1048575/104857600 1.0 MiB in 4.0 ms, 250.0 MiB/s"
        );
    }

    #[test]
    fn a_client_that_left_is_told_of() {
        let mut entry = entry();
        (entry.sent, entry.length) = (1 << 20, 3 << 20);
        assert!(
            entry.line(Duration::from_secs(1)).ends_with("1.0 MiB in 1000.0 ms, 1.0 MiB/s cut off, 2.0 MiB missing")
        );
        entry.path = "/\x1b[2J".into();
        assert!(entry.line(Duration::ZERO).contains(" /\\u{1b}[2J 200"));
    }
}
