//! The writing side of a lane of the staging ring.

use crate::contract::LANE_BYTES;
use crate::sys::memory::SharedBytes;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The store's word and this side's count do not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfStep;

/// What the thread that listens to the store tells the one that fills the lane.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes that the store has not freed.
    held: usize,
    /// The highest job that was given up.
    cancelled: Option<u32>,
    closed: bool,
}

/// What a lane has for its next bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// So many bytes may be written.
    Bytes(usize),
    /// The job was given up.
    Cancelled,
    /// The store is gone.
    Closed,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds it can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store is done with the oldest `bytes`.
    pub fn release(&self, bytes: usize) -> Result<(), OutOfStep> {
        let mut state = self.lock();
        state.held = state.held.checked_sub(bytes).ok_or(OutOfStep)?;
        self.changed.notify_one();
        Ok(())
    }

    /// Gives up `job` and all before it.
    pub fn cancel(&self, job: u32) {
        let mut state = self.lock();
        state.cancelled = state.cancelled.max(Some(job));
        self.changed.notify_one();
    }

    /// The store is gone.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// Waits until there is room for bytes of `job`, or it has no more need of any.
    pub fn room(&self, job: u32) -> Room {
        let mut state = self.lock();
        loop {
            if state.closed {
                return Room::Closed;
            }
            if state.cancelled.is_some_and(|last| last >= job) {
                return Room::Cancelled;
            }
            if state.held < LANE_BYTES {
                return Room::Bytes(LANE_BYTES - state.held);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn hold(&self, bytes: usize) {
        self.lock().held += bytes;
    }
}

/// Writes behind what was written before and never over what the store has not freed.
pub struct Producer {
    shared: SharedBytes,
    position: usize,
}

impl Producer {
    /// An empty lane of `LANE_BYTES`; both sides begin at its first byte.
    pub fn new(shared: SharedBytes) -> Self {
        Self { shared, position: 0 }
    }

    /// Has `write` fill up to `most` of the bytes for which `gate` has room, fewer where the lane ends, and say how
    /// many it did; these are then the store's.
    pub fn fill(
        &mut self,
        gate: &Gate,
        most: usize,
        write: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let length = most.min(self.shared.len() - self.position);
        let written = self.shared.fill(self.position, length, write)?.min(length);
        self.position = (self.position + written) % self.shared.len();
        gate.hold(written);
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_full_lane_waits_for_the_store_and_a_given_up_job_waits_for_nothing() {
        let gate = Arc::new(Gate::default());
        assert_eq!(gate.room(1), Room::Bytes(LANE_BYTES));
        gate.hold(LANE_BYTES);
        let waited_for = |job, change: &dyn Fn(&Gate)| {
            let waiting = Arc::clone(&gate);
            let waiter = std::thread::spawn(move || waiting.room(job));
            change(&gate);
            waiter.join().unwrap()
        };
        assert_eq!(waited_for(1, &|gate| gate.release(100).unwrap()), Room::Bytes(100));
        gate.hold(100);
        assert_eq!(waited_for(2, &|gate| gate.cancel(2)), Room::Cancelled);
        assert_eq!(waited_for(3, &Gate::close), Room::Closed);
        assert_eq!(gate.release(LANE_BYTES + 1), Err(OutOfStep));
    }
}
