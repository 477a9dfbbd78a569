//! `rootbeam serve` as its clients see it.

mod common;

use common::rootbeam;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const WAIT: Duration = Duration::from_secs(30);

/// A running `rootbeam serve` and the folder it serves.
struct Serve {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

fn image() -> Vec<u8> {
    (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

impl Serve {
    fn start() -> Self {
        Self::by(rootbeam())
    }

    /// Started by a command that takes the arguments of `rootbeam`.
    fn by(mut command: Command) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("served");
        fs::create_dir_all(root.join("sub folder")).unwrap();
        fs::write(root.join("web.squashfs"), image()).unwrap();
        fs::write(root.join("empty"), "").unwrap();
        fs::write(root.join("web.manifest"), "{}").unwrap();
        fs::write(root.join("<a>&b"), "x").unwrap();
        fs::write(root.join("sub folder/file"), "in it").unwrap();
        fs::write(root.join(".hidden"), "secret").unwrap();
        fs::write(folder.path().join("secret"), "secret").unwrap();
        symlink("../secret", root.join("escape")).unwrap();
        symlink("web.squashfs", root.join("latest")).unwrap();
        command.arg("serve").arg(&root).args(["--listen", "127.0.0.1:1", "--port", "0", "--json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let started: serde_json::Value = serde_json::from_str(&line).expect("a line of JSON says where it listens");
        let port = started["port"].as_u64().unwrap();
        assert_eq!(started["urls"], serde_json::json!([format!("http://127.0.0.1:{port}/")]));
        let address = SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap()));
        Self { child, address, folder }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect_timeout(&self.address, WAIT).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream
    }

    fn request(&self, method: &str, path: &str, headers: &[&str]) -> Answer {
        let mut stream = self.connect();
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{headers}\r\n").unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("the answer ends");
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("the head ends");
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.map(|line| line.split_once(": ").unwrap());
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
        Answer { status, headers, body: bytes.split_off(end + 4) }
    }

    fn get(&self, path: &str, headers: &[&str]) -> Answer {
        self.request("GET", path, headers)
    }

    /// Stops it by a signal; returns its exit code and what it logged.
    fn stop(mut self, signal: Signal) -> (Option<i32>, String) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (self.child.wait().unwrap().code(), log)
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_file_comes_whole_with_its_validators() {
    let serve = Serve::start();
    let answer = serve.get("/web.squashfs", &[]);
    assert_eq!(answer.status, 200);
    assert!(answer.body == image());
    assert_eq!(answer.header("content-length"), "3000000");
    assert_eq!(answer.header("accept-ranges"), "bytes");
    assert_eq!(answer.header("content-type"), "application/octet-stream");
    assert!(answer.header("etag").starts_with('"'), "a strong tag");
    assert!(answer.header("last-modified").ends_with(" GMT"));
    assert!(serve.get("/latest?a=b", &[]).body == image(), "links within the folder are followed");
    assert_eq!(serve.get("/web.manifest", &[]).header("content-type"), "application/json");
    let empty = serve.get("/empty", &[]);
    assert_eq!((empty.status, empty.header("content-length"), empty.body.len()), (200, "0", 0));
}

#[test]
fn a_range_is_that_range() {
    let serve = Serve::start();
    let image = image();
    for (range, first, last) in [
        ("bytes=0-0", 0, 0),
        ("bytes=524287-1048577", 524_287, 1_048_577),
        ("bytes=2999999-", 2_999_999, 2_999_999),
        ("bytes=1000000-9999999", 1_000_000, 2_999_999),
        ("bytes=-70000", 2_930_000, 2_999_999),
    ] {
        let answer = serve.get("/web.squashfs", &[&format!("Range: {range}")]);
        assert_eq!(answer.status, 206, "{range}");
        assert_eq!(answer.header("content-range"), format!("bytes {first}-{last}/3000000"));
        assert_eq!(answer.header("content-length"), (last - first + 1).to_string());
        assert!(answer.body == image[first..=last], "{range}");
    }
    let several = serve.get("/web.squashfs", &["Range: bytes=0-1,5-6"]);
    assert_eq!((several.status, several.body.len()), (200, 3_000_000));
}

#[test]
fn a_range_beyond_the_end_is_416_and_tells_the_size() {
    let serve = Serve::start();
    let answer = serve.get("/web.squashfs", &["Range: bytes=3000000-"]);
    assert_eq!((answer.status, answer.header("content-range")), (416, "bytes */3000000"));
    let answer = serve.get("/empty", &["Range: bytes=0-"]);
    assert_eq!((answer.status, answer.header("content-range")), (416, "bytes */0"));
}

#[test]
fn a_resumed_download_never_mixes_two_files() {
    let serve = Serve::start();
    let first = serve.get("/web.squashfs", &["Range: bytes=0-9"]);
    let if_range = format!("If-Range: {}", first.header("etag"));
    assert_eq!(serve.get("/web.squashfs", &["Range: bytes=10-19", &if_range]).status, 206);

    // Another file of the same size and time is published under the name.
    let served = serve.folder.path().join("served");
    let mut other = image();
    other[15] ^= 1;
    fs::write(served.join("new"), &other).unwrap();
    let modified = fs::metadata(served.join("web.squashfs")).unwrap().modified().unwrap();
    fs::File::options().write(true).open(served.join("new")).unwrap().set_modified(modified).unwrap();
    fs::rename(served.join("new"), served.join("web.squashfs")).unwrap();

    let answer = serve.get("/web.squashfs", &["Range: bytes=10-19", &if_range]);
    assert_eq!(answer.status, 200, "the whole of the new file");
    assert!(answer.body == other);
}

#[test]
fn what_the_client_has_is_not_sent_again() {
    let serve = Serve::start();
    let first = serve.get("/web.squashfs", &[]);
    for header in [
        format!("If-None-Match: {}", first.header("etag")),
        format!("If-Modified-Since: {}", first.header("last-modified")),
    ] {
        let answer = serve.get("/web.squashfs", &[&header]);
        assert_eq!((answer.status, answer.body.len()), (304, 0), "{header}");
        assert_eq!(answer.header("etag"), first.header("etag"));
    }
    assert_eq!(serve.get("/web.squashfs", &["If-Match: \"other\""]).status, 412);
}

#[test]
fn head_is_get_without_the_body() {
    let serve = Serve::start();
    let get = serve.get("/web.squashfs", &[]);
    let head = serve.request("HEAD", "/web.squashfs", &["Range: bytes=0-1"]);
    assert_eq!((head.status, head.body.len()), (200, 0));
    let comparable = |answer: &Answer| {
        let mut headers = answer.headers.clone();
        headers.remove("date");
        headers
    };
    assert_eq!(comparable(&head), comparable(&get));
    assert_eq!(serve.request("HEAD", "/nothing", &[]).body.len(), 0);
    let post = serve.request("POST", "/web.squashfs", &["Content-Length: 0"]);
    assert_eq!((post.status, post.header("allow")), (405, "GET, HEAD"));
}

#[test]
fn nothing_outside_of_the_folder_is_served() {
    let serve = Serve::start();
    for path in [
        "/../secret",
        "/%2e%2e/secret",
        "/..%2fsecret",
        "/sub%20folder/../../secret",
        "/escape",
        "/.hidden",
        "/%2ehidden",
        "/nothing",
        "/web.squashfs/",
        "/web.squashfs/x",
        "/%00",
        "//etc/passwd",
    ] {
        let answer = serve.get(path, &[]);
        assert_eq!(answer.status, 404, "{path}");
        assert!(!String::from_utf8_lossy(&answer.body).contains("secret"), "{path}");
    }
    let (_, log) = serve.stop(Signal::TERM);
    assert!(log.contains("GET /escape 404 (the link leads out of the served folder)"), "{log}");
}

#[test]
fn a_folder_is_listed() {
    let serve = Serve::start();
    let root = serve.get("/", &[]);
    assert_eq!((root.status, root.header("content-type")), (200, "text/html; charset=utf-8"));
    let page = String::from_utf8(root.body).unwrap();
    assert!(page.contains("<a href=\"./sub%20folder/\">sub folder/</a>\n"), "{page}");
    assert!(page.contains("<a href=\"./%3Ca%3E%26b\">&lt;a&gt;&amp;b</a>  1\n"), "{page}");
    assert!(page.contains("web.squashfs</a>  3000000\n"), "{page}");
    assert!(!page.contains("hidden"), "{page}");
    let moved = serve.get("/sub%20folder", &[]);
    assert_eq!((moved.status, moved.header("location")), (301, "./sub%20folder/"));
    assert!(String::from_utf8(serve.get("/sub%20folder/", &[]).body).unwrap().contains("file</a>  5\n"));
    assert_eq!(serve.get("/sub%20folder/file", &[]).body, b"in it");
}

#[test]
fn the_log_tells_each_request_and_signals_end_it_well() {
    for signal in [Signal::TERM, Signal::INT] {
        let serve = Serve::start();
        serve.get("/web.squashfs", &["Range: bytes=0-65535"]);
        serve.get("/nothing", &[]);
        let (code, log) = serve.stop(signal);
        assert_eq!(code, Some(0), "{log}");
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines.len(), 3, "{log}");
        assert!(lines[0].contains(" GMT 127.0.0.1 GET /web.squashfs 206 bytes 0-65535/3000000 64.0 KiB in "), "{log}");
        assert!(lines[1].ends_with(" GMT 127.0.0.1 GET /nothing 404"), "{log}");
        assert_eq!(lines[2], "stopping");
    }
}

#[test]
fn a_client_that_leaves_is_logged_as_cut_off() {
    let serve = Serve::start();
    let large = serve.folder.path().join("served/large");
    fs::File::create(&large).unwrap().set_len(1 << 30).unwrap();
    let mut stream = serve.connect();
    write!(stream, "GET /large HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    stream.read_exact(&mut [0; 1000]).unwrap();
    drop(stream);
    let (code, log) = serve.stop(Signal::TERM);
    assert_eq!(code, Some(0));
    assert!(log.contains("GET /large 200 ") && log.contains(" cut off, "), "{log}");
}

#[test]
fn answers_under_way_are_finished_when_it_is_stopped() {
    let serve = Serve::start();
    let mut stream = serve.connect();
    write!(stream, "GET /web.squashfs HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut bytes = vec![0; 1000];
    stream.read_exact(&mut bytes).unwrap();
    let reader = std::thread::spawn(move || {
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let (code, _) = serve.stop(Signal::TERM);
    assert_eq!(code, Some(0));
    assert!(reader.join().unwrap().ends_with(&image()));
}

#[test]
fn more_connections_than_the_soft_limit_of_open_files_are_served() {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -S -n 50 && exec \"$@\"", "sh"]).arg(rootbeam().get_program()).env("NO_COLOR", "1");
    let serve = Serve::by(command);
    let idle: Vec<TcpStream> = (0..200).map(|_| serve.connect()).collect();
    assert_eq!(serve.get("/empty", &[]).status, 200);
    drop(idle);
}

#[test]
fn a_folder_that_is_not_there_and_a_port_that_is_taken_are_told() {
    let (code, _, said) = common::run(rootbeam().args(["serve", "/nonexistent"]));
    assert_eq!(code, 1);
    assert!(said.contains("cannot serve the folder /nonexistent"), "{said}");
    let serve = Serve::start();
    let (code, _, said) = common::run(rootbeam().args(["serve", "/", "--listen", &serve.address.to_string()]));
    assert_eq!(code, 1);
    assert!(said.contains("choose another address or port with --listen"), "{said}");
}
