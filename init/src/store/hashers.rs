//! Chunks are hashed, and written where they are right, on threads beside the one that listens: so that the network
//! is read, the last chunk hashed and the one before written at the same time.

use crate::digest::Sha256;
use crate::sys::bell::Bell;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// More than the processors of a small machine gain nothing: one core hashes faster than a 10 Gbit/s wire brings.
const THREADS: usize = 4;
/// How many bytes of chunks may be under way, and at the least how many chunks: a thread has the next one at hand.
const AHEAD: usize = 2 << 20;

/// So many results are told of at once, at the most.
const BATCH: usize = 8;

/// A chunk to be judged.
#[derive(Debug)]
pub struct Work {
    /// The lane that it came by.
    pub lane: usize,
    /// The job that brought it.
    pub job: u32,
    /// Its number.
    pub chunk: u64,
    /// Where it belongs in the image.
    pub offset: u64,
    /// The hash that it must have.
    pub expected: Sha256,
    /// Its bytes, private to this process: another one could change the ring between the hashing and the writing.
    pub bytes: Vec<u8>,
}

/// What became of it.
#[derive(Debug)]
pub struct Judged {
    /// The chunk.
    pub work: Work,
    /// Whether it has its hash; only then it was written.
    pub right: bool,
    /// What the kernel said to the writing.
    pub written: io::Result<()>,
}

/// The threads and what they have to do.
#[derive(Debug)]
pub struct Hashers {
    shared: Arc<Shared>,
    under_way: usize,
    spare: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Shared {
    threads: usize,
    image: File,
    bell: Bell,
    queues: Mutex<Queues>,
    /// There is work, or an end.
    more: Condvar,
    /// A result was added.
    settled: Condvar,
}

#[derive(Debug, Default)]
struct Queues {
    waiting: VecDeque<Work>,
    done: VecDeque<Judged>,
    /// Threads that wait for work: a condition that nobody waits for costs a system call all the same.
    idle: usize,
    /// Threads that judge a chunk.
    working: usize,
    /// Whether somebody waits for the last result.
    abandoned: bool,
    closed: bool,
}

impl Hashers {
    /// Threads for so many processors that write to `image`; on a single processor none, and the caller's own does
    /// the work.
    pub fn start(image: File, processors: usize) -> io::Result<Self> {
        let threads = if processors < 2 { 0 } else { processors.min(THREADS) };
        let shared = Shared {
            threads,
            image,
            bell: Bell::new()?,
            queues: Mutex::default(),
            more: Condvar::new(),
            settled: Condvar::new(),
        };
        let shared = Arc::new(shared);
        for _ in 0..threads {
            let shared = Arc::clone(&shared);
            // It ends with this value, at the latest with the process.
            std::thread::Builder::new().name("hasher".to_owned()).spawn(move || shared.work())?;
        }
        Ok(Self { shared, under_way: 0, spare: Vec::new() })
    }

    /// Readable when there are results.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.shared.bell.as_fd()
    }

    /// Whether another chunk of that length may be handed over now.
    pub fn has_room(&self, length: usize) -> bool {
        let most = (AHEAD / length.max(1)).max(self.shared.threads.max(1) + 1);
        self.under_way < most
    }

    /// A buffer to put a chunk together in, an earlier one where there is one.
    pub fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes a buffer back, with what is in it: clearing it would cost as much as a copy. There are never more than
    /// were under way at once.
    pub fn give_back(&mut self, buffer: Vec<u8>) {
        self.spare.push(buffer);
    }

    /// Hands a chunk over.
    pub fn submit(&mut self, work: Work) {
        self.under_way += 1;
        if self.shared.threads == 0 {
            let judged = self.shared.judge(work);
            self.shared.lock().done.push_back(judged);
            return;
        }
        let mut queues = self.shared.lock();
        queues.waiting.push_back(work);
        if queues.idle > 0 {
            self.shared.more.notify_one();
        }
    }

    /// The next result, in whatever order they come.
    pub fn next(&mut self) -> Option<Judged> {
        let judged = self.shared.lock().done.pop_front();
        match judged {
            Some(_) => self.under_way -= 1,
            None => self.shared.bell.hush(),
        }
        // Between the last look and the hushing another may have come.
        judged.or_else(|| {
            let late = self.shared.lock().done.pop_front();
            self.under_way -= usize::from(late.is_some());
            late
        })
    }

