//! `rootbeam inspect` on the initramfs files that other tools compress.

mod common;
#[path = "../../init/tests/common/needs.rs"]
mod needs;

use common::{rootbeam, run, succeed};
use rootbeam_initramfs::tree::Tree;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    needs::run(needs::tests! {
        compressors => every_compression_that_a_kernel_unpacks_is_shown_like_the_uncompressed_archive;
        needs::nothing => what_is_no_initramfs_is_named_with_its_place;
    })
}

fn compressors() -> Option<String> {
    needs::programs(&["gzip", "bzip2", "lzma", "xz", "lzop", "lz4", "zstd"])
}

fn inspect(file: &Path) -> Value {
    let (out, err) = succeed(rootbeam().args(["inspect", "--json"]).arg(file));
    assert_eq!(err, "");
    serde_json::from_str(&out).unwrap()
}

fn every_compression_that_a_kernel_unpacks_is_shown_like_the_uncompressed_archive() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain");
    let mut tree = Tree::new();
    tree.program("init", b"#!/bin/sh\nexec sh\n".repeat(40_000));
    // Blocks that do not shrink are kept as they are.
    let noise: Vec<u8> = (0..600_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    tree.file("lib/modules/6.1/kernel/noise.ko", noise);
    fs::write(&plain, tree.to_newc(0).unwrap()).unwrap();
    let expected = inspect(&plain);
    assert_eq!(expected["kernels"], serde_json::json!(["6.1"]));
    for (name, program) in [
        ("gzip", &["gzip", "-c"][..]),
        ("bzip2", &["bzip2", "-c"]),
        ("lzma", &["lzma", "-c"]),
        ("xz", &["xz", "-c", "--check=crc32"]),
        ("lzo", &["lzop", "-c"]),
        ("lz4", &["lz4", "-l", "-c"]),
        ("zstd", &["zstd", "-c"]),
    ] {
        let output = Command::new(program[0]).args(&program[1..]).arg(&plain).output().unwrap();
        assert!(output.status.success(), "{program:?}: {}", String::from_utf8_lossy(&output.stderr));
        let file = folder.path().join(name);
        fs::write(&file, &output.stdout).unwrap();
        let found = inspect(&file);
        assert_eq!(found["contents"], expected["contents"], "{name}");
        let archives = found["archives"].as_array().unwrap();
        let told = archives.iter().map(|part| (&part["compression"], part["packed"].as_u64().unwrap()));
        assert_eq!(told.collect::<Vec<_>>(), [(&Value::from(name), output.stdout.len() as u64)]);
        let (lines, _) = succeed(rootbeam().arg("inspect").arg(&file));
        assert!(lines.contains(&format!("archives     {name:<6} at 0 ")), "{lines}");

        // Cut in the middle it is no archive, and says by what.
        fs::write(&file, &output.stdout[..output.stdout.len() / 2]).unwrap();
        let (code, _, said) = run(rootbeam().arg("inspect").arg(&file));
        assert!(code == 1 && said.contains(&format!("{}: ", file.display())), "{name}: {code} {said}");
    }
}

fn what_is_no_initramfs_is_named_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("text");
    fs::write(&file, "hello").unwrap();
    let (code, out, said) = run(rootbeam().arg("inspect").arg(&file));
    assert!(code == 1 && out.is_empty() && said.contains("neither a cpio archive nor a compression"), "{said}");
}
