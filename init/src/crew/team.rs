//! The workers of one image: its store, the store's fetch worker, and the ring between them.

use super::member::Member;
use super::{Fetcher, broken};
use crate::contract::{RING_BYTES, fd, role};
use crate::failure::{Failure, Step};
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
    /// Whether a RAM disk stands on what the store serves: then it cannot be replaced.
    pub(super) serves: bool,
}

impl Workers {
    /// A ring, and nobody as yet.
    fn new(program: &Program) -> Result<Self, Failure> {
        let ring = memory::create_sized("rootbeam-ring", RING_BYTES).map_err(|e| broken("memfd", &e))?;
        let fetcher = Fetcher::new(None, ring, program.another().map_err(|e| broken(role::FETCH, &e))?);
        Ok(Self { store: None, fetcher, serves: false })
    }
}

impl Team {
    /// Memory for an image; the workers to come are `program`.
    pub(super) fn new(program: &Program) -> Result<Self, Failure> {
        let image = memory::create("rootbeam-image").map_err(|e| broken("memfd", &e))?;
        Ok(Self { image, workers: Some(Workers::new(program)?) })
    }

    /// Ends the workers as [`Team::end`] does, and has others go on with the image's memory. Not where the image is served.
    pub(super) fn begin_anew(&mut self, program: &Program) -> Result<u32, Failure> {
        let restarts = self.end()?;
        self.workers = Some(Workers::new(program)?);
        Ok(restarts)
    }

    /// Starts the store, without work yet.
    pub(super) fn begin(&mut self, program: &Program) -> Result<(), Failure> {
        let Some(Workers { store, fetcher, .. }) = &mut self.workers else { return Ok(()) };
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
        let Some(Workers { store: Some(store), fetcher, serves }) = &mut self.workers else { return Ok(None) };
        while let Some(news) = store.heard()? {
            match news {
                StoreNews::NeedFetcher => fetcher.renew(),
                StoreNews::Lost => return Err(lost("what it serves has ended, and the root is read through that")),
                news => {
                    *serves &= news != StoreNews::Released;
                    return Ok(Some(news));
                }
            }
        }
        Ok(None)
    }

    /// What to watch.
    pub(super) fn watched(&self) -> Vec<BorrowedFd<'_>> {
        let Some(Workers { store, fetcher, .. }) = &self.workers else { return Vec::new() };
        let store = store.iter().flat_map(|store| [store.channel.as_fd(), store.worker.as_fd()]);
        store.chain(fetcher.watched()).collect()
    }

    /// When a fetch worker is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.workers.as_ref()?.fetcher.due()
    }

    /// Fails where a store has ended that a RAM disk stands on.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let Some(Workers { store: Some(store), serves: true, .. }) = &self.workers else { return Ok(()) };
        match store.ended()? {
            Some(exit) => Err(lost(&format!("it {exit} while the root was read through it"))),
            None => Ok(()),
        }
    }

    /// Reaps what ended and starts what is due; how many stores were started again.
    pub(super) fn tend(&mut self, program: &Program) -> Result<u32, Failure> {
        self.check()?;
        let Some(Workers { store: Some(store), fetcher, .. }) = &mut self.workers else { return Ok(0) };
        let mut restarts = 0;
        if let Some(exit) = store.ended()? {
            // Its successor asks for a fetch worker of its own.
            if let Some(fetch) = fetcher.vacate() {
                fetch.await_end(Instant::now()).map_err(|e| broken(role::FETCH, &e))?;
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
        let Some(Workers { store, mut fetcher, .. }) = self.workers.take() else { return Vec::new() };
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
        self.dismiss().iter().try_for_each(|worker| worker.await_end(patience)).map_err(|e| broken("worker", &e))?;
        Ok(restarts)
    }
}

/// The served file has ended with its store's connection: no successor can go on with it, nor could it be mounted anew
/// under what is mounted from it.
fn lost(cause: &str) -> Failure {
    let remedy = "start the machine anew; where it comes to the same again, report this as a bug, with the log";
    Failure::new(Step::Worker, role::STORE, cause, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Retry;
    use crate::sys::channel::wait;
    use std::fs::File;

    /// A team whose store has ended, at once: what it is started from is no program.
    fn bereaved() -> (Team, Program) {
        let program = Program::Open(File::open("/dev/null").unwrap().into());
        let mut team = Team::new(&program).unwrap();
        team.begin(&program).unwrap();
        let store = team.store().unwrap();
        assert_eq!(wait(&[store.worker.as_fd()], Duration::from_secs(10)).unwrap(), [true]);
        (team, program)
    }

    #[test]
    fn a_store_that_ends_is_started_again() {
        let (mut team, program) = bereaved();
        assert_eq!(team.tend(&program), Ok(1));
    }

    #[test]
    fn a_store_that_ends_while_the_root_is_read_through_it_is_not_started_again_but_fails_the_boot() {
        let (mut team, program) = bereaved();
        team.workers.as_mut().unwrap().serves = true;
        let failure = team.tend(&program).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "FAILED at worker: @rootbeam-store: it ended with status 127 while the root was read through it. Remedy: \
             start the machine anew; where it comes to the same again, report this as a bug, with the log."
        );
        // What is mounted from it cannot be had back in this boot.
        assert_eq!(failure.retry, Retry::Never);
    }
}
