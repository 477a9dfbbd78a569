//! Loading kernel modules.

use rustix::io::Errno;
use std::ffi::CString;
use std::fs::File;
use std::io;

/// What the kernel says to a module that it accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is loaded now; for a driver, the devices that are there have been probed.
    Now,
    /// It was loaded before.
    Before,
}

/// Loads the module in `file`, which is not compressed. `parameters` are blank-separated.
pub fn insert(file: &File, parameters: &str) -> io::Result<Inserted> {
    let parameters = CString::new(parameters)?;
    match rustix::system::finit_module(file, &parameters, 0) {
        Ok(()) => Ok(Inserted::Now),
        // Somebody else was faster: the kernel's own request and ours for the same device often meet.
        Err(Errno::EXIST) => Ok(Inserted::Before),
        Err(errno) => Err(errno.into()),
    }
}

/// Release of the running kernel, as `uname -r` prints it.
pub fn running_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}
