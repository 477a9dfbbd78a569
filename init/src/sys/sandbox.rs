//! What a worker gives up before it meets the network.

use super::outlive::{self, RootFile};
use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};
#[cfg(target_arch = "x86_64")]
use seccompiler::sock_filter;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;
use std::io;

/// What a worker keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privileges {
    /// The network's administration (net).
    Network,
    /// A network, nothing else (fetch).
    Client,
    /// No network, no files, nothing but the descriptors it has (store).
    Nothing,
    /// Starting fetch workers, and writing in a folder of its own (keeper).
    Keeper,
}

/// How long a worker lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tenure {
    /// At most until the hand-over.
    Boot,
    /// Beside the booted system. It has a root of its own with these files alone, and keeps user 0 as its real one, which
    /// gives it nothing but that systemd's killing spree spares it (its name begins with `@`).
    Beyond(Vec<RootFile>),
}

/// The id that owns nothing.
const NOBODY: u32 = 65534;
/// The keeper's own id, which is nobody else's: neither nobody's nor one of a range that anything gives out.
pub const KEEPER: u32 = 65533;

/// Gives up everything but `keep`, for good: user and group, capabilities, the bounding set, new privileges by exec, and
/// the system calls below. The process must be single-threaded: most of it is per thread.
pub fn enter(keep: Privileges, tenure: &Tenure) -> io::Result<()> {
    let id = if keep == Privileges::Keeper { KEEPER } else { NOBODY };
    if let Tenure::Beyond(_) = tenure {
        outlive::hold_memory();
        if keep == Privileges::Client {
            outlive::come_second();
        }
    }
    // What the keeper starts has given up all of that with it, and is in its root.
    if rustix::process::geteuid() == Uid::ROOT {
        if let Tenure::Beyond(files) = tenure {
            outlive::seclude(files, id)?;
        }
        give_up(keep, tenure, id)?;
    }
    for filter in filters(keep).map_err(io::Error::other)? {
        seccompiler::apply_filter(&filter).map_err(io::Error::other)?;
    }
    Ok(())
}

fn give_up(keep: Privileges, tenure: &Tenure, id: u32) -> io::Result<()> {
    if keep == Privileges::Nothing {
        // SAFETY: NEWNET touches no memory and no descriptor table; the process is single-threaded.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWIPC) }?;
    }
    let kept = match keep {
        Privileges::Network => CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW | CapabilitySet::NET_BIND_SERVICE,
        Privileges::Client | Privileges::Nothing | Privileges::Keeper => CapabilitySet::empty(),
    };
    for capability in CapabilitySet::all().difference(kept).iter() {
        // EINVAL: a capability that this kernel does not have.
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
    // Without it, leaving user 0 would empty the permitted set (capabilities(7)).
    rustix::thread::set_keep_capabilities(!kept.is_empty())?;
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    let real = if *tenure == Tenure::Boot { uid } else { Uid::ROOT };
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(real, uid, uid)?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)?;
    Ok(rustix::thread::set_no_new_privs(true)?)
}

/// In a child of the keeper that will be another program: user 0 is not the real one any more either. Before Linux 6.16 an
/// effective id that is not the real one counts as that of a set-user-ID program, and under no_new_privs execve(2) sets
/// it to the real one (security/commoncap.c): what the keeper starts would be user 0.
pub fn leave_root() -> io::Result<()> {
    let id = Uid::from_raw(KEEPER);
    match rustix::process::geteuid() {
        own if own == id => Ok(rustix::thread::set_thread_res_uid(id, id, id)?),
        _ => Ok(()),
    }
}

/// Calls that no worker has any business with; they answer EPERM. With user 0 as the real one the ids could be had back,
/// and the system's processes be ended.
const NEVER: [i64; 41] = [
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_execve,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_pidfd_getfd,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_fsopen,
    libc::SYS_move_mount,
    libc::SYS_userfaultfd,
    // The kernel starts a program of the system's for it, as its root.
    libc::SYS_request_key,
    // What it is asked to open, to connect and to send passes no filter.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
];

/// What the keeper alone does: it starts fetch workers from a program that is open, and ends them.
const KEEPERS: [i64; 2] = [libc::SYS_execveat, libc::SYS_pidfd_send_signal];

/// What the store, which talks through the descriptors it has, does without as well. It has threads, but no children.
const NO_FILES_NO_SOCKETS: [i64; 5] =
    [libc::SYS_openat, libc::SYS_openat2, libc::SYS_socket, libc::SYS_connect, libc::SYS_bind];

