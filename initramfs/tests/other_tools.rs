//! The archive against the tools that everybody has: cpio(1) and the compressors.

#[path = "../../init/tests/common/needs.rs"]
mod needs;

use rootbeam_initramfs::archive::{ArchiveError, read};
use rootbeam_initramfs::compress::Compression;
use rootbeam_initramfs::tree::{Node, Tree};
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

fn main() -> ExitCode {
    needs::run(needs::tests! {
        needs::nothing =>
            refuses_what_is_no_initramfs_and_says_where,
            no_damaged_archive_makes_the_reader_panic_or_point_outside,
            no_damaged_stream_makes_a_decoder_panic;
        cpio => cpio_lists_what_was_written;
        all => reads_archives_of_other_tools_one_after_the_other_in_every_compression;
        compressors => no_damaged_stream_of_other_tools_makes_a_decoder_panic;
    })
}

fn cpio() -> Option<String> {
    needs::programs(&["cpio"])
}

fn compressors() -> Option<String> {
    needs::programs(&["lz4", "bzip2", "lzma", "lzop"])
}

fn all() -> Option<String> {
    needs::programs(&["cpio", "gzip", "xz", "zstd", "lz4", "bzip2", "lzma", "lzop"])
}

/// What a program makes of `input`.
fn run(program: &[&str], folder: &Path, input: &[u8]) -> Vec<u8> {
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{program:?} failed");
    output.stdout
}

fn tree() -> Tree {
    let mut tree = Tree::new();
    tree.put("dev/console", Node::Device { mode: 0o600, major: 5, minor: 1 });
    tree.program("init", b"#!/bin/sh\n".repeat(5000));
    tree.file("etc/odd name", "x");
    tree.put("sbin/modprobe", Node::Symlink("/init".to_owned()));
    tree
}

fn cpio_lists_what_was_written() {
    let archive = tree().to_newc(1_700_000_000).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let list = run(&["cpio", "-itv", "--quiet", "--numeric-uid-gid"], folder.path(), &archive);
    let list = String::from_utf8(list).unwrap();
    let seen: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    let first_and_last: Vec<(&str, &str, &str)> =
        seen.iter().map(|words| (words[0], words[2], words[words.len() - 1])).collect();
    assert_eq!(
        first_and_last,
        [
            ("drwxr-xr-x", "0", "dev"),
            ("crw-------", "0", "dev/console"),
            ("drwxr-xr-x", "0", "etc"),
            ("-rw-r--r--", "0", "name"),
            ("-rwxr-xr-x", "0", "init"),
            ("drwxr-xr-x", "0", "sbin"),
            ("lrwxrwxrwx", "0", "/init"),
        ]
    );
    let init = run(&["cpio", "-i", "--to-stdout", "--quiet", "init"], folder.path(), &archive);
    assert_eq!(init, b"#!/bin/sh\n".repeat(5000));
}

