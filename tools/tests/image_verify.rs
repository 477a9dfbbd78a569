//! `rootbeam image manifest`, `show` and `verify`.

mod common;
#[path = "../../init/tests/common/needs.rs"]
mod needs;

use common::{IMAGE_HEAD, rootbeam, run, serve_tls, succeed};
use rootbeam::serve::log::Log;
use rootbeam::serve::server::Server;
use rootbeam_init::digest::Sha256;
use rootbeam_init::manifest::{CHUNK_SIZE, Manifest};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tempfile::TempDir;

fn main() -> ExitCode {
    needs::run(needs::tests! {
        needs::nothing =>
            a_manifest_describes_the_image,
            manifests_that_no_boot_would_take_are_not_written,
            a_stream_hash_list_is_held_against_the_image,
            a_good_image_verifies,
            a_download_that_breaks_off_is_taken_up_by_range,
            a_request_that_meets_a_closed_connection_is_made_again,
            a_flipped_bit_names_its_chunk_and_offset,
            every_wrong_chunk_is_named,
            the_first_of_several_wrong_chunks_is_named,
            an_image_of_another_length_is_told,
            a_chunk_list_or_manifest_of_another_image_is_told,
            what_is_not_there_is_told_with_a_remedy,
            show_tells_what_an_image_is_and_needs;
        openssl =>
            https_is_verified_against_the_given_authority_only;
    })
}

fn openssl() -> Option<String> {
    needs::programs(&["openssl"])
}

/// Three whole chunks and a part of one.
const SIZE: usize = 3 * CHUNK_SIZE as usize + 1234;

fn noise(size: usize) -> Vec<u8> {
    (0..size as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

struct Published {
    folder: TempDir,
    image: PathBuf,
}

impl Published {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("web.squashfs");
        fs::write(&image, common::image(&noise(SIZE - IMAGE_HEAD))).unwrap();
        let published = Self { folder, image };
        published.manifest(&[]);
        published
    }

    fn manifest(&self, options: &[&str]) -> Manifest {
        let mut command = rootbeam();
        command.env("SOURCE_DATE_EPOCH", "1700000000").args(["image", "manifest"]).arg(&self.image).args(options);
        succeed(&mut command);
        self.read_manifest()
    }

    fn read_manifest(&self) -> Manifest {
        Manifest::parse(&fs::read(self.beside("manifest")).unwrap()).unwrap()
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        self.folder.path().join(format!("web.squashfs.{suffix}"))
    }

    fn flip(&self, offset: usize) {
        let mut bytes = fs::read(&self.image).unwrap();
        bytes[offset] ^= 1;
        fs::write(&self.image, bytes).unwrap();
    }

    /// Verifies the file, and the same over HTTP, which must say the same.
    fn verify(&self) -> (i32, String) {
        let file = verify(self.image.to_str().unwrap());
        let server = Server::start(self.folder.path(), "127.0.0.1:0".parse().unwrap(), Log::none()).unwrap();
        let url = format!("http://{}/web.squashfs", server.address());
        let remote = verify(&url);
        assert_eq!(remote.0, file.0);
        assert_eq!(remote.1.replace(&url, self.image.to_str().unwrap()), file.1);
        file
    }
}

fn verify(image: &str) -> (i32, String) {
    let (code, out, err) = run(rootbeam().args(["--quiet", "image", "verify", image]));
    (code, out + &err)
}

fn a_manifest_describes_the_image() {
    let published = Published::new();
    let bytes = fs::read(&published.image).unwrap();
    let list: Vec<u8> = bytes.chunks(CHUNK_SIZE as usize).flat_map(|chunk| Sha256::of(chunk).0).collect();
    assert_eq!(fs::read(published.beside("chunks")).unwrap(), list);
    let expected = Manifest {
        format: "rootbeam-manifest-1".into(),
        name: "web.squashfs".into(),
        size: SIZE as u64,
        sha256: Sha256::of(&bytes),
        chunk_size: CHUNK_SIZE,
        version: 1,
        date: 1_700_000_000,
        kernel: None,
        chunk_list: vec![Sha256::of(&list)],
        layers: vec![],
        sources: vec![],
        boot_order: vec![],
    };
    assert_eq!(published.read_manifest(), expected);

    let second =
        published.manifest(&["--kernel", "6.1.0-49-amd64", "--sources", "http://a/", "--sources", "https://b/c/"]);
    let sources = vec!["http://a/".to_owned(), "https://b/c/".to_owned()];
    let expected = Manifest { version: 2, kernel: Some("6.1.0-49-amd64".into()), sources, ..expected };
    assert_eq!(second, expected);
    assert_eq!(published.manifest(&["--version", "40"]).version, 40);
    assert_eq!(published.manifest(&[]).version, 41);
    let mut names: Vec<_> = fs::read_dir(published.folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["web.squashfs", "web.squashfs.chunks", "web.squashfs.manifest"]);
}

fn manifests_that_no_boot_would_take_are_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let refuse = |name: &str, expected: &str| {
        let (code, _, said) = run(rootbeam().args(["image", "manifest"]).arg(folder.path().join(name)));
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(expected), "{said}");
        assert!(!folder.path().join(format!("{name}.manifest")).exists());
    };
    refuse("nothing", "cannot open the image");
    let remedy = "; a root image is a squashfs or erofs that is not compressed again";
    fs::write(folder.path().join("empty"), "").unwrap();
    refuse("empty", &format!("empty: it is empty{remedy}"));
    fs::write(folder.path().join("web.tar.gz"), noise(100_000)).unwrap();
    refuse(
        "web.tar.gz",
        &format!("web.tar.gz: it is neither squashfs nor erofs, it begins with [00, 9e, 3c, da]{remedy}"),
    );
    fs::write(folder.path().join("cut"), &common::image(b"")[..IMAGE_HEAD - 1]).unwrap();
    refuse("cut", "cut: it has 127 bytes, its filesystem needs 128; copy it again");
    fs::write(folder.path().join("a b"), "x").unwrap();
    refuse("a b", "cannot be published by that name");
}

