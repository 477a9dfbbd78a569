//! A small HTTP/1.1 server with ranges and validators, which commits faults on request and remembers what it sent.

use crate::servers::fault::{Fault, Rule, When};
use crate::servers::site::{Reader, Site};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A request and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// `GET`, `HEAD`, …
    pub method: String,
    /// Path, with its query.
    pub path: String,
    /// The request's header fields, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The status answered; 0 if no answer was made.
    pub status: u16,
    /// The part of the contents that was begun to be sent.
    pub range: Range<u64>,
    /// Bytes of body that went out.
    pub sent: u64,
    /// Number of the connection, counted from 0.
    pub connection: usize,
}

/// A running server. It ends with this value; open connections are cut.
#[derive(Debug)]
pub struct HttpServer {
    shared: Arc<Shared>,
    address: SocketAddr,
}

#[derive(Debug)]
struct Shared {
    site: Site,
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    counts: BTreeMap<String, usize>,
    log: Vec<Exchange>,
    connections: Vec<TcpStream>,
    stopped: bool,
}

impl HttpServer {
    /// Serves `site` on a listener, wherever that was bound.
    pub fn serve(listener: TcpListener, site: Site) -> Result<Self> {
        let address = listener.local_addr().context("a listener without an address")?;
        // The accepting thread polls; a client that is gone before it is accepted must not hold it.
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared { site, state: Mutex::default(), news: Condvar::new() });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, &accepting));
        Ok(Self { shared, address })
    }

    /// Serves `site` on a free port of this machine's loopback; guests of QEMU reach it as 10.0.2.2.
    pub fn on_loopback(site: Site) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("cannot listen on the loopback")?;
        Self::serve(listener, site)
    }

    /// Address and port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// With a fault for the requests of `path`.
    pub fn fault(self, path: &str, when: When, fault: Fault) -> Self {
        self.commit(Rule { path: Some(path.to_owned()), when, fault });
        self
    }

    /// Adds a fault while the server runs.
    pub fn commit(&self, rule: Rule) {
        self.shared.lock().rules.push(rule);
    }

    /// Takes all faults away.
    pub fn behave(&self) {
        self.shared.lock().rules.clear();
    }

    /// All finished exchanges so far, in the order of their ends.
    pub fn log(&self) -> Vec<Exchange> {
        self.shared.lock().log.clone()
    }

    /// Waits until the log satisfies `done`, and returns it.
    pub fn wait_log(&self, limit: Duration, done: impl Fn(&[Exchange]) -> bool) -> Result<Vec<Exchange>> {
        let deadline = Instant::now() + limit;
        let mut state = self.shared.lock();
        while !done(&state.log) {
            let left = deadline.saturating_duration_since(Instant::now());
            anyhow::ensure!(!left.is_zero(), "the HTTP log after {limit:?}: {:#?}", state.log);
            state = self.shared.news.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(state.log.clone())
    }

    /// Bytes of body that went out for `path`.
    pub fn sent(&self, path: &str) -> u64 {
        self.shared.lock().log.iter().filter(|exchange| exchange.path == path).map(|exchange| exchange.sent).sum()
    }

    /// Cuts every open connection, as a server that is killed.
    pub fn cut(&self) {
        cut(&mut self.shared.lock());
    }
}

fn cut(state: &mut State) {
    for connection in state.connections.drain(..) {
        // It may be closed already.
        let _ = connection.shutdown(Shutdown::Both);
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stopped = true;
        cut(&mut state);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request and tells what befalls it.
    fn faults(&self, path: &str) -> Vec<Fault> {
        let mut state = self.lock();
        let count = state.counts.entry(path.to_owned()).or_default();
        *count += 1;
        let nth = *count;
        let concerns = |rule: &&Rule| rule.path.as_deref().is_none_or(|of| of == path) && rule.when.hits(nth);
        state.rules.iter().filter(concerns).map(|rule| rule.fault.clone()).collect()
    }
}

/// Accepts until the server is dropped: polled, because a blocked accept in another network namespace cannot be woken
/// by connecting to it.
fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let timeout = rustix::time::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    let mut number = 0;
    loop {
        let mut ready = [rustix::event::PollFd::new(listener, rustix::event::PollFlags::IN)];
        let polled = rustix::event::poll(&mut ready, Some(&timeout));
        let mut state = shared.lock();
        if state.stopped {
            return;
        }
        if polled != Ok(1) {
            continue;
        }
        let Ok((stream, _)) = listener.accept() else { continue };
        state.connections.extend(stream.try_clone());
        drop(state);
        let shared = Arc::clone(shared);
        std::thread::spawn(move || converse(&stream, &shared, number));
        number += 1;
    }
}

fn converse(stream: &TcpStream, shared: &Shared, connection: usize) {
    let mut reader = BufReader::new(stream);
    while let Ok(Some(mut exchange)) = request(&mut reader, connection) {
        let faults = shared.faults(&exchange.path);
        let stay = answer(stream, shared, &faults, &mut exchange);
        shared.lock().log.push(exchange);
        shared.news.notify_all();
        if !stay.unwrap_or(false) {
            break;
        }
    }
    // The client may have closed it first.
    let _ = stream.shutdown(Shutdown::Both);
}

