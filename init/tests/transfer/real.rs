//! Superblocks as the filesystems' own tools write them.

use rootbeam_init::messages::{Compressor, FilesystemKind};
use rootbeam_init::store::superblock::{PROBE, SuperblockFault, inspect};
use std::path::Path;
use std::process::{Command, Stdio};

/// What `tool` makes of a folder with one file; none, said aloud, where the tool is not installed.
fn made_by(tool: &str, arguments: impl Fn(&Path, &Path) -> Vec<String>) -> Option<Vec<u8>> {
    let folder = std::env::temp_dir().join(format!("rootbeam-{tool}-{}", std::process::id()));
    let tree = folder.join("tree");
    std::fs::create_dir_all(&tree).unwrap();
    std::fs::write(tree.join("file"), vec![b'x'; 300_000]).unwrap();
    let image = folder.join("image");
    let run = Command::new(tool).args(arguments(&tree, &image)).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let bytes = match run {
        Ok(status) => {
            assert!(status.success(), "{tool}: {status}");
            Some(std::fs::read(&image).unwrap())
        }
        Err(error) => {
            assert!(!std::env::var("ROOTBEAM_REQUIRE").is_ok_and(|what| what == "all"), "{tool} is required: {error}");
            eprintln!("SKIPPED: {tool} is not here: {error}");
            None
        }
    };
    std::fs::remove_dir_all(&folder).unwrap();
    bytes
}

fn check(image: &[u8], filesystem: FilesystemKind, compressor: Compressor) {
    let first = &image[..image.len().min(PROBE)];
    let facts = inspect(first, image.len() as u64).unwrap();
    assert_eq!((facts.filesystem, facts.compressor), (filesystem, compressor));
    assert!(facts.bytes_used <= image.len() as u64 && facts.bytes_used > 0);
    let (size, needed) = (facts.bytes_used - 1, facts.bytes_used);
    assert_eq!(inspect(first, size), Err(SuperblockFault::Truncated { size, needed }));
}

#[test]
fn squashfs_images_of_mksquashfs_are_understood() {
    for (name, compressor) in [("zstd", Compressor::Zstd), ("gzip", Compressor::Gzip), ("xz", Compressor::Xz)] {
        let arguments = |tree: &Path, image: &Path| {
            let (tree, image) = (tree.display().to_string(), image.display().to_string());
            [&tree, &image, "-comp", name, "-noappend", "-quiet"].map(str::to_owned).to_vec()
        };
        let Some(image) = made_by("mksquashfs", arguments) else { return };
        check(&image, FilesystemKind::Squashfs, compressor);
    }
}

#[test]
fn erofs_images_of_mkfs_are_understood() {
    for (options, compressor) in [(&[][..], Compressor::None), (&["-zlz4"][..], Compressor::Lz4)] {
        let arguments = |tree: &Path, image: &Path| {
            let last = [image.display().to_string(), tree.display().to_string()];
            options.iter().map(|option| (*option).to_owned()).chain(last).collect()
        };
        let Some(image) = made_by("mkfs.erofs", arguments) else { return };
        check(&image, FilesystemKind::Erofs, compressor);
    }
}
