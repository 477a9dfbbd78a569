//! The first thing: the filesystems that everything else stands on.

use crate::failure::{Failure, Step};
use crate::sys::{console, machine, mounts, mounts::MountFlags};
use std::fmt;
use std::path::Path;

/// One early mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EarlyMount {
    /// Filesystem type.
    pub fstype: &'static str,
    /// Where.
    pub target: &'static str,
    /// Flags, as the booted system wants to find them (field: systemd's own mount table).
    pub flags: MountFlags,
    /// Options.
    pub data: &'static str,
}

impl fmt::Display for EarlyMount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mount {} on {}", self.fstype, self.target)
    }
}

const NO_SUID_DEV_EXEC: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// What is mounted where nothing is mounted yet. /dev before all: without it there is no /dev/kmsg to complain to.
pub const MOUNTS: [EarlyMount; 4] = [
    EarlyMount { fstype: "devtmpfs", target: "/dev", flags: MountFlags::NOSUID, data: "mode=0755" },
    EarlyMount { fstype: "proc", target: "/proc", flags: NO_SUID_DEV_EXEC, data: "" },
    EarlyMount { fstype: "sysfs", target: "/sys", flags: NO_SUID_DEV_EXEC, data: "" },
    EarlyMount {
        fstype: "tmpfs",
        target: "/run",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::STRICTATIME),
        data: "mode=0755",
    },
];

/// Mounts what is missing, sets the mask, and opens the console again where the kernel found none.
pub fn mount_all() -> Result<(), Failure> {
    machine::set_umask(0o022);
    for mount in MOUNTS {
        let target = Path::new(mount.target);
        if matches!(mounts::is_mount_point(target), Ok(true)) {
            continue;
        }
        let mounted = std::fs::create_dir_all(target)
            .and_then(|()| mounts::virtual_filesystem(mount.fstype, target, mount.flags, mount.data));
        mounted.map_err(|e| {
            let remedy = "use a kernel with devtmpfs, proc, sysfs and tmpfs built in, as every distribution's is";
            Failure::new(Step::Early, mount.to_string(), e.to_string(), remedy)
        })?;
    }
    // The kernel starts init without descriptors where the archive has no usable /dev/console; devtmpfs has one. A
    // machine without any console boots all the same.
    let _ = console::take_standard_descriptors();
    Ok(())
}
