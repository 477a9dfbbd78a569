//! Superblocks as the filesystems' own tools write them.

#[path = "common/needs.rs"]
mod needs;

use rootbeam_init::messages::{Compressor, FilesystemKind};
use rootbeam_init::store::superblock::{PROBE, SuperblockFault, inspect};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

fn main() -> ExitCode {
    needs::run(needs::tests! {
        mksquashfs => squashfs_images_of_mksquashfs_are_understood;
        mkfs_erofs => erofs_images_of_mkfs_are_understood;
    })
}

fn mksquashfs() -> Option<String> {
    needs::programs(&["mksquashfs"])
}

fn mkfs_erofs() -> Option<String> {
    needs::programs(&["mkfs.erofs"])
}

/// What `tool` makes of a folder with one file.
fn made_by(tool: &str, arguments: impl Fn(&Path, &Path) -> Vec<String>) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    std::fs::create_dir_all(&tree).unwrap();
    std::fs::write(tree.join("file"), vec![b'x'; 300_000]).unwrap();
    let image = folder.path().join("image");
    let run = Command::new(tool).args(arguments(&tree, &image)).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(run.unwrap().success(), "{tool}");
    std::fs::read(&image).unwrap()
}

fn check(image: &[u8], filesystem: FilesystemKind, compressor: Compressor) {
    let first = &image[..image.len().min(PROBE)];
    let facts = inspect(first, image.len() as u64).unwrap();
    assert_eq!((facts.filesystem, facts.compressor), (filesystem, compressor));
    assert!(facts.bytes_used <= image.len() as u64 && facts.bytes_used > 0);
    let (size, needed) = (facts.bytes_used - 1, facts.bytes_used);
    assert_eq!(inspect(first, size), Err(SuperblockFault::Truncated { size, needed }));
}

fn squashfs_images_of_mksquashfs_are_understood() {
    for (name, compressor) in [("zstd", Compressor::Zstd), ("gzip", Compressor::Gzip), ("xz", Compressor::Xz)] {
        let arguments = |tree: &Path, image: &Path| {
            let (tree, image) = (tree.display().to_string(), image.display().to_string());
            [&tree, &image, "-comp", name, "-noappend", "-quiet"].map(str::to_owned).to_vec()
        };
        check(&made_by("mksquashfs", arguments), FilesystemKind::Squashfs, compressor);
    }
}

fn erofs_images_of_mkfs_are_understood() {
    for (options, compressor) in [(&[][..], Compressor::None), (&["-zlz4"][..], Compressor::Lz4)] {
        let arguments = |tree: &Path, image: &Path| {
            let last = [image.display().to_string(), tree.display().to_string()];
            options.iter().map(|option| (*option).to_owned()).chain(last).collect()
        };
        check(&made_by("mkfs.erofs", arguments), FilesystemKind::Erofs, compressor);
    }
}
