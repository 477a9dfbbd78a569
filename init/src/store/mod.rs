//! The store worker: the image in memory, its chunks and their hashes. It has no network; what a fetch worker brings
//! is copied once, judged, and only then written.

mod blocks;
pub mod engine;
mod file;
mod hashers;
mod intake;
mod lanes;
pub mod locate;
mod order;
mod patience;
mod retry;
mod serving;
mod sources;
mod streaming;
pub mod superblock;
mod trace;
mod transfer;

use crate::boot_order::Subject;
use crate::contract::{LANE_BYTES, LANES, role};
use crate::digest::Sha256;
use crate::messages::{FetchNews, FetchOrder, FetchWarning, ImageFacts, StoreNews, StoreOrder};
use crate::sys::channel::{Channel, Received, SendError, wait};
use crate::sys::memory::SharedBytes;
use engine::{Action, Engine, Event};
use file::ImageFile;
use hashers::{Hashers, Judged, Work};
use intake::{Assembler, Consumer};
use lanes::Lane;
pub use patience::LONG;
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::mem::{self, Discriminant};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};
use streaming::Streaming;
pub use trace::PIECE;
use transfer::Transfer;

/// Milliseconds since the worker's start.
pub type Millis = u64;

/// How long to wait for nothing in particular.
const IDLE: Duration = Duration::from_secs(3600);
/// How long to wait before news that PID 1 did not take are offered again.
const OFFER: Duration = Duration::from_millis(20);
/// How often it is said that sources answer.
const ANSWERED: Duration = Duration::from_secs(1);
/// More news than this are not kept for a PID 1 that does not read.
const OUTBOX: usize = 256;

/// So many messages of the fetch worker are taken up in a turn.
const AT_ONCE: usize = 1024;

/// What an error without a number counts as.
const EIO: i32 = 5;

/// Runs the worker until PID 1 says `Finish` (then 0), or closes the channel or the kernel refuses (then 1).
/// `image` is a memfd that may be sealed, empty or as a store that died left it, `ring` one of `RING_BYTES` whose size
/// is sealed; `processors` are those that this machine has.
pub fn main(channel: Channel<StoreNews, StoreOrder>, image: OwnedFd, ring: OwnedFd, processors: usize) -> i32 {
    match Worker::new(channel, image, &ring, processors).map(|mut worker| worker.run()) {
        Ok(Stop::Finished) => 0,
        Ok(Stop::Broken) => 1,
        Err(error) => {
            log::error!("{}: {error}", role::STORE);
            1
        }
    }
}

/// Why the worker ends.
enum Stop {
    Finished,
    Broken,
}

type Fetcher = Channel<FetchOrder, FetchNews>;

struct Worker {
    channel: Channel<StoreNews, StoreOrder>,
    image: ImageFile,
    lanes: Vec<Lane>,
    hashers: Hashers,
    engine: Option<Engine>,
    /// The image as a file, once PID 1 asked for that.
    streaming: Option<Streaming>,
    /// Whether it is to be kept what is read first.
    traces: bool,
    /// What could be served, once that was told.
    opened: Option<(ImageFacts, Subject)>,
    /// The manifest of the image that is whole.
    whole: Option<Sha256>,
    /// Through what it is to be served, and after how long a read fails, from the order on until it is.
    asked: Option<(OwnedFd, Option<Duration>)>,
    fetcher: Option<Fetcher>,
    outbox: VecDeque<StoreNews>,
    time_told: bool,
    answer_told: Option<Instant>,
    warned: Vec<Discriminant<FetchWarning>>,
    start: Instant,
}

impl Worker {
    fn new(
        channel: Channel<StoreNews, StoreOrder>,
        image: OwnedFd,
        ring: &OwnedFd,
        processors: usize,
    ) -> io::Result<Self> {
        let image = ImageFile::new(image);
        let lane = |number: usize| {
            let ring = Consumer::new(SharedBytes::map(ring, number * LANE_BYTES, LANE_BYTES)?);
            let (assembler, document) = (Assembler::default(), Vec::new());
            Ok(Lane { ring, assembler, document, ending: None, under_way: 0 })
        };
        Ok(Self {
            channel,
            lanes: (0..LANES).map(lane).collect::<io::Result<_>>()?,
            hashers: Hashers::start(image.handle()?, processors)?,
            image,
            engine: None,
            streaming: None,
            traces: false,
            opened: None,
            whole: None,
            asked: None,
            fetcher: None,
            outbox: VecDeque::new(),
            time_told: false,
            answer_told: None,
            warned: Vec::new(),
            start: Instant::now(),
        })
    }

