//! The workers of one image: its store, the store's fetch worker, and the ring between them.

use super::member::Member;
use super::{Fetcher, await_end, broken};
use crate::contract::{RING_BYTES, fd, role};
use crate::failure::Failure;
use crate::messages::{StoreNews, StoreOrder};
use crate::sys::memory;
use crate::sys::worker::{Program, Worker};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// An image's memory, and who fills it.
pub(super) struct Team {
    pub(super) image: OwnedFd,
    /// None once they have ended.
    pub(super) workers: Option<Workers>,
}

/// Who fills an image's memory.
pub(super) struct Workers {
    pub(super) store: Option<Member<StoreOrder, StoreNews>>,
    pub(super) fetcher: Fetcher,
}

impl Team {
    /// Memory for an image; the workers to come are `program`.
    pub(super) fn new(program: &Program) -> Result<Self, Failure> {
        let image = memory::create("rootbeam-image").map_err(|e| broken("memfd", &e))?;
        let ring = memory::create_sized("rootbeam-ring", RING_BYTES).map_err(|e| broken("memfd", &e))?;
        let fetcher = Fetcher::new(None, ring, program.another().map_err(|e| broken(role::FETCH, &e))?);
        Ok(Self { image, workers: Some(Workers { store: None, fetcher }) })
    }

    /// Starts the store, without work yet.
    pub(super) fn begin(&mut self, program: &Program) -> Result<(), Failure> {
        let Some(Workers { store, fetcher }) = &mut self.workers else { return Ok(()) };
        if store.is_none() {
            let descriptors = [(self.image.as_fd(), fd::IMAGE), (fetcher.ring().as_fd(), fd::RING)];
            *store = Some(Member::start(program, role::STORE, &descriptors)?);
        }
        Ok(())
    }

    /// The store, where it runs.
    pub(super) fn store(&mut self) -> Option<&mut Member<StoreOrder, StoreNews>> {
        self.workers.as_mut()?.store.as_mut()
    }

    /// One message of the store that is there already and for PID 1.
    pub(super) fn heard(&mut self) -> Result<Option<StoreNews>, Failure> {
        let Some(Workers { store: Some(store), fetcher }) = &mut self.workers else { return Ok(None) };
        while let Some(news) = store.heard()? {
            if !matches!(news, StoreNews::NeedFetcher) {
                return Ok(Some(news));
            }
            fetcher.renew();
        }
        Ok(None)
    }

    /// What to watch.
    pub(super) fn watched(&self) -> Vec<BorrowedFd<'_>> {
        let Some(Workers { store, fetcher }) = &self.workers else { return Vec::new() };
        let store = store.iter().flat_map(|store| [store.channel.as_fd(), store.worker.as_fd()]);
        store.chain(fetcher.watched()).collect()
    }

    /// When a fetch worker is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.workers.as_ref()?.fetcher.due()
    }

    /// Reaps what ended and starts what is due; how many stores were started again.
    pub(super) fn tend(&mut self, program: &Program) -> Result<u32, Failure> {
        let Some(Workers { store: Some(store), fetcher }) = &mut self.workers else { return Ok(0) };
        let mut restarts = 0;
        if let Some(exit) = store.ended()? {
            // Its successor asks for a fetch worker of its own.
            if let Some(fetch) = fetcher.vacate() {
                await_end(&fetch, Instant::now()).map_err(|e| broken(role::FETCH, &e))?;
            }
            let descriptors = [(self.image.as_fd(), fd::IMAGE), (fetcher.ring().as_fd(), fd::RING)];
            store.replace(program, exit, &descriptors)?;
            restarts += 1;
        }
        fetcher.tend(&store.channel).map_err(|e| broken(role::FETCH, &e))?;
        Ok(restarts)
    }

    /// Tells the workers to end, and returns those whose end is to be awaited, in that order: the store first, for it may
    /// still be telling its fetch worker to go. The image's memory stays.
    pub(super) fn dismiss(&mut self) -> Vec<Worker> {
        let Some(Workers { store, mut fetcher }) = self.workers.take() else { return Vec::new() };
        let store = store.map(|store| {
            let _ = store.channel.send(&StoreOrder::Finish);
            store.worker
        });
        store.into_iter().chain(fetcher.vacate()).collect()
    }

    /// Ends the workers and waits until they are gone, at most two seconds; one that does not go is killed. The number of
    /// fetch workers that had died before.
    pub(super) fn end(&mut self) -> Result<u32, Failure> {
        let restarts = self.workers.as_ref().map_or(0, |workers| workers.fetcher.restarts());
        let patience = Instant::now() + Duration::from_secs(2);
        self.dismiss().iter().try_for_each(|worker| await_end(worker, patience)).map_err(|e| broken("worker", &e))?;
        Ok(restarts)
    }
}
