//! How the probe looks at its world. It runs as the real init of a machine under test: it never fails, and what it
//! cannot read it leaves empty, for the claim to see.

use crate::outcome::monotonic;
use crate::world::{Credentials, Link, Loop, Mount, Process, Room, Route, Signals, World};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

impl World {
    /// The world of the calling process, but for what `inherited` tells.
    pub fn collect(inherited: &Inherited) -> Self {
        let status = &inherited.status;
        Self {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            args: std::env::args_os().map(|word| lossy(word.as_bytes())).collect(),
            env: std::env::vars_os().map(|(name, value)| (lossy(name.as_bytes()), lossy(value.as_bytes()))).collect(),
            cmdline: read("/proc/cmdline").trim_end_matches('\n').to_owned(),
            mounts: read("/proc/self/mountinfo").lines().filter_map(mount).collect(),
            root: room("/"),
            descriptors: inherited.descriptors.clone(),
            signals: Signals {
                blocked: status.mask("SigBlk"),
                ignored: status.mask("SigIgn"),
                caught: status.mask("SigCgt"),
            },
            umask: u32::from_str_radix(status.field("Umask"), 8).unwrap_or(u32::MAX),
            cwd: link_target("/proc/self/cwd"),
            pid: std::process::id(),
            credentials: Credentials {
                uid: status.ids("Uid"),
                gid: status.ids("Gid"),
                groups: numbers(status.field("Groups")),
                effective: status.mask("CapEff"),
                bounding: status.mask("CapBnd"),
                inheritable: status.mask("CapInh"),
                ambient: status.mask("CapAmb"),
                no_new_privs: status.field("NoNewPrivs") == "1",
            },
            processes: processes(),
            modules: sorted(read("/proc/modules").lines().filter_map(|line| line.split(' ').next().map(str::to_owned))),
            memory: read("/proc/meminfo").lines().filter_map(memory).collect(),
            links: links(),
            routes: read("/proc/net/route").lines().skip(1).filter_map(route).collect(),
            loops: loops(),
            dev: names("/dev"),
            root_names: names("/"),
            resolv_conf: fs::read_to_string("/etc/resolv.conf").ok(),
            machine_id: fs::read_to_string("/etc/machine-id").ok(),
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            clock: std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            started: inherited.started,
            used: inherited.used,
            report: fs::read("/run/rootbeam/report.json").ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()),
            boot_log: fs::read("/run/rootbeam/boot.log").ok().map(|bytes| lossy(&bytes)),
        }
    }
}

/// What a process has from the one that started it, and what its own runtime soon changes: Rust's ignores SIGPIPE,
/// catches SIGSEGV and opens what is closed of descriptors 0 to 2, all before `main`.
#[derive(Clone, Debug)]
pub struct Inherited {
    descriptors: BTreeMap<u32, String>,
    status: Status,
    started: u64,
    used: u64,
}

impl Inherited {
    /// To be called first of all.
    pub fn take() -> Self {
        Self { started: monotonic(), used: processor_time(), descriptors: descriptors(), status: Status::of("self") }
    }
}

/// Of this process, whatever programs it was before, and of the children that it has reaped; in nanoseconds.
fn processor_time() -> u64 {
    [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN]
        .into_iter()
        .filter_map(|who| getrusage(who).ok())
        .flat_map(|usage| [usage.user_time(), usage.system_time()])
        .map(|time| u64::try_from(time.num_microseconds()).unwrap_or_default() * 1000)
        .sum()
}

/// Open descriptors with what they are; the one that lists them is left out.
fn descriptors() -> BTreeMap<u32, String> {
    let Ok(folder) = fs::read_dir("/proc/self/fd") else { return BTreeMap::new() };
    folder
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, link_target(entry.path())))
        })
        .filter(|(_, target)| !target.starts_with("/proc/") || !target.ends_with("/fd"))
        .collect()
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read(path).map_or_else(|_| String::new(), |bytes| lossy(&bytes))
}

fn link_target(path: impl AsRef<Path>) -> String {
    fs::read_link(path).map_or_else(|_| String::new(), |target| lossy(target.as_os_str().as_bytes()))
}

