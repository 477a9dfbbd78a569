//! The place of the fetch worker: it may die at any time, and is started when the store asks for one.

use crate::contract::{fd, role};
use crate::messages::{StoreNews, StoreOrder};
use crate::sys::channel::{self, Channel};
use crate::sys::worker::{self, Exit, Program, Worker};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// After so long one that could not be started is tried again: the machine had no process, descriptor or memory to give.
const AGAIN: Duration = Duration::from_secs(1);

/// The place, whoever holds it.
#[derive(Debug)]
pub struct Fetcher {
    state: State,
    ring: OwnedFd,
    program: Program,
    restarts: u32,
    /// Whether it was told that none can be started.
    told: bool,
}

/// Who holds it. The number counts deaths.
#[derive(Debug)]
enum State {
    /// Nobody, and nobody was asked for.
    Absent(u32),
    /// One works.
    Running(Worker, u32),
    /// One was killed, since the store asked for another.
    Ending(Worker, u32),
    /// One is started at that time.
    Due(Instant, u32),
}

impl Fetcher {
    /// A place that `worker` holds, or nobody; its successors are `program` and bring bytes by `ring`.
    pub fn new(worker: Option<Worker>, ring: OwnedFd, program: Program) -> Self {
        let state = worker.map_or(State::Absent(0), |worker| State::Running(worker, 0));
        Self { state, ring, program, restarts: 0, told: false }
    }

    /// How many died.
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    /// The ring.
    pub fn ring(&self) -> &OwnedFd {
        &self.ring
    }

    /// When the next one is due.
    pub fn due(&self) -> Option<Instant> {
        match self.state {
            State::Due(when, _) => Some(when),
            _ => None,
        }
    }

    /// Whether the store has asked for another one that has not been started yet.
    pub fn is_asked_for(&self) -> bool {
        matches!(self.state, State::Ending(..) | State::Due(..))
    }

    /// The worker that is there; readable when it has ended.
    pub fn worker(&self) -> Option<&Worker> {
        match &self.state {
            State::Running(worker, _) | State::Ending(worker, _) => Some(worker),
            State::Absent(_) | State::Due(..) => None,
        }
    }

    /// What to watch, where there is a worker.
    pub fn watched(&self) -> Option<BorrowedFd<'_>> {
        self.worker().map(AsFd::as_fd)
    }

    /// The store asks for a fetch worker: it has none, or one that does not answer.
    pub fn renew(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Absent(0)) {
            State::Absent(deaths) => {
                // The first successor comes at once; one that keeps dying is not let burn the machine.
                let pause = Duration::from_millis(100) * deaths.saturating_sub(1).min(50);
                State::Due(Instant::now() + pause, deaths)
            }
            State::Running(worker, deaths) => {
                worker.kill();
                State::Ending(worker, deaths)
            }
            waiting @ (State::Ending(..) | State::Due(..)) => waiting,
        }
    }

    /// Reaps one that ended, and starts one that is due.
    pub fn tend(&mut self, store: &Channel<StoreOrder, StoreNews>) -> io::Result<()> {
        match &self.state {
            State::Running(worker, deaths) | State::Ending(worker, deaths) => {
                let Some(exit) = worker.ended()? else { return Ok(()) };
                let mut deaths = *deaths;
                // It ends with 0 when the store has closed its channel: there is nothing more to do.
                if exit != Exit::Status(0) {
                    log::warn!("worker {} {exit}; what it fetched is kept", role::FETCH);
                    deaths = deaths.saturating_add(1);
                    self.restarts += 1;
                }
                let asked = matches!(self.state, State::Ending(..));
                self.state = State::Absent(deaths);
                if asked {
                    self.renew();
                }
                Ok(())
            }
            State::Due(when, deaths) if Instant::now() >= *when => {
                let deaths = *deaths;
                let started = self.start(store);
                self.take(started, deaths);
                Ok(())
            }
            State::Due(..) | State::Absent(_) => Ok(()),
        }
    }

    fn start(&self, store: &Channel<StoreOrder, StoreNews>) -> io::Result<Worker> {
        let (for_store, for_fetch) = channel::raw_pair()?;
        let descriptors = [(for_fetch.as_fd(), fd::STORE_CHANNEL), (self.ring.as_fd(), fd::RING)];
        let worker = worker::start(&self.program, role::FETCH, &descriptors)?;
        // A store that does not read is seen by its end or by the boot's time-out; the order is not lost twice.
        if let Err(e) = store.send_with(&StoreOrder::Fetcher, for_store.as_fd()) {
            log::debug!("worker {}: {e}", role::STORE);
        }
        Ok(worker)
    }

    /// Takes in the one that was started; one that could not be is due again, for nobody else would bring what is read.
    fn take(&mut self, started: io::Result<Worker>, deaths: u32) {
        let troubled = started.is_err();
        self.state = match started {
            Ok(worker) => State::Running(worker, deaths),
            Err(error) => {
                // Once: it may last for hours.
                if !self.told {
                    log::warn!("worker {} cannot be started: {error}; it is tried again each second", role::FETCH);
                }
                State::Due(Instant::now() + AGAIN, deaths)
            }
        };
        self.told = troubled;
    }

    /// Ends whoever holds the place, and returns the worker whose end is to be awaited.
    pub fn vacate(&mut self) -> Option<Worker> {
        let worker = match std::mem::replace(&mut self.state, State::Absent(0)) {
            State::Running(worker, _) | State::Ending(worker, _) => worker,
            State::Absent(_) | State::Due(..) => return None,
        };
        // It holds nothing and would wait for an order.
        worker.kill();
        Some(worker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::memory;

    #[test]
    fn one_that_cannot_be_started_is_due_again_after_a_second_and_the_store_still_waits_for_it() {
        let ring = memory::create("ring").unwrap();
        let mut fetcher = Fetcher::new(None, ring, Program::Own);
        fetcher.renew();
        for _ in 0..2 {
            let before = Instant::now();
            fetcher.take(Err(io::ErrorKind::WouldBlock.into()), 3);
            let due = fetcher.due().unwrap();
            assert!(before + AGAIN <= due && due <= Instant::now() + AGAIN);
            // Told once, and no death.
            assert_eq!((fetcher.told, fetcher.is_asked_for(), fetcher.restarts()), (true, true, 0));
            assert!(matches!(fetcher.state, State::Due(_, 3)));
        }
        let (store, _end) = channel::pair().unwrap();
        // Before its time nothing is tried.
        fetcher.tend(&store).unwrap();
        assert!(fetcher.worker().is_none() && fetcher.told);
    }
}
