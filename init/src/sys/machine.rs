//! The machine as a whole: kernel release, clock, memory, name, and its end.

use std::io;
use std::time::Duration;

/// Release and machine of the running kernel (uname(2)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// As in `uname -r`.
    pub release: String,
    /// As in `uname -m`.
    pub machine: String,
}

/// The running kernel.
pub fn kernel() -> Kernel {
    let name = rustix::system::uname();
    Kernel {
        release: name.release().to_string_lossy().into_owned(),
        machine: name.machine().to_string_lossy().into_owned(),
    }
}

/// Time since the kernel started.
pub fn uptime() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// The wall clock in seconds since 1970; 0 before that.
pub fn wall_clock() -> u64 {
    u64::try_from(rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec).unwrap_or(0)
}

/// Raises the wall clock to `seconds` since 1970 where it is behind; returns whether it did.
pub fn raise_clock(seconds: u64) -> io::Result<bool> {
    use rustix::time::{ClockId, Timespec};
    let floor = i64::try_from(seconds).map_err(|_| io::ErrorKind::InvalidInput)?;
    if rustix::time::clock_gettime(ClockId::Realtime).tv_sec >= floor {
        return Ok(false);
    }
    rustix::time::clock_settime(ClockId::Realtime, Timespec { tv_sec: floor, tv_nsec: 0 })?;
    Ok(true)
}

/// Sets the kernel's host name.
pub fn set_hostname(name: &str) -> io::Result<()> {
    Ok(rustix::system::sethostname(name.as_bytes())?)
}

/// Sets the file mode mask.
pub fn set_umask(mask: u32) {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask));
}

/// What restarts the machine without any privilege, once it is open: the kernel checks who opens its trigger, not who
/// writes (Documentation/admin-guide/sysrq.rst).
#[derive(Debug)]
pub struct Restart(std::os::fd::OwnedFd);

impl Restart {
    /// Opens it, which root may.
    pub fn open() -> io::Result<Self> {
        Ok(Self(std::fs::OpenOptions::new().write(true).open("/proc/sysrq-trigger")?.into()))
    }

    /// One that is open.
    pub fn from_fd(trigger: std::os::fd::OwnedFd) -> Self {
        Self(trigger)
    }

    /// Restarts the machine at once, without unmounting anything: its disks are memory.
    pub fn now(&self) -> io::Result<()> {
        rustix::io::write(&self.0, b"b").map(drop).map_err(Into::into)
    }
}

impl std::os::fd::AsFd for Restart {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// How a machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Start again.
    Reboot,
    /// Switch off.
    Poweroff,
    /// Stop, keep the power.
    Halt,
}

/// Ends the machine (reboot(2)); in a process id namespace, that namespace. Returns only where the kernel refuses.
pub fn end(how: End) -> io::Error {
    use rustix::system::RebootCommand;
    let command = match how {
        End::Reboot => RebootCommand::Restart,
        End::Poweroff => RebootCommand::PowerOff,
        End::Halt => RebootCommand::Halt,
    };
    match rustix::system::reboot(command) {
        Ok(()) => io::ErrorKind::Unsupported.into(),
        Err(errno) => errno.into(),
    }
}

/// Fills `bytes` with random ones; leaves them where the kernel has none yet, rather than wait.
pub fn random(bytes: &mut [u8]) {
    let _ = rustix::rand::getrandom(bytes, rustix::rand::GetRandomFlags::NONBLOCK);
}
