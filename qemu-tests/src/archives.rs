//! Initramfs archives of the shipped init, made by the shipped `rootbeam pack`.

use crate::command::run;
use crate::images::digest;
use crate::packages::{self, Kernel};
use crate::places::{cache, once, project, shipped_init, shipped_rootbeam, sum};
use anyhow::Result;
use rootbeam_initramfs::inspect::Report;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// /etc/hosts and /etc/resolv.conf.
const ADDED: u64 = 2;

/// Filesystems and drivers that the host's own kernel has built in, where the namespace bed boots.
const BUILT_IN: [(&str, &str); 5] = [
    ("loop", "drivers/block"),
    ("squashfs", "fs/squashfs"),
    ("erofs", "fs/erofs"),
    ("overlay", "fs/overlayfs"),
    ("af_packet", "net/packet"),
];

/// An archive for the namespace bed: no modules, since the host's kernel has everything built in.
pub fn for_namespaces() -> Result<PathBuf> {
    for_namespaces_with(&[])
}

/// The same, with more arguments of `rootbeam pack`.
pub fn for_namespaces_with(arguments: &[&str]) -> Result<PathBuf> {
    for_namespaces_of(&rustix::system::uname().release().to_string_lossy(), arguments)
}

/// The same, as if the host's kernel had that release.
pub fn for_namespaces_of(release: &str, arguments: &[&str]) -> Result<PathBuf> {
    let root = cache("archives")?.join(format!("host-{release}"));
    once(&root, |half| {
        let folder = half.join("lib/modules").join(release);
        fs::create_dir_all(&folder)?;
        let lines: String = BUILT_IN.iter().map(|(name, place)| format!("kernel/{place}/{name}.ko\n")).collect();
        fs::write(folder.join("modules.builtin"), lines)?;
        for empty in ["modules.dep", "modules.alias", "modules.softdep"] {
            fs::write(folder.join(empty), "")?;
        }
        Ok(())
    })?;
    pack("namespaces", &root, arguments)
}

/// An archive for QEMU with `kernel`.
pub fn for_qemu(kernel: &Kernel) -> Result<PathBuf> {
    for_qemu_with(kernel, &[])
}

/// The same, with more arguments of `rootbeam pack`.
pub fn for_qemu_with(kernel: &Kernel, arguments: &[&str]) -> Result<PathBuf> {
    let mut all = vec!["--preset", "qemu", "--kernel-release", kernel.release.as_str()];
    all.extend_from_slice(arguments);
    pack(&format!("qemu-{}", kernel.release), &kernel.modules, &all)
}

/// The shell initramfs that rootbeam is measured against, for QEMU with `kernel`.
pub fn baseline(kernel: &Kernel) -> Result<PathBuf> {
    let folder = project().join("bench/shell-initramfs");
    let image = cache("images")?.join(format!("shell-{}.cpio.zst", kernel.release));
    once(&image, |half| {
        let mut build = Command::new(folder.join("build"));
        build.arg(&kernel.release).arg(&kernel.modules).arg(packages::busybox()?).arg(half);
        run(&mut build).map(drop)
    })?;
    Ok(image)
}

/// An archive for any machine with wired Ethernet, with `kernel`.
pub fn for_any(kernel: &Kernel) -> Result<PathBuf> {
    let arguments = ["--preset", "generic", "--kernel-release", kernel.release.as_str()];
    pack(&format!("any-{}", kernel.release), &kernel.modules, &arguments)
}

/// Bytes of memory that the hand-over gives back, booted from `archive` in the namespace bed: each of its files takes
/// whole pages, and so do those that init adds once it has an address.
pub fn given_back(archive: &Path) -> Result<u64> {
    const PAGE: u64 = 4096;
    let files = Report::of(&fs::read(archive)?)?.contents;
    let files = files.iter().filter(|file| file.mode.starts_with('-')).map(|file| file.size as u64);
    Ok(files.map(|size| size.next_multiple_of(PAGE)).sum::<u64>() + ADDED * PAGE)
}

/// Packs once per content of the two programs, per folder of modules and per arguments.
fn pack(name: &str, modules: &Path, arguments: &[&str]) -> Result<PathBuf> {
    let (init, rootbeam) = (shipped_init()?, shipped_rootbeam()?);
    let mut recipe = format!("{}\n{}", modules.display(), arguments.join("\n"));
    for file in [&init, &rootbeam].map(PathBuf::as_path).into_iter().chain(arguments.iter().map(Path::new)) {
        if file.is_file() {
            recipe += &sum(file)?;
        }
    }
    let archive = cache("archives")?.join(format!("{name}-{}.cpio.zst", digest(recipe.as_bytes())));
    once(&archive, |half| {
        let mut pack = Command::new(&rootbeam);
        pack.args(["--quiet", "pack", "--modules"]).arg(modules).arg("--init").arg(&init).args(arguments);
        run(pack.arg("--output").arg(half)).map(drop)
    })?;
    Ok(archive)
}
