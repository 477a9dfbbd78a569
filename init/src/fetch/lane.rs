//! A lane: one request after another, each from its order to its last byte, on a thread of its own.

use super::client::Client;
use super::ring::{Gate, Producer, Room};
use super::{Job, Stop, cause, head, send};
use crate::messages::{FetchCause, FetchNews, FetchOrder};
use crate::sys::channel::Channel;
use crate::sys::memory::SharedBytes;
use reqwest::blocking::Response;
use std::io::Read;
use std::sync::{Arc, mpsc};

/// What one read of a body may take, and so the bound of one announcement.
const READ: usize = 256 << 10;

/// What a lane is given: a client, or why there is none, and what to ask with it.
type Order = (Result<Client, FetchCause>, Job);

/// The listening thread's side of a lane. Its thread ends with this value, once it is not within a read.
pub struct Lane {
    pub gate: Arc<Gate>,
    orders: mpsc::Sender<Order>,
}

/// The lane's thread has ended: the store went away under it.
#[derive(Debug)]
pub struct Ended;

impl Lane {
    /// Starts the lane of that number over its part of the ring.
    pub fn start(number: u8, shared: SharedBytes, channel: Arc<Channel<FetchNews, FetchOrder>>) -> Self {
        let gate = Arc::new(Gate::default());
        let (orders, accepted) = mpsc::channel::<Order>();
        let mut server = Server { number, ring: Producer::new(shared), gate: Arc::clone(&gate), channel };
        std::thread::spawn(move || {
            for (client, job) in accepted {
                if server.serve(client, &job).is_err() {
                    return;
                }
            }
        });
        Self { gate, orders }
    }

    /// Takes a job up, behind those before.
    pub fn serve(&self, client: Result<Client, FetchCause>, job: Job) -> Result<(), Ended> {
        self.orders.send((client, job)).map_err(|_| Ended)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.gate.close();
    }
}

struct Server {
    number: u8,
    ring: Producer,
    gate: Arc<Gate>,
    channel: Arc<Channel<FetchNews, FetchOrder>>,
}

impl Server {
    fn serve(&mut self, client: Result<Client, FetchCause>, job: &Job) -> Result<(), Stop> {
        let done = match client {
            Ok(client) => self.transfer(&client, job)?,
            Err(cause) => Err(cause),
        };
        let news = match done {
            Ok(()) => FetchNews::End { lane: self.number, job: job.number },
            Err(cause) => FetchNews::Failed { lane: self.number, job: job.number, cause },
        };
        send(&self.channel, &news)
    }

    /// Runs one job up to its last byte.
    fn transfer(&mut self, client: &Client, job: &Job) -> Result<Result<(), FetchCause>, Stop> {
        // It may have been given up before its turn came.
        match self.gate.room(job.number) {
            Room::Bytes(_) => {}
            Room::Cancelled => return Ok(Ok(())),
            Room::Closed => return Err(Stop::Closed),
        }
        let answer = client.get(&job.request);
        if let Some(seconds) = client.time_told() {
            send(&self.channel, &FetchNews::Time { seconds })?;
        }
        for warning in client.warnings() {
            send(&self.channel, &FetchNews::Warning(warning))?;
        }
        let mut response = match answer {
            Ok(response) => response,
            Err(cause) => return Ok(Err(cause)),
        };
        let head = match head::read(&response, job.request.range) {
            Ok(head) => head,
            Err(cause) => return Ok(Err(cause)),
        };
        send(&self.channel, &FetchNews::Head { lane: self.number, job: job.number, head })?;
        self.body(job, &mut response)
    }

    fn body(&mut self, job: &Job, response: &mut Response) -> Result<Result<(), FetchCause>, Stop> {
        let mut left = job.limit;
        while left > 0 {
            let room = match self.gate.room(job.number) {
                Room::Bytes(room) => room,
                Room::Cancelled => return Ok(Ok(())),
                Room::Closed => return Err(Stop::Closed),
            };
            let most = room.min(READ).min(usize::try_from(left).unwrap_or(READ));
            let read = match self.ring.fill(&self.gate, most, |place| response.read(place)) {
                Ok(0) => return Ok(Ok(())),
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Err(cause::of_body(&error))),
            };
            left = left.saturating_sub(read as u64);
            // A read ends where the socket runs dry, so announcing each one delays nothing, and under load reads
            // grow by themselves.
            send(&self.channel, &FetchNews::Data { lane: self.number, job: job.number, bytes: read as u32 })?;
        }
        Ok(Ok(()))
    }
}
