//! What a machine's real init finds: the report of the probe, as claims assert on it.
//!
//! The probe fills it in (`collect`), sends it as one line of JSON, and the beds hand it to the claim.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The whole world of the real init, taken as its first act.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct World {
    /// The kernel's release.
    pub kernel: String,
    /// The real init's arguments, its own name first.
    pub args: Vec<String>,
    /// The real init's environment.
    pub env: BTreeMap<String, String>,
    /// `/proc/cmdline`, without the line's end.
    pub cmdline: String,
    /// The mount table, in the kernel's order.
    pub mounts: Vec<Mount>,
    /// Size and room of the root filesystem.
    pub root: Room,
    /// Open descriptors that the real init inherited.
    pub descriptors: BTreeMap<u32, String>,
    /// Signals blocked, ignored and caught.
    pub signals: Signals,
    /// The file mode creation mask.
    pub umask: u32,
    /// The working directory.
    pub cwd: String,
    /// Process id of the real init.
    pub pid: u32,
    /// User and group ids and capabilities of the real init.
    pub credentials: Credentials,
    /// Every process but kernel threads, the probe itself included.
    pub processes: Vec<Process>,
    /// Loaded modules, sorted.
    pub modules: Vec<String>,
    /// `/proc/meminfo` in bytes.
    pub memory: BTreeMap<String, u64>,
    /// Network links, by name.
    pub links: BTreeMap<String, Link>,
    /// IPv4 routes of the main table.
    pub routes: Vec<Route>,
    /// Attached loop devices, by name (`loop0`).
    pub loops: BTreeMap<String, Loop>,
    /// Names in `/dev`, sorted.
    pub dev: Vec<String>,
    /// Names in `/`, sorted.
    pub root_names: Vec<String>,
    /// `/etc/resolv.conf`.
    pub resolv_conf: Option<String>,
    /// `/etc/machine-id`.
    pub machine_id: Option<String>,
    /// The host name that the kernel holds.
    pub hostname: String,
    /// The wall clock in seconds since 1970.
    pub clock: u64,
    /// `CLOCK_MONOTONIC` at the probe's start, in nanoseconds.
    pub started: u64,
    /// Processor time that PID 1 and the children it has reaped had used at the probe's start, in nanoseconds.
    pub used: u64,
    /// `/run/rootbeam/report.json`.
    pub report: Option<serde_json::Value>,
    /// `/run/rootbeam/boot.log`.
    pub boot_log: Option<String>,
}

impl World {
    /// Bytes of memory in use that no pressure would free: all but free pages, file cache and reclaimable slabs.
    pub fn memory_in_use(&self) -> u64 {
        let of = |name: &str| self.memory.get(name).copied().unwrap_or_default();
        let file_cache = (of("Buffers") + of("Cached")).saturating_sub(of("Shmem"));
        of("MemTotal").saturating_sub(of("MemFree") + file_cache + of("SReclaimable"))
    }

    /// Mount points, in the kernel's order.
    pub fn mount_points(&self) -> Vec<&str> {
        self.mounts.iter().map(|mount| mount.point.as_str()).collect()
    }

    /// What is mounted at `point`: the last mount wins, as for a path lookup.
    pub fn mount(&self, point: &str) -> Option<&Mount> {
        self.mounts.iter().rev().find(|mount| mount.point == point)
    }

    /// The arguments of every process but the real init itself.
    pub fn other_processes(&self) -> Vec<&[String]> {
        self.processes.iter().filter(|process| process.pid != self.pid).map(|process| process.args.as_slice()).collect()
    }
}

/// A line of `/proc/self/mountinfo`, without the numbers that change from boot to boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where it is mounted.
    pub point: String,
    /// Filesystem type.
    pub kind: String,
    /// What was mounted.
    pub source: String,
    /// The folder of the filesystem that forms this mount's root.
    pub root: String,
    /// Options of the mount: `ro`, `nosuid`, …
    pub options: Vec<String>,
    /// Options of the filesystem.
    pub super_options: Vec<String>,
    /// Propagation: empty for a private mount.
    pub propagation: Vec<String>,
}

/// `statfs(2)` of a filesystem, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Size.
    pub total: u64,
    /// Room left.
    pub free: u64,
}

/// Signal sets as bit masks, bit 0 for signal 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signals {
    /// `SigBlk`.
    pub blocked: u64,
    /// `SigIgn`.
    pub ignored: u64,
    /// `SigCgt`.
    pub caught: u64,
}

/// Ids and capabilities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Real, effective, saved and filesystem user id.
    pub uid: [u32; 4],
    /// Real, effective, saved and filesystem group id.
    pub gid: [u32; 4],
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// `CapEff`.
    pub effective: u64,
    /// `CapBnd`.
    pub bounding: u64,
    /// `CapInh`.
    pub inheritable: u64,
    /// `CapAmb`.
    pub ambient: u64,
    /// Whether `no_new_privs` is set.
    pub no_new_privs: bool,
}

/// A process that is no kernel thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Parent's process id.
    pub parent: u32,
    /// `comm`.
    pub name: String,
    /// Arguments, the name it was started by first.
    pub args: Vec<String>,
    /// Number of threads.
    pub threads: u32,
    /// Real and effective user id.
    pub uid: [u32; 2],
}

/// A network link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Hardware address.
    pub mac: String,
    /// Whether it is up.
    pub up: bool,
    /// Whether it has carrier; unknown while it is down.
    pub carrier: Option<bool>,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Addresses with prefix length, sorted; link-local IPv6 ones included.
    pub addresses: Vec<String>,
}

/// An IPv4 route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Link.
    pub link: String,
    /// Destination with prefix length; `0.0.0.0/0` is the default route.
    pub to: String,
    /// Gateway, where there is one.
    pub via: Option<String>,
    /// Metric.
    pub metric: u32,
}

/// An attached loop device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loop {
    /// Backing file, as the kernel names it.
    pub file: String,
    /// Size in bytes.
    pub size: u64,
    /// Whether it is read-only.
    pub read_only: bool,
    /// Whether it goes with its last user.
    pub autoclear: bool,
}
