//! The store worker: the image in memory, its chunks and their hashes. It has no network; what a fetch worker brings
//! is copied once, judged, and only then written.

pub mod engine;
mod file;
mod intake;
pub mod locate;
mod sources;
pub mod superblock;
mod transfer;

use crate::contract::RING_BYTES;
use crate::digest::Sha256;
use crate::messages::{FetchNews, FetchOrder, StoreNews, StoreOrder};
use crate::sys::channel::{Channel, Received, SendError, wait};
use crate::sys::memory::SharedBytes;
use engine::{Action, Engine, Event, Intake};
use file::ImageFile;
use intake::{Assembler, Consumer, Step};
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};
use transfer::Transfer;

/// Milliseconds since the worker's start.
pub type Millis = u64;

/// How long to wait for nothing in particular.
const IDLE: Duration = Duration::from_secs(3600);
/// How long to wait before news that PID 1 did not take are offered again.
const OFFER: Duration = Duration::from_millis(20);
/// More news than this are not kept for a PID 1 that does not read.
const OUTBOX: usize = 256;

/// Runs the worker until PID 1 says `Finish` (then 0), or closes the channel or the kernel refuses (then 1).
/// `image` is a memfd that may be sealed, empty or as a store that died left it, `ring` one of `RING_BYTES` whose size is sealed.
pub fn main(channel: Channel<StoreNews, StoreOrder>, image: OwnedFd, ring: OwnedFd) -> i32 {
    let Ok(shared) = SharedBytes::map(&ring, RING_BYTES) else { return 1 };
    let mut worker = Worker {
        channel,
        image: ImageFile::new(image),
        ring: Consumer::new(shared),
        engine: None,
        fetcher: None,
        ending: None,
        assembler: Assembler::default(),
        document: Vec::new(),
        outbox: VecDeque::new(),
        start: Instant::now(),
    };
    match worker.run() {
        Stop::Finished => 0,
        Stop::Broken => 1,
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
    ring: Consumer,
    engine: Option<Engine>,
    fetcher: Option<Fetcher>,
    /// The end of the running job, until its bytes are taken in.
    ending: Option<FetchNews>,
    assembler: Assembler,
    document: Vec<u8>,
    outbox: VecDeque<StoreNews>,
    start: Instant,
}

impl Worker {
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
        let now = self.now();
        if self.engine.as_ref().and_then(Engine::deadline).is_some_and(|deadline| deadline <= now) {
            self.handle(Event::Timer);
        }
        if let Some(news) = self.engine.as_mut().and_then(|engine| engine.progress(now)) {
            self.outbox.push_back(news);
        }
        self.post()
    }

    fn wait(&self) -> Result<(), Stop> {
        let deadline = self.engine.as_ref().and_then(Engine::deadline);
        let mut timeout = deadline.map_or(IDLE, |at| Duration::from_millis(at.saturating_sub(self.now())));
        if !self.outbox.is_empty() {
            timeout = timeout.min(OFFER);
        }
        let channel = self.channel.as_fd();
        let answer = match &self.fetcher {
            Some(fetcher) => wait(&[channel, fetcher.as_fd()], timeout),
            None => wait(&[channel], timeout),
        };
        answer.map(drop).map_err(|_| Stop::Broken)
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
                    self.ring.restart();
                    self.ending = None;
                    self.fetcher = descriptor.map(Channel::from_fd);
                    self.handle(if self.fetcher.is_some() { Event::Fetcher } else { Event::FetcherLost });
                }
                Received::Message(StoreOrder::Admitted, _) => {
                    self.handle(Event::Admitted);
                    self.take_in();
                }
                Received::Message(StoreOrder::Again, _) => self.handle(Event::Again),
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
        loop {
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
        self.take_in();
        self.let_fetcher_go();
    }

    fn let_fetcher_go(&mut self) {
        if self.fetcher.take().is_some() {
            self.ring.restart();
            self.ending = None;
            self.handle(Event::FetcherLost);
        }
    }

    /// False where the worker broke the rules.
    fn fetched(&mut self, news: FetchNews) -> bool {
        let now = self.now();
        if let Some(engine) = &mut self.engine {
            engine.heard(now);
        }
        match news {
            FetchNews::Head { job, head } => self.handle(Event::Head { job, head }),
            FetchNews::Data { job, bytes } => {
                if self.ring.announce(job, bytes as usize).is_err() {
                    return false;
                }
            }
            FetchNews::End { .. } | FetchNews::Failed { .. } => self.ending = Some(news),
        }
        self.take_in();
        true
    }

    /// Takes bytes out of the ring for as long as they are of use or in the way.
    fn take_in(&mut self) {
        while let Some((job, bytes)) = self.ring.front() {
            let Some(engine) = &mut self.engine else { return };
            let intake = if engine.job() == Some(job) { engine.intake() } else { Intake::Skip };
            match intake {
                Intake::Hold => return,
                Intake::Skip => self.ring.skip(bytes),
                Intake::Document { limit } => self.collect(bytes, limit),
                Intake::Chunks { image } => self.cut(image),
            }
            self.give_credit();
        }
        match self.ending.take() {
            Some(FetchNews::End { job }) => {
                let document = std::mem::take(&mut self.document);
                self.handle(Event::End { job, document });
            }
            Some(FetchNews::Failed { job, cause }) => self.handle(Event::Failed { job, cause }),
            _ => {}
        }
    }

    fn collect(&mut self, bytes: usize, limit: usize) {
        let from = self.document.len();
        let to = (from + bytes).min(limit);
        self.document.resize(to, 0);
        if let Some(place) = self.document.get_mut(from..to)
            && !self.ring.take(place)
        {
            self.document.truncate(from);
        }
        self.ring.skip(bytes - (to - from));
    }

    fn cut(&mut self, image: bool) {
        let Some(engine) = &mut self.engine else { return };
        let Some(transfer) = engine.transfer() else { return };
        let before = self.ring.front().map_or(0, |(_, left)| left);
        let job = engine.job();
        let step = self.assembler.step(&mut self.ring, transfer);
        if image {
            let after = self.ring.front().filter(|(next, _)| Some(*next) == job).map_or(0, |(_, left)| left);
            engine.count((before - after) as u64);
        }
        if let Step::Whole(number) = step {
            self.judge(number);
        }
    }

    fn judge(&mut self, number: u64) {
        let now = self.now();
        let Some(engine) = &mut self.engine else { return };
        let Some(transfer) = engine.transfer() else { return };
        let offset = transfer.offset(number);
        let bytes = self.assembler.chunk();
        let hash = transfer.has_hashes().then(|| Sha256::of(bytes));
        if engine.chunk(number, bytes, hash)
            && let Err(error) = self.image.write(offset, bytes, engine.hashes_whole())
        {
            return self.no_memory(&error);
        }
        engine.written(now);
        self.act();
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

    fn give_credit(&mut self) {
        if let Some(bytes) = self.ring.due_credit() {
            self.order(&FetchOrder::Consumed { bytes });
        }
    }

    fn no_memory(&mut self, error: &io::Error) {
        const EIO: i32 = 5;
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
                    if let StoreNews::Done { .. } = news {
                        self.fetcher = None;
                    }
                    self.outbox.push_back(news);
                }
                Action::Get(request) => {
                    self.document = Vec::new();
                    let stall_seconds = self.engine.as_ref().map_or(1, Engine::stall_seconds);
                    let engine::Request { job, url, range, if_range, limit } = request;
                    self.order(&FetchOrder::Get { job, url, range, if_range, limit, stall_seconds });
                }
                Action::Cancel { job } => self.order(&FetchOrder::Cancel { job }),
                Action::Receive { at } => self.assembler.seek(at),
                Action::StartOver => self.image.start_over(),
                Action::DropFetcher => self.fetcher = None,
                Action::Allocate { size } => {
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
                Action::Seal => match self.image.seal() {
                    Ok(()) => self.handle(Event::Sealed),
                    Err(error) => self.no_memory(&error),
                },
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
