//! Starting workers: this binary again under another `argv[0]`, with the descriptors of `contract::fd`.

use super::channel::wait;
use super::sandbox;
use nix::fcntl::AtFlags;
use nix::unistd::{ForkResult, execveat};
use rustix::io::{Errno, FdFlags};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};

/// A running worker: a pidfd, so that no other process can ever be meant.
#[derive(Debug)]
pub struct Worker {
    handle: OwnedFd,
    pid: Option<Pid>,
}

/// What is started.
#[derive(Debug)]
pub enum Program {
    /// The program that runs.
    Own,
    /// One that is open, wherever it lies, and even where no path leads to it any more.
    Open(OwnedFd),
}

impl Program {
    /// The same once more.
    pub fn another(&self) -> io::Result<Self> {
        match self {
            Self::Own => Ok(Self::Own),
            Self::Open(file) => Ok(Self::Open(file.try_clone()?)),
        }
    }
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(f, "ended with status {status}"),
            Self::Signal(signal) => write!(f, "was ended by signal {signal}"),
        }
    }
}

/// Descriptor numbers from here on are used while a child is being prepared.
const HIGH: RawFd = 64;

/// The only word of a worker's environment: glibc is not to copy by `rep movsb` (glibc manual, Hardware Capability
/// Tunables), which an emulated processor does byte by byte. There an image of 100 MB comes in 9 % less time; on a real
/// processor no difference was seen.
const TUNABLES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.cpu.x86_rep_movsb_threshold=1073741824");

/// Starts `role` with each `(descriptor, number)` open at that number, descriptors 0 to 2 as they are here and no word
/// of this process's environment (a proxy named on the kernel command line must not reach the fetch worker by accident).
/// The calling process is single-threaded.
pub fn start(program: &Program, role: &str, descriptors: &[(BorrowedFd<'_>, RawFd)]) -> io::Result<Worker> {
    // Out of the way of the numbers to come: dup2 onto one that is still a source would lose it.
    let mut sources = Vec::new();
    for (descriptor, number) in descriptors {
        sources.push((rustix::io::fcntl_dupfd_cloexec(descriptor, HIGH)?, *number));
    }
    let file = match program {
        Program::Own => return start_own(role, sources),
        Program::Open(file) => rustix::io::fcntl_dupfd_cloexec(file, HIGH)?,
    };
    let name = CString::new(role)?;
    let (tunable, value) = TUNABLES;
    let environment = CString::new(format!("{tunable}={value}"))?;
    let run = || {
        let placed = place(&sources).and_then(|()| sandbox::leave_root());
        // Returns only where it fails, and then the status is all that anybody learns.
        let _ = placed.is_ok().then(|| execveat(&file, c"", &[&name], &[&environment], AtFlags::AT_EMPTY_PATH));
        FAILED_START
    };
    fork(run)
}

/// The exit status of a child that did not become what it was to be, as a shell's.
const FAILED_START: i32 = 127;

/// Runs `work` in a child, a copy of this process, which must be single-threaded; the child ends with the status that
/// comes back.
pub fn fork(work: impl FnOnce() -> i32) -> io::Result<Worker> {
    // SAFETY: the process is single-threaded, so no lock is held by anybody who is missing in the child.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => {
            let status = work();
            // SAFETY: ends this process and nothing else; nothing of the parent's is flushed or run twice.
            unsafe { libc::_exit(status) }
        }
        ForkResult::Parent { child } => {
            let pid = Pid::from_raw(child.as_raw()).ok_or(io::ErrorKind::InvalidData)?;
            Worker::of(pid)
        }
    }
}

fn start_own(role: &str, sources: Vec<(OwnedFd, RawFd)>) -> io::Result<Worker> {
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg0(role).env_clear().envs([TUNABLES]).current_dir("/");
    // SAFETY: `place` only makes system calls that are async-signal-safe; it neither allocates nor locks.
    unsafe { command.pre_exec(move || place(&sources)) };
    let child = command.spawn()?;
    Worker::of(Pid::from_child(&child))
}

