//! What a worker needs that lives on beside the booted system: a root of its own, and that the kernel does not take its
//! memory away while it is the one who frees others'.

use super::mounts::{self, MountFlags};
use crate::contract::RESOLVER;
use rustix::mm::MlockAllFlags;
use rustix::process::{Resource, Rlimit};
use rustix::thread::UnshareFlags;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

/// Where the root is made; it is covered in this process's own mount namespace only.
const PLACE: &str = "/run";
/// Files that are larger are left out: they are none of a worker's.
const LARGEST: u64 = 1 << 20;
/// How deep the folders of a root are.
const DEPTH: u32 = 4;

/// How much (nice(2)): a tenth of the processor where another wants all of it.
const NICE: i32 = 10;

/// prctl(2); the libc crate does not have it.
const PR_SET_IO_FLUSHER: i32 = 57;

/// A file of the root to come, its path without a leading slash.
pub type RootFile = (PathBuf, Vec<u8>);

/// Reads a file, or a folder with all below it, of the present root.
pub fn gather(path: &str) -> Vec<RootFile> {
    let mut found = Vec::new();
    gather_below(Path::new(path), DEPTH, &mut found);
    found
}

fn gather_below(path: &Path, depth: u32, found: &mut Vec<RootFile>) {
    let Ok(about) = fs::metadata(Path::new("/").join(path)) else { return };
    if about.is_dir() {
        let Some(depth) = depth.checked_sub(1) else { return };
        let entries = fs::read_dir(Path::new("/").join(path)).into_iter().flatten().flatten();
        entries.for_each(|entry| gather_below(&path.join(entry.file_name()), depth, found));
    } else if about.is_file()
        && about.len() <= LARGEST
        && let Ok(bytes) = fs::read(Path::new("/").join(path))
    {
        found.push((path.to_owned(), bytes));
    }
}

/// Lets the system that is about to start come first where both want the processor: what it waits for is brought all the
/// same, for then it does not want the processor.
pub fn come_second() {
    let _ = rustix::process::nice(NICE);
}

/// Keeps the memory killer and the swapper away. What this kernel does not have is done without.
pub fn hold_memory() {
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    // Allocations must not wait for a filesystem that waits for this process (Linux 5.6).
    // SAFETY: takes numbers only.
    let _ = unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
    let unlimited = rustix::process::setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
    // Within a limit, what comes later would fail for want of it. On fault: a stack of two megabytes of which a page is
    // used takes a page.
    if unlimited.is_ok() {
        let _ = rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT);
    }
}

/// Gives this process, single-threaded and still privileged, a root of its own: read-only, of `files` alone, which belong
/// to user and group `owner`. It goes with the last process in it. Where `RESOLVER` is one of the files, the present
/// root's own is shown in its place, so that what a later lease says is read; no other mount is left in sight.
pub fn seclude(files: &[RootFile], owner: u32) -> io::Result<()> {
    // SAFETY: NEWNS touches no memory and no descriptor table; the process is single-threaded.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    mounts::make_private(Path::new("/"))?;
    for mount in ["/dev", "/proc", "/sys", PLACE] {
        // Where nothing is mounted, nothing keeps the system's mounts in use.
        let _ = mounts::detach(Path::new(mount));
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mounts::virtual_filesystem("tmpfs", Path::new(PLACE), flags, "mode=0755,size=16m")?;
    for (path, bytes) in files {
        let path = Path::new(PLACE).join(path);
        if let Some(folder) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
        }
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o400).open(&path)?;
        io::Write::write_all(&mut file, bytes)?;
        chown(&path, Some(owner), Some(owner))?;
    }
    if files.iter().any(|(path, _)| path == Path::new(RESOLVER)) {
        mounts::show(&Path::new("/").join(RESOLVER), &Path::new(PLACE).join(RESOLVER), flags)?;
    }
    mounts::make_read_only(Path::new(PLACE), flags)?;
    mounts::go_to(Path::new(PLACE))?;
    mounts::move_to(Path::new(PLACE), Path::new("/"))?;
    mounts::enter(Path::new("."))
}
