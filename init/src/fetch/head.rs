//! The head of an answer, reduced to numbers and held against the request.

use crate::messages::{FetchCause, Head, Range};
use crate::sys::machine;
use reqwest::StatusCode;
use reqwest::blocking::Response;
use reqwest::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, DATE, ETAG, HeaderMap, HeaderName, LAST_MODIFIED, RETRY_AFTER,
};
use std::time::UNIX_EPOCH;

/// The longest validator that is passed on, in bytes.
const VALIDATOR: usize = 512;

/// Reads the head of an answer to a request for `asked`.
pub fn read(response: &Response, asked: Option<Range>) -> Result<Head, FetchCause> {
    judge(response.status(), response.headers(), asked)
}

fn judge(status: StatusCode, headers: &HeaderMap, asked: Option<Range>) -> Result<Head, FetchCause> {
    if !matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
        let retry_after = retry_after(headers, machine::wall_clock);
        return Err(FetchCause::Status { status: status.as_u16(), retry_after });
    }
    // Nothing but the plain bytes was asked for.
    if text(headers, CONTENT_ENCODING).is_some_and(|encoding| !encoding.trim().eq_ignore_ascii_case("identity")) {
        return Err(FetchCause::Protocol);
    }
    let length = text(headers, CONTENT_LENGTH).and_then(|length| length.trim().parse::<u64>().ok());
    let mut head = Head { status: status.as_u16(), length, range: None, size: length, validator: validator(headers) };
    if status == StatusCode::PARTIAL_CONTENT {
        let (range, size) = text(headers, CONTENT_RANGE).and_then(content_range).ok_or(FetchCause::Protocol)?;
        let fits = asked.is_some_and(|asked| range.start == asked.start && range.end <= asked.end);
        let agrees = length.is_none_or(|length| length == range.end - range.start);
        if !fits || !agrees || size.is_some_and(|size| range.end > size) {
            return Err(FetchCause::Protocol);
        }
        head.range = Some(range);
        head.size = size;
    }
    Ok(head)
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Retry-After in seconds from now; it may also be a date (RFC 9110, 10.2.3). That is held against the answer's own
/// Date where it has one, since this machine's clock may never have been set.
fn retry_after(headers: &HeaderMap, clock: impl Fn() -> u64) -> Option<u32> {
    let wish = text(headers, RETRY_AFTER)?.trim();
    if let Ok(seconds) = wish.parse() {
        return Some(seconds);
    }
    let until = date(wish)?;
    let now = text(headers, DATE).and_then(date).unwrap_or_else(clock);
    Some(u32::try_from(until.saturating_sub(now)).unwrap_or(u32::MAX))
}

/// A date of HTTP in seconds since 1970.
fn date(text: &str) -> Option<u64> {
    Some(httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// A strong ETag, else Last-Modified: what If-Range takes.
fn validator(headers: &HeaderMap) -> Option<String> {
    let strong = text(headers, ETAG).filter(|tag| tag.starts_with('"'));
    strong.or_else(|| text(headers, LAST_MODIFIED)).filter(|v| v.len() <= VALIDATOR).map(str::to_owned)
}

/// `bytes FIRST-LAST/SIZE`, where SIZE may be `*`.
fn content_range(value: &str) -> Option<(Range, Option<u64>)> {
    let (range, size) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.trim().split_once('-')?;
    let (start, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
    let end = last.checked_add(1).filter(|end| *end > start)?;
    let size = if size == "*" { None } else { Some(size.parse().ok()?) };
    Some((Range { start, end }, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_partial_answer_must_be_the_part_that_was_asked_for() {
        let asked = Some(Range { start: 10, end: 20 });
        let of = |value: &str| judge(StatusCode::PARTIAL_CONTENT, &headers(&[("content-range", value)]), asked);
        let range = Some(Range { start: 10, end: 20 });
        let good = Head { status: 206, length: None, range, size: Some(99), validator: None };
        assert_eq!(of("bytes 10-19/99"), Ok(good.clone()));
        assert_eq!(of("bytes 10-19/*"), Ok(Head { size: None, ..good }));
        for bad in ["bytes 9-19/99", "bytes 10-20/99", "bytes 10-19/15", "bytes 10-9/99", "10-19/99", "bytes */99"] {
            assert_eq!(of(bad), Err(FetchCause::Protocol), "{bad}");
        }
        assert_eq!(judge(StatusCode::PARTIAL_CONTENT, &headers(&[]), asked), Err(FetchCause::Protocol));
        let unasked = headers(&[("content-range", "bytes 0-9/99")]);
        assert_eq!(judge(StatusCode::PARTIAL_CONTENT, &unasked, None), Err(FetchCause::Protocol));
    }

    #[test]
    fn the_whole_file_may_answer_a_request_for_a_part() {
        let lines = headers(&[("content-length", "99"), ("etag", "W/\"weak\""), ("last-modified", "yesterday")]);
        let validator = Some("yesterday".to_owned());
        let head = Head { status: 200, length: Some(99), range: None, size: Some(99), validator };
        assert_eq!(judge(StatusCode::OK, &lines, Some(Range { start: 1, end: 2 })), Ok(head));
    }

    #[test]
    fn an_unasked_encoding_is_refused_and_a_status_keeps_its_pause() {
        let gzip = headers(&[("content-encoding", "gzip")]);
        assert_eq!(judge(StatusCode::OK, &gzip, None), Err(FetchCause::Protocol));
        let busy = headers(&[("retry-after", "7")]);
        let cause = FetchCause::Status { status: 503, retry_after: Some(7) };
        assert_eq!(judge(StatusCode::SERVICE_UNAVAILABLE, &busy, None), Err(cause));
    }

    #[test]
    fn a_pause_may_be_a_date_and_is_counted_by_the_servers_own_clock() {
        let (then, later) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:51:37 GMT");
        let of = |lines: &[(&'static str, &str)]| retry_after(&headers(lines), || 784_111_777 + 100);
        assert_eq!(of(&[("retry-after", later), ("date", then)]), Some(120));
        // The older forms that a recipient must still take.
        assert_eq!(of(&[("retry-after", "Sunday, 06-Nov-94 08:51:37 GMT"), ("date", then)]), Some(120));
        assert_eq!(of(&[("retry-after", "Sun Nov  6 08:51:37 1994"), ("date", then)]), Some(120));
        // Without the server's time, or one that can be read, by this machine's.
        assert_eq!(of(&[("retry-after", later)]), Some(20));
        assert_eq!(of(&[("retry-after", later), ("date", "now")]), Some(20));
        // It is over already; and as good as never.
        assert_eq!(of(&[("retry-after", then), ("date", later)]), Some(0));
        assert_eq!(of(&[("retry-after", "Fri, 31 Dec 9999 23:59:59 GMT"), ("date", then)]), Some(u32::MAX));
        for nonsense in ["", "soon", "-1", "1.5", "Sun, 06 Nov 1994 08:51:37", "Sun, 99 Nov 1994 08:51:37 GMT"] {
            assert_eq!(of(&[("retry-after", nonsense), ("date", then)]), None, "{nonsense}");
        }
    }
}