    fn run(&mut self) -> Stop {
        loop {
            if let Err(stop) = self.turn() {
                return stop;
            }
        }
    }

    fn now(&self) -> Millis {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(Millis::MAX)
    }

    fn turn(&mut self) -> Result<(), Stop> {
        self.wait()?;
        self.orders()?;
        self.fetch_news();
        self.collect_results();
        self.tend_stream()?;
        let now = self.now();
        if self.engine.as_ref().and_then(Engine::deadline).is_some_and(|deadline| deadline <= now) {
            self.handle(Event::Timer);
        }
        if let Some(news) = self.engine.as_mut().and_then(|engine| engine.progress(now)) {
            // Of what PID 1 has not taken, being busy, the newest tells it all.
            self.outbox.retain(|old| !matches!(old, StoreNews::Progress(_)));
            self.outbox.push_back(news);
        }
        self.post()
    }

    fn wait(&self) -> Result<(), Stop> {
        let deadline = self.engine.as_ref().and_then(Engine::deadline);
        let mut timeout = deadline.map_or(IDLE, |at| Duration::from_millis(at.saturating_sub(self.now())));
        if let Some(due) = self.streaming.as_ref().and_then(Streaming::due) {
            timeout = timeout.min(due.saturating_duration_since(Instant::now()));
        }
        if !self.outbox.is_empty() {
            timeout = timeout.min(OFFER);
        }
        let mut watched = vec![self.channel.as_fd(), self.hashers.bell()];
        watched.extend(self.fetcher.as_ref().map(AsFd::as_fd));
        watched.extend(self.streaming.as_ref().map(Streaming::bell));
        wait(&watched, timeout).map(drop).map_err(|_| Stop::Broken)
    }

    /// Takes up what PID 1 says.
    fn orders(&mut self) -> Result<(), Stop> {
        loop {
            match self.channel.receive().map_err(|_| Stop::Broken)? {
                Received::Empty => return Ok(()),
                Received::Closed | Received::Malformed(_) => return Err(Stop::Broken),
                Received::Message(StoreOrder::Finish, _) => return Err(Stop::Finished),
                Received::Message(StoreOrder::Start(wanted), _) => {
                    if self.engine.is_none() {
                        let engine = Engine::new(wanted, RandomState::new().hash_one(self.start));
                        self.engine = Some(engine.inheriting(self.image.is_inherited()));
                        self.handle(if self.fetcher.is_some() { Event::Fetcher } else { Event::Timer });
                    }
                }
                Received::Message(StoreOrder::Fetcher, descriptor) => {
                    self.restart_lanes();
                    self.fetcher = descriptor.map(Channel::from_fd);
                    self.handle(if self.fetcher.is_some() { Event::Fetcher } else { Event::FetcherLost });
                }
                Received::Message(StoreOrder::Admitted, _) => {
                    self.handle(Event::Admitted);
                    self.take_in_all();
                }
                Received::Message(StoreOrder::Again, _) => self.handle(Event::Again),
                Received::Message(StoreOrder::Keep { manifest }, _) => {
                    let now = self.now();
                    if let Some(engine) = &mut self.engine {
                        engine.keep_to(manifest, now);
                        self.act();
                    }
                }
                Received::Message(StoreOrder::Serve { eio_seconds }, connection) => {
                    let eio = eio_seconds.map(|seconds| Duration::from_secs(seconds.into()));
                    self.asked = Some((connection.ok_or(Stop::Broken)?, eio));
                    self.serve()?;
                }
                Received::Message(StoreOrder::Patience { eio_seconds }, _) => {
                    if let Some(streaming) = &mut self.streaming {
                        streaming.be_patient(eio_seconds.map(|seconds| Duration::from_secs(seconds.into())));
                    }
                }
                Received::Message(StoreOrder::Trace, _) => self.traces = true,
                Received::Message(StoreOrder::Touched { from }, _) => {
                    let piece = self.streaming.as_ref().and_then(|streaming| streaming.touched(from));
                    self.outbox.extend(piece.map(|(Subject { size, chunk_size, sha256 }, chunks)| {
                        StoreNews::Touched { size, chunk_size, sha256, chunks }
                    }));
                }
                Received::Message(StoreOrder::TraceEnds, _) => {
                    if let Some(streaming) = &mut self.streaming {
                        streaming.trace_ends();
                    }
                }
                Received::Message(StoreOrder::Device, device) => {
                    if let (Some(streaming), Some(device)) = (&mut self.streaming, device) {
                        streaming.take_device(device);
                    }
                }
            }
        }
    }

