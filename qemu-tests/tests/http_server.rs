//! The HTTP server of the beds answers as told, truly or falsely: its faults are what other claims rest on.

use rootbeam_qemu_tests::servers::fault::{Fault, Rule, When};
use rootbeam_qemu_tests::servers::http::HttpServer;
use rootbeam_qemu_tests::servers::site::Site;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

const TEXT: &str = "0123456789abcdef";

fn server() -> HttpServer {
    HttpServer::on_loopback(Site::new().bytes("/text", TEXT)).unwrap()
}

/// Sends a request on a connection of its own; returns the head and the body of the answer.
fn ask(server: &HttpServer, method: &str, path: &str, headers: &str) -> (String, String) {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.to_owned(), body.to_owned())
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[test]
fn serves_whole_files_and_ranges_and_remembers_them() {
    let server = server();
    let (head, body) = ask(&server, "GET", "/text", "");
    assert_eq!((field(&head, "Content-Length"), body.as_str()), (Some("16"), TEXT));
    let etag = field(&head, "ETag").unwrap().to_owned();
    let (head, body) = ask(&server, "GET", "/text", &format!("Range: bytes=4-7\r\nIf-Range: {etag}\r\n"));
    assert!(head.starts_with("HTTP/1.1 206"), "{head}");
    assert_eq!((field(&head, "Content-Range"), body.as_str()), (Some("bytes 4-7/16"), "4567"));
    assert_eq!(ask(&server, "GET", "/text", "Range: bytes=12-\r\n").1, "cdef");
    assert_eq!(ask(&server, "GET", "/text", "Range: bytes=-2\r\n").1, "ef");
    assert_eq!(ask(&server, "GET", "/text", "Range: bytes=1-2\r\nIf-Range: \"other\"\r\n").1, TEXT);
    assert!(ask(&server, "GET", "/text", "Range: bytes=16-\r\n").0.starts_with("HTTP/1.1 416"));
    let (head, body) = ask(&server, "HEAD", "/text", "");
    assert_eq!((field(&head, "Content-Length"), body.as_str()), (Some("16"), ""));
    assert!(ask(&server, "GET", "/none", "").0.starts_with("HTTP/1.1 404"));
    let log = server.wait_log(Duration::from_secs(5), |log| log.len() == 8).unwrap();
    let ranges: Vec<_> = log.iter().map(|exchange| (exchange.status, exchange.range.clone(), exchange.sent)).collect();
    let expected = [
        (200, 0..16, 16),
        (206, 4..8, 4),
        (206, 12..16, 4),
        (206, 14..16, 2),
        (200, 0..16, 16),
        (416, 0..0, 0),
        (200, 0..16, 0),
        (404, 0..0, 0),
    ];
    assert_eq!(ranges, expected);
    assert_eq!(server.sent("/text"), 42);
}

#[test]
fn commits_faults_on_the_requests_they_are_for() {
    let server = server().fault("/text", When::Nth(1), Fault::Status(503)).fault("/text", When::Nth(2), Fault::Hangup);
    assert!(ask(&server, "GET", "/text", "").0.starts_with("HTTP/1.1 503 Service Unavailable"));
    assert_eq!(ask(&server, "GET", "/text", "").0, "");
    assert_eq!(ask(&server, "GET", "/text", "").1, TEXT);
}

#[test]
fn flips_a_bit_of_the_contents_whatever_the_range() {
    let server = server().fault("/text", When::Always, Fault::FlipBit(5));
    assert_eq!(ask(&server, "GET", "/text", "").1, "0123446789abcdef");
    assert_eq!(ask(&server, "GET", "/text", "Range: bytes=5-6\r\n").1, "46");
    assert_eq!(ask(&server, "GET", "/text", "Range: bytes=6-7\r\n").1, "67");
}

