//! Mounting and moving mounts.

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags};
pub use rustix::mount::MountAttrFlags;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
pub use sys_mount::MountFlags;

/// Mounts a filesystem that needs no device.
pub fn virtual_filesystem(fstype: &str, target: &Path, flags: MountFlags, data: &str) -> io::Result<()> {
    // The value that comes back would unmount only when told to; it is let go.
    sys_mount::Mount::builder().fstype(fstype).flags(flags).data(data).mount(fstype, target).map(drop)
}

/// Whether something is mounted exactly at `path` (statx(2), STATX_ATTR_MOUNT_ROOT, Linux 5.8).
pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    let facts = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE)?;
    Ok(facts.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// A configured filesystem that is mounted nowhere yet: the superblock was read and found good by the kernel.
#[derive(Debug)]
pub struct Prepared(OwnedFd);

/// Why the kernel did not take a filesystem.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}", io::Error::from_raw_os_error(*.errno), .said.as_deref().map(|s| format!(" ({s})")).unwrap_or_default())]
pub struct Refused {
    /// The error number.
    pub errno: i32,
    /// The kernel's own words, where it has some (`errorf` of fs_context).
    pub said: Option<String>,
}

impl Refused {
    /// EOPNOTSUPP: the kernel knows the filesystem but not this feature of it.
    pub fn is_unsupported(&self) -> bool {
        self.errno == rustix::io::Errno::OPNOTSUPP.raw_os_error()
    }
}

impl From<rustix::io::Errno> for Refused {
    fn from(errno: rustix::io::Errno) -> Self {
        Self { errno: errno.raw_os_error(), said: None }
    }
}

/// Lets the kernel open `source` as `fstype`; options are `(key, value)`, an empty value is a flag, and `attributes`
/// are the mount's own (the `ro` of a filesystem is not the `ro` of its mount).
/// ENODEV from fsopen(2) means that the kernel does not know the filesystem.
pub fn prepare(
    fstype: &str,
    source: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> Result<Prepared, Refused> {
    let context = rustix::mount::fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC)?;
    let told = || -> rustix::io::Result<()> {
        rustix::mount::fsconfig_set_string(&context, "source", source)?;
        for (key, value) in options {
            if value.is_empty() {
                rustix::mount::fsconfig_set_flag(&context, *key)?;
            } else {
                rustix::mount::fsconfig_set_string(&context, *key, *value)?;
            }
        }
        rustix::mount::fsconfig_create(&context)
    };
    if let Err(errno) = told() {
        return Err(Refused { errno: errno.raw_os_error(), said: words(&context) });
    }
    let mount = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    Ok(Prepared(mount))
}

/// The errors that the kernel logged to a filesystem context: each read gives one line, `e ` before an error.
fn words(context: &OwnedFd) -> Option<String> {
    let mut lines = Vec::new();
    for _ in 0..8 {
        let mut line = [0; 256];
        let Ok(length @ 1..) = rustix::io::read(context, &mut line) else { break };
        let text = String::from_utf8_lossy(line.get(..length).unwrap_or_default()).into_owned();
        lines.extend(text.strip_prefix("e ").map(|text| crate::label::printable(text.trim_end(), 160)));
    }
    (!lines.is_empty()).then(|| lines.join("; "))
}

impl Prepared {
    /// Puts the filesystem at `target`, which exists.
    pub fn attach(self, target: &Path) -> io::Result<()> {
        Ok(rustix::mount::move_mount(self.0, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
    }
}

/// Opens the file `name` of the mount at `place` through a mount of its own, which is nowhere in the mount tree and goes
/// with the file (open_tree(2), Linux 5.2): what that mount becomes later, noexec for example, does not concern the file.
pub fn open_apart(place: &Path, name: &Path) -> io::Result<OwnedFd> {
    let apart =
        rustix::mount::open_tree(CWD, place, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    Ok(rustix::fs::openat(apart, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Makes every mount private: MS_MOVE and pivot_root refuse mounts below a shared parent.
pub fn make_private(path: &Path) -> io::Result<()> {
    Ok(rustix::mount::mount_change(path, MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?)
}

/// MS_MOVE.
pub fn move_to(from: &Path, to: &Path) -> io::Result<()> {
    Ok(rustix::mount::mount_move(from, to)?)
}

/// Makes a mount, its other flags being `flags`, read-only.
pub fn make_read_only(path: &Path, flags: MountFlags) -> io::Result<()> {
    let flags = rustix::mount::MountFlags::from_bits_retain(u32::try_from(flags.bits()).unwrap_or(0));
    Ok(rustix::mount::mount_remount(path, flags | rustix::mount::MountFlags::RDONLY, c"")?)
}

/// Shows the file `from` in place of the file `to`, read-only there and with these other flags.
pub fn show(from: &Path, to: &Path, flags: MountFlags) -> io::Result<()> {
    rustix::mount::mount_bind(from, to)?;
    let flags = rustix::mount::MountFlags::from_bits_retain(u32::try_from(flags.bits()).unwrap_or(0));
    // Flags of this mount alone; without BIND they would be the filesystem's (mount(2)).
    let own = rustix::mount::MountFlags::BIND | rustix::mount::MountFlags::RDONLY;
    Ok(rustix::mount::mount_remount(to, flags | own, c"")?)
}

/// Takes `path` out of the mount tree at once; it ends when nothing uses it any more.
pub fn detach(path: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(path, UnmountFlags::DETACH)?)
}

/// `chdir(path)`, then `chroot(".")`, so that no path is looked up twice.
pub fn enter(path: &Path) -> io::Result<()> {
    rustix::process::chdir(path)?;
    Ok(rustix::process::chroot(".")?)
}

/// Changes the working directory.
pub fn go_to(path: &Path) -> io::Result<()> {
    Ok(rustix::process::chdir(path)?)
}

/// `pivot_root(".", ".")` and the detaching of what was the root: pivot_root(2) puts the old root on top of the new
/// one at `/`, where `umount2(".")` finds it. No directory for it is needed in the new root.
/// EINVAL where the current root is the kernel's initial rootfs.
pub fn pivot_here() -> io::Result<()> {
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}
