//! Descriptors that a worker finds open at a number agreed on in `contract::fd`.

use rustix::fd::{FromRawFd, OwnedFd, RawFd};
use std::io;

/// Takes over the inherited descriptor `number` and marks it to be closed on exec.
/// Each number may be taken once, at the start of the worker.
pub fn take(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD through the raw number only asks whether it is open; nothing is borrowed beyond the call.
    let probe = unsafe { rustix::fd::BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(probe, rustix::io::FdFlags::CLOEXEC)?;
    // SAFETY: the number is open (just tested), and by the contract nothing else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
