//! The engine against servers of every speed and temper, in a time of its own: who fetches what, how long it takes,
//! and how much is fetched in vain.

use super::super::sources::Stage;
use super::super::transfer::Transfer;
use super::tests::{superblock, wanted};
use super::*;
use crate::manifest::{FORMAT, LIST_BLOCK};
use crate::messages::{FetchCause, Head, Range};
use std::collections::BTreeMap;

pub(super) const MIB: u64 = 1 << 20;
const STEP: Millis = 10;

/// A server.
#[derive(Clone, Copy)]
pub(super) struct Server {
    /// Bytes a second of each connection.
    per_connection: u64,
    /// Bytes a second of all of them.
    together: u64,
    /// How long it takes to answer.
    pub delay: Millis,
    pub temper: Temper,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Temper {
    Good,
    /// Every chunk is wrong.
    Corrupt,
    /// Every block of the chunk list is wrong.
    Lists,
    /// Has no chunk list, or no image.
    Lacks(Stage),
    /// Refuses connections.
    Dead,
    /// Takes connections and says nothing.
    Silent,
    /// Knows no ranges.
    WholeOnly,
    /// Refuses until then.
    Until(Millis),
    /// Breaks each connection off after so many bytes.
    Breaks(u64),
}

pub(super) fn server(megabytes: u64) -> Server {
    let rate = megabytes * 1_000_000;
    throttled(rate, rate)
}

/// A server of so many bytes a second in all and a connection.
pub(super) fn throttled(per_connection: u64, together: u64) -> Server {
    Server { per_connection, together, delay: 0, temper: Temper::Good }
}

/// What a running request has brought.
struct Body {
    source: usize,
    stage: Stage,
    asked: Option<Range>,
    lane: u8,
    begun: Millis,
    position: u64,
    end: u64,
    sent: u64,
    headed: bool,
}

pub(super) struct World {
    pub engine: Engine,
    pub servers: Vec<Server>,
    size: u64,
    now: Millis,
    bodies: BTreeMap<u32, Body>,
    /// Bytes that came in, useful or not.
    fetched: u64,
    /// Most requests to a source at once.
    at_once: usize,
    /// Chunks in the order in which they came.
    pub arrived: Vec<u64>,
    /// Blocks of the chunk list in the order in which they came.
    pub listed: Vec<u64>,
    /// What was asked for, of which file.
    pub asked: Vec<(Stage, Option<Range>)>,
}

impl World {
    pub fn new(size: u64, servers: &[Server]) -> Self {
        Self::with_order(size, servers, &[])
    }

    /// The same with an image whose manifest has a boot order.
    pub fn with_order(size: u64, servers: &[Server], boot_order: &[u32]) -> Self {
        Self::begun(size, servers, boot_order, false)
    }

    /// The same with an image that is to be served soon, of which only the manifest is there.
    pub fn streamed(size: u64, servers: &[Server], boot_order: &[u32]) -> Self {
        Self::begun(size, servers, boot_order, true)
    }

    fn begun(size: u64, servers: &[Server], boot_order: &[u32], streams: bool) -> Self {
        let urls: Vec<String> = (0..servers.len()).map(|at| format!("http://{at}/web.img")).collect();
        let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
        let mut engine = Engine::new(Wanted { stall_seconds: 10, streams, ..wanted(&urls) }, size | 7);
        let chunks = size.div_ceil(u64::from(CHUNK_SIZE));
        let list = vec![7; chunks as usize * 32];
        let manifest = Manifest {
            format: FORMAT.into(),
            name: "web.img".into(),
            size,
            sha256: Sha256([9; 32]),
            chunk_size: CHUNK_SIZE,
            version: 1,
            date: 0,
            kernel: None,
            chunk_list: list.chunks(LIST_BLOCK as usize).map(Sha256::of).collect(),
            layers: vec![],
            sources: vec![],
            boot_order: boot_order.to_vec(),
        };
        // Discovery is another story: the plan and the list are there, or the list comes beside the image.
        let (origin, vouched) = (Some(0), Trust::Checksummed.into());
        let plan = Plan { origin, manifest: Some(manifest.clone()), whole: None, vouched };
        engine.admission = Some((size, true));
        engine.tally.total = size;
        if streams {
            engine.follow(plan, manifest);
        } else {
            engine.begin_image(plan, Hashes::List(list), size);
        }
        engine.handle(Event::Fetcher, 0);
        let bodies = BTreeMap::new();
        let servers = servers.to_vec();
        let (arrived, listed, asked) = (Vec::new(), Vec::new(), Vec::new());
        Self { engine, servers, size, now: 0, bodies, fetched: 0, at_once: 0, arrived, listed, asked }
    }

