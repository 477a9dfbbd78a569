//! The server: what `rootbeam serve` runs, and `rootbeam boot` beside its machine.

use super::body::FileBody;
use super::conditions::{Answer, Validators, decide};
use super::log::{Entry, Log, Part};
use super::path::{Root, decode, encode};
use anyhow::{Context, Result};
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{
    ACCEPT_RANGES, ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue, LAST_MODIFIED, LOCATION,
};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use rustix::io::Errno;
use rustix::net::sockopt;
use std::convert::Infallible;
use std::fs::{File, Metadata};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// How long answers that are under way may take once the server is to stop.
pub const GRACE: Duration = Duration::from_secs(5);

/// How long a connection may be open without a request, or with half of one. A machine that streams connects anew.
const IDLE: Duration = Duration::from_secs(60);

/// After what silence the kernel asks whether a client is still there, and how often.
const PROBE: Duration = Duration::from_secs(15);

/// How long a client may take nothing of what it has asked for. Generous, since one that is slow takes in bursts.
const STUCK: Duration = Duration::from_secs(180);

/// A server that runs until it is stopped or dropped.
pub struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    root: Root,
    log: Log,
}

impl Server {
    /// Serves `folder` on `listen`; with port 0 the kernel chooses one.
    pub fn start(folder: &Path, listen: SocketAddr, log: Log) -> Result<Self> {
        Self::with_idle(folder, listen, log, IDLE)
    }