fn a_stream_hash_list_is_held_against_the_image() {
    let published = Published::new();
    let image = fs::read(&published.image).unwrap();
    let digests: String = image.chunks(100_000).map(|chunk| format!("{}\n", Sha256::of(chunk))).collect();
    let list = published.folder.path().join("list");
    let manifest = || {
        let mut command = rootbeam();
        run(command.args(["image", "manifest", "--from-stream-hash"]).arg(&list).arg(&published.image))
    };
    fs::write(&list, format!("stream-hash sha256 100000\n{digests}")).unwrap();
    assert_eq!(manifest().0, 0);
    assert_eq!(published.read_manifest().version, 2);

    published.flip(100_001);
    let (code, _, said) = manifest();
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("web.squashfs: chunk 1 is not the listed one (from byte 100000, SHA-256 "), "{said}");
    fs::write(&published.image, &image[..90_000]).unwrap();
    let (code, _, said) = manifest();
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("it ends after 90000 bytes, and 2 chunks of 100000 bytes are listed"), "{said}");
    fs::write(&list, "<html>").unwrap();
    let (code, _, said) = manifest();
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("list is no stream-hash list: its first line is not `stream-hash sha256 "), "{said}");
    assert_eq!(published.read_manifest().version, 2);
}

fn a_good_image_verifies() {
    let published = Published::new();
    let name = published.image.display();
    let good = (0, format!("{name}: all 4 chunks are as version 1 promises\n"));
    assert_eq!(published.verify(), good);
    // By a manifest of another name, which names the image.
    let latest = published.folder.path().join("latest.manifest");
    fs::copy(published.beside("manifest"), &latest).unwrap();
    assert_eq!(verify(latest.to_str().unwrap()), good);
    let server = Server::start(published.folder.path(), "127.0.0.1:0".parse().unwrap(), Log::none()).unwrap();
    let url = |file: &str| format!("http://{}/{file}", server.address());
    let said = format!("{}: all 4 chunks are as version 1 promises\n", url("web.squashfs"));
    assert_eq!(verify(&url("latest.manifest")), (0, said));
}

/// Answers one request a connection with a part of the file, as the range asks, and breaks off after `piece` bytes.
fn serve_in_pieces(folder: &Path, piece: usize) -> String {
    let folder = folder.to_owned();
    let address = common::serve(move |mut stream, _, path, headers| {
        let range = headers.iter().find_map(|line| line.strip_prefix("range: bytes=")?.strip_suffix('-')?.parse().ok());
        let file = fs::read(folder.join(path)).unwrap();
        let from: usize = range.unwrap_or(0);
        let head = match range {
            None => "200 OK".to_owned(),
            Some(_) => format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{}", file.len() - 1, file.len()),
        };
        let head = format!("HTTP/1.1 {head}\r\nETag: \"1\"\r\nContent-Length: {}\r\n\r\n", file.len() - from);
        // The client may have seen enough.
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(&file[from..file.len().min(from + piece)]);
    });
    format!("http://{address}/")
}

