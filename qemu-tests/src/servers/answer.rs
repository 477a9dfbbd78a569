//! One answer of the HTTP server: what was asked, what goes wrong with it, and the bytes.

use crate::servers::fault::{FOR_EVER, Fault, Standing};
use crate::servers::http::{Exchange, Shared};
use crate::servers::site::Reader;
use rustix::event::{PollFd, PollFlags, poll};
use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// The most bytes of a head that are random.
const GARBAGE: usize = 8192;

/// A request's head; bodies of requests are not expected. `None` at the end of the connection.
pub(super) fn request(reader: &mut impl BufRead, connection: usize) -> io::Result<Option<Exchange>> {
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut words = first.split_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let (method, path, at) = (method.to_owned(), path.to_owned(), Duration::ZERO);
    Ok(Some(Exchange { method, path, headers, status: 0, range: 0..0, sent: 0, connection, at }))
}

/// Answers; tells whether the connection stays.
pub(super) fn answer(
    mut stream: &TcpStream,
    shared: &Shared,
    standing: &[Arc<Standing>],
    exchange: &mut Exchange,
) -> io::Result<bool> {
    let faults = || standing.iter().map(|rule| rule.fault());
    for fault in faults() {
        match fault {
            Fault::Delay(pause) => wait(stream, *pause)?,
            Fault::Hangup => return Ok(false),
            Fault::Raw(bytes) => {
                stream.write_all(bytes)?;
                return Ok(false);
            }
            Fault::Garbage(seed) => {
                stream.write_all(&garbage(*seed))?;
                return Ok(false);
            }
            Fault::Status(status) => return refuse(stream, exchange, *status, ""),
            Fault::RetryAfter(status, seconds) => {
                return refuse(stream, exchange, *status, &format!("Retry-After: {seconds}\r\n"));
            }
            Fault::Redirect(to) => return refuse(stream, exchange, 302, &format!("Location: {to}\r\n")),
            _ => {}
        }
    }
    let instead = faults().find_map(|fault| if let Fault::Instead(path) = fault { Some(path.as_str()) } else { None });
    let path = instead.unwrap_or_else(|| exchange.path.split('?').next().unwrap_or_default());
    let Some(content) = shared.site.get(path).and_then(|content| content.open().ok()) else {
        return refuse(stream, exchange, 404, "");
    };
    let size = content.size();
    let mut etag = format!("\"{size:x}-{:x}\"", fingerprint(&content));
    let (mut ranges, mut promised, mut close) = (true, Some(0), wants_close(exchange));
    let mut accept_ranges = "bytes";
    for fault in faults() {
        match fault {
            Fault::Etag(tag) => etag.clone_from(tag),
            Fault::FreshEtag => etag = format!("\"fresh-{}\"", shared.fresh()),
            Fault::IgnoreRange => ranges = false,
            Fault::NoRanges => (ranges, accept_ranges) = (false, "none"),
            Fault::WrongLength(by) => (promised, close) = (Some(*by), true),
            Fault::NoLength => (promised, close) = (None, true),
            Fault::Close => close = true,
            _ => {}
        }
    }
    let mut range = match asked_range(exchange, size, &etag).filter(|_| ranges) {
        None => 0..size,
        Some(range) if range.is_empty() => {
            return refuse(stream, exchange, 416, &format!("Content-Range: bytes */{size}\r\n"));
        }
        Some(range) => {
            exchange.status = 206;
            range
        }
    };
    let part = exchange.status == 206;
    for fault in faults().filter(|_| part) {
        if let Fault::ShiftRange(by) = fault {
            range.start = (range.start + by).min(range.end);
        }
    }
    let mut head = String::from("HTTP/1.1 ");
    if part {
        let Range { start, end } = range;
        head += &format!("206 Partial Content\r\nContent-Range: bytes {start}-{}/{size}\r\n", end.saturating_sub(1));
    } else {
        exchange.status = 200;
        head += "200 OK\r\n";
    }
    head += &format!("ETag: {etag}\r\nAccept-Ranges: {accept_ranges}\r\nContent-Type: application/octet-stream\r\n");
    if let Some(by) = promised {
        head += &format!("Content-Length: {}\r\n", (range.end - range.start).saturating_add_signed(by));
    }
    for fault in faults() {
        match fault {
            Fault::Encoding(name) => head += &format!("Content-Encoding: {name}\r\n"),
            Fault::Header(line) => head += &format!("{line}\r\n"),
            _ => {}
        }
    }
    if close {
        head += "Connection: close\r\n";
    }
    stream.write_all((head + "\r\n").as_bytes())?;
    exchange.range = range;
    if exchange.method != "HEAD" {
        send_body(stream, shared, &content, standing, exchange)?;
    }
    Ok(!close)
}