fn sorted(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    sorted(entries.map(|entry| lossy(entry.file_name().as_bytes())))
}

fn numbers<T: std::str::FromStr>(text: &str) -> Vec<T> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// `/proc/PID/status` by field name.
#[derive(Clone, Debug)]
struct Status(BTreeMap<String, String>);

impl Status {
    fn of(pid: &str) -> Self {
        let text = read(format!("/proc/{pid}/status"));
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        Self(fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
    }

    fn field(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    fn mask(&self, name: &str) -> u64 {
        u64::from_str_radix(self.field(name), 16).unwrap_or(u64::MAX)
    }

    fn ids<const N: usize>(&self, name: &str) -> [u32; N] {
        let mut ids = [u32::MAX; N];
        for (slot, id) in ids.iter_mut().zip(numbers(self.field(name))) {
            *slot = id;
        }
        ids
    }
}

/// A line of mountinfo: `36 35 98:0 /root /point opts shared:1 - ext4 /dev/x super,opts`.
fn mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let left: Vec<_> = left.split(' ').collect();
    let mut right = right.splitn(3, ' ');
    let list = |text: &str| text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect();
    Some(Mount {
        root: unescape(left.get(3)?),
        point: unescape(left.get(4)?),
        options: list(left.get(5)?),
        propagation: left.get(6..)?.iter().map(|&word| word.to_owned()).collect(),
        kind: right.next()?.to_owned(),
        source: unescape(right.next()?),
        super_options: list(right.next().unwrap_or_default()),
    })
}

/// The kernel writes blank, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    ["040", "011", "012", "134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (code, plain)| text.replace(&format!("\\{code}"), plain))
}

fn room(path: &str) -> Room {
    rustix::fs::statvfs(path).map_or(Room { total: 0, free: 0 }, |stat| Room {
        total: stat.f_blocks * stat.f_frsize,
        free: stat.f_bfree * stat.f_frsize,
    })
}

fn memory(line: &str) -> Option<(String, u64)> {
    let (name, value) = line.split_once(':')?;
    let number: u64 = value.split_whitespace().next()?.parse().ok()?;
    Some((name.to_owned(), if value.ends_with("kB") { number * 1024 } else { number }))
}

fn processes() -> Vec<Process> {
    let mut pids: Vec<u32> = names("/proc").iter().filter_map(|name| name.parse().ok()).collect();
    pids.sort_unstable();
    pids.into_iter().filter_map(process).collect()
}

/// A process that is gone meanwhile, or a kernel thread, is none.
fn process(pid: u32) -> Option<Process> {
    const PF_KTHREAD: u64 = 0x0020_0000;
    let stat = read(format!("/proc/{pid}/stat"));
    let flags: u64 = stat.rsplit_once(") ")?.1.split(' ').nth(6)?.parse().ok()?;
    if flags & PF_KTHREAD != 0 {
        return None;
    }
    let status = Status::of(&pid.to_string());
    let cmdline = read(format!("/proc/{pid}/cmdline"));
    Some(Process {
        pid,
        parent: status.field("PPid").parse().ok()?,
        name: status.field("Name").to_owned(),
        args: cmdline.split_terminator('\0').map(str::to_owned).collect(),
        threads: status.field("Threads").parse().ok()?,
        uid: status.ids("Uid"),
    })
}

fn links() -> BTreeMap<String, Link> {
    let mut links: BTreeMap<_, _> = names("/sys/class/net")
        .into_iter()
        .filter(|name| Path::new("/sys/class/net").join(name).is_dir())
        .map(|name| {
            let file = |file: &str| read(format!("/sys/class/net/{name}/{file}")).trim().to_owned();
            let flags = u32::from_str_radix(file("flags").trim_start_matches("0x"), 16).unwrap_or(0);
            let link = Link {
                mac: file("address"),
                up: flags & 1 == 1,
                carrier: file("carrier").parse().ok().map(|carrier: u8| carrier == 1),
                mtu: file("mtu").parse().unwrap_or(0),
                addresses: Vec::new(),
            };
            (name, link)
        })
        .collect();
    for interface in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        if let (Some(link), Some(address)) = (links.get_mut(&interface.interface_name), with_prefix(&interface)) {
            link.addresses.push(address);
            link.addresses.sort();
        }
    }
    links
}