fn a_download_that_breaks_off_is_taken_up_by_range() {
    let published = Published::new();
    let base = serve_in_pieces(published.folder.path(), 50_000);
    let (code, said) = verify(&format!("{base}web.squashfs"));
    assert_eq!((code, said), (0, format!("{base}web.squashfs: all 4 chunks are as version 1 promises\n")));
}

/// Answers the first request of each connection, and closes it when the second has come: as a server does that has just
/// lost its patience with a connection that was kept.
fn serve_once_a_connection(folder: &Path) -> String {
    let folder = folder.to_owned();
    let address = common::serve(move |mut stream, _, path, _| {
        let file = fs::read(folder.join(path)).unwrap();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", file.len());
        let _ = stream.write_all(&[head.as_bytes(), &file].concat());
        common::request(stream);
    });
    format!("http://{address}/")
}

fn a_request_that_meets_a_closed_connection_is_made_again() {
    let published = Published::new();
    let base = serve_once_a_connection(published.folder.path());
    let (code, said) = verify(&format!("{base}web.squashfs"));
    assert_eq!((code, said), (0, format!("{base}web.squashfs: all 4 chunks are as version 1 promises\n")));
}

fn a_flipped_bit_names_its_chunk_and_offset() {
    for (offset, chunk) in [(0, 0), (2 * CHUNK_SIZE as usize + 77, 2), (SIZE - 1, 3)] {
        let published = Published::new();
        published.flip(offset);
        let (code, said) = published.verify();
        assert_eq!(code, 3, "{said}");
        let expected = format!("chunk {chunk} is not the promised one (offset {}, ", chunk * CHUNK_SIZE as usize);
        assert!(said.contains(&expected), "{said}");
        assert!(said.contains("1 of 4 chunks are wrong"), "{said}");
    }
}

fn every_wrong_chunk_is_named() {
    let published = Published::new();
    published.flip(SIZE - 1);
    published.flip(0);
    published.flip(CHUNK_SIZE as usize);
    let (code, said) = published.verify();
    assert_eq!(code, 3);
    let lines = format!("wrong: chunks 0 to 1, bytes 0 to 131071\nwrong: chunk 3, bytes 196608 to {}\n", SIZE - 1);
    assert!(said.starts_with(&lines), "{said}");
    assert!(said.contains("chunk 0 is not the promised one (offset 0, ") && said.contains("3 of 4 chunks"), "{said}");
    published.flip(0);
    let (code, out, _) = run(rootbeam().args(["image", "verify", "--json"]).arg(&published.image));
    assert_eq!(code, 3);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    let wrong = serde_json::json!([{"chunk": 1, "offset": 65536}, {"chunk": 3, "offset": 196608}]);
    assert_eq!((&report["wrong"], &report["first_wrong_chunk"]), (&wrong, &1.into()));
}

fn the_first_of_several_wrong_chunks_is_named() {
    let published = Published::new();
    published.flip(SIZE - 1);
    published.flip(CHUNK_SIZE as usize);
    let (code, out, said) = run(rootbeam().args(["image", "verify", "--json"]).arg(&published.image));
    assert_eq!(code, 3);
    assert!(said.contains("chunk 1 ") && said.contains("2 of 4 chunks are wrong"), "{said}");
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["good"], false);
    assert_eq!(report["first_wrong_chunk"], 1);
}

fn an_image_of_another_length_is_told() {
    let published = Published::new();
    let good = fs::read(&published.image).unwrap();
    fs::write(&published.image, &good[..SIZE - 1]).unwrap();
    let (code, said) = published.verify();
    assert_eq!(code, 3);
    assert!(said.contains(&format!("it has {} bytes, not {SIZE}: it is truncated", SIZE - 1)), "{said}");
    fs::write(&published.image, [&good[..], b"x"].concat()).unwrap();
    let (code, said) = published.verify();
    assert_eq!(code, 3);
    assert!(said.contains(&format!("it has more than the {SIZE} bytes")), "{said}");
}

fn a_chunk_list_or_manifest_of_another_image_is_told() {
    let published = Published::new();
    let list = published.beside("chunks");
    let mut bytes = fs::read(&list).unwrap();
    bytes[33] ^= 1;
    fs::write(&list, bytes).unwrap();
    let (code, said) = published.verify();
    assert_eq!(code, 3);
    assert!(said.contains("the chunk list does not belong to the manifest"), "{said}");

    fs::write(published.beside("manifest"), "<html>404</html>").unwrap();
    let (code, said) = published.verify();
    assert_eq!(code, 1);
    assert!(said.contains("it is not a manifest in JSON (line 1, column 1)"), "{said}");
}