/// Waits, but not for a client that has gone, nor when the connection is cut.
fn wait(stream: &TcpStream, pause: Duration) -> io::Result<()> {
    let timeout = pause.try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
    match poll(&mut [PollFd::new(stream, PollFlags::RDHUP)], Some(&timeout))? {
        0 => Ok(()),
        _ => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

fn garbage(seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; random.usize(1..=GARBAGE)];
    random.fill(&mut bytes);
    [b"HTTP/1.1 200 OK\r\n".as_slice(), &bytes].concat()
}

fn wants_close(exchange: &Exchange) -> bool {
    exchange.headers.get("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
}

fn refuse(mut stream: &TcpStream, exchange: &mut Exchange, status: u16, extra: &str) -> io::Result<bool> {
    let reason = match status {
        302 => "Found",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Request Timeout",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Status",
    };
    exchange.status = status;
    let body = if exchange.method == "HEAD" { String::new() } else { format!("{status} {reason}\n") };
    let length = body.len();
    let head = format!("HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n{extra}");
    stream.write_all((head + "\r\n" + &body).as_bytes())?;
    Ok(!wants_close(exchange))
}

/// The single range asked for; empty if it cannot be satisfied, `None` if all is wanted.
fn asked_range(exchange: &Exchange, size: u64, etag: &str) -> Option<Range<u64>> {
    if exchange.headers.get("if-range").is_some_and(|tag| tag != etag) {
        return None;
    }
    let (start, end) = exchange.headers.get("range")?.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (start.parse::<u64>(), end.parse::<u64>()) {
        (Ok(start), Ok(last)) => start..last.saturating_add(1).min(size),
        (Ok(start), Err(_)) => start..size,
        (Err(_), Ok(suffix)) => size.saturating_sub(suffix)..size,
        (Err(_), Err(_)) => return None,
    };
    Some(range)
}

/// A validator that changes with the contents: their first and last bytes.
fn fingerprint(content: &Reader) -> u32 {
    let mut bytes = [0; 8192];
    let (first, last) = bytes.split_at_mut(4096);
    // A short read leaves zeros, which is as good.
    let _ = content.read_at(first, 0);
    let _ = content.read_at(last, content.size().saturating_sub(4096));
    bytes.iter().fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Where a body ends too early.
struct Break<'a> {
    /// Offset in the contents.
    at: u64,
    /// How long the silence before the end lasts.
    silence: Duration,
    /// The rule that counts how often it was reached, if it does.
    rule: Option<&'a Standing>,
}

/// Sends the exchange's range. An error or a cut ends the connection.
fn send_body(
    mut stream: &TcpStream,
    shared: &Shared,
    content: &Reader,
    standing: &[Arc<Standing>],
    exchange: &mut Exchange,
) -> io::Result<()> {
    let Range { start, end } = exchange.range;
    let (mut breaks, mut rate, mut shift, mut flips) = (Vec::new(), None, 0, Vec::new());
    for rule in standing {
        let mut stop = |at: u64, silence, rule| breaks.push(Break { at, silence, rule });
        match rule.fault() {
            Fault::CutAfter(bytes) => stop(start.saturating_add(*bytes), Duration::ZERO, None),
            Fault::StallAfter(bytes, silence) => stop(start.saturating_add(*bytes), *silence, None),
            Fault::CutAt(at) => stop(*at, Duration::ZERO, Some(rule.as_ref())),
            Fault::StallAt(at) => stop(*at, FOR_EVER, Some(rule.as_ref())),
            Fault::FlipBit(at) => flips.push((*at, rule)),
            Fault::Rate(bytes) => rate = Some((rule, *bytes)),
            Fault::WrongBytes(by) if exchange.status == 206 => shift = *by,
            _ => {}
        }
    }
    breaks.retain(|stop| (start..end).contains(&stop.at));
    breaks.sort_by_key(|stop| std::cmp::Reverse(stop.at));
    let most = rate.map_or(1 << 17, |(_, rate)| usize::try_from(rate / 20).unwrap_or(1 << 17).clamp(1, 1 << 17));
    let mut buffer = vec![0; most];
    while start + exchange.sent < end {
        let at = start + exchange.sent;
        if let Some(stop) = breaks.pop_if(|stop| stop.at == at) {
            if stop.rule.is_none_or(Standing::strikes) {
                wait(stream, stop.silence)?;
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            continue;
        }
        let until = breaks.last().map_or(end, |stop| stop.at);
        let wanted = usize::try_from(until - at).unwrap_or(usize::MAX).min(buffer.len());
        let count = content.read_at(buffer.get_mut(..wanted).unwrap_or_default(), at + shift)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (flip, rule) in &flips {
            let byte =
                flip.checked_sub(at).and_then(|index| buffer.get_mut(..count)?.get_mut(usize::try_from(index).ok()?));
            if let Some(byte) = byte.filter(|_| rule.strikes()) {
                *byte ^= 1;
            }
        }
        stream.write_all(buffer.get(..count).unwrap_or_default())?;
        exchange.sent += count as u64;
        shared.count(&exchange.path, count as u64);
        if let Some((rule, rate)) = rate {
            wait(stream, rule.pace(count, rate))?;
        }
    }
    Ok(())
}