    /// Offers the news to PID 1; what it does not take now is offered again.
    fn post(&mut self) -> Result<(), Stop> {
        while let Some(news) = self.outbox.front() {
            match self.channel.send(news) {
                Ok(()) => self.outbox.pop_front(),
                Err(SendError::Full) if self.outbox.len() <= OUTBOX => return Ok(()),
                Err(_) => return Err(Stop::Broken),
            };
        }
        Ok(())
    }

    /// Takes up what the fetch worker says. One that talks nonsense is as good as dead.
    fn fetch_news(&mut self) {
        // Bounded: one in a stranger's hands that never stops must not keep the store from its orders.
        for _ in 0..AT_ONCE {
            let Some(fetcher) = &self.fetcher else { return };
            let understood = match fetcher.receive() {
                Ok(Received::Empty) => return,
                Ok(Received::Message(news, _)) => self.fetched(news),
                Ok(Received::Closed | Received::Malformed(_)) | Err(_) => false,
            };
            if !understood {
                self.lose_fetcher();
            }
        }
    }

    fn lose_fetcher(&mut self) {
        // What it brought before counts; only what it would still have said is lost.
        self.take_in_all();
        self.let_fetcher_go();
    }

    fn let_fetcher_go(&mut self) {
        if self.fetcher.take().is_some() {
            self.restart_lanes();
            self.handle(Event::FetcherLost);
        }
    }

    /// False where the worker broke the rules.
    fn fetched(&mut self, news: FetchNews) -> bool {
        let (lane, job) = match news {
            FetchNews::Head { lane, job, .. }
            | FetchNews::Data { lane, job, .. }
            | FetchNews::End { lane, job }
            | FetchNews::Failed { lane, job, .. } => (lane, job),
            // PID 1 decides what to make of it.
            FetchNews::Time { seconds } => {
                // Once: a worker in a stranger's hands must not fill the outbox, nor move the clock on and on.
                if !mem::replace(&mut self.time_told, true) {
                    self.outbox.push_back(StoreNews::Time { seconds });
                }
                return true;
            }
            FetchNews::Warning(warning) => {
                // Each kind once, for the same reason; a successor of the worker says it again.
                let kind = mem::discriminant(&warning);
                if !self.warned.contains(&kind) {
                    self.warned.push(kind);
                    self.outbox.push_back(StoreNews::Warning(warning));
                }
                return true;
            }
        };
        let answer = match &news {
            FetchNews::Head { .. } => true,
            FetchNews::Failed { cause, .. } => cause.is_answer(),
            _ => false,
        };
        if answer && self.answer_told.is_none_or(|told| told.elapsed() >= ANSWERED) {
            self.answer_told = Some(Instant::now());
            self.outbox.retain(|old| *old != StoreNews::Answered);
            self.outbox.push_back(StoreNews::Answered);
        }
        let now = self.now();
        if let Some(engine) = &mut self.engine {
            engine.heard(job, now);
        }
        let number = usize::from(lane);
        let Some(lane) = self.lanes.get_mut(number) else { return false };
        match news {
            FetchNews::Head { job, head, .. } => self.handle(Event::Head { job, head }),
            FetchNews::Data { job, bytes, .. } => {
                if lane.ring.announce(job, bytes as usize).is_err() {
                    return false;
                }
            }
            FetchNews::Time { .. } | FetchNews::Warning(_) => {}
            FetchNews::End { .. } | FetchNews::Failed { .. } => {
                // One job after another: the end of this one cannot be still to come when the next one's is there.
                if lane.ending.replace(news).is_some() {
                    return false;
                }
            }
        }
        self.take_in(number);
        true
    }

    /// Takes up what the hashers found, and gives them more to do, until there is nothing of either.
    fn collect_results(&mut self) {
        loop {
            let mut touched = [false; LANES];
            while let Some(judged) = self.hashers.next() {
                if let Some(touched) = touched.get_mut(judged.work.lane) {
                    *touched = true;
                }
                self.settle(judged);
            }
            if !touched.contains(&true) {
                return;
            }
            for (lane, _) in touched.iter().enumerate().filter(|(_, touched)| **touched) {
                self.finish(lane);
            }
            self.take_in_all();
        }
    }

