//! The attempts: system calls as the kernel takes them, since a library might refuse first.

use libc::c_long;
use rootbeam_init::sys::sandbox::{KEEPER, Privileges};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

/// What an intruder finds open: more than a worker ever has.
pub struct Means {
    bystander: i32,
    pidfd: RawFd,
    program: RawFd,
    socket: RawFd,
}

impl Means {
    pub fn gather(bystander: i32) -> Self {
        let pidfd = call(libc::SYS_pidfd_open, [bystander.into(), 0, 0, 0, 0, 0]).unwrap();
        let program = std::fs::File::open("/proc/self/exe").unwrap();
        let (socket, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let means = Self {
            bystander,
            pidfd: pidfd as RawFd,
            program: OwnedFd::from(program).into_raw_fd_forever(),
            socket: OwnedFd::from(socket).into_raw_fd_forever(),
        };
        std::mem::forget(other);
        means
    }
}

trait Forever {
    fn into_raw_fd_forever(self) -> RawFd;
}

impl Forever for OwnedFd {
    fn into_raw_fd_forever(self) -> RawFd {
        let number = self.as_raw_fd();
        std::mem::forget(self);
        number
    }
}

fn call(number: c_long, arguments: [c_long; 6]) -> io::Result<c_long> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: each call below gets numbers and pointers to what lives until it returns, of the shape that it takes.
    let got = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if got == -1 { Err(io::Error::last_os_error()) } else { Ok(got) }
}

/// Soft and hard limits of this process, all of them.
pub fn own_limits() -> Vec<(u64, u64)> {
    (0..16)
        .map(|resource| {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: writes one struct of this type.
            assert_eq!(unsafe { libc::getrlimit(resource, &raw mut limit) }, 0);
            (limit.rlim_cur, limit.rlim_max)
        })
        .collect()
}

/// Tries everything; a line for each attempt that was not refused as it should.
pub fn all(keep: Privileges, means: &Means, files: &[PathBuf]) -> Vec<String> {
    let mut got = Vec::new();
    let mut refused = |name: &str, number: c_long, arguments: [c_long; 6], errno: i32| {
        let answer = call(number, arguments);
        if answer.as_ref().err().and_then(io::Error::raw_os_error) != Some(errno) {
            got.push(format!("{name}: {answer:?}"));
        }
    };
    ids(&mut refused);
    others(&mut refused, means, keep);
    namespaces(&mut refused, means, keep);
    system(&mut refused, means, keep);
    if keep == Privileges::Nothing {
        nothing(&mut refused);
    } else {
        paths(&mut refused);
        got.extend(beyond(files));
    }
    got.extend(changed(keep));
    got
}

type Refused<'a> = dyn FnMut(&str, c_long, [c_long; 6], i32) + 'a;

const SAME: c_long = -1;

fn address<T: ?Sized>(of: &T) -> c_long {
    std::ptr::from_ref(of).cast::<u8>() as c_long
}

fn ids(refused: &mut Refused) {
    let mut denied =
        |name: &str, number, [a, b, c]: [c_long; 3]| refused(name, number, [a, b, c, 0, 0, 0], libc::EPERM);
    denied("setuid", libc::SYS_setuid, [0; 3]);
    denied("setgid", libc::SYS_setgid, [0; 3]);
    denied("setreuid", libc::SYS_setreuid, [SAME, 0, 0]);
    denied("setregid", libc::SYS_setregid, [SAME, 0, 0]);
    denied("setresuid of all", libc::SYS_setresuid, [0; 3]);
    denied("setresuid of the effective one", libc::SYS_setresuid, [SAME, 0, SAME]);
    denied("setresuid of the saved one", libc::SYS_setresuid, [SAME, SAME, 0]);
    denied("setresgid", libc::SYS_setresgid, [0; 3]);
    denied("setfsuid", libc::SYS_setfsuid, [0; 3]);
    denied("setfsgid", libc::SYS_setfsgid, [0; 3]);
    denied("setgroups", libc::SYS_setgroups, [1, address(&[0_u32]), 0]);
    // The same where the kernel was built with x32; elsewhere there is no such number.
    #[cfg(target_arch = "x86_64")]
    denied("setresuid of x32", 0x4000_0000 | libc::SYS_setresuid, [0; 3]);
    // _LINUX_CAPABILITY_VERSION_3; effective, permitted, inheritable, twice.
    let header = [0x2008_0522_u32, 0];
    let every = [u32::MAX; 6];
    let admin = [1_u32 << 21, 1 << 21, 0, 0, 0, 0];
    denied("capset of all", libc::SYS_capset, [address(&header), address(&every), 0]);
    denied("capset of CAP_SYS_ADMIN", libc::SYS_capset, [address(&header), address(&admin), 0]);
    let raise = [libc::PR_CAP_AMBIENT.into(), libc::PR_CAP_AMBIENT_RAISE.into(), 21];
    denied("an ambient capability", libc::SYS_prctl, raise);
    denied("securebits", libc::SYS_prctl, [libc::PR_SET_SECUREBITS.into(), 0x2f, 0]);
}

