//! What the one binary can be. Each worker gives up its privileges before its first message.

use crate::access::Access;
use crate::contract::{self, fd};
use crate::journal::Journal;
use crate::machine::{Machine, read_settings};
use crate::modules::{self, Policy};
use crate::settings::values::Mode;
use crate::streaming::keeper;
use crate::sys::channel::Channel;
use crate::sys::outlive::{self, RootFile};
use crate::sys::sandbox::{self, Privileges, Tenure};
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
    worker(Privileges::Network, &tenure(), || Ok(net::main(Channel::from_fd(inherited::take(fd::CHANNEL)?))))
}

/// The store.
pub fn store() -> ExitCode {
    // Asked before the sandbox closes.
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    worker(Privileges::Nothing, &tenure(), || {
        let channel = Channel::from_fd(inherited::take(fd::CHANNEL)?);
        Ok(store::main(channel, inherited::take(fd::IMAGE)?, inherited::take(fd::RING)?, processors))
    })
}

/// The fetch worker. What it shows to servers and trusts of them is read before the sandbox closes.
pub fn fetch() -> ExitCode {
    let access = Access::packed(Path::new("/"), &read_settings().0);
    let tenure = match tenure() {
        Tenure::Boot => Tenure::Boot,
        // Its resolver's files; the others it has read.
        Tenure::Beyond(_) => {
            let files = [contract::RESOLVER, "etc/hosts", contract::TIME_SERVERS];
            Tenure::Beyond(files.into_iter().flat_map(outlive::gather).collect())
        }
    };
    worker(Privileges::Client, &tenure, || {
        let channel = Channel::from_fd(inherited::take(fd::STORE_CHANNEL)?);
        let ring: OwnedFd = inherited::take(fd::RING)?;
        Ok(fetch::main(channel, ring, access))
    })
}

/// The keeper. Its root has what the fetch workers that it starts read at their start.
pub fn keeper() -> ExitCode {
    let (settings, _) = read_settings();
    let release = kernel::kernel().release;
    let files: Vec<RootFile> = ["etc", "proc/cmdline"].into_iter().flat_map(outlive::gather).collect();
    worker(Privileges::Keeper, &Tenure::Beyond(files), || Ok(keeper::main(&settings, &release)))
}

/// `/sbin/modprobe`, as the kernel calls it.
pub fn modprobe(arguments: &[OsString]) -> ExitCode {
    let (settings, _) = read_settings();
    let policy = Policy::new(&settings.blacklist, &settings.module_parameters);
    ExitCode::from(modules::request(arguments, &kernel::kernel().release, policy))
}

/// A worker that cannot give up its privileges, or does not have its descriptors, does nothing at all.
fn worker(keep: Privileges, tenure: &Tenure, work: impl FnOnce() -> io::Result<i32>) -> ExitCode {
    Journal::install_in_worker();
    let done = sandbox::enter(keep, tenure).and_then(|()| work());
    match done {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(1)),
        Err(e) => {
            log::error!("a worker cannot start: {e}");
            ExitCode::FAILURE
        }
    }
}

/// How long the workers of this boot live; those that need files say so.
fn tenure() -> Tenure {
    match read_settings().0.mode {
        Mode::Ram => Tenure::Boot,
        Mode::Stream | Mode::Auto => Tenure::Beyond(Vec::new()),
    }
}