fn what_is_not_there_is_told_with_a_remedy() {
    let published = Published::new();
    fs::remove_file(published.beside("manifest")).unwrap();
    let (code, said) = verify(published.image.to_str().unwrap());
    assert_eq!(code, 1);
    assert!(said.contains("make it with `rootbeam image manifest"), "{said}");
    let server = Server::start(published.folder.path(), "127.0.0.1:0".parse().unwrap(), Log::none()).unwrap();
    let (code, said) = verify(&format!("http://{}/web.squashfs", server.address()));
    assert_eq!(code, 1);
    let remedy = "the server answered 404 Not Found: correct the URL, or put the file there, as `rootbeam image publish` \
                  does";
    assert!(said.contains(&format!("web.squashfs.manifest: {remedy}\n")), "{said}");
    published.manifest(&[]);
    let key = published.folder.path().join("web");
    succeed(rootbeam().args(["keygen", "--no-password"]).arg(&key));
    let url = format!("http://{}/web.squashfs", server.address());
    let (code, _, said) = run(rootbeam().args(["image", "verify", &url, "--key"]).arg(key.with_extension("pub")));
    assert_eq!(code, 1);
    assert!(said.contains(&format!("web.squashfs.manifest.minisig: {remedy} with --sign-key\n")), "{said}");
    let (code, said) = verify("ftp://127.0.0.1/web.squashfs");
    assert_eq!(code, 1);
    let expected = "ftp://127.0.0.1/web.squashfs: ftp is not read, only http and https URLs are: fetch the image, its \
                    manifest and its chunks, and verify the file";
    assert!(said.contains(expected), "{said}");
    let (code, said) = verify("http://127.0.0.1:1/web.squashfs");
    assert_eq!(code, 1);
    assert!(said.contains("cannot fetch http://127.0.0.1:1/web.squashfs.manifest"), "{said}");
}

fn https_is_verified_against_the_given_authority_only() {
    let published = Published::new();
    let (mut server, port) = serve_tls(published.folder.path(), 2);
    let url = format!("https://127.0.0.1:{port}/web.squashfs");
    let authority = published.folder.path().join("ca.pem");
    let trusting = run(rootbeam().args(["image", "verify", &url, "--ca"]).arg(&authority));
    let system = run(rootbeam().args(["image", "verify", &url]));
    let empty = published.folder.path().join("names");
    let nothing = run(rootbeam().args(["image", "verify", &url, "--ca"]).arg(&empty));
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(trusting.0, 0, "{}", trusting.2);
    assert_eq!(system.0, 1);
    assert!(system.2.contains("--ca PEM"), "{}", system.2);
    assert_eq!(nothing.0, 1);
    assert!(nothing.2.contains("names holds no certificate"), "{}", nothing.2);
}

fn show_tells_what_an_image_is_and_needs() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("root");
    fs::create_dir_all(source.join("etc")).unwrap();
    fs::write(source.join("etc/machine-id"), "").unwrap();
    let image = folder.path().join("a.squashfs");
    succeed(rootbeam().args(["image", "build"]).arg(&source).arg("-o").arg(&image).args(["--compress", "gzip"]));
    let size = fs::metadata(&image).unwrap().len();
    let show = |path: &Path| -> serde_json::Value {
        let (out, _) = succeed(rootbeam().args(["image", "show", "--json"]).arg(path));
        serde_json::from_str(&out).unwrap()
    };
    let facts = show(&image);
    assert_eq!(facts["size"], size);
    assert_eq!(facts["superblock"]["filesystem"], "squashfs");
    assert_eq!(facts["superblock"]["compressor"], "gzip");
    assert_eq!(facts["memory"]["refused_below"], size + (24 << 20));
    let (out, _) = succeed(rootbeam().args(["image", "show"]).arg(&image));
    assert!(out.contains("manifest    none: make one with `rootbeam image manifest`"), "{out}");

    succeed(rootbeam().args(["image", "manifest"]).arg(&image));
    assert_eq!(show(&image)["manifest"]["version"], 1);
    let manifest = show(&folder.path().join("a.squashfs.manifest"));
    assert_eq!(manifest["memory"], facts["memory"]);

    let bytes = fs::read(&image).unwrap();
    let cut = folder.path().join("cut.squashfs");
    fs::write(&cut, &bytes[..200]).unwrap();
    let (code, _, said) = run(rootbeam().args(["image", "show"]).arg(&cut));
    assert_eq!(code, 1);
    assert!(said.contains("it has 200 bytes, its filesystem needs "), "{said}");
    fs::write(&cut, "text").unwrap();
    let (code, _, said) = run(rootbeam().args(["image", "show"]).arg(&cut));
    assert_eq!(code, 1);
    assert!(said.contains("it is neither squashfs nor erofs"), "{said}");
}