    /// Waits until nothing is under way, and forgets the results: what they were for is no more.
    pub fn abandon(&mut self) {
        let mut queues = self.shared.lock();
        self.under_way -= queues.waiting.len();
        queues.waiting.clear();
        queues.abandoned = true;
        while queues.done.len() < self.under_way {
            queues = self.shared.settled.wait(queues).unwrap_or_else(PoisonError::into_inner);
        }
        queues.done.clear();
        queues.abandoned = false;
        drop(queues);
        self.under_way = 0;
        self.shared.bell.hush();
    }
}

impl Drop for Hashers {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.more.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        // Nothing that holds it can panic half-way through a change.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut queues = self.lock();
        loop {
            if queues.closed {
                return;
            }
            let Some(work) = queues.waiting.pop_front() else {
                queues.idle += 1;
                queues = self.more.wait(queues).unwrap_or_else(PoisonError::into_inner);
                queues.idle -= 1;
                continue;
            };
            queues.working += 1;
            drop(queues);
            let judged = self.judge(work);
            queues = self.lock();
            queues.working -= 1;
            queues.done.push_back(judged);
            if queues.abandoned {
                self.settled.notify_one();
            }
            // Whoever hears it takes all there is; so the last thread that works tells for the others, unless there
            // is much to tell.
            let last = queues.waiting.is_empty() && queues.working == 0;
            if last || queues.done.len() >= BATCH {
                self.bell.ring();
            }
        }
    }

    fn judge(&self, work: Work) -> Judged {
        let right = Sha256::of(&work.bytes) == work.expected;
        let written = if right { self.image.write_all_at(&work.bytes, work.offset) } else { Ok(()) };
        Judged { work, right, written }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::channel::wait;
    use crate::sys::memory;
    use std::time::Duration;

    fn work(chunk: u64, right: bool) -> Work {
        let bytes = vec![chunk as u8 + 1; 4096];
        let expected = if right { Sha256::of(&bytes) } else { Sha256([0; 32]) };
        Work { lane: 0, job: 1, chunk, offset: chunk * 4096, expected, bytes }
    }

    #[test]
    fn right_chunks_are_written_and_wrong_ones_are_not_on_one_processor_and_on_several() {
        for processors in [1, 2, 8] {
            let image = File::from(memory::create("image").unwrap());
            image.set_len(64 * 4096).unwrap();
            let mut hashers = Hashers::start(image.try_clone().unwrap(), processors).unwrap();
            let is_right = |chunk: u64| !chunk.is_multiple_of(3);
            (0..64).for_each(|chunk| hashers.submit(work(chunk, is_right(chunk))));
            let mut found = Vec::new();
            while found.len() < 64 {
                if let Some(Judged { work, right, written }) = hashers.next() {
                    written.unwrap();
                    found.push((work.chunk, right));
                    hashers.give_back(work.bytes);
                } else {
                    assert_eq!(wait(&[hashers.bell()], Duration::from_secs(60)).unwrap(), [true], "{found:?}");
                }
            }
            found.sort_unstable();
            assert_eq!(found, (0..64).map(|chunk| (chunk, is_right(chunk))).collect::<Vec<_>>());
            let mut held = vec![0; 64 * 4096];
            image.read_exact_at(&mut held, 0).unwrap();
            let page = |chunk: u64| vec![if is_right(chunk) { chunk as u8 + 1 } else { 0 }; 4096];
            assert_eq!(held, (0..64).flat_map(page).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_abandoned_is_over_and_tells_nothing() {
        let image = File::from(memory::create("image").unwrap());
        let mut hashers = Hashers::start(image, 2).unwrap();
        (0..32).for_each(|chunk| hashers.submit(work(chunk, true)));
        hashers.abandon();
        assert!(hashers.next().is_none() && hashers.has_room(4096));
        hashers.submit(work(0, true));
        assert_eq!(wait(&[hashers.bell()], Duration::from_secs(60)).unwrap(), [true]);
        assert!(hashers.next().is_some_and(|judged| judged.right));
    }
}
