//! What PID 1 does when a boot failed, or when it panicked itself. It never returns to the kernel.

use crate::contract;
use crate::failure::Failure;
use crate::machine::{Machine, read_settings};
use crate::policy::{Action, Policy};
use crate::settings::values::OnFailure;
use crate::sys::{console::Console, machine, worker};
use std::panic::PanicHookInfo;
use std::path::Path;
use std::time::{Duration, Instant};

/// The boot is tried again so long after a shell was started at the earliest.
const SHELL: Duration = Duration::from_secs(5);

/// Prints the diagnosis, then does what the policy says; returns where the boot is to be tried again.
pub fn follow(machine: &mut Machine, failure: &Failure, attempt: u32) {
    let shell = Path::new("/").join(contract::SHELL);
    let policy =
        Policy { on_failure: machine.settings.on_failure, panic: machine.settings.panic, shell: shell.exists() };
    let action = policy.decide(failure, attempt, random());
    log::error!("{failure}");
    if let Some(network) = &machine.report.network {
        log::error!("state: link {} has {}/{}", network.link, network.address, network.prefix);
    }
    if policy.on_failure == Some(OnFailure::Shell) && !policy.shell {
        log::error!("no shell was packed with this initramfs (rootbeam pack --shell)");
    }
    log::error!("{action}");
    machine.report.failed(failure);
    machine.save();
    match action {
        Action::Again(pause) => std::thread::sleep(pause),
        Action::End(wait, how) => end(wait, how),
        Action::Shell => {
            let begun = Instant::now();
            if let Err(e) = worker::shell(&shell) {
                log::error!("shell: {e}");
            }
            // One that does not start, or has no console to read from, must not become a fast loop.
            std::thread::sleep(SHELL.saturating_sub(begun.elapsed()));
        }
    }
}

/// Lets every panic of this process follow the policy: a PID 1 that dies takes the kernel with it.
pub fn guard() {
    std::panic::set_hook(Box::new(|panic| {
        let (settings, _) = read_settings();
        let policy = Policy { on_failure: settings.on_failure, panic: settings.panic, shell: false };
        let action = policy.after_panic();
        // Not through the log: it may be what panicked.
        let console = Console::open();
        let what = in_a_line(panic);
        console.line(3, &format!("FAILED: a bug in rootbeam's init: {what}. Remedy: report it, with this line."));
        console.line(3, &action.to_string());
        if let Action::End(wait, how) = action {
            end(wait, how);
        }
    }));
}

/// The same for a child of PID 1 that has not become another program: its panic is its own end and no more.
pub fn guard_child() {
    std::panic::set_hook(Box::new(|panic| {
        let what = in_a_line(panic);
        Console::open().line(3, &format!("a bug in a process of rootbeam's init: {what}; report it, with this line"));
    }));
}

/// Where and why: its own text has a line for each, and a person is asked for one.
fn in_a_line(panic: &PanicHookInfo<'_>) -> String {
    panic.to_string().replace('\n', " ")
}

/// Waits, then ends the machine. Where the kernel refuses, this process stays: PID 1 must not end.
pub fn end(wait: Duration, how: machine::End) -> ! {
    std::thread::sleep(wait);
    let refused = machine::end(how);
    Console::open().line(3, &format!("the kernel refuses to end the machine: {refused}; switch it off by hand"));
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// A number from 0 to 1 that differs between machines that fail at the same moment.
fn random() -> f64 {
    let mut bytes = [0; 4];
    machine::random(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}