/// Processes of user 0: with that as the real id the kernel lets a good deal pass.
fn others(refused: &mut Refused, means: &Means, keep: Privileges) {
    let victim = c_long::from(means.bystander);
    let kill = c_long::from(libc::SIGKILL);
    let socket = c_long::from(means.socket);
    let mut denied = |name: &str, number, arguments| refused(name, number, arguments, libc::EPERM);
    denied("ptrace of another", libc::SYS_ptrace, [libc::PTRACE_SEIZE.into(), victim, 0, 0, 0, 0]);
    denied("ptrace of itself", libc::SYS_ptrace, [libc::PTRACE_TRACEME.into(), 0, 0, 0, 0, 0]);
    denied("process_vm_readv", libc::SYS_process_vm_readv, [victim, 0, 0, 0, 0, 0]);
    denied("process_vm_writev", libc::SYS_process_vm_writev, [victim, 0, 0, 0, 0, 0]);
    denied("pidfd_getfd", libc::SYS_pidfd_getfd, [means.pidfd.into(), 0, 0, 0, 0, 0]);
    denied("kill", libc::SYS_kill, [victim, kill, 0, 0, 0, 0]);
    denied("tkill", libc::SYS_tkill, [victim, kill, 0, 0, 0, 0]);
    denied("tgkill", libc::SYS_tgkill, [victim, victim, kill, 0, 0, 0]);
    let info = [0_u64; 16];
    denied("rt_sigqueueinfo", libc::SYS_rt_sigqueueinfo, [victim, kill, address(&info), 0, 0, 0]);
    denied("rt_tgsigqueueinfo", libc::SYS_rt_tgsigqueueinfo, [victim, victim, kill, address(&info), 0, 0]);
    if keep != Privileges::Keeper {
        denied("pidfd_send_signal", libc::SYS_pidfd_send_signal, [means.pidfd.into(), kill, 0, 0, 0, 0]);
    }
    denied("fcntl F_SETSIG", libc::SYS_fcntl, [socket, 10, kill, 0, 0, 0]);
    denied("fcntl F_SETOWN", libc::SYS_fcntl, [socket, 8, victim, 0, 0, 0]);
    let owner = [1_i32, means.bystander];
    denied("fcntl F_SETOWN_EX", libc::SYS_fcntl, [socket, 15, address(&owner), 0, 0, 0]);
    denied("ioctl FIOSETOWN", libc::SYS_ioctl, [socket, 0x8901, address(&means.bystander), 0, 0, 0]);
    denied("ioctl SIOCSPGRP", libc::SYS_ioctl, [socket, 0x8902, address(&means.bystander), 0, 0, 0]);
    let none = [0_u64, 0];
    let files = libc::RLIMIT_NOFILE.into();
    denied("prlimit of another", libc::SYS_prlimit64, [victim, files, address(&none), 0, 0, 0]);
    // IOPRIO_WHO_PROCESS, IOPRIO_CLASS_IDLE.
    denied("ioprio_set of another", libc::SYS_ioprio_set, [1, victim, 3 << 13, 0, 0, 0]);
}

