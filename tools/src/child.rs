//! Programs that this one runs.

use rustix::process::{Signal, set_parent_process_death_signal};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The program gets this signal when the thread that starts it ends, by whatever: it is to be the main one.
pub fn dies_with_us(command: &mut Command, signal: Signal) -> &mut Command {
    // SAFETY: between fork and exec only this one system call is made.
    unsafe { command.pre_exec(move || Ok(set_parent_process_death_signal(Some(signal))?)) }
}