fn with_prefix(interface: &nix::ifaddrs::InterfaceAddress) -> Option<String> {
    let (address, mask) = (interface.address.as_ref()?, interface.netmask.as_ref()?);
    if let (Some(address), Some(mask)) = (address.as_sockaddr_in(), mask.as_sockaddr_in()) {
        return Some(format!("{}/{}", address.ip(), u32::from(mask.ip()).count_ones()));
    }
    let (address, mask) = (address.as_sockaddr_in6()?, mask.as_sockaddr_in6()?);
    Some(format!("{}/{}", address.ip(), u128::from(mask.ip()).count_ones()))
}

/// A line of `/proc/net/route`: addresses are native words in hex.
fn route(line: &str) -> Option<Route> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let address = |index: usize| {
        let word = u32::from_str_radix(fields.get(index)?, 16).ok()?;
        Some(Ipv4Addr::from(word.to_ne_bytes()))
    };
    let gateway = address(2)?;
    Some(Route {
        link: (*fields.first()?).to_owned(),
        to: format!("{}/{}", address(1)?, u32::from(address(7)?).count_ones()),
        via: (!gateway.is_unspecified()).then(|| gateway.to_string()),
        metric: fields.get(6)?.parse().ok()?,
    })
}

/// Attached loop devices, with their backing files.
pub fn loops() -> BTreeMap<String, Loop> {
    names("/sys/block")
        .into_iter()
        .filter_map(|name| {
            let file = |file: &str| read(format!("/sys/block/{name}/{file}")).trim().to_owned();
            let backing = fs::read(format!("/sys/block/{name}/loop/backing_file")).ok()?;
            let about = Loop {
                file: lossy(&backing).trim_end_matches('\n').to_owned(),
                size: file("size").parse::<u64>().ok()? * 512,
                read_only: file("ro") == "1",
                autoclear: file("loop/autoclear") == "1",
            };
            Some((name, about))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_mountinfo_line_whole() {
        let line = r"36 35 98:0 /a\040b /mnt/c rw,noatime shared:1 master:2 - ext3 /dev/root rw,errors=continue";
        let words = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        assert_eq!(
            mount(line),
            Some(Mount {
                point: "/mnt/c".into(),
                kind: "ext3".into(),
                source: "/dev/root".into(),
                root: "/a b".into(),
                options: words(&["rw", "noatime"]),
                super_options: words(&["rw", "errors=continue"]),
                propagation: words(&["shared:1", "master:2"]),
            })
        );
    }

    #[test]
    fn reads_routes_in_the_machine_s_byte_order() {
        let word = |a, b, c, d| format!("{:08X}", u32::from_ne_bytes([a, b, c, d]));
        let (zero, gateway) = (word(0, 0, 0, 0), word(10, 77, 0, 1));
        let line = format!("eth0\t{zero}\t{gateway}\t0003\t0\t0\t5\t{zero}\t0\t0\t0");
        let expected = Route { link: "eth0".into(), to: "0.0.0.0/0".into(), via: Some("10.77.0.1".into()), metric: 5 };
        assert_eq!(route(&line), Some(expected));
    }

    #[test]
    fn world_of_this_process_survives_json() {
        let world = World::collect(&Inherited::take());
        assert_eq!(world.pid, std::process::id());
        assert_eq!(world.links.get("lo").map(|link| link.mac.as_str()), Some("00:00:00:00:00:00"));
        assert!(world.processes.iter().any(|process| process.pid == world.pid && process.args == world.args));
        assert!(world.memory.get("MemTotal").is_some_and(|&bytes| bytes > 1 << 20));
        let json = serde_json::to_string(&world).unwrap();
        assert_eq!(serde_json::from_str::<World>(&json).unwrap(), world);
    }
}
