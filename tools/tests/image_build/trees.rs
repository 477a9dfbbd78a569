//! Trees to make images of, and what stands in them.

use rootbeam_init::digest::Sha256;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::{TempDir, tempdir};
use walkdir::WalkDir;

/// cap_net_raw=ep, as the kernel stores it.
pub const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// All that a name in a tree says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: i64,
    pub device: Option<u64>,
    pub names: Option<u64>,
    pub contents: Option<(u64, Sha256)>,
    pub target: Option<PathBuf>,
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

pub fn facts(path: &Path) -> Facts {
    let metadata = fs::symlink_metadata(path).unwrap();
    let kind = metadata.file_type();
    Facts {
        mode: metadata.mode(),
        owner: (metadata.uid(), metadata.gid()),
        mtime: metadata.mtime(),
        device: (kind.is_char_device() || kind.is_block_device()).then(|| metadata.rdev()),
        names: (!kind.is_dir()).then(|| metadata.nlink()),
        contents: kind.is_file().then(|| (metadata.len(), Sha256::of(&fs::read(path).unwrap()))),
        target: kind.is_symlink().then(|| fs::read_link(path).unwrap()),
        xattrs: xattrs(path),
    }
}

pub fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    match xattr::list(path) {
        Ok(names) => names
            .map(|name| {
                let value = xattr::get(path, &name).unwrap().unwrap();
                (name.into_string().unwrap(), value)
            })
            .collect(),
        // So answers a squashfs that has none at all.
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => BTreeMap::new(),
        Err(error) => panic!("xattrs of {}: {error}", path.display()),
    }
}

pub fn tree(root: &Path) -> BTreeMap<PathBuf, Facts> {
    let walk = WalkDir::new(root).into_iter().map(Result::unwrap);
    walk.map(|found| (found.path().strip_prefix(root).unwrap().to_owned(), facts(found.path()))).collect()
}

/// Compares one after the other, so that a difference names its path.
pub fn assert_same(mut source: BTreeMap<PathBuf, Facts>, mut image: BTreeMap<PathBuf, Facts>) {
    for tree in [&mut source, &mut image] {
        // Where an image lies on an overlay, and only there, the kernel shows a security module's label.
        tree.values_mut().for_each(|facts| drop(facts.xattrs.remove("security.selinux")));
    }
    assert_eq!(source.keys().collect::<Vec<_>>(), image.keys().collect::<Vec<_>>());
    for (path, facts) in &source {
        assert_eq!(Some(facts), image.get(path), "{}", path.display());
    }
}

/// An image mounted by the kernel.
pub struct Mounted(TempDir);

impl Mounted {
    fn new(image: &Path) -> Self {
        let point = tempdir().unwrap();
        let status = Command::new("mount").args(["-o", "loop,ro"]).arg(image).arg(point.path()).status().unwrap();
        assert!(status.success(), "the kernel does not mount {}", image.display());
        Self(point)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

pub fn contents(image: &Path) -> BTreeMap<PathBuf, Facts> {
    tree(Mounted::new(image).0.path())
}

pub fn set_times(root: &Path) {
    let paths: Vec<_> = WalkDir::new(root).contents_first(true).into_iter().map(|found| found.unwrap()).collect();
    for (seconds, found) in (1_600_000_000..).zip(paths) {
        let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, found.path(), &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// A tree with everything but xattrs and hard links.
pub fn plain_source() -> TempDir {
    let folder = tempdir().unwrap();
    let root = folder.path();
    for name in ["dev", "etc", "usr/bin", "usr/share/many", "empty", "tmp"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::write(root.join("etc/empty"), "").unwrap();
    fs::write(root.join("etc/machine-id"), "").unwrap();
    fs::write(root.join("etc/a name with spaces, é and *"), "x").unwrap();
    let large: Vec<u8> = (0..60_001u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(root.join("usr/bin/large"), &large).unwrap();
    fs::write(root.join("usr/bin/copy-of-large"), &large).unwrap();
    fs::write(root.join("usr/bin/zeros"), vec![0; 3 << 20]).unwrap();
    fs::write(root.join("usr/bin/block"), vec![7; 128 << 10]).unwrap();
    for n in 0..1500 {
        fs::write(root.join(format!("usr/share/many/a-file-with-a-name-of-some-length-{n:04}")), n.to_string())
            .unwrap();
    }
    symlink("large", root.join("usr/bin/link")).unwrap();
    symlink("/nowhere", root.join("usr/bin/dangling")).unwrap();
    let node = |name: &str, kind, device| {
        mknodat(CWD, root.join(name), kind, Mode::from_raw_mode(0o600), device).unwrap();
    };
    node("dev/null", FileType::CharacterDevice, makedev(1, 3));
    node("dev/large-minor", FileType::BlockDevice, makedev(259, 70_000));
    node("dev/pipe", FileType::Fifo, 0);
    node("dev/socket", FileType::Socket, 0);
    fs::set_permissions(root.join("usr/bin/large"), fs::Permissions::from_mode(0o6755)).unwrap();
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::set_permissions(root.join("etc/empty"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
    chown(root.join("etc/empty"), Some(33), Some(70_000)).unwrap();
    lchown(root.join("usr/bin/link"), Some(65_534), Some(4_000_000_000)).unwrap();
    set_times(root);
    folder
}

/// With xattrs and hard links too.
pub fn full_source() -> TempDir {
    let folder = plain_source();
    let root = folder.path();
    fs::hard_link(root.join("usr/bin/large"), root.join("etc/second-name")).unwrap();
    fs::hard_link(root.join("usr/bin/large"), root.join("usr/third-name")).unwrap();
    fs::write(root.join("usr/bin/ping"), "ping").unwrap();
    xattr::set(root.join("usr/bin/ping"), "security.capability", &CAPABILITY).unwrap();
    xattr::set(root.join("etc"), "trusted.note", b"of a folder").unwrap();
    xattr::set(root.join("usr/bin/block"), "user.binary", &[0, 255, 10]).unwrap();
    set_times(root);
    folder
}

pub fn pack_tar(source: &Path, tar: &Path, options: &[&str]) {
    let mut command = Command::new("tar");
    command.args(["--xattrs", "--xattrs-include=*", "--format=pax", "--sort=name"]).args(options);
    // tar keeps no sockets.
    let status = command.arg("--exclude=./dev/socket").arg("-C").arg(source).arg("-cf").arg(tar).arg(".").status();
    assert!(status.unwrap().success());
}

pub fn without_sockets(mut tree: BTreeMap<PathBuf, Facts>) -> BTreeMap<PathBuf, Facts> {
    tree.retain(|_, facts| facts.mode & 0o170_000 != 0o140_000);
    tree
}
