//! A web server on loopback that does what a test wants, wrong or right, and keeps a record of it.

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A request as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub path: String,
    /// First byte and one past the last.
    pub range: Option<(usize, usize)>,
    pub if_range: Option<String>,
    /// Values of Authorization and X-Node.
    pub credentials: Vec<String>,
    /// How many requests for this path came before.
    pub nth: usize,
}

/// An answer: head and body as they go over the wire, and what happens then.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub status: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// Content-Length, where it is not that of the body.
    pub length: Option<usize>,
    /// The connection is closed after so many bytes of the body.
    pub cut: Option<usize>,
    /// Nothing more is sent after so many bytes of the body, until the server ends.
    pub stall: Option<usize>,
}

impl Reply {
    pub fn status(status: &'static str) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn cut(self, after: usize) -> Self {
        Self { cut: Some(after), ..self }
    }

    pub fn stall(self, after: usize) -> Self {
        Self { stall: Some(after), ..self }
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// Serves `bytes` as a good server does: ranges, a strong validator, If-Range.
pub fn file(bytes: &[u8], request: &Request) -> Reply {
    let tag = format!("\"{:x}-{:x}\"", bytes.len(), bytes.iter().map(|b| u64::from(*b)).sum::<u64>());
    let same = request.if_range.as_ref().is_none_or(|asked| *asked == tag);
    match request.range.filter(|_| same) {
        Some((start, _)) if start >= bytes.len() => Reply::status("416 Range Not Satisfiable"),
        Some((start, end)) => {
            let end = end.min(bytes.len());
            let range = format!("bytes {start}-{}/{}", end - 1, bytes.len());
            let body = bytes[start..end].to_vec();
            Reply { status: "206 Partial Content", body, ..Reply::default() }
                .header("Content-Range", range)
                .header("ETag", tag)
        }
        None => Reply { status: "200 OK", body: bytes.to_vec(), ..Reply::default() }.header("ETag", tag),
    }
}

type Answer = dyn Fn(&Request) -> Reply + Send + Sync;

/// A running server; it ends with the value.
pub struct Server {
    scheme: &'static str,
    pub address: String,
    record: Arc<Mutex<Vec<(Request, usize)>>>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
    ended: Arc<AtomicBool>,
}

impl Server {
    pub fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen("127.0.0.1:0", None, answer)
    }

    /// The same behind TLS.
    pub fn start_tls(
        place: &str,
        tls: Arc<ServerConfig>,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::listen(place, Some(tls), answer)
    }

    fn listen(
        place: &str,
        tls: Option<Arc<ServerConfig>>,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(place).unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let address = listener.local_addr().unwrap().to_string();
        let (record, streams, ended) = (Arc::default(), Arc::default(), Arc::new(AtomicBool::new(false)));
        let server = Self { scheme, address, record, streams, ended };
        let answer: Arc<Answer> = Arc::new(answer);
        let (record, streams, ended) = (server.record.clone(), server.streams.clone(), server.ended.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                streams.lock().unwrap().push(stream.try_clone().unwrap());
                let (record, answer, ended) = (record.clone(), answer.clone(), ended.clone());
                let tls = tls.clone().map(|tls| ServerConnection::new(tls).unwrap());
                thread::spawn(move || {
                    let socket = stream.try_clone().unwrap();
                    match tls {
                        Some(tls) => connection(StreamOwned::new(tls, stream), &socket, &*answer, &record, &ended),
                        None => connection(stream, &socket, &*answer, &record, &ended),
                    }
                });
            }
        });
        server
    }

    /// Serves `files` as they are.
    pub fn of(files: BTreeMap<String, Vec<u8>>) -> Self {
        Self::start(move |request| match files.get(&request.path) {
            Some(bytes) => file(bytes, request),
            None => Reply::status("404 Not Found"),
        })
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// The requests for `path` so far, each with the bytes of body that were sent.
    pub fn requests(&self, path: &str) -> Vec<(Request, usize)> {
        self.record.lock().unwrap().iter().filter(|(request, _)| request.path == path).cloned().collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        for stream in self.streams.lock().unwrap().iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(&self.address);
    }
}

fn connection(
    stream: impl Read + Write,
    socket: &TcpStream,
    answer: &Answer,
    record: &Mutex<Vec<(Request, usize)>>,
    ended: &AtomicBool,
) {
    let mut reader = BufReader::new(stream);
    while let Some(mut request) = read(&mut reader) {
        let place = {
            let mut record = record.lock().unwrap();
            request.nth = record.iter().filter(|(other, _)| other.path == request.path).count();
            record.push((request.clone(), 0));
            record.len() - 1
        };
        let reply = answer(&request);
        let length = reply.length.unwrap_or(reply.body.len());
        let mut head = format!("HTTP/1.1 {}\r\nContent-Length: {length}\r\n", reply.status);
        for (name, value) in &reply.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        let most = reply.cut.or(reply.stall).unwrap_or(reply.body.len()).min(reply.body.len());
        let writer = reader.get_mut();
        if writer.write_all(head.as_bytes()).is_err() {
            return;
        }
        for part in reply.body[..most].chunks(16 << 10) {
            if writer.write_all(part).is_err() {
                return;
            }
            record.lock().unwrap()[place].1 += part.len();
        }
        if reply.stall.is_some() {
            while !ended.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(20));
            }
            return;
        }
        if reply.cut.is_some() {
            let _ = writer.flush();
            let _ = socket.shutdown(Shutdown::Both);
            return;
        }
    }
}

fn read(reader: &mut impl BufRead) -> Option<Request> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let path = lines.first()?.split(' ').nth(1)?.to_owned();
    let header = |name: &str| {
        lines.iter().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    assert_eq!(header("accept-encoding"), None, "only the plain bytes may be asked for");
    let range = header("range").map(|range| {
        let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        (first.parse().unwrap(), last.parse::<usize>().unwrap() + 1)
    });
    let credentials = ["authorization", "x-node"].into_iter().filter_map(header).collect();
    Some(Request { path, range, if_range: header("if-range"), credentials, nth: 0 })
}
