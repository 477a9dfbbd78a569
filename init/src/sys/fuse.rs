//! A FUSE connection: mounted here, served by a worker.

use rustix::fs::{Mode, OFlags};
use rustix::io::fcntl_dupfd_cloexec;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use sys_mount::{Mount, MountFlags};

/// Above any other descriptor of a worker.
const ABOVE: RawFd = 512;

/// Has the kernel let go of this connection first when the process is killed: it closes the lowest number first, and
/// carries out what it put off by that from the last to the first (fs/file.c, kernel/task_work.c). The last descriptor of
/// a loop device waits in its end for the reads that are under way, and without the connection they fail. Where a process
/// may not have so high a number (RLIMIT_NOFILE), it stays as it is.
pub fn ends_first(connection: OwnedFd) -> OwnedFd {
    fcntl_dupfd_cloexec(&connection, ABOVE).unwrap_or(connection)
}

/// Mounts what the holder of the returned descriptor will serve (fs/fuse/inode.c): read-only, and reachable by every user
/// of the machine, which the kernel asks of a file that a loop device stands on.
pub fn mount(target: &Path) -> io::Result<OwnedFd> {
    let connection = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", connection.as_raw_fd());
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // The value that comes back would unmount only when told to; it is let go.
    Mount::builder().fstype("fuse").flags(flags).data(&data).mount("rootbeam", target)?;
    Ok(connection)
}
