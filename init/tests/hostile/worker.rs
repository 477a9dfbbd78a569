//! A fetch worker in a stranger's hands: one that does its work, and now and then does something else.

use rootbeam_init::contract::{LANE_BYTES, LANES};
use rootbeam_init::messages::{FetchCause, FetchNews, FetchOrder, FetchWarning, Head, Range};
use rootbeam_init::sys::channel::{Channel, Received, SendError, wait};
use rootbeam_init::sys::memory::SharedBytes;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// The most bytes of one announcement that is meant well.
const PIECE: usize = 100_000;

/// xorshift64*: the same numbers for the same seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() >> 16) as usize % end.max(1)
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| (self.next() >> 24) as u8).collect()
    }
}

/// What became of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Goes,
    /// The store has let it go, or it has gone.
    Over,
}

struct Job {
    number: u32,
    path: String,
    range: Option<Range>,
    limit: u64,
    at: u64,
    headed: bool,
}

#[derive(Default)]
struct Lane {
    jobs: VecDeque<Job>,
    position: usize,
    held: usize,
}

pub struct FetchWorker {
    channel: Channel<FetchNews, FetchOrder>,
    ring: Vec<SharedBytes>,
    lanes: Vec<Lane>,
    files: BTreeMap<String, Vec<u8>>,
    outbox: VecDeque<FetchNews>,
    /// One in so many steps is an attack; none at 0.
    malice: usize,
}

impl FetchWorker {
    pub fn new(channel: OwnedFd, ring: &OwnedFd, files: &BTreeMap<String, Vec<u8>>, malice: usize) -> Self {
        let lane = |number| SharedBytes::map(ring, number * LANE_BYTES, LANE_BYTES).unwrap();
        Self {
            channel: Channel::from_fd(channel),
            ring: (0..LANES).map(lane).collect(),
            lanes: (0..LANES).map(|_| Lane::default()).collect(),
            files: files.clone(),
            outbox: VecDeque::new(),
            malice,
        }
    }

    /// Takes orders up and does a piece of each lane's work, or an attack.
    pub fn turn(&mut self, random: &mut Random) -> Turn {
        loop {
            match self.channel.receive() {
                Ok(Received::Message(order, _)) => self.ordered(order),
                Ok(Received::Empty) => break,
                _ => return Turn::Over,
            }
        }
        for lane in 0..LANES {
            if self.malice > 0 && random.below(self.malice) == 0 && self.attack(random) == Turn::Over {
                return Turn::Over;
            }
            self.work(lane, random);
        }
        self.post()
    }

    /// Waits until the store says something.
    pub fn idle(&self) {
        wait(&[self.channel.as_fd()], Duration::from_millis(2)).unwrap();
    }

    fn ordered(&mut self, order: FetchOrder) {
        match order {
            FetchOrder::Get { lane, job, url, range, limit, .. } => {
                let path = format!("/{}", url.rsplit('/').next().unwrap());
                let at = range.map_or(0, |range| range.start);
                self.lanes[usize::from(lane)].jobs.push_back(Job {
                    number: job,
                    path,
                    range,
                    limit,
                    at,
                    headed: false,
                });
            }
            FetchOrder::Cancel { lane, job } => {
                let jobs = &mut self.lanes[usize::from(lane)].jobs;
                if let Some(place) = jobs.iter().position(|known| known.number == job) {
                    jobs.remove(place);
                    self.outbox.push_back(FetchNews::End { lane, job });
                }
            }
            FetchOrder::Consumed { lane, bytes } => {
                let held = &mut self.lanes[usize::from(lane)].held;
                // After a lie about it, it may be less.
                *held = held.saturating_sub(bytes as usize);
            }
        }
    }

    fn work(&mut self, number: usize, random: &mut Random) {
        let lane = &mut self.lanes[number];
        let Some(job) = lane.jobs.front_mut() else { return };
        let (name, id) = (number as u8, job.number);
        let Some(file) = self.files.get(&job.path) else {
            let cause = FetchCause::Status { status: 404, retry_after: None };
            self.outbox.push_back(FetchNews::Failed { lane: name, job: id, cause });
            lane.jobs.pop_front();
            return;
        };
        let size = file.len() as u64;
        let end = job.range.map_or(size, |range| range.end.min(size)).min(job.at + job.limit);
        if !job.headed {
            job.headed = true;
            let head = Head {
                status: if job.range.is_some() { 206 } else { 200 },
                length: Some(end - job.at),
                range: job.range.map(|range| Range { start: range.start, end }),
                size: Some(size),
                validator: Some("\"v\"".into()),
            };
            self.outbox.push_back(FetchNews::Head { lane: name, job: id, head });
        }
        let room = LANE_BYTES - lane.held;
        let length = room.min(PIECE).min((end - job.at) as usize).min(LANE_BYTES - lane.position);
        if length > 0 {
            let mut piece = file[job.at as usize..job.at as usize + length].to_vec();
            if self.malice > 0 && random.below(self.malice) == 0 {
                let wrong = random.below(length);
                piece[wrong] ^= 1 << random.below(8);
            }
            assert!(self.ring[number].write(lane.position, &piece));
            lane.position = (lane.position + length) % LANE_BYTES;
            lane.held += length;
            job.at += length as u64;
            job.limit -= length as u64;
            self.outbox.push_back(FetchNews::Data { lane: name, job: id, bytes: length as u32 });
        }
        if job.at >= end || job.limit == 0 {
            self.outbox.push_back(FetchNews::End { lane: name, job: id });
            lane.jobs.pop_front();
        }
    }