/// The older forms of these calls that x86-64 still has.
#[cfg(target_arch = "x86_64")]
const OLDER: [i64; 4] = [libc::SYS_open, libc::SYS_creat, libc::SYS_fork, libc::SYS_vfork];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: [i64; 0] = [];

/// The filters, each of which has the last word on what it names.
fn filters(keep: Privileges) -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
    let mut denied: Rules = NEVER.iter().map(|call| (*call, Vec::new())).collect();
    let mut filters = vec![filter([(libc::SYS_clone3, Vec::new())].into(), libc::ENOSYS)?];
    #[cfg(target_arch = "x86_64")]
    filters.push(no_other_numbers());
    denied.insert(libc::SYS_clone, each(NAMESPACES, |flag| masked(0, flag as u64, flag as u64))?);
    // To signal user 0's processes the kernel asks for no more than user 0 as the real id. Own threads may be: abort(3).
    let own = u64::from(rustix::process::getpid().as_raw_nonzero().get().cast_unsigned());
    denied.insert(libc::SYS_tgkill, vec![rule(0, SeccompCmpOp::Ne, own)?]);
    denied.insert(libc::SYS_fcntl, each([F_SETOWN, F_SETSIG, F_SETOWN_EX], |command| is(1, command))?);
    denied.insert(libc::SYS_ioctl, each([FIOSETOWN, SIOCSPGRP], |request| is(1, request))?);
    if keep == Privileges::Keeper {
        denied.insert(libc::SYS_setresuid, other_ids()?);
    } else {
        denied.extend(KEEPERS.iter().map(|call| (*call, Vec::new())));
    }
    if keep == Privileges::Nothing {
        denied.extend(NO_FILES_NO_SOCKETS.iter().chain(&OLDER).map(|call| (*call, Vec::new())));
        denied.entry(libc::SYS_clone).or_default().push(masked(0, libc::CLONE_THREAD as u64, 0)?);
    }
    filters.push(filter(denied, libc::EPERM)?);
    Ok(filters)
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;
type Rule = Result<SeccompRule, seccompiler::BackendError>;

/// A rule for each of `values`.
fn each<T, const N: usize>(
    values: [T; N],
    rule: impl Fn(T) -> Rule,
) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    values.into_iter().map(rule).collect()
}

/// The argument's lower half compares so: what the kernel takes an `int` from.
fn rule(argument: u8, compares: SeccompCmpOp, value: u64) -> Rule {
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compares, value)?])
}

fn is(argument: u8, value: u64) -> Rule {
    rule(argument, SeccompCmpOp::Eq, value)
}

/// The argument has `value` in these bits.
fn masked(argument: u8, bits: u64, value: u64) -> Rule {
    let compares = SeccompCmpOp::MaskedEq(bits);
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Qword, compares, value)?])
}

/// setresuid(2) of any id that is not the keeper's own.
fn other_ids() -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    each([0, 1, 2], |argument| rule(argument, SeccompCmpOp::Ne, KEEPER.into()))
}

/// Flags of clone(2) that make a namespace: in one of users everybody has every capability. A filter cannot look into the
/// structure that clone3 takes; told that there is none, the C library uses clone.
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// Requests of fcntl(2) and ioctl(2) to have a signal, any one, sent to a process (asm-generic/fcntl.h, sockios.h): the
/// real id of who asks for it is what the kernel looks at.
const F_SETOWN: u64 = 8;
const F_SETSIG: u64 = 10;
const F_SETOWN_EX: u64 = 15;
const FIOSETOWN: u64 = 0x8901;
const SIOCSPGRP: u64 = 0x8902;

/// The same calls have other numbers too, where the kernel was built with x32 (asm/unistd.h): those are none of a
/// worker's.
#[cfg(target_arch = "x86_64")]
fn no_other_numbers() -> BpfProgram {
    const X32_SYSCALL_BIT: u32 = 0x4000_0000;
    let step = |code: u32, jt, k| sock_filter { code: code as u16, jt, jf: 0, k };
    vec![
        // The number is the first field of struct seccomp_data.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 1, X32_SYSCALL_BIT),
        step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
        step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
    ]
}

fn filter(rules: Rules, errno: i32) -> Result<BpfProgram, seccompiler::BackendError> {
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32), arch)?.try_into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_filter_compiles() {
        for keep in [Privileges::Network, Privileges::Client, Privileges::Nothing, Privileges::Keeper] {
            assert!(filters(keep).unwrap().iter().all(|filter| !filter.is_empty()));
        }
    }
}
