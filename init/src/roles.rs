//! What the one binary can be. Each worker gives up its privileges before its first message.

use crate::access::Access;
use crate::contract::fd;
use crate::journal::Journal;
use crate::machine::{Machine, read_settings};
use crate::modules::{self, Policy};
use crate::sys::channel::Channel;
use crate::sys::sandbox::{self, Privileges};
use crate::sys::{inherited, machine as kernel};
use crate::{aftermath, boot, early, fetch, net, store};
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// PID 1. Never returns.
pub fn pid_1(arguments: Vec<OsString>) -> ExitCode {
    aftermath::guard();
    // Before the mounts there is no /dev/kmsg and no command line: a failure here has only the console.
    let mounted = early::mount_all();
    let journal = Journal::install();
    let woken = mounted.and_then(|()| Machine::wake(arguments, journal));
    let mut machine = match woken {
        Ok(machine) => machine,
        Err(failure) => {
            log::error!("{failure}");
            aftermath::end(Duration::from_secs(60), kernel::End::Reboot)
        }
    };
    for attempt in 0.. {
        match boot::boot(&mut machine) {
            Ok(never) => match never {},
            Err(failure) => aftermath::follow(&mut machine, &failure, attempt),
        }
    }
    ExitCode::FAILURE
}

/// The net worker.
pub fn net() -> ExitCode {
    worker(Privileges::Network, || Ok(net::main(Channel::from_fd(inherited::take(fd::CHANNEL)?))))
}

/// The store.
pub fn store() -> ExitCode {
    // Asked before the sandbox closes.
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    worker(Privileges::Nothing, || {
        let channel = Channel::from_fd(inherited::take(fd::CHANNEL)?);
        Ok(store::main(channel, inherited::take(fd::IMAGE)?, inherited::take(fd::RING)?, processors))
    })
}

/// The fetch worker. What it shows to servers and trusts of them is read before the sandbox closes.
pub fn fetch() -> ExitCode {
    let access = Access::packed(Path::new("/"), &read_settings().0);
    worker(Privileges::Client, || {
        let channel = Channel::from_fd(inherited::take(fd::STORE_CHANNEL)?);
        let ring: OwnedFd = inherited::take(fd::RING)?;
        Ok(fetch::main(channel, ring, access))
    })
}

/// `/sbin/modprobe`, as the kernel calls it.
pub fn modprobe(arguments: &[OsString]) -> ExitCode {
    let (settings, _) = read_settings();
    let policy = Policy::new(&settings.blacklist, &settings.module_parameters);
    ExitCode::from(modules::request(arguments, &kernel::kernel().release, policy))
}

/// A worker that cannot give up its privileges, or does not have its descriptors, does nothing at all.
fn worker(keep: Privileges, work: impl FnOnce() -> io::Result<i32>) -> ExitCode {
    Journal::install_in_worker();
    let done = sandbox::enter(keep).and_then(|()| work());
    match done {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(1)),
        Err(e) => {
            log::error!("a worker cannot start: {e}");
            ExitCode::FAILURE
        }
    }
}