    /// What is not taken now is offered again.
    fn post(&mut self) -> Turn {
        while let Some(news) = self.outbox.front() {
            match self.channel.send(news) {
                Ok(()) => drop(self.outbox.pop_front()),
                Err(SendError::Full) => break,
                Err(_) => return Turn::Over,
            }
        }
        Turn::Goes
    }

    fn attack(&mut self, random: &mut Random) -> Turn {
        let lane = random.below(LANES + 2) as u8;
        let running = self.lanes.get(usize::from(lane)).and_then(|lane| lane.jobs.front()).map(|job| job.number);
        // A job that runs, one that was, or one that never is.
        let job = running.filter(|_| random.below(4) > 0).unwrap_or(random.below(40) as u32);
        let bytes = match random.below(5) {
            0 => u32::MAX,
            1 => LANE_BYTES as u32 + 1,
            2 => LANE_BYTES as u32,
            3 => 0,
            _ => random.below(LANE_BYTES) as u32,
        };
        let mut say = |news| self.outbox.push_back(news);
        match random.below(10) {
            0 => say(FetchNews::Data { lane, job, bytes }),
            1 => say(FetchNews::End { lane, job }),
            2 => say(FetchNews::Failed { lane, job, cause: cause(random) }),
            3 => say(FetchNews::Head { lane, job, head: head(random) }),
            // Announcements of nothing, of jobs by turns.
            4 => (0..3000).for_each(|turn| say(FetchNews::Data { lane, job: job + turn % 2, bytes: 0 })),
            5 => (0..1000).for_each(|turn| {
                say(FetchNews::Time { seconds: random.next() });
                say(match turn % 2 {
                    0 => FetchNews::Warning(FetchWarning::Open),
                    _ => FetchNews::Failed { lane, job: u32::MAX, cause: FetchCause::Reset },
                });
            }),
            6 => (0..3).for_each(|_| say(FetchNews::End { lane, job })),
            // All of its part of the ring.
            7 => {
                let noise = random.bytes(LANE_BYTES / 8);
                self.ring.iter().for_each(|part| assert!(part.write(random.below(LANE_BYTES / 2), &noise)));
            }
            8 if random.below(4) == 0 => {
                let length = [1, 9, 200, 40_000][random.below(4)];
                let packet = random.bytes(length);
                // It may not take it; then this was nothing.
                let _ = rustix::net::send(&self.channel, &packet, rustix::net::SendFlags::NOSIGNAL);
            }
            9 if random.below(4) == 0 => return Turn::Over,
            _ => {}
        }
        Turn::Goes
    }
}

fn head(random: &mut Random) -> Head {
    let sizes = [0, 1, 4096, 2_622_217, 1 << 40, u64::MAX - 1, u64::MAX];
    let size = |random: &mut Random| sizes[random.below(sizes.len())];
    let (start, end) = (size(random), size(random));
    Head {
        status: [0, 200, 206, 999][random.below(4)],
        length: Some(size(random)).filter(|_| random.below(2) == 0),
        range: Some(Range { start, end }).filter(|_| random.below(2) == 0),
        size: Some(size(random)).filter(|_| random.below(3) > 0),
        validator: Some("x".repeat(random.below(3) * 10_000)).filter(|_| random.below(2) == 0),
    }
}

/// Any; of those after which a source is let rest for minutes, as it may ask, none.
fn cause(random: &mut Random) -> FetchCause {
    let causes = [
        FetchCause::NameUnknown,
        FetchCause::NameServer,
        FetchCause::Reset,
        FetchCause::Stalled,
        FetchCause::Status { status: 404, retry_after: None },
        FetchCause::Status { status: 503, retry_after: Some(1) },
        FetchCause::Status { status: 0, retry_after: None },
        FetchCause::Redirect,
        FetchCause::Short,
        FetchCause::Protocol,
        FetchCause::WorkerDied,
    ];
    causes[random.below(causes.len())].clone()
}
