//! The built binary under test.

#![allow(dead_code, reason = "each test file uses its part")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// The shipped `rootbeam`, with nothing of the caller's environment that changes what it does.
pub fn rootbeam() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rootbeam"));
    command.env_remove("SOURCE_DATE_EPOCH").env("NO_COLOR", "1");
    command
}

/// Runs it and returns code, standard output and standard error.
pub fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the binary starts");
    let text = |bytes| String::from_utf8(bytes).expect("what it prints is UTF-8");
    (status.code().expect("it ends by itself"), text(stdout), text(stderr))
}

/// Runs it, which must succeed.
pub fn succeed(command: &mut Command) -> (String, String) {
    let (code, out, err) = run(command);
    assert_eq!(code, 0, "{command:?}\n{out}\n{err}");
    (out, err)
}

/// Bytes of [`image`] before the rest.
pub const IMAGE_HEAD: usize = 128;

/// What is a squashfs by its superblock, which is all that is looked at, and these bytes behind its end.
pub fn image(rest: &[u8]) -> Vec<u8> {
    let used = IMAGE_HEAD as u64;
    let mut image = b"hsqs".to_vec();
    image.extend([1_u32, 0, 131_072, 0].map(u32::to_le_bytes).concat());
    image.extend([6_u16, 17, 0, 1, 4, 0].map(u16::to_le_bytes).concat());
    image
        .extend([0, used, used - 8, u64::MAX, used - 24, used - 16, u64::MAX, u64::MAX].map(u64::to_le_bytes).concat());
    image.resize(IMAGE_HEAD, 0);
    image.extend(rest);
    image
}

/// A server on loopback that has `answer` deal with the first request of each connection, by its method, path and headers,
/// and then closes it.
pub fn serve(answer: impl Fn(&TcpStream, &str, &str, &[String]) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map(Result::unwrap) {
            let (request, headers) = request(&stream);
            if let [method, path, _] = request.split(' ').collect::<Vec<_>>()[..] {
                answer(&stream, method, path.trim_start_matches('/'), &headers);
            }
        }
    });
    address
}

/// The line of the next request, and its headers; empty at the end of the connection.
pub fn request(stream: &TcpStream) -> (String, Vec<String>) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    (lines.next().unwrap_or_default(), lines.take_while(|line| !line.is_empty()).collect())
}

/// An x86-64 ELF file: a program of one segment, or with `fields` a module with that `.modinfo`.
pub fn elf(segment: u32, fields: Option<&[&str]>) -> Vec<u8> {
    let modinfo: Vec<u8> = fields.unwrap_or_default().iter().flat_map(|f| [f.as_bytes(), b"\0"].concat()).collect();
    let names = b"\0.modinfo\0.shstrtab\0";
    let (at_modinfo, at_names) = (64 + 56, 64 + 56 + modinfo.len());
    let at_sections = (at_names + names.len()).next_multiple_of(8);
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let kind: u16 = if fields.is_some() { 1 } else { 2 };
    file.extend(kind.to_le_bytes());
    file.extend(62u16.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.extend(64u64.to_le_bytes());
    file.extend((at_sections as u64).to_le_bytes());
    file.extend([0u8; 4]);
    for half in [64u16, 56, 1, 64, 3, 2] {
        file.extend(half.to_le_bytes());
    }
    file.extend(segment.to_le_bytes());
    file.extend([0u8; 52]);
    file.extend(&modinfo);
    file.extend(names);
    file.resize(at_sections, 0);
    for (name, kind, offset, size) in
        [(0u32, 0u32, 0, 0), (1, 1, at_modinfo, modinfo.len()), (10, 3, at_names, names.len())]
    {
        file.extend(name.to_le_bytes());
        file.extend(kind.to_le_bytes());
        file.extend([0u8; 16]);
        file.extend((offset as u64).to_le_bytes());
        file.extend((size as u64).to_le_bytes());
        file.extend([0u8; 24]);
    }
    file
}

/// `openssl s_server` over the files of `folder` on a free port of the loopback, with a certificate for `127.0.0.1` that
/// is valid for so many days and signed by the authority in `ca.pem` there.
pub fn serve_tls(folder: &Path, days: i32) -> (Child, u16) {
    let openssl = |arguments: &str| {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1").unwrap();
    openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=authority -days 2"));
    openssl(&format!("req {key} -keyout leaf.key -out leaf.csr -subj /CN=server"));
    let sign = "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile names -out leaf.pem";
    openssl(&format!("{sign} -days {days}"));
    let mut child = Command::new("openssl")
        .args("s_server -accept 127.0.0.1:0 -cert leaf.pem -key leaf.key -WWW".split(' '))
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let line = lines.find(|line| line.starts_with("ACCEPT ")).expect("it says where it listens");
    let port = line.rsplit(':').next().unwrap().parse().unwrap();
    // Its later words must find a reader.
    std::thread::spawn(move || lines.for_each(drop));
    (child, port)
}