/// In the child: each source at its number, for the next program.
fn place(sources: &[(OwnedFd, RawFd)]) -> io::Result<()> {
    for (source, number) in sources {
        // SAFETY: the child owns its descriptor table; the number is either free or to be replaced. The value
        // is leaked on purpose, since the next program owns it.
        let mut target = unsafe { OwnedFd::from_raw_fd(*number) };
        let placed = rustix::io::dup2(source, &mut target);
        let cleared = rustix::io::fcntl_setfd(&target, FdFlags::empty());
        let _ = target.into_raw_fd();
        placed?;
        cleared?;
    }
    Ok(())
}

impl Worker {
    /// A child that was not reaped yet.
    fn of(pid: Pid) -> io::Result<Self> {
        Ok(Self { handle: rustix::process::pidfd_open(pid, PidfdFlags::empty())?, pid: Some(pid) })
    }

    /// One that another process has started.
    pub fn adopted(handle: OwnedFd) -> Self {
        Self { handle, pid: None }
    }

    /// Its number, for those who know processes by nothing better; none of one that was adopted.
    pub fn pid(&self) -> Option<i32> {
        self.pid.map(|pid| pid.as_raw_nonzero().get())
    }

    /// Reaps the worker if it has ended.
    pub fn ended(&self) -> io::Result<Option<Exit>> {
        match rustix::process::waitid(WaitId::PidFd(self.handle.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
        {
            Ok(None) => Ok(None),
            Ok(Some(end)) => Ok(Some(match end.exit_status() {
                Some(status) => Exit::Status(status),
                None => Exit::Signal(end.terminating_signal().unwrap_or(0)),
            })),
            // Somebody else's child, or reaped by somebody else: how it ended is not known, only whether.
            Err(Errno::CHILD) => {
                let gone = wait(&[self.handle.as_fd()], Duration::ZERO)?.contains(&true);
                Ok(gone.then_some(Exit::Status(0)))
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits for its end until `patience`, then kills it and waits one second more.
    pub fn await_end(&self, patience: Instant) -> io::Result<()> {
        for limit in [patience, Instant::now().max(patience) + Duration::from_secs(1)] {
            loop {
                if self.ended()?.is_some() {
                    return Ok(());
                }
                let left = limit.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                wait(&[self.as_fd()], left)?;
            }
            self.kill();
        }
        Ok(())
    }

    /// Ends the worker at once.
    pub fn kill(&self) {
        // ESRCH (gone already) is what was wanted.
        let _ = rustix::process::pidfd_send_signal(&self.handle, Signal::KILL);
    }
}

/// Readable when the worker has ended (pidfd_open(2)).
impl AsFd for Worker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// Whether a process of that number is there, whoever's it is (kill(2)).
pub fn is_there(number: i32) -> bool {
    let pid = Pid::from_raw(number).filter(|_| number > 0);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(Errno::SRCH))
}

/// Reaps every child that has ended and was nobody's worker: orphans are PID 1's.
pub fn reap_orphans() {
    while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
}

/// Runs the busybox at `path` as an interactive shell on the console, in a session of its own with the console as its
/// terminal (job control, Ctrl-C), until it ends.
pub fn shell(path: &std::path::Path) -> io::Result<()> {
    let mut command = std::process::Command::new(path);
    command.arg0("sh").env("PATH", "/bin:/sbin").env("HOME", "/");
    let own_session = || {
        rustix::process::setsid()?;
        // A console that is no terminal (a file, a pipe) cannot be one; the shell runs all the same.
        let _ = rustix::process::ioctl_tiocsctty(rustix::stdio::stdin());
        Ok(())
    };
    // SAFETY: two system calls, no allocation, no lock.
    unsafe { command.pre_exec(own_session) };
    command.status().map(drop)
}

/// Executes `program` in place of this process, descriptors other than 0 to 2 closed (they are all close-on-exec),
/// signal mask and SIGPIPE as the kernel starts a process with. Returns only where that fails.
pub fn exec(program: &std::path::Path, arguments: impl IntoIterator<Item = std::ffi::OsString>) -> io::Error {
    std::process::Command::new(program).arg0(program).args(arguments).exec()
}
