//! What one thread rings so that another one's poll returns.

use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// An eventfd(2): readable from the first ring until it is hushed.
#[derive(Debug)]
pub struct Bell(OwnedFd);

impl Bell {
    /// A silent bell.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Makes it readable.
    pub fn ring(&self) {
        // EAGAIN: it has rung 2^64 - 2 times and is readable all the same.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Makes it silent.
    pub fn hush(&self) {
        // EAGAIN: it was silent.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::channel::wait;
    use std::time::Duration;

    #[test]
    fn is_readable_from_the_first_ring_until_it_is_hushed() {
        let bell = Bell::new().unwrap();
        let rings = || wait(&[bell.as_fd()], Duration::ZERO).unwrap();
        assert_eq!(rings(), [false]);
        bell.ring();
        bell.ring();
        assert_eq!(rings(), [true]);
        bell.hush();
        assert_eq!(rings(), [false]);
    }
}