    /// Runs until all is there, and says when that was.
    pub fn run(&mut self, limit: Millis) -> Millis {
        while self.now < limit {
            if self.act() {
                return self.now;
            }
            self.step();
        }
        panic!("not there after {limit} ms: {:?}", self.engine.tally);
    }

    /// Runs until `done`, or until the limit, or until all is there.
    pub fn run_until(&mut self, limit: Millis, done: impl Fn(&Engine) -> bool) {
        while !self.act() && self.now < limit && !done(&self.engine) {
            self.step();
        }
    }

    pub fn now(&self) -> Millis {
        self.now
    }

    fn step(&mut self) {
        self.now += STEP;
        self.deliver();
        self.engine.handle(Event::Timer, self.now);
    }

    /// Carries the engine's orders out; true at the end.
    fn act(&mut self) -> bool {
        while let Some(action) = self.engine.next_action() {
            match action {
                Action::Get(request) => self.begin(&request),
                Action::Cancel { job, .. } => self.cancel(job),
                Action::DropFetcher => {
                    self.bodies.clear();
                    self.engine.handle(Event::Fetcher, self.now);
                }
                Action::Complete { .. } => return true,
                Action::News(StoreNews::Failed(cause)) => panic!("{cause:?}"),
                _ => {}
            }
        }
        false
    }

    fn begin(&mut self, request: &Request) {
        let host = request.asked.url.strip_prefix("http://").unwrap().split('/').next().unwrap();
        let source: usize = host.parse().unwrap();
        assert!(self.bodies.values().all(|body| body.lane != request.lane), "lane {} is busy", request.lane);
        let stage = if request.asked.url.ends_with(".chunks") { Stage::List } else { Stage::Image };
        self.asked.push((stage, request.asked.range));
        let whole = self.servers[source].temper == Temper::WholeOnly;
        let end = self.file(stage).0;
        let range = request.asked.range.filter(|_| !whole).unwrap_or(Range { start: 0, end });
        let (lane, position, end) = (request.lane, range.start, range.end);
        let asked = request.asked.range.filter(|_| !whole);
        let begun = self.now;
        let body = Body { source, stage, asked, lane, begun, position, end, sent: 0, headed: false };
        self.bodies.insert(request.job, body);
        let at_once = self.bodies.values().filter(|body| body.source == source).count();
        self.at_once = self.at_once.max(at_once);
    }

    /// What the servers send in one step.
    fn deliver(&mut self) {
        let jobs: Vec<u32> = self.bodies.keys().copied().collect();
        for job in jobs {
            let Some(body) = self.bodies.get(&job) else { continue };
            let (source, stage, waited) = (body.source, body.stage, self.now - body.begun);
            let Server { per_connection, together, delay, temper } = self.servers[source];
            let connections = self.bodies.values().filter(|body| body.source == source).count() as u64;
            match temper {
                Temper::Dead => self.fail(job, FetchCause::Refused),
                Temper::Until(when) if self.now < when => self.fail(job, FetchCause::Refused),
                Temper::Silent => {}
                _ if waited < delay => {}
                Temper::Lacks(lacking) if lacking == stage => {
                    self.fail(job, FetchCause::Status { status: 404, retry_after: None });
                }
                _ => self.send(job, per_connection.min(together / connections) * STEP / 1000, temper),
            }
            while let Some(action) =
                self.engine.actions.iter().position(|action| matches!(action, Action::Cancel { .. }))
            {
                let Some(Action::Cancel { job, .. }) = self.engine.actions.remove(action) else { break };
                self.cancel(job);
            }
        }
    }

