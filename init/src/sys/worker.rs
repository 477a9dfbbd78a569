//! Starting workers: this binary again under another `argv[0]`, with the descriptors of `contract::fd`.

use rustix::io::{Errno, FdFlags};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    pid: Pid,
    handle: OwnedFd,
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
const HIGH: RawFd = 32;

/// Starts `role` with each `(descriptor, number)` open at that number, descriptors 0 to 2 as they are here and an
/// empty environment (a proxy named on the kernel command line must not reach the fetch worker by accident).
pub fn start(role: &str, descriptors: &[(BorrowedFd<'_>, RawFd)]) -> io::Result<Worker> {
    // Out of the way of the numbers to come: dup2 onto one that is still a source would lose it.
    let mut sources = Vec::new();
    for (descriptor, number) in descriptors {
        sources.push((rustix::io::fcntl_dupfd_cloexec(descriptor, HIGH)?, *number));
    }
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg0(role).env_clear().current_dir("/");
    let place = move || {
        for (source, number) in &sources {
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
    };
    // SAFETY: `place` only makes system calls that are async-signal-safe; it neither allocates nor locks.
    unsafe { command.pre_exec(place) };
    let child = command.spawn()?;
    let pid = Pid::from_child(&child);
    Ok(Worker { pid, handle: rustix::process::pidfd_open(pid, PidfdFlags::empty())? })
}

impl Worker {
    /// Reaps the worker if it has ended.
    pub fn ended(&self) -> io::Result<Option<Exit>> {
        let answer = match rustix::process::waitpid(Some(self.pid), WaitOptions::NOHANG) {
            Ok(answer) => answer,
            // Reaped by somebody else: it is gone all the same.
            Err(Errno::CHILD) => return Ok(Some(Exit::Status(0))),
            Err(errno) => return Err(errno.into()),
        };
        Ok(answer.map(|(_, status)| match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Exit::Status(code),
            (None, signal) => Exit::Signal(signal.unwrap_or(0)),
        }))
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