    fn settle(&mut self, Judged { work, right, written }: Judged) {
        let Work { lane, job, chunk, offset, expected, bytes } = work;
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.under_way = lane.under_way.saturating_sub(1);
        }
        let now = self.now();
        match (written, &mut self.engine) {
            (Err(error), _) => self.no_memory(&error),
            (Ok(()), Some(engine)) => {
                engine.judged(job, chunk, &bytes, expected, right, now);
                if right && engine.hashes_whole() {
                    self.image.follow(offset, &bytes);
                }
                if let Some(streaming) = self.streaming.as_ref().filter(|_| right) {
                    streaming.arrived(chunk);
                }
                self.written(now);
            }
            (Ok(()), None) => {}
        }
        self.hashers.give_back(bytes);
    }

    /// Holds what a store that died left against the hashes; what cannot be read is fetched like what is missing.
    fn recover(&mut self) {
        let Some(engine) = self.engine.as_mut().filter(|_| self.image.is_inherited()) else { return };
        let chunks = engine.transfer().map_or(0, Transfer::chunks);
        let mut bytes = Vec::new();
        for number in 0..chunks {
            let Some(image) = engine.transfer() else { break };
            bytes.resize(usize::try_from(image.length(number)).unwrap_or(0), 0);
            if self.image.inherit(image.offset(number), &mut bytes).is_err() {
                break;
            }
            engine.recover(number, &bytes, Sha256::of(&bytes));
        }
        self.image.disinherit();
    }

    /// What is being judged belongs to bytes that are no more.
    fn abandon(&mut self) {
        self.hashers.abandon();
        for lane in &mut self.lanes {
            lane.under_way = 0;
        }
    }

    fn no_memory(&mut self, error: &io::Error) {
        self.handle(Event::NoMemory { errno: error.raw_os_error().unwrap_or(EIO) });
    }

    fn handle(&mut self, event: Event) {
        let now = self.now();
        if let Some(engine) = &mut self.engine {
            engine.handle(event, now);
            self.act();
        }
    }

    /// Does what the engine decided.
    fn act(&mut self) {
        while let Some(action) = self.engine.as_mut().and_then(Engine::next_action) {
            match action {
                Action::News(news) => {
                    match &news {
                        StoreNews::Done { facts, .. } => {
                            self.fetcher = None;
                            self.whole = facts.manifest;
                        }
                        StoreNews::Absent => self.fetcher = None,
                        // However little time ago it was told: PID 1 must not take this for a failure of the way.
                        StoreNews::Failed(cause) if cause.is_answer() => self.outbox.push_back(StoreNews::Answered),
                        _ => {}
                    }
                    self.outbox.push_back(news);
                }
                Action::Get(engine::Request { job, lane, asked, stall_seconds }) => {
                    let engine::Asked { url, range, if_range, limit } = asked;
                    self.order(&FetchOrder::Get { lane, job, url, range, if_range, limit, stall_seconds });
                }
                Action::Cancel { lane, job } => self.order(&FetchOrder::Cancel { lane, job }),
                Action::Receive { lane, at } => {
                    if let Some(lane) = self.lanes.get_mut(usize::from(lane)) {
                        lane.assembler.seek(at);
                    }
                }
                Action::StartOver => {
                    self.abandon();
                    self.image.start_over();
                }
                Action::DropFetcher => self.fetcher = None,
                Action::Allocate { size } => {
                    self.abandon();
                    if let Err(error) = self.image.allocate(size) {
                        self.no_memory(&error);
                    }
                }
                Action::Recover => {
                    self.recover();
                    self.handle(Event::Recovered);
                }
                Action::Complete { hash } => match hash.then(|| self.image.hash()).transpose() {
                    Ok(found) => self.handle(Event::Hashed(found)),
                    Err(error) => self.no_memory(&error),
                },
                Action::Seal => {
                    // What two connections brought is there once and may be under way a second time.
                    self.abandon();
                    let seal = || self.image.seal();
                    match self.streaming.as_ref().map_or_else(seal, |streaming| streaming.undisturbed(seal)) {
                        Ok(()) => {
                            if let Some(streaming) = &mut self.streaming {
                                streaming.sealed();
                            }
                            self.handle(Event::Sealed);
                        }
                        Err(error) => self.no_memory(&error),
                    }
                }
            }
        }
    }

    /// Orders something of the fetch worker; one that takes no orders is let go.
    fn order(&mut self, order: &FetchOrder) {
        if self.fetcher.as_ref().is_some_and(|fetcher| fetcher.send(order).is_err()) {
            self.let_fetcher_go();
        }
    }
}