    /// Bytes of a file, and of a chunk of it.
    fn file(&self, stage: Stage) -> (u64, u64) {
        match stage {
            Stage::List => (self.size.div_ceil(u64::from(CHUNK_SIZE)) * 32, u64::from(LIST_BLOCK)),
            _ => (self.size, u64::from(CHUNK_SIZE)),
        }
    }

    fn cancel(&mut self, job: u32) {
        if self.bodies.remove(&job).is_some() {
            self.engine.handle(Event::End { job, document: vec![] }, self.now);
        }
    }

    /// The fetch worker dies with what it was about to bring, and another one comes.
    pub fn lose_worker(&mut self) {
        self.bodies.clear();
        self.engine.handle(Event::FetcherLost, self.now);
        self.engine.handle(Event::Fetcher, self.now);
    }

    fn fail(&mut self, job: u32, cause: FetchCause) {
        self.bodies.remove(&job);
        self.engine.handle(Event::Failed { job, cause }, self.now);
    }

    fn send(&mut self, job: u32, bytes: u64, temper: Temper) {
        let Some(stage) = self.bodies.get(&job).map(|body| body.stage) else { return };
        let (size, chunk) = self.file(stage);
        let Some(body) = self.bodies.get_mut(&job) else { return };
        if !body.headed {
            body.headed = true;
            let head = Head {
                status: 200,
                length: Some(body.end - body.position),
                range: body.asked,
                size: Some(size),
                validator: None,
            };
            self.engine.handle(Event::Head { job, head }, self.now);
        }
        let Some(body) = self.bodies.get_mut(&job) else { return };
        let (from, to) = (body.position, body.end.min(body.position + bytes.max(1)));
        (body.position, body.sent) = (to, body.sent + to - from);
        let (broken, done) = (matches!(temper, Temper::Breaks(after) if body.sent >= after), to == body.end);
        self.fetched += if stage == Stage::Image { to - from } else { 0 };
        self.engine.heard(job, self.now);
        self.engine.count(job, to - from, self.now);
        for number in from / chunk..size.div_ceil(chunk) {
            let end = ((number + 1) * chunk).min(size);
            let begun = self.bodies.get(&job).is_some_and(|body| body.asked.is_none_or(|a| a.start <= number * chunk));
            if end > to || !begun {
                break;
            }
            // Of what nobody wants any more, and of what is there, nothing is put together.
            let Some(file) = self.engine.file(job).filter(|_| self.engine.jobs.get(job).is_some()) else { break };
            if file.has(number) {
                continue;
            }
            assert!(file.hash(number).is_some(), "{stage:?} {number} cannot be judged");
            self.engine.take(job, number);
            let right = temper != Temper::Corrupt && !(temper == Temper::Lists && stage == Stage::List);
            if stage == Stage::List {
                let bytes = vec![if right { 7 } else { 8 }; (end - number * chunk) as usize];
                self.engine.list_chunk(job, number, &bytes, self.now);
                self.listed.extend(right.then_some(number));
                self.engine.written(self.now);
                continue;
            }
            self.engine.judged(job, number, &superblock(), Sha256([7; 32]), right, self.now);
            self.arrived.extend(right.then_some(number));
            self.engine.written(self.now);
        }
        if broken {
            self.fail(job, FetchCause::Reset);
        } else if done {
            self.bodies.remove(&job);
            self.engine.handle(Event::End { job, document: vec![] }, self.now);
        }
    }

    /// Bytes in vain, in thousandths of the image.
    pub fn waste(&self) -> u64 {
        (self.fetched - self.size) * 1000 / self.size
    }