#[test]
fn lies_about_lengths_ranges_and_validators() {
    let lying = |fault| server().fault("/text", When::Always, fault);
    let (head, body) = ask(&lying(Fault::CutAfter(3)), "GET", "/text", "");
    assert_eq!((field(&head, "Content-Length"), body.as_str()), (Some("16"), "012"));
    let (head, body) = ask(&lying(Fault::WrongLength(-6)), "GET", "/text", "");
    assert_eq!((field(&head, "Content-Length"), body.as_str()), (Some("10"), TEXT));
    let (head, body) = ask(&lying(Fault::IgnoreRange), "GET", "/text", "Range: bytes=4-7\r\n");
    assert!(head.starts_with("HTTP/1.1 200") && body == TEXT, "{head}");
    let (head, body) = ask(&lying(Fault::ShiftRange(1)), "GET", "/text", "Range: bytes=4-7\r\n");
    assert_eq!((field(&head, "Content-Range"), body.as_str()), (Some("bytes 5-7/16"), "567"));
    let (head, body) = ask(&lying(Fault::NoLength), "GET", "/text", "");
    assert_eq!((field(&head, "Content-Length"), body.as_str()), (None, TEXT));
    assert_eq!(field(&ask(&lying(Fault::Etag("\"x\"".into())), "GET", "/text", "").0, "ETag"), Some("\"x\""));
    let (head, _) = ask(&lying(Fault::Redirect("/other".into())), "GET", "/text", "");
    assert!(head.starts_with("HTTP/1.1 302"), "{head}");
    assert_eq!(field(&head, "Location"), Some("/other"));
    let (head, body) = ask(&lying(Fault::WrongBytes(2)), "GET", "/text", "Range: bytes=4-7\r\n");
    assert_eq!((field(&head, "Content-Range"), body.as_str()), (Some("bytes 4-7/16"), "6789"));
    let (head, body) = ask(&lying(Fault::NoRanges), "GET", "/text", "Range: bytes=4-7\r\n");
    assert_eq!((field(&head, "Accept-Ranges"), body.as_str()), (Some("none"), TEXT));
    assert_eq!(field(&ask(&lying(Fault::Encoding("br".into())), "GET", "/text", "").0, "Content-Encoding"), Some("br"));
    let (head, _) = ask(&lying(Fault::RetryAfter(429, 7)), "GET", "/text", "");
    assert!(head.starts_with("HTTP/1.1 429") && field(&head, "Retry-After") == Some("7"), "{head}");
    let changing = lying(Fault::FreshEtag);
    let tag = || field(&ask(&changing, "GET", "/text", "").0, "ETag").unwrap().to_owned();
    assert_ne!(tag(), tag());
}

#[test]
fn a_fault_at_a_byte_counts_the_requests_that_get_there() {
    let server = server().fault("/text", When::First(1), Fault::CutAt(6));
    assert_eq!(ask(&server, "GET", "/text", "Range: bytes=0-5\r\n").1, "012345");
    assert_eq!(ask(&server, "GET", "/text", "Range: bytes=4-9\r\n").1, "45");
    assert_eq!(ask(&server, "GET", "/text", "").1, TEXT);
    let server = self::server().fault("/text", When::Nth(2), Fault::FlipBit(5));
    assert_eq!(ask(&server, "GET", "/text", "Range: bytes=5-6\r\n").1, "56");
    assert_eq!(ask(&server, "GET", "/text", "Range: bytes=6-7\r\n").1, "67");
    assert_eq!(ask(&server, "GET", "/text", "Range: bytes=5-6\r\n").1, "46");
}

#[test]
fn a_file_is_replaced_by_another_with_another_validator() {
    let site = Site::new().bytes("/text", TEXT).bytes("/new", "new text");
    let server = HttpServer::on_loopback(site).unwrap();
    let (head, _) = ask(&server, "GET", "/text", "");
    let old = field(&head, "ETag").unwrap().to_owned();
    server.commit(Rule::of("/text", When::Always, Fault::Instead("/new".into())));
    let (head, body) = ask(&server, "GET", "/text", &format!("Range: bytes=2-3\r\nIf-Range: {old}\r\n"));
    assert!(head.starts_with("HTTP/1.1 200") && body == "new text", "{head}");
}

#[test]
fn a_rate_is_shared_by_the_answers_that_suffer_it() {
    let server = server().fault("/text", When::Always, Fault::Rate(64));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(ask(&server, "GET", "/text", "").1, TEXT));
        }
    });
    let took = begun.elapsed().as_millis();
    assert!((700..4000).contains(&took), "{took} ms");
}

#[test]
fn garbage_is_bounded_and_the_same_for_the_same_seed() {
    let server = server().fault("/text", When::Always, Fault::Garbage(7));
    let raw = || {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        write!(stream, "GET /text HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    };
    let first = raw();
    assert!(first.starts_with(b"HTTP/1.1 200 OK\r\n") && first.len() < 9000, "{} bytes", first.len());
    assert_eq!(raw(), first);
}

#[test]
fn stops_and_serves_again_on_the_same_port_with_the_same_memory() {
    let mut server = server();
    let address = server.address();
    assert_eq!(ask(&server, "GET", "/text", "").1, TEXT);
    server.stop();
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    server.resume(TcpListener::bind(address).unwrap()).unwrap();
    assert_eq!(ask(&server, "GET", "/text", "").1, TEXT);
    assert_eq!((server.log().len(), server.sent("/text")), (2, 32));
}

#[test]
fn stalls_until_its_client_gives_up() {
    let server = server().fault("/text", When::Always, Fault::StallAfter(2, Duration::from_secs(60)));
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    write!(stream, "GET /text HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let error = stream.read_to_end(&mut answer).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    assert!(answer.ends_with(b"\r\n\r\n01"), "{}", String::from_utf8_lossy(&answer));
}