    fn with_idle(folder: &Path, listen: SocketAddr, log: Log, idle: Duration) -> Result<Self> {
        let root = Root::open(folder).with_context(|| format!("cannot serve the folder {}", folder.display()))?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let listener = runtime
            .block_on(TcpListener::bind(listen))
            .with_context(|| format!("cannot listen on {listen}: choose another address or port with --listen"))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { root, log });
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("http".into())
            .spawn(move || runtime.block_on(serve(listener, shared, idle, stopped)))?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more requests, gives those under way [`GRACE`], and returns when all is over.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(stop) = self.stop.take() {
            // An error means that it has ended already.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

async fn serve(mut listener: TcpListener, shared: Arc<Shared>, idle: Duration, mut stopped: oneshot::Receiver<()>) {
    let connections = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    // It runs while a request is awaited, also one that follows another, and not while an answer is sent.
    http.timer(TokioTimer::new()).header_read_timeout(idle);
    loop {
        let (stream, client) = tokio::select! {
            accepted = Listener::accept(&mut listener) => accepted,
            // The sender sends or is dropped: either way it is over.
            _ = &mut stopped => break,
        };
        // What a socket refuses, its connection goes without.
        let _ = prepare(&stream);
        let (shared, client) = (shared.clone(), client.ip().to_canonical());
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = answer(shared.clone(), client, request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let connection = connections.watch(http.serve_connection(TokioIo::new(stream), service));
        // How it ends concerns the client alone; what became of its requests is logged.
        tokio::spawn(async move { drop(connection.await) });
    }
    drop(listener);
    tokio::select! {
        () = connections.shutdown() => {}
        () = tokio::time::sleep(GRACE) => {}
    }
}

/// Has a connection end when its client is gone without a word, in the middle of an answer too.
fn prepare(stream: impl AsFd) -> rustix::io::Result<()> {
    // A small answer must not wait for the acknowledgement of the one before.
    sockopt::set_tcp_nodelay(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, PROBE)?;
    sockopt::set_tcp_keepintvl(&stream, PROBE)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    // It is also the limit of unanswered probes.
    sockopt::set_tcp_user_timeout(&stream, STUCK.as_millis() as u32)
}

async fn answer(shared: Arc<Shared>, client: IpAddr, request: Request<Incoming>) -> Response {
    let path = request.uri().path().to_owned();
    let mut entry = Entry::new(shared.log.clone(), client, request.method().clone(), path.clone());
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(entry, StatusCode::METHOD_NOT_ALLOWED, request.method());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let Some(relative) = decode(&path) else { return plain(entry, StatusCode::NOT_FOUND, request.method()) };
    // Opening may wait for a disk.
    let opened = tokio::task::spawn_blocking(move || {
        let file = shared.root.file(&relative)?;
        let metadata = file.metadata()?;
        let listing = if metadata.is_dir() { Some(list(&file, relative == Path::new(""))?) } else { None };
        Ok((file, metadata, listing))
    });
    let opened = opened.await.map_err(io::Error::other).flatten();
    match opened {
        Ok((_, _, Some(_))) if !path.ends_with('/') => {
            // Relative, so that no host name is needed: the last part of the path, now with a slash.
            let last = path.rsplit('/').next().unwrap_or_default();
            let mut response = plain(entry, StatusCode::MOVED_PERMANENTLY, request.method());
            if let Ok(location) = HeaderValue::from_str(&format!("./{last}/")) {
                response.headers_mut().insert(LOCATION, location);
            }
            response
        }
        Ok((_, _, Some(listing))) => {
            let html = HeaderValue::from_static("text/html; charset=utf-8");
            text(entry, StatusCode::OK, request.method(), html, listing)
        }
        Ok((file, metadata, None)) if metadata.is_file() && !path.ends_with('/') => {
            let validators = Validators::of(&metadata);
            let decided = decide(request.method(), request.headers(), &validators, metadata.len(), SystemTime::now());
            contents(entry, request.method(), &path, file, &metadata, validators, decided)
        }
        Ok(_) => plain(entry, StatusCode::NOT_FOUND, request.method()),
        Err(error) => {
            let status = match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => StatusCode::NOT_FOUND,
                io::ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
                _ => match Errno::from_io_error(&error) {
                    Some(Errno::XDEV | Errno::LOOP | Errno::NAMETOOLONG | Errno::NXIO) => StatusCode::NOT_FOUND,
                    _ => StatusCode::INTERNAL_SERVER_ERROR,
                },
            };
            entry.remark = match Errno::from_io_error(&error) {
                Some(Errno::NOENT | Errno::NOTDIR) => None,
                Some(Errno::XDEV) => Some("the link leads out of the served folder".into()),
                _ => Some(error.to_string()),
            };
            plain(entry, status, request.method())
        }
    }
}

fn contents(
    mut entry: Entry,
    method: &Method,
    path: &str,
    file: File,
    metadata: &Metadata,
    validators: Validators,
    decided: Answer,
) -> Response {
    let size = metadata.len();
    let (status, range) = match decided {
        Answer::Whole => (StatusCode::OK, 0..size),
        Answer::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Answer::NotModified => (StatusCode::NOT_MODIFIED, 0..0),
        Answer::PreconditionFailed => return plain(entry, StatusCode::PRECONDITION_FAILED, method),
        Answer::NotSatisfiable => {
            let mut response = plain(entry, StatusCode::RANGE_NOT_SATISFIABLE, method);
            if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
                response.headers_mut().insert(CONTENT_RANGE, value);
            }
            return response;
        }
    };
    let length = range.end - range.start;
    entry.status = status;
    if status == StatusCode::PARTIAL_CONTENT {
        entry.part = Some(Part { first: range.start, last: range.end - 1, of: size });
    }
    let mut response = Response::builder()
        .status(status)
        .header(ACCEPT_RANGES, "bytes")
        .header(ETAG, validators.etag)
        .header(LAST_MODIFIED, httpdate::fmt_http_date(validators.modified));
    if status != StatusCode::NOT_MODIFIED {
        response = response.header(CONTENT_TYPE, content_type(path)).header(CONTENT_LENGTH, length);
    }
    if let Some(part) = entry.part {
        response = response.header(CONTENT_RANGE, part.to_string());
    }
    let body = if *method == Method::GET && length > 0 {
        entry.length = length;
        Body::new(FileBody::new(file, range, entry))
    } else {
        Body::empty()
    };
    finish(response.body(body))
}

/// An answer that has no more to say than its status.
fn plain(entry: Entry, status: StatusCode, method: &Method) -> Response {
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    text(entry, status, method, kind, format!("{status}\n"))
}

fn text(mut entry: Entry, status: StatusCode, method: &Method, kind: HeaderValue, text: String) -> Response {
    entry.status = status;
    let response = Response::builder().status(status).header(CONTENT_TYPE, kind).header(CONTENT_LENGTH, text.len());
    finish(response.body(if *method == Method::HEAD { Body::empty() } else { Body::from(text) }))
}

fn finish(response: axum::http::Result<Response>) -> Response {
    response.unwrap_or_else(|_| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("manifest" | "json") => "application/json",
        Some("html") => "text/html; charset=utf-8",
        Some("txt" | "log" | "sha256" | "cfg" | "ipxe") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// A page with what is in a folder; dot files stay hidden.
fn list(folder: &File, is_root: bool) -> io::Result<String> {
    let mut rows = Vec::new();
    for found in rustix::fs::Dir::read_from(folder)? {
        let found = found?;
        let name = found.file_name().to_bytes();
        if name.starts_with(b".") {
            continue;
        }
        let Ok(stat) = rustix::fs::statat(folder, found.file_name(), rustix::fs::AtFlags::empty()) else { continue };
        let is_folder = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
        rows.push((name.to_vec(), is_folder, stat.st_size.unsigned_abs()));
    }
    rows.sort();
    let mut page = "<!DOCTYPE html>\n<meta charset=\"utf-8\">\n<title>rootbeam</title>\n<pre>\n".to_owned();
    if !is_root {
        page += "<a href=\"../\">../</a>\n";
    }
    for (name, is_folder, size) in rows {
        let slash = if is_folder { "/" } else { "" };
        let shown = escape(&String::from_utf8_lossy(&name));
        let size = if is_folder { String::new() } else { format!("  {size}") };
        // `./` in front: a name with a colon would be taken for a scheme.
        page += &format!("<a href=\"./{}{slash}\">{shown}{slash}</a>{size}\n", encode(&name));
    }
    page += "</pre>\n";
    Ok(page)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The path of `file` on a server.
pub fn url_path(file: &Path) -> String {
    format!("/{}", encode(file.as_os_str().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    const GET: &[u8] = b"GET /file HTTP/1.1\r\nHost: test\r\n\r\n";

    #[test]
    fn idle_connections_are_closed_and_slow_downloads_are_not() {
        let idle = Duration::from_millis(300);
        let folder = tempfile::tempdir().unwrap();
        // More than the buffers of both sockets hold.
        let length = 64 << 20;
        File::create(folder.path().join("file")).unwrap().set_len(length).unwrap();
        let server = Server::with_idle(folder.path(), "127.0.0.1:0".parse().unwrap(), Log::none(), idle).unwrap();
        let connect = |words: &[u8]| {
            let mut stream = TcpStream::connect(server.address()).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            stream.write_all(words).unwrap();
            stream
        };
        let mut slow = connect(GET);
        let mut connections = [&b""[..], b"GET /file HT", b"HEAD /file HTTP/1.1\r\nHost: test\r\n\r\n"].map(connect);
        for connection in &mut connections {
            connection.read_to_end(&mut Vec::new()).expect("it is closed");
        }
        std::thread::sleep(idle * 2);
        let mut block = vec![0; 1 << 20];
        let mut read = 0;
        while read < length {
            let count = slow.read(&mut block).unwrap() as u64;
            assert!(count > 0, "it was cut off after {read} bytes");
            read += count;
        }
    }

    #[test]
    fn a_client_that_is_gone_without_a_word_is_noticed() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        prepare(&stream).unwrap();
        assert!(sockopt::socket_keepalive(&stream).unwrap() && sockopt::tcp_nodelay(&stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), PROBE);
        assert_eq!(sockopt::tcp_keepintvl(&stream).unwrap(), PROBE);
        assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 180_000);
    }
}