fn namespaces(refused: &mut Refused, means: &Means, keep: Privileges) {
    let mut denied = |name: &str, number, arguments| refused(name, number, arguments, libc::EPERM);
    let flags = [
        ("user", libc::CLONE_NEWUSER),
        ("mount", libc::CLONE_NEWNS),
        ("process", libc::CLONE_NEWPID),
        ("network", libc::CLONE_NEWNET),
        ("IPC", libc::CLONE_NEWIPC),
        ("host name", libc::CLONE_NEWUTS),
        ("cgroup", libc::CLONE_NEWCGROUP),
    ];
    for (name, flag) in flags {
        denied(&format!("unshare, {name}"), libc::SYS_unshare, [flag.into(), 0, 0, 0, 0, 0]);
        denied(&format!("setns, {name}"), libc::SYS_setns, [means.pidfd.into(), flag.into(), 0, 0, 0, 0]);
        // CLONE_SIGHAND alone is never valid: without a filter it is EINVAL, and no child.
        let with = libc::CLONE_SIGHAND | flag;
        denied(&format!("clone, {name}"), libc::SYS_clone, [with.into(), 0, 0, 0, 0, 0]);
    }
    let (root, tmpfs) = (c"/", c"tmpfs");
    let (root, tmpfs) = (root.as_ptr() as c_long, tmpfs.as_ptr() as c_long);
    denied("mount", libc::SYS_mount, [tmpfs, root, tmpfs, 0, 0, 0]);
    denied("umount2", libc::SYS_umount2, [root, libc::MNT_DETACH.into(), 0, 0, 0, 0]);
    denied("pivot_root", libc::SYS_pivot_root, [root, root, 0, 0, 0, 0]);
    denied("chroot", libc::SYS_chroot, [root, 0, 0, 0, 0, 0]);
    denied("fsopen", libc::SYS_fsopen, [tmpfs, 0, 0, 0, 0, 0]);
    denied("move_mount", libc::SYS_move_mount, [-1, root, -1, root, 0, 0]);
    if keep != Privileges::Nothing {
        let apart = (libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC).into();
        denied("open_tree", libc::SYS_open_tree, [libc::AT_FDCWD.into(), root, apart, 0, 0, 0]);
    }
    refused("clone3", libc::SYS_clone3, [0; 6], libc::ENOSYS);
}

fn system(refused: &mut Refused, means: &Means, keep: Privileges) {
    let mut denied = |name: &str, number, arguments| refused(name, number, arguments, libc::EPERM);
    let (empty, shell) = (c"".as_ptr() as c_long, c"/bin/sh".as_ptr() as c_long);
    let nobody = [0_usize];
    let no = address(&nobody);
    denied("execve", libc::SYS_execve, [shell, no, no, 0, 0, 0]);
    if keep != Privileges::Keeper {
        let whole = libc::AT_EMPTY_PATH.into();
        denied("execveat", libc::SYS_execveat, [means.program.into(), empty, no, no, whole, 0]);
    }
    // Magic numbers that are none: it does nothing even where it may.
    denied("reboot", libc::SYS_reboot, [0; 6]);
    let calls = [
        ("init_module", libc::SYS_init_module),
        ("delete_module", libc::SYS_delete_module),
        ("kexec_load", libc::SYS_kexec_load),
        ("swapon", libc::SYS_swapon),
        ("bpf", libc::SYS_bpf),
        ("perf_event_open", libc::SYS_perf_event_open),
        ("add_key", libc::SYS_add_key),
        ("keyctl", libc::SYS_keyctl),
        ("request_key", libc::SYS_request_key),
        ("userfaultfd", libc::SYS_userfaultfd),
        ("io_uring_setup", libc::SYS_io_uring_setup),
        ("io_uring_enter", libc::SYS_io_uring_enter),
    ];
    calls.into_iter().for_each(|(name, number)| denied(name, number, [0; 6]));
    denied("finit_module", libc::SYS_finit_module, [means.program.into(), empty, 0, 0, 0, 0]);
    denied("open_by_handle_at", libc::SYS_open_by_handle_at, [means.program.into(), empty, 0, 0, 0, 0]);
}

