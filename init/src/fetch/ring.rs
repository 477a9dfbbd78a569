//! The writing side of the staging ring.

use crate::sys::memory::SharedBytes;
use std::io;

/// The store's word and this side's count do not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfStep;

/// Writes behind what was written before and never over what the store has not freed.
pub struct Producer {
    shared: SharedBytes,
    position: usize,
    held: usize,
}

impl Producer {
    /// An empty ring; both sides begin at its first byte.
    pub fn new(shared: SharedBytes) -> Self {
        Self { shared, position: 0, held: 0 }
    }

    /// How many bytes may be written now.
    pub fn room(&self) -> usize {
        self.shared.len() - self.held
    }

    /// Has `write` fill up to `most` of the bytes that may be written, fewer where the ring ends, and say how many it
    /// did; these are then the store's.
    pub fn fill(&mut self, most: usize, write: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
        let length = most.min(self.room()).min(self.shared.len() - self.position);
        let written = self.shared.fill(self.position, length, write)?.min(length);
        self.position = (self.position + written) % self.shared.len();
        self.held += written;
        Ok(written)
    }

    /// The store is done with the oldest `bytes`.
    pub fn release(&mut self, bytes: usize) -> Result<(), OutOfStep> {
        self.held = self.held.checked_sub(bytes).ok_or(OutOfStep)?;
        Ok(())
    }
}
