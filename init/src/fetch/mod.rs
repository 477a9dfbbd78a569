//! The fetch worker: URLs and ranges in, bytes out. It is the only process that meets the servers, keeps nothing
//! between two orders but open connections, and may die at any time.

mod cause;
mod client;
mod head;
mod ring;

use crate::contract::RING_BYTES;
use crate::messages::{FetchCause, FetchNews, FetchOrder, Range};
use crate::sys::channel::{Channel, Received, SendError, wait};
use crate::sys::heap;
use crate::sys::memory::SharedBytes;
use client::Clients;
use reqwest::blocking::Response;
use ring::Producer;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, SystemTime};

/// What one read of a body may take, and so the bound of one announcement.
const READ: usize = 256 << 10;
/// How long a wait for the store lasts before it is looked after again; nothing depends on it but tidiness.
const TURN: Duration = Duration::from_secs(3600);

/// Runs the worker until the store closes the channel; then 0, and 1 after an error of this machine.
/// `roots` are the trusted root certificates in PEM, and certificates are judged by a clock of at least `floor`.
pub fn main(channel: Channel<FetchNews, FetchOrder>, ring: OwnedFd, roots: Option<Vec<u8>>, floor: SystemTime) -> i32 {
    heap::keep_freed_memory();
    let Ok(shared) = SharedBytes::map(&ring, RING_BYTES) else { return 1 };
    let mut worker = Worker {
        channel,
        ring: Producer::new(shared),
        clients: Clients::new(roots.as_deref().unwrap_or_default(), floor),
        next: None,
        cancelled: None,
    };
    match worker.run() {
        Ok(()) | Err(Stop::Closed) => 0,
        Err(Stop::Broken) => 1,
    }
}

/// Why the worker ends.
enum Stop {
    /// The store is gone.
    Closed,
    /// The kernel refused, or the store sent what is no order.
    Broken,
}

/// One `Get`.
struct Job {
    number: u32,
    url: String,
    range: Option<Range>,
    if_range: Option<String>,
    limit: u64,
    stall: Duration,
}

struct Worker {
    channel: Channel<FetchNews, FetchOrder>,
    ring: Producer,
    clients: Clients,
    /// A job that was ordered while another ran.
    next: Option<Job>,
    /// The highest job that was given up.
    cancelled: Option<u32>,
}

impl Worker {
    fn run(&mut self) -> Result<(), Stop> {
        loop {
            self.receive()?;
            match self.next.take() {
                Some(job) => self.serve(&job)?,
                None => self.wait()?,
            }
        }
    }

    fn wait(&self) -> Result<(), Stop> {
        wait(&[self.channel.as_fd()], TURN).map(drop).map_err(|_| Stop::Broken)
    }

    /// Takes up everything that the store has said.
    fn receive(&mut self) -> Result<(), Stop> {
        loop {
            match self.channel.receive().map_err(|_| Stop::Broken)? {
                Received::Empty => return Ok(()),
                Received::Closed => return Err(Stop::Closed),
                Received::Malformed(_) => return Err(Stop::Broken),
                Received::Message(FetchOrder::Consumed { bytes }, _) => {
                    self.ring.release(bytes as usize).map_err(|_| Stop::Broken)?;
                }
                Received::Message(FetchOrder::Cancel { job }, _) => self.cancelled = Some(job),
                Received::Message(FetchOrder::Get { job, url, range, if_range, limit, stall_seconds }, _) => {
                    let stall = Duration::from_secs(u64::from(stall_seconds.max(1)));
                    self.next = Some(Job { number: job, url, range, if_range, limit, stall });
                }
            }
        }
    }

    /// Sends; a store that does not read is waited for, since there is nothing else to do.
    fn send(&self, news: &FetchNews) -> Result<(), Stop> {
        loop {
            match self.channel.send(news) {
                Ok(()) => return Ok(()),
                Err(SendError::Full) => std::thread::sleep(Duration::from_millis(5)),
                Err(SendError::Closed) => return Err(Stop::Closed),
                Err(_) => return Err(Stop::Broken),
            }
        }
    }

    fn serve(&mut self, job: &Job) -> Result<(), Stop> {
        let number = job.number;
        let news = match self.transfer(job)? {
            Ok(()) => FetchNews::End { job: number },
            Err(cause) => FetchNews::Failed { job: number, cause },
        };
        self.send(&news)
    }

    /// Runs one job up to its last byte.
    fn transfer(&mut self, job: &Job) -> Result<Result<(), FetchCause>, Stop> {
        let mut response = match self.clients.get(job) {
            Ok(response) => response,
            Err(cause) => return Ok(Err(cause)),
        };
        let head = match head::read(&response, job.range) {
            Ok(head) => head,
            Err(cause) => return Ok(Err(cause)),
        };
        self.send(&FetchNews::Head { job: job.number, head })?;
        self.body(job, &mut response)
    }

    fn body(&mut self, job: &Job, response: &mut Response) -> Result<Result<(), FetchCause>, Stop> {
        let mut left = job.limit;
        while left > 0 {
            self.receive()?;
            if self.cancelled.is_some_and(|last| last >= job.number) {
                return Ok(Ok(()));
            }
            let room = self.ring.room();
            if room == 0 {
                self.wait()?;
                continue;
            }
            let most = room.min(READ).min(usize::try_from(left).unwrap_or(READ));
            let read = match self.ring.fill(most, |place| response.read(place)) {
                Ok(0) => return Ok(Ok(())),
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Err(cause::of_body(&error))),
            };
            left = left.saturating_sub(read as u64);
            // A read ends where the socket runs dry, so announcing each one delays nothing, and under load reads
            // grow by themselves.
            self.send(&FetchNews::Data { job: job.number, bytes: read as u32 })?;
        }
        Ok(Ok(()))
    }
}