fn reads_archives_of_other_tools_one_after_the_other_in_every_compression() {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, data: &[u8]| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, data).unwrap();
    };
    write("early/kernel/x86/microcode/GenuineIntel.bin", b"microcode");
    write("main/usr/lib/modules/6.1/a.ko", &b"module ".repeat(3000));
    let cpio = |folder: &str, list: &[u8]| run(&["cpio", "-o", "-H", "newc", "--quiet"], Path::new(folder), list);
    let early = folder.path().join("early");
    let early = cpio(early.to_str().unwrap(), b"kernel\nkernel/x86/microcode/GenuineIntel.bin\n");
    let main = folder.path().join("main");
    let main = cpio(main.to_str().unwrap(), b".\n./usr\n./usr/lib/modules/6.1/a.ko\n");
    let mut file = early.clone();
    let mut expected = vec![Compression::None];
    for (program, compression) in [
        (&["gzip", "-9"][..], Compression::Gzip),
        (&["xz", "--check=crc32"], Compression::Xz),
        (&["zstd", "-3"], Compression::Zstd),
        (&["lz4", "-l", "-9"], Compression::Lz4),
        (&["bzip2"], Compression::Bzip2),
        (&["lzma"], Compression::Lzma),
        (&["lzop"], Compression::Lzo),
        // With each of its checksums.
        (&["lzop", "-9", "--crc32"], Compression::Lzo),
    ] {
        file.extend(run(program, folder.path(), &main));
        // Boot loaders fill up to four bytes or to a sector.
        file.resize(file.len().next_multiple_of(512), 0);
        expected.push(compression);
    }
    let archives = read(&file).unwrap();
    assert_eq!(archives.iter().map(|a| a.compression).collect::<Vec<_>>(), expected);
    for archive in &archives[1..] {
        let paths: Vec<_> = archive.entries.iter().map(|e| String::from_utf8_lossy(&e.path).into_owned()).collect();
        assert_eq!(paths, [".", "usr", "usr/lib/modules/6.1/a.ko"], "{}", archive.compression);
        assert!(archive.data(&archive.entries[2]) == b"module ".repeat(3000), "{}", archive.compression);
    }
    assert_eq!(archives[0].data(archives[0].entries.last().unwrap()), b"microcode");
}

fn refuses_what_is_no_initramfs_and_says_where() {
    assert!(matches!(read(b""), Err(ArchiveError::Empty)));
    assert!(matches!(read(&[0; 4096]), Err(ArchiveError::Empty)));
    assert!(matches!(read(b"hello"), Err(ArchiveError::Unknown(0))));
    let mut file = tree().to_newc(0).unwrap();
    let end = file.len();
    file.extend(b"garbage");
    assert!(matches!(read(&file), Err(ArchiveError::Unknown(at)) if at == end));
    let text = rootbeam_initramfs::compress::Packing::Gzip.pack(b"not an archive", |_| ()).unwrap();
    assert!(matches!(read(&text), Err(ArchiveError::Cpio(0, _))));
}

/// Bytes that look random and are the same in every run (xorshift).
fn noise(seed: u64) -> impl Iterator<Item = usize> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize
    })
}

fn no_damaged_archive_makes_the_reader_panic_or_point_outside() {
    let good = [tree().to_newc(0).unwrap(), tree().to_newc(7).unwrap()].concat();
    let mut random = noise(0x5eed);
    let mut next = || random.next().unwrap();
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..=next() % 4 {
            let at = next() % 800;
            // Hexadecimal digits reach deeper than arbitrary bytes, which fail at once.
            bytes[at] = if next() % 2 == 0 { b"0123456789abcdef"[next() % 16] } else { next() as u8 };
        }
        bytes.truncate(bytes.len() - next() % 300);
        for archive in read(&bytes).into_iter().flatten() {
            assert!(archive.entries.iter().all(|entry| entry.data.end <= archive.bytes.len()));
        }
    }
}

fn no_damaged_stream_makes_a_decoder_panic() {
    use rootbeam_initramfs::compress::Packing;
    let plain = tree().to_newc(0).unwrap();
    for packing in [Packing::Zstd, Packing::Gzip, Packing::Xz] {
        damage(&packing.pack(&plain, |_| ()).unwrap());
    }
}

fn no_damaged_stream_of_other_tools_makes_a_decoder_panic() {
    let folder = tempfile::tempdir().unwrap();
    let plain = tree().to_newc(0).unwrap();
    for program in [&["lz4", "-l"][..], &["bzip2"], &["lzma"], &["lzop"]] {
        damage(&run(program, folder.path(), &plain));
    }
}

fn damage(stream: &[u8]) {
    let mut random = noise(0xfeed);
    let mut next = || random.next().unwrap();
    for _ in 0..200 {
        let mut bytes = stream.to_vec();
        let at = 4 + next() % (bytes.len() - 4);
        bytes[at] = next() as u8;
        bytes.truncate(bytes.len() - next() % 20);
        // Whatever comes of it, it comes back.
        let _ = read(&bytes);
    }
}
