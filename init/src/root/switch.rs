//! The root switch: a real pivot_root, planned as values. Kernel's rules (pivot_root(2), Documentation/filesystems/
//! ramfs-rootfs-initramfs.rst): the initial rootfs cannot be pivoted away, so a tmpfs, the stage, is moved over it
//! first; no mount may lie below a shared parent.

use crate::failure::{Failure, Step as BootStep};
use crate::image::SYSROOT;
use crate::sys::mounts::{self, MountFlags};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Mounts that go along into the new root.
pub const COMPANIONS: [&str; 4] = ["dev", "proc", "sys", "run"];
/// Where the stage is made.
const STAGE: &str = "/stage";
/// The new root's directory on the stage.
const ON_STAGE: &str = "/stage/root";

/// One step of the switch; `Display` is its log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// No mount is propagated any more.
    MakePrivate,
    /// The stage: a tmpfs with one directory.
    MountStage,
    /// A mount moves, with all below it.
    Move {
        /// From.
        from: PathBuf,
        /// To.
        to: PathBuf,
    },
    /// The stage covers the initial rootfs and becomes this process's root.
    EnterStage,
    /// The new root becomes the root, what was is detached.
    Pivot(PathBuf),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MakePrivate => f.write_str("make all mounts private"),
            Self::MountStage => write!(f, "mount the stage on {STAGE}"),
            Self::Move { from, to } => write!(f, "move mount {} to {}", from.display(), to.display()),
            Self::EnterStage => write!(f, "move {STAGE} over / and enter it"),
            Self::Pivot(root) => write!(f, "pivot into {} and detach the old root", root.display()),
        }
    }
}

/// What this process's root is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootKind {
    /// The kernel's first mount, which has no parent: an initramfs before Linux 7.2.
    InitialRootfs,
    /// A mount on another one: a classic initrd, a container, an initramfs since 7.2.
    Ordinary,
}

impl RootKind {
    /// Reads /proc/self/mountinfo (proc_pid_mountinfo(5)): the first mount is its own parent.
    pub fn parse(mountinfo: &[u8]) -> Self {
        let mut roots = mountinfo.split(|b| *b == b'\n').filter_map(|line| {
            let mut fields = line.split(|b| *b == b' ');
            let (id, parent) = (fields.next()?, fields.next()?);
            (fields.nth(2)? == b"/").then_some(id == parent)
        });
        if roots.next_back() == Some(true) { Self::InitialRootfs } else { Self::Ordinary }
    }
}

/// The steps from a root of `kind` into [`SYSROOT`].
pub fn plan(kind: RootKind) -> Vec<Step> {
    let companions = |root: &str| -> Vec<Step> {
        let to = |name: &&str| Step::Move { from: Path::new("/").join(name), to: Path::new(root).join(name) };
        COMPANIONS.iter().map(to).collect()
    };
    let mut steps = vec![Step::MakePrivate];
    match kind {
        RootKind::Ordinary => {
            steps.extend(companions(SYSROOT));
            steps.push(Step::Pivot(SYSROOT.into()));
        }
        RootKind::InitialRootfs => {
            steps.push(Step::MountStage);
            steps.push(Step::Move { from: SYSROOT.into(), to: ON_STAGE.into() });
            steps.extend(companions(ON_STAGE));
            steps.push(Step::EnterStage);
            steps.push(Step::Pivot("/root".into()));
        }
    }
    steps
}

/// Carries one step out.
pub fn carry_out(step: &Step) -> Result<(), Failure> {
    log::debug!("{step}");
    let done = match step {
        Step::MakePrivate => mounts::make_private(Path::new("/")),
        Step::MountStage => make_stage(),
        Step::Move { from, to } => target(to).and_then(|()| mounts::move_to(from, to)),
        Step::EnterStage => mounts::go_to(Path::new(STAGE))
            .and_then(|()| mounts::move_to(Path::new(STAGE), Path::new("/")))
            .and_then(|()| mounts::enter(Path::new("."))),
        Step::Pivot(root) => mounts::go_to(root).and_then(|()| mounts::pivot_here()),
    };
    done.map_err(|e| {
        let remedy = "report this as a bug, with the log and the kernel's release";
        Failure::new(BootStep::Switch, step.to_string(), e.to_string(), remedy)
    })
}

fn make_stage() -> io::Result<()> {
    std::fs::create_dir_all(STAGE)?;
    mounts::virtual_filesystem(
        "tmpfs",
        Path::new(STAGE),
        MountFlags::NOSUID | MountFlags::NODEV,
        "size=64k,nr_inodes=16",
    )?;
    std::fs::create_dir(ON_STAGE)
}

/// A mount point in the new root: made where the image lacks it; a link there would lead out of the root.
fn target(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(io::Error::new(io::ErrorKind::NotADirectory, "the image has no directory there")),
        Err(_) => std::fs::create_dir(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_the_initial_rootfs_it_goes_by_the_stage() {
        let lines: Vec<String> = plan(RootKind::InitialRootfs).iter().map(ToString::to_string).collect();
        let expected = [
            "make all mounts private",
            "mount the stage on /stage",
            "move mount /sysroot to /stage/root",
            "move mount /dev to /stage/root/dev",
            "move mount /proc to /stage/root/proc",
            "move mount /sys to /stage/root/sys",
            "move mount /run to /stage/root/run",
            "move /stage over / and enter it",
            "pivot into /root and detach the old root",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn from_an_ordinary_root_it_pivots_directly() {
        let lines: Vec<String> = plan(RootKind::Ordinary).iter().map(ToString::to_string).collect();
        let expected = [
            "make all mounts private",
            "move mount /dev to /sysroot/dev",
            "move mount /proc to /sysroot/proc",
            "move mount /sys to /sysroot/sys",
            "move mount /run to /sysroot/run",
            "pivot into /sysroot and detach the old root",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn the_kind_of_root_is_read_from_mountinfo() {
        let rootfs = b"1 1 0:2 / / rw - rootfs none rw\n20 1 0:5 / /dev rw - devtmpfs devtmpfs rw\n";
        assert_eq!(RootKind::parse(rootfs), RootKind::InitialRootfs);
        let ordinary = b"29 1 254:0 / / rw,relatime - ext4 /dev/root rw\n30 29 0:5 / /dev rw - devtmpfs d rw\n";
        assert_eq!(RootKind::parse(ordinary), RootKind::Ordinary);
        // Since 7.2: a nullfs below, the initramfs on top of it.
        let covered = b"1 1 0:1 / / ro - nullfs none ro\n2 1 0:2 / / rw - rootfs none rw\n";
        assert_eq!(RootKind::parse(covered), RootKind::Ordinary);
    }
}