/// The store: not even a file, a socket, or a child.
fn nothing(refused: &mut Refused) {
    let mut denied = |name: &str, number, arguments| refused(name, number, arguments, libc::EPERM);
    let root = c"/".as_ptr() as c_long;
    denied("openat", libc::SYS_openat, [libc::AT_FDCWD.into(), root, 0, 0, 0, 0]);
    let how = [0_u64; 3];
    denied("openat2", libc::SYS_openat2, [libc::AT_FDCWD.into(), root, address(&how), 24, 0, 0]);
    for (name, family) in [("unix", libc::AF_UNIX), ("inet", libc::AF_INET), ("netlink", libc::AF_NETLINK)] {
        denied(&format!("socket, {name}"), libc::SYS_socket, [family.into(), libc::SOCK_DGRAM.into(), 0, 0, 0, 0]);
    }
    // A process of its own; see above.
    denied("clone", libc::SYS_clone, [libc::CLONE_SIGHAND.into(), 0, 0, 0, 0, 0]);
    #[cfg(target_arch = "x86_64")]
    {
        denied("open", libc::SYS_open, [root, 0, 0, 0, 0, 0]);
        denied("creat", libc::SYS_creat, [c"/new".as_ptr() as c_long, 0, 0, 0, 0, 0]);
    }
}

/// The others: files of the machine are not there.
fn paths(refused: &mut Refused) {
    let gone = [c"/etc/shadow", c"/bin/sh", c"/proc/1/mem", c"/proc/self/root", c"/sys", c"/dev/kmsg", c"/run"];
    let above = [c"../etc/shadow", c"../../../../etc/shadow", c"/../etc/shadow"];
    for path in gone.into_iter().chain(above) {
        let name = format!("open of {path:?}");
        refused(&name, libc::SYS_openat, [libc::AT_FDCWD.into(), path.as_ptr() as c_long, 0, 0, 0, 0], libc::ENOENT);
    }
    let flags = (libc::O_CREAT | libc::O_WRONLY).into();
    let new = c"/new".as_ptr() as c_long;
    refused("a new file", libc::SYS_openat, [libc::AT_FDCWD.into(), new, flags, 0o600, 0, 0], libc::EROFS);
}

/// What is in the root beyond `files` and their folders.
fn beyond(files: &[PathBuf]) -> Vec<String> {
    let mut left = vec![PathBuf::from("/")];
    let mut found = Vec::new();
    while let Some(folder) = left.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { left.push(path) } else { found.push(path) }
        }
    }
    let expected: Vec<_> = files.iter().map(|path| PathBuf::from("/").join(path)).collect();
    if found == expected { Vec::new() } else { vec![format!("its root has {found:?}")] }
}

/// Whether anything of its own is other than it should be, after all of that.
fn changed(keep: Privileges) -> Vec<String> {
    let id = if keep == Privileges::Keeper { KEEPER } else { 65534 };
    let (mut users, mut groups) = ([0_u32; 3], [0_u32; 3]);
    let [a, b, c] = &mut users;
    // SAFETY: each writes three numbers.
    assert_eq!(unsafe { libc::getresuid(a, b, c) }, 0);
    let [a, b, c] = &mut groups;
    // SAFETY: as before.
    assert_eq!(unsafe { libc::getresgid(a, b, c) }, 0);
    let (header, mut sets) = ([0x2008_0522_u32, 0], [0_u32; 6]);
    call(libc::SYS_capget, [address(&header), sets.as_mut_ptr() as c_long, 0, 0, 0, 0]).unwrap();
    let bounding: u64 = (0..64)
        .filter(|number| {
            call(libc::SYS_prctl, [libc::PR_CAPBSET_READ.into(), *number, 0, 0, 0, 0]).is_ok_and(|got| got == 1)
        })
        .map(|number| 1 << number)
        .sum();
    let new = call(libc::SYS_prctl, [libc::PR_GET_NO_NEW_PRIVS.into(), 0, 0, 0, 0, 0]).unwrap();
    // CAP_NET_BIND_SERVICE, CAP_NET_ADMIN and CAP_NET_RAW are bits 10, 12 and 13.
    let kept = if keep == Privileges::Network { 0x3400 } else { 0 };
    let found = (users, groups, sets, bounding, new);
    let expected = ([0, id, id], [id; 3], [kept, kept, 0, 0, 0, 0], u64::from(kept), 1);
    if found == expected { Vec::new() } else { vec![format!("ids, capabilities, no_new_privs: {found:?}")] }
}