    fn share(&self, source: SourceIndex) -> u64 {
        self.engine.sources.get(source).unwrap().tally.fetched
    }
}

/// How long the image takes at so many bytes a second.
fn ideal(size: u64, megabytes: u64) -> Millis {
    size / (megabytes * 1000)
}

#[test]
fn one_source_gives_what_it_has_and_nothing_comes_twice() {
    let mut world = World::new(400 * MIB + 17, &[server(100)]);
    let took = world.run(60_000);
    assert!(took < ideal(world.size, 100) * 103 / 100, "{took}");
    assert_eq!(world.waste(), 0);
}

#[test]
fn three_sources_give_almost_three_times_as_much_as_one() {
    let mut world = World::new(400 * MIB, &[server(37); 3]);
    let took = world.run(60_000);
    assert!(took < ideal(world.size, 37) * 10 / 27, "{took} of {}", ideal(world.size, 37));
    assert!(world.waste() <= 20, "{}", world.waste());
}

#[test]
fn a_slow_source_gets_less_and_does_not_hold_the_end() {
    let mut world = World::new(200 * MIB, &[server(1), server(50)]);
    let took = world.run(60_000);
    assert!(took < ideal(world.size, 50) * 115 / 100, "{took}");
    assert!(world.share(0) < 10 * MIB, "{}", world.share(0));
    assert!(world.waste() <= 20, "{}", world.waste());
}

#[test]
fn corrupt_dead_and_silent_sources_cost_little_beside_one_good_one() {
    let bad = |temper| Server { temper, ..server(50) };
    let servers = [bad(Temper::Corrupt), bad(Temper::Dead), bad(Temper::Silent), server(50)];
    let mut world = World::new(200 * MIB, &servers);
    let took = world.run(60_000);
    assert!(took < ideal(world.size, 50) * 115 / 100, "{took}");
    assert!(world.waste() <= 50, "{}", world.waste());
    let trouble = |source| world.engine.sources.get(source).unwrap().tally.trouble.clone();
    assert_eq!([0, 1, 3].map(trouble), [Some(FetchCause::WrongBytes), Some(FetchCause::Refused), None]);
}

#[test]
fn connections_are_added_where_they_pay_and_only_there() {
    let throttled = throttled(10_000_000, 1_000_000_000);
    let mut world = World::new(200 * MIB, &[throttled]);
    let took = world.run(60_000);
    assert!(took < ideal(world.size, 30), "{took}: {} at once", world.at_once);
    assert_eq!(world.at_once, 4);
    let mut world = World::new(1024 * MIB, &[server(30)]);
    world.run(120_000);
    assert!(world.at_once <= 2, "{} at once", world.at_once);
    assert!(world.waste() <= 20, "{}", world.waste());
}

#[test]
fn a_source_without_ranges_is_read_once_and_others_fetch_what_lies_ahead() {
    let whole = Server { temper: Temper::WholeOnly, ..server(20) };
    let mut world = World::new(100 * MIB, &[whole]);
    assert!(world.run(60_000) < ideal(world.size, 20) * 105 / 100);
    assert_eq!((world.waste(), world.at_once), (0, 1));
    let mut world = World::new(100 * MIB, &[whole, server(20)]);
    let took = world.run(60_000);
    assert!(took < ideal(world.size, 20) * 105 / 100, "{took}");
}

#[test]
fn a_server_that_comes_late_or_breaks_every_connection_only_takes_longer() {
    let mut world = World::new(20 * MIB, &[Server { temper: Temper::Until(60_000), ..server(50) }]);
    assert!(world.run(120_000) < 76_000, "{}", world.now);
    let mut world = World::new(20 * MIB, &[Server { temper: Temper::Breaks(700_000), ..server(50) }]);
    world.run(600_000);
    assert!(world.waste() <= 120, "at most the begun chunk of each connection: {}", world.waste());
}

#[test]
fn a_wire_that_is_all_but_dead_still_brings_the_image() {
    let mut world = World::new(3 * MIB, &[throttled(5000, 5000)]);
    world.run(3_000_000);
    assert!(world.waste() <= 50, "{}", world.waste());
}

#[test]
fn every_size_around_a_chunk_is_fetched_whole() {
    for size in [4096, 4097, 65_535, 65_536, 65_537, 131_071, 5 * MIB + 1] {
        let mut world = World::new(size, &[server(10), server(1)]);
        world.run(60_000);
        let have = world.engine.transfer().map(Transfer::verified);
        assert_eq!(have, Some(size));
    }
}
