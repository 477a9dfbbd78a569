//! What a process of a machine under test can reach of all the others, by the roads that `/proc` offers.

use rustix::fs::{Mode, OFlags, major, minor, open, stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::process::{Command, Stdio};

/// The argument that makes the probe's program [`look`] and end.
pub const WORD: &str = "reach";

/// A road, and how far it led.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Road {
    /// The path that was tried.
    pub path: String,
    /// What a link there says.
    pub link: Option<String>,
    /// Major and minor number of the filesystem that it leads to, or the error of looking there.
    pub filesystem: Result<(u32, u32), i32>,
    /// The error of opening it for reading.
    pub read: Option<i32>,
    /// The error of opening it for writing.
    pub write: Option<i32>,
}

impl Road {
    fn take(path: String) -> Self {
        // A FIFO would wait for its other end, and a terminal would become this process's own.
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let error = |access| open(&path, flags | access, Mode::empty()).err().map(Errno::raw_os_error);
        Self {
            link: fs::read_link(&path).ok().map(|link| link.to_string_lossy().into_owned()),
            filesystem: stat(&path).map(|at| (major(at.st_dev), minor(at.st_dev))).map_err(Errno::raw_os_error),
            read: error(OFlags::RDONLY),
            write: error(OFlags::WRONLY),
            path,
        }
    }

    /// The process whose it is.
    pub fn process(&self) -> Option<u32> {
        self.path.strip_prefix("/proc/")?.split('/').next()?.parse().ok()
    }
}

/// Takes the roads to every other process but the kernel's, and `more`.
pub fn look(more: impl Iterator<Item = String>) -> Vec<Road> {
    let own = std::process::id();
    let numbers = names("/proc").into_iter().filter_map(|name| name.parse::<u32>().ok());
    // The kernel's own have no program.
    let others =
        numbers.filter(|pid| *pid != own && fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| !c.is_empty()));
    others.flat_map(roads).chain(more).map(Road::take).collect()
}

fn roads(pid: u32) -> Vec<String> {
    let of = |name: &str| format!("/proc/{pid}/{name}");
    let mut roads: Vec<String> = ["root", "cwd", "exe", "mem", "environ", "fd", "map_files"].map(of).into();
    for folder in ["fd", "map_files"].map(of) {
        roads.extend(names(&folder).into_iter().map(|name| format!("{folder}/{name}")));
    }
    roads
}

fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(|name| !name.is_empty()).collect()
}

/// What a process of `user`, started by the probe, finds by [`look`].
pub fn look_as(user: u32, more: &[String]) -> io::Result<Vec<Road>> {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new("/proc/self/exe");
    command.arg(WORD).args(more).uid(user).gid(user).stdin(Stdio::null());
    let said = command.output()?;
    serde_json::from_slice(&said.stdout).map_err(|_| io::Error::other(format!("{said:?}")))
}

/// Shows the kernel's FUSE connections where systemd does (sys-fs-fuse-connections.mount).
pub fn show_connections() -> io::Result<()> {
    use rustix::mount::{MountFlags, mount};
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(mount("fusectl", CONNECTIONS, "fusectl", flags, None)?)
}

/// Where they are.
pub const CONNECTIONS: &str = "/sys/fs/fuse/connections";