/// A request's head; bodies of requests are not expected. `None` at the end of the connection.
fn request(reader: &mut impl BufRead, connection: usize) -> io::Result<Option<Exchange>> {
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
    let (method, path) = (method.to_owned(), path.to_owned());
    Ok(Some(Exchange { method, path, headers, status: 0, range: 0..0, sent: 0, connection }))
}

/// Answers; tells whether the connection stays.
fn answer(mut stream: &TcpStream, shared: &Shared, faults: &[Fault], exchange: &mut Exchange) -> io::Result<bool> {
    for fault in faults {
        match fault {
            Fault::Delay(pause) => std::thread::sleep(*pause),
            Fault::Hangup => return Ok(false),
            Fault::Raw(bytes) => {
                stream.write_all(bytes)?;
                return Ok(false);
            }
            Fault::Status(status) => return refuse(stream, exchange, *status, ""),
            Fault::Redirect(to) => return refuse(stream, exchange, 302, &format!("Location: {to}\r\n")),
            _ => {}
        }
    }
    let path = exchange.path.split('?').next().unwrap_or_default();
    let Some(content) = shared.site.get(path).and_then(|content| content.open().ok()) else {
        return refuse(stream, exchange, 404, "");
    };
    let size = content.size();
    let true_etag = format!("\"{size:x}-{:x}\"", fingerprint(&content));
    let etag = faults.iter().find_map(|fault| if let Fault::Etag(tag) = fault { Some(tag) } else { None });
    let etag = etag.unwrap_or(&true_etag);
    let mut range = match asked_range(exchange, size, etag).filter(|_| !faults.contains(&Fault::IgnoreRange)) {
        None => 0..size,
        Some(range) if range.is_empty() => {
            return refuse(stream, exchange, 416, &format!("Content-Range: bytes */{size}\r\n"));
        }
        Some(range) => {
            exchange.status = 206;
            range
        }
    };
    let mut close = wants_close(exchange);
    let (mut length_error, mut no_length) = (0, false);
    for fault in faults {
        match fault {
            Fault::ShiftRange(by) => range.start = (range.start + by).min(range.end),
            Fault::WrongLength(by) => (length_error, close) = (*by, true),
            Fault::NoLength => (no_length, close) = (true, true),
            Fault::Close => close = true,
            _ => {}
        }
    }
    let mut head = String::from("HTTP/1.1 ");
    if exchange.status == 206 {
        let Range { start, end } = range;
        head += &format!("206 Partial Content\r\nContent-Range: bytes {start}-{}/{size}\r\n", end.saturating_sub(1));
    } else {
        exchange.status = 200;
        head += "200 OK\r\n";
    }
    head += &format!("ETag: {etag}\r\nAccept-Ranges: bytes\r\nContent-Type: application/octet-stream\r\n");
    if !no_length {
        head += &format!("Content-Length: {}\r\n", (range.end - range.start).saturating_add_signed(length_error));
    }
    if close {
        head += "Connection: close\r\n";
    }
    stream.write_all((head + "\r\n").as_bytes())?;
    exchange.range = range;
    if exchange.method != "HEAD" {
        send_body(stream, &content, faults, exchange)?;
    }
    Ok(!close)
}

fn wants_close(exchange: &Exchange) -> bool {
    exchange.headers.get("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
}

fn refuse(mut stream: &TcpStream, exchange: &mut Exchange, status: u16, extra: &str) -> io::Result<bool> {
    let reason = match status {
        302 => "Found",
        403 => "Forbidden",
        404 => "Not Found",
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

/// Sends the exchange's range. An error or a cut ends the connection.
fn send_body(mut stream: &TcpStream, content: &Reader, faults: &[Fault], exchange: &mut Exchange) -> io::Result<()> {
    let (mut cut, mut stall, mut rate, mut flips) = (u64::MAX, None, None, Vec::new());
    for fault in faults {
        match fault {
            Fault::CutAfter(bytes) => cut = *bytes,
            Fault::StallAfter(bytes, pause) => (cut, stall) = (*bytes, Some(*pause)),
            Fault::FlipBit(offset) => flips.push(*offset),
            Fault::Rate(bytes) => rate = Some(*bytes),
            _ => {}
        }
    }
    let begun = Instant::now();
    let mut buffer =
        vec![0; rate.map_or(1 << 17, |rate| usize::try_from(rate / 20).unwrap_or(1 << 17).clamp(1, 1 << 17))];
    let Range { start, end } = exchange.range;
    while start + exchange.sent < end {
        if exchange.sent >= cut {
            std::thread::sleep(stall.unwrap_or_default());
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let at = start + exchange.sent;
        let wanted = usize::try_from((end - at).min(cut - exchange.sent)).unwrap_or(usize::MAX).min(buffer.len());
        let count = content.read_at(buffer.get_mut(..wanted).unwrap_or_default(), at)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for flip in &flips {
            let byte = flip.checked_sub(at).and_then(|index| buffer.get_mut(usize::try_from(index).ok()?));
            if let Some(byte) = byte {
                *byte ^= 1;
            }
        }
        let count = stream.write(buffer.get(..count).unwrap_or_default())?;
        exchange.sent += count as u64;
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64(exchange.sent as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
    }
    Ok(())
}
