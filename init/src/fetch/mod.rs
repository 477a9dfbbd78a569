//! The fetch worker: URLs and ranges in, bytes out. It is the only process that meets the servers, keeps nothing
//! between two orders but open connections, and may die at any time. A thread listens to the store; each lane of the
//! ring has a thread of its own that serves one request after another.

pub mod cause;
pub mod client;
pub mod head;
mod lane;
mod ring;

use crate::access::Access;
use crate::contract::{LANE_BYTES, LANES};
use crate::messages::{FetchNews, FetchOrder};
use crate::sys::channel::{Channel, Received, SendError, wait};
use crate::sys::heap;
use crate::sys::memory::SharedBytes;
use client::{Clients, Request};
use lane::Lane;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// How long a wait for the store lasts before it is looked after again; nothing depends on it but tidiness.
const TURN: Duration = Duration::from_secs(3600);

/// Runs the worker until the store closes the channel; then 0, and 1 after an error of this machine.
/// `access` says how servers are reached.
pub fn main(channel: Channel<FetchNews, FetchOrder>, ring: OwnedFd, access: Access) -> i32 {
    heap::keep_freed_memory();
    let mut worker = Worker {
        channel: Arc::new(channel),
        ring,
        clients: Clients::new(access),
        lanes: std::array::from_fn(|_| None),
    };
    match worker.run() {
        Stop::Closed => 0,
        Stop::Broken => 1,
    }
}

/// Why the worker, or one of its lanes, ends.
enum Stop {
    /// The store is gone.
    Closed,
    /// The kernel refused, or the store sent what is no order.
    Broken,
}

/// One `Get`.
struct Job {
    number: u32,
    request: Request,
    limit: u64,
}

struct Worker {
    channel: Arc<Channel<FetchNews, FetchOrder>>,
    ring: OwnedFd,
    clients: Clients,
    /// Each is begun with its first job.
    lanes: [Option<Lane>; LANES],
}

impl Worker {
    fn run(&mut self) -> Stop {
        loop {
            if let Err(stop) = self.receive() {
                return stop;
            }
            if wait(&[self.channel.as_fd()], TURN).is_err() {
                return Stop::Broken;
            }
        }
    }

    /// Takes up everything that the store has said.
    fn receive(&mut self) -> Result<(), Stop> {
        loop {
            match self.channel.receive().map_err(|_| Stop::Broken)? {
                Received::Empty => return Ok(()),
                Received::Closed => return Err(Stop::Closed),
                Received::Malformed(_) => return Err(Stop::Broken),
                Received::Message(FetchOrder::Consumed { lane, bytes }, _) => {
                    self.existing(lane)?.gate.release(bytes as usize).map_err(|_| Stop::Broken)?;
                }
                Received::Message(FetchOrder::Cancel { lane, job }, _) => self.existing(lane)?.gate.cancel(job),
                Received::Message(FetchOrder::Get { lane, job, url, range, if_range, limit, stall_seconds }, _) => {
                    let stall = Duration::from_secs(u64::from(stall_seconds.max(1)));
                    let client = self.clients.client(stall);
                    let job = Job { number: job, request: Request { url, range, if_range }, limit };
                    self.lane(lane)?.serve(client, job).map_err(|_| Stop::Broken)?;
                }
            }
        }
    }

    fn existing(&self, lane: u8) -> Result<&Lane, Stop> {
        self.lanes.get(usize::from(lane)).and_then(Option::as_ref).ok_or(Stop::Broken)
    }

    fn lane(&mut self, number: u8) -> Result<&Lane, Stop> {
        let at = usize::from(number);
        let place = self.lanes.get_mut(at).ok_or(Stop::Broken)?;
        if place.is_none() {
            let shared = SharedBytes::map(&self.ring, at * LANE_BYTES, LANE_BYTES).map_err(|_| Stop::Broken)?;
            *place = Some(Lane::start(number, shared, Arc::clone(&self.channel)));
        }
        place.as_ref().ok_or(Stop::Broken)
    }
}

/// Sends; a store that does not read is waited for, since there is nothing else to do.
fn send(channel: &Channel<FetchNews, FetchOrder>, news: &FetchNews) -> Result<(), Stop> {
    loop {
        match channel.send(news) {
            Ok(()) => return Ok(()),
            Err(SendError::Full) => std::thread::sleep(Duration::from_millis(5)),
            Err(SendError::Closed) => return Err(Stop::Closed),
            Err(_) => return Err(Stop::Broken),
        }
    }
}
