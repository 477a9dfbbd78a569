//! What a request for a file is answered with: RFC 9110, sections 13 and 14, as a function of headers and validators.

use axum::http::header::{
    HeaderMap, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE,
};
use axum::http::{HeaderValue, Method};
use std::fs::Metadata;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

/// By what a client recognises that it is still the same file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validators {
    /// Strong entity tag, with its quotes.
    pub etag: String,
    /// Modification time in whole seconds, as HTTP says it.
    pub modified: SystemTime,
}

impl Validators {
    /// Those of an open file. The tag changes with inode, size and modification time in nanoseconds, so a file that
    /// was renamed into the place of another, as published images are, never has the tag of the other.
    pub fn of(metadata: &Metadata) -> Self {
        let nanoseconds = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        let etag = format!("\"{:x}-{:x}-{:x}\"", metadata.ino(), metadata.len(), nanoseconds);
        let seconds = Duration::from_secs(metadata.mtime().max(0).unsigned_abs());
        Self { etag, modified: SystemTime::UNIX_EPOCH + seconds }
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 200 with everything.
    Whole,
    /// 206 with these bytes, of which there is at least one.
    Part(Range<u64>),
    /// 304.
    NotModified,
    /// 412.
    PreconditionFailed,
    /// 416.
    NotSatisfiable,
}

/// Decides on a GET or HEAD of a file of `length` bytes.
pub fn decide(method: &Method, headers: &HeaderMap, file: &Validators, length: u64, now: SystemTime) -> Answer {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let date = |name: HeaderName| text(name).and_then(|text| httpdate::parse_http_date(text).ok());
    let tags = |name: HeaderName| headers.get_all(name).iter().filter_map(as_text).flat_map(|text| text.split(','));

    if headers.contains_key(IF_MATCH) {
        if !tags(IF_MATCH).any(|tag| is_tag(tag, file, Comparison::Strong)) {
            return Answer::PreconditionFailed;
        }
    } else if date(IF_UNMODIFIED_SINCE).is_some_and(|since| file.modified > since) {
        return Answer::PreconditionFailed;
    }
    if headers.contains_key(IF_NONE_MATCH) {
        if tags(IF_NONE_MATCH).any(|tag| is_tag(tag, file, Comparison::Weak)) {
            return Answer::NotModified;
        }
    } else if date(IF_MODIFIED_SINCE).is_some_and(|since| file.modified <= since) {
        return Answer::NotModified;
    }
    // A range of HEAD means nothing, and ranges that are not understood are ignored.
    let wanted = text(RANGE).filter(|_| method == Method::GET).and_then(|range| parse_range(range, length));
    match wanted {
        Some(wanted) if headers.get(IF_RANGE).is_none_or(|value| still_is(value, file, now)) => wanted,
        _ => Answer::Whole,
    }
}

fn as_text(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

fn is_tag(tag: &str, file: &Validators, comparison: Comparison) -> bool {
    let tag = tag.trim();
    let opaque = match comparison {
        Comparison::Strong => tag,
        Comparison::Weak => tag.strip_prefix("W/").unwrap_or(tag),
    };
    tag == "*" || opaque == file.etag
}

/// Whether the validator of `If-Range` names this file: a strong tag, or its date, which is a strong validator only
/// where the file is old enough not to have changed twice within that second.
fn still_is(value: &HeaderValue, file: &Validators, now: SystemTime) -> bool {
    let Some(text) = as_text(value) else { return false };
    if text.starts_with('"') || text.starts_with("W/") {
        return text == file.etag;
    }
    let settled = now.duration_since(file.modified).is_ok_and(|age| age >= Duration::from_secs(2));
    settled && httpdate::parse_http_date(text).is_ok_and(|date| date == file.modified)
}

/// Reads a `Range`. `None` for what is to be ignored: other units, faulty syntax, and several ranges, which a server
/// may answer with the whole.
fn parse_range(text: &str, length: u64) -> Option<Answer> {
    let (unit, spec) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = spec.trim().split_once('-')?;
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().unwrap_or(u64::MAX));
    let range = match (first, last) {
        ("", "") => return None,
        ("", suffix) => length.saturating_sub(number(suffix)?)..length,
        (first, "") => number(first)?..length,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            first..last.saturating_add(1).min(length)
        }
    };
    Some(if range.is_empty() { Answer::NotSatisfiable } else { Answer::Part(range) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: u64 = 1000;
    const DATE: &str = "Tue, 14 Nov 2023 22:13:20 GMT";
    const EARLIER: &str = "Tue, 14 Nov 2023 22:13:19 GMT";
    const LATER: &str = "Tue, 14 Nov 2023 22:13:21 GMT";

    fn file() -> Validators {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        Validators { etag: "\"a-1\"".into(), modified }
    }

    fn answer(method: Method, headers: &[(HeaderName, &'static str)]) -> Answer {
        let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_001_000);
        decide(&method, &headers, &file(), LENGTH, now)
    }

    fn get(headers: &[(HeaderName, &'static str)]) -> Answer {
        answer(Method::GET, headers)
    }

    #[test]
    fn ranges() {
        for (range, expected) in [
            ("bytes=0-0", Answer::Part(0..1)),
            ("bytes=0-999", Answer::Part(0..1000)),
            ("bytes=500-", Answer::Part(500..1000)),
            ("bytes=500-99999999999999999999", Answer::Part(500..1000)),
            ("bytes=-1", Answer::Part(999..1000)),
            ("bytes=-5000", Answer::Part(0..1000)),
            ("Bytes= 1-2 ", Answer::Part(1..3)),
            ("bytes=1000-", Answer::NotSatisfiable),
            ("bytes=1000-2000", Answer::NotSatisfiable),
            ("bytes=-0", Answer::NotSatisfiable),
            ("bytes=2-1", Answer::Whole),
            ("bytes=0-1,5-6", Answer::Whole),
            ("bytes=-", Answer::Whole),
            ("bytes=+1-2", Answer::Whole),
            ("bytes=a-b", Answer::Whole),
            ("lines=1-2", Answer::Whole),
            ("bytes", Answer::Whole),
        ] {
            assert_eq!(get(&[(RANGE, range)]), expected, "{range}");
        }
    }

    #[test]
    fn a_range_of_head_is_ignored() {
        assert_eq!(answer(Method::HEAD, &[(RANGE, "bytes=0-1")]), Answer::Whole);
        assert_eq!(answer(Method::HEAD, &[(IF_NONE_MATCH, "\"a-1\"")]), Answer::NotModified);
    }

    #[test]
    fn if_range_gives_the_whole_of_another_file() {
        let part = Answer::Part(0..2);
        let with = |validator| get(&[(RANGE, "bytes=0-1"), (IF_RANGE, validator)]);
        assert_eq!(with("\"a-1\""), part);
        assert_eq!(with(DATE), part);
        assert_eq!(with("\"a-2\""), Answer::Whole);
        assert_eq!(with("W/\"a-1\""), Answer::Whole);
        assert_eq!(with(LATER), Answer::Whole, "only the very date will do");
        assert_eq!(get(&[(RANGE, "bytes=2000-"), (IF_RANGE, "\"a-2\"")]), Answer::Whole);
    }

    #[test]
    fn the_date_of_a_file_changed_just_now_proves_nothing() {
        let headers = HeaderMap::from_iter([
            (RANGE, HeaderValue::from_static("bytes=0-1")),
            (IF_RANGE, HeaderValue::from_static(DATE)),
        ]);
        let now = file().modified + Duration::from_secs(1);
        assert_eq!(decide(&Method::GET, &headers, &file(), LENGTH, now), Answer::Whole);
    }

    #[test]
    fn conditions_in_their_order() {
        assert_eq!(get(&[(IF_NONE_MATCH, "\"x\", W/\"a-1\"")]), Answer::NotModified);
        assert_eq!(get(&[(IF_NONE_MATCH, "*")]), Answer::NotModified);
        assert_eq!(get(&[(IF_NONE_MATCH, "\"x\""), (IF_MODIFIED_SINCE, LATER)]), Answer::Whole);
        assert_eq!(get(&[(IF_MODIFIED_SINCE, DATE)]), Answer::NotModified);
        assert_eq!(get(&[(IF_MODIFIED_SINCE, EARLIER)]), Answer::Whole);
        assert_eq!(get(&[(IF_MODIFIED_SINCE, "yesterday")]), Answer::Whole);
        assert_eq!(get(&[(IF_MATCH, "\"x\"")]), Answer::PreconditionFailed);
        assert_eq!(get(&[(IF_MATCH, "W/\"a-1\"")]), Answer::PreconditionFailed);
        assert_eq!(get(&[(IF_MATCH, "\"a-1\""), (IF_UNMODIFIED_SINCE, EARLIER)]), Answer::Whole);
        assert_eq!(get(&[(IF_UNMODIFIED_SINCE, EARLIER)]), Answer::PreconditionFailed);
        assert_eq!(get(&[(IF_UNMODIFIED_SINCE, DATE)]), Answer::Whole);
    }
}
