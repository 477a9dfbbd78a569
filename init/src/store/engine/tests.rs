use super::*;
use crate::label::Label;
use crate::manifest::FORMAT;
use crate::messages::TlsFault;
use crate::messages::{FetchCause, Head, Range};
use crate::trust::Anchors;

mod lies;
mod mirrors;
mod optional;
mod patience;
pub mod trust;

const SIZE: u64 = 3 * CHUNK_SIZE as u64 + 5;

/// An image that these sources have.
pub(super) fn wanted(sources: &[&str]) -> Wanted {
    Wanted {
        sources: sources.iter().map(|source| (*source).to_owned()).collect(),
        sha256: None,
        manifest: None,
        require_verified: false,
        optional: false,
        streams: false,
        kernel: Label::new("6.1.0").unwrap(),
        stall_seconds: 20,
        anchors: Anchors::default(),
    }
}

/// Chunk `n` has the hash of all `n`.
pub(super) fn list() -> Vec<u8> {
    (0..4).flat_map(|n| [n; 32]).collect()
}

pub(super) fn manifest() -> Vec<u8> {
    let manifest = Manifest {
        format: FORMAT.into(),
        name: "web.img".into(),
        size: SIZE,
        sha256: Sha256([9; 32]),
        chunk_size: CHUNK_SIZE,
        version: 1,
        date: 0,
        kernel: None,
        chunk_list: vec![Sha256::of(&list())],
        layers: vec![],
        sources: vec![],
        boot_order: vec![],
    };
    manifest.render().into_bytes()
}

/// An engine and what it wants done after each event.
pub(super) struct Run {
    pub engine: Engine,
    pub now: Millis,
}

impl Run {
    pub fn new(wanted: Wanted) -> Self {
        Self { engine: Engine::new(wanted, 1), now: 0 }
    }

    pub fn on(&mut self, event: Event) -> Vec<Action> {
        self.engine.handle(event, self.now);
        self.actions()
    }

    pub fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.engine.next_action()).collect()
    }

    pub fn head(&mut self, size: u64) -> Vec<Action> {
        let head = Head { status: 200, length: Some(size), range: None, size: Some(size), validator: None };
        let job = self.job();
        self.on(Event::Head { job, head })
    }

    pub fn job(&self) -> u32 {
        self.engine.jobs.live().last().expect("a request runs").number
    }

    pub fn document(&mut self, bytes: Vec<u8>) -> Vec<Action> {
        let mut actions = self.head(bytes.len() as u64);
        let job = self.job();
        actions.extend(self.on(Event::End { job, document: bytes }));
        actions
    }

    /// The worker confirms what was given up.
    pub fn confirm(&mut self) {
        for job in self.engine.jobs.all().map(|job| job.number).collect::<Vec<_>>() {
            if self.engine.jobs.get(job).is_none() {
                self.engine.handle(Event::End { job, document: vec![] }, self.now);
            }
        }
    }

    pub fn failed(&mut self, cause: FetchCause) -> Vec<Action> {
        let job = self.job();
        self.on(Event::Failed { job, cause })
    }

    /// Up to the running request for the image.
    pub fn at_image(sources: &[&str]) -> Self {
        let mut run = Self::new(wanted(sources));
        run.on(Event::Fetcher);
        run.document(manifest());
        run.on(Event::Admitted);
        run.head(list().len() as u64);
        let list = run.job();
        run.list_chunk();
        assert_eq!(urls(&run.actions()), ["http://a/web.img"]);
        assert_eq!(run.on(Event::End { job: list, document: vec![] }), []);
        run
    }

    pub fn list_chunk(&mut self) {
        let job = self.job();
        self.engine.take(job, 0);
        self.engine.count(job, list().len() as u64, self.now);
        self.engine.list_chunk(job, 0, &list(), self.now);
        self.engine.written(self.now);
    }

    /// A chunk of the image by the newest job.
    pub fn chunk(&mut self, chunk: u64, bytes: &[u8], right: bool) {
        let job = self.job();
        self.engine.take(job, chunk);
        self.engine.judged(job, chunk, bytes, Sha256([chunk as u8; 32]), right, self.now);
    }
}

fn urls(actions: &[Action]) -> Vec<String> {
    let url = |action: &Action| match action {
        Action::Get(request) => Some(request.asked.url.clone()),
        _ => None,
    };
    actions.iter().filter_map(url).collect()
}

fn news(actions: &[Action]) -> Vec<StoreNews> {
    let news = |action: &Action| match action {
        Action::News(news) => Some(news.clone()),
        _ => None,
    };
    actions.iter().filter_map(news).collect()
}

const NOT_FOUND: FetchCause = FetchCause::Status { status: 404, retry_after: None };

#[test]
fn asks_for_a_worker_once_and_then_for_the_manifest() {
    let mut run = Run::new(wanted(&["http://a/web.img"]));
    assert_eq!(run.on(Event::Timer), [Action::News(StoreNews::NeedFetcher)]);
    assert_eq!(run.on(Event::Timer), []);
    let (url, limit) = ("http://a/web.img.manifest".to_owned(), crate::manifest::MAX_BYTES + 1);
    let asked = Asked { url, range: None, if_range: None, limit };
    let request = Request { job: 1, lane: 0, asked, stall_seconds: 20 };
    assert_eq!(run.on(Event::Fetcher), [Action::Get(request)]);
}

#[test]
fn climbs_down_the_ladder_source_by_source_and_rung_by_rung() {
    let mut run = Run::new(wanted(&["http://a/web.img", "http://b/web.img"]));
    let mut asked = Vec::new();
    asked.extend(urls(&run.on(Event::Fetcher)));
    for _ in 0..6 {
        asked.extend(urls(&run.failed(NOT_FOUND)));
    }
    let expected = [
        "http://a/web.img.manifest",
        "http://b/web.img.manifest",
        "http://a/web.img.sha256",
        "http://b/web.img.sha256",
        "http://a/SHA256SUMS",
        "http://b/SHA256SUMS",
        "http://a/web.img",
    ];
    assert_eq!(asked, expected);
}

#[test]
fn a_source_that_cannot_be_reached_does_not_hold_up_what_the_others_said() {
    let mut run = Run::new(wanted(&["http://a/web.img", "http://b/web.img"]));
    run.on(Event::Fetcher);
    run.failed(FetchCause::Refused);
    run.failed(NOT_FOUND);
    // One more try, then the next rung.
    run.now = 40_000;
    assert_eq!(urls(&run.on(Event::Timer)), ["http://a/web.img.manifest"]);
    assert_eq!(urls(&run.failed(FetchCause::Refused)), ["http://b/web.img.sha256"]);
}

#[test]
fn nothing_is_asked_for_between_the_manifest_and_the_admission() {
    let mut run = Run::new(wanted(&["http://a/web.img"]));
    run.on(Event::Fetcher);
    let actions = run.document(manifest());
    assert_eq!(actions, [Action::News(StoreNews::Size { bytes: SIZE })]);
    assert_eq!(run.on(Event::Timer), []);
    let actions = run.on(Event::Admitted);
    assert_eq!(actions[0], Action::Allocate { size: SIZE });
    assert_eq!(urls(&actions), ["http://a/web.img.chunks"]);
    assert_eq!(run.on(Event::Admitted), [], "admitted once is admitted");
}

#[test]
fn passing_causes_pause_and_definite_ones_fail() {
    let status = |status| FetchCause::Status { status, retry_after: None };
    for passing in [
        FetchCause::NameServer,
        FetchCause::Refused,
        FetchCause::Unreachable,
        FetchCause::Reset,
        FetchCause::Stalled,
        FetchCause::Short,
        FetchCause::WorkerDied,
        status(408),
        status(429),
        status(500),
        status(503),
    ] {
        let mut run = Run::at_image(&["http://a/web.img"]);
        let news = news(&run.failed(passing.clone()));
        let [StoreNews::Trouble { source: 0, cause, pause_ms }] = news.as_slice() else { panic!("{news:?}") };
        assert_eq!(*cause, passing);
        assert!(*pause_ms <= 1000);
        run.now += Millis::from(*pause_ms);
        let actions = run.on(Event::Timer);
        let again = run.engine.jobs.live().count();
        assert_eq!(again, 1, "{passing:?}: {actions:?}");
    }
    for definite in [FetchCause::NameUnknown, FetchCause::Tls(TlsFault::Issuer), status(404), status(401)] {
        let mut run = Run::at_image(&["http://a/web.img"]);
        let failed = StoreNews::Failed(StoreCause::Fetch { source: 0, cause: definite.clone() });
        assert_eq!(news(&run.failed(definite)), [failed]);
        run.now += 1_000_000;
        assert_eq!(run.on(Event::Timer), []);
        assert_eq!(urls(&run.on(Event::Again)), ["http://a/web.img.manifest"]);
    }
}

#[test]
fn every_source_is_asked_at_once_and_one_that_failed_again_later() {
    let mut run = Run::new(wanted(&["http://a/web.img", "http://b/web.img"]));
    run.on(Event::Fetcher);
    run.document(manifest());
    assert_eq!(urls(&run.on(Event::Admitted)), ["http://a/web.img.chunks"]);
    run.head(list().len() as u64);
    run.list_chunk();
    assert_eq!(urls(&run.actions()), ["http://a/web.img"], "there is not enough of it for two");
    let busy = FetchCause::Status { status: 503, retry_after: Some(5) };
    assert_eq!(urls(&run.failed(busy.clone())), ["http://b/web.img"]);
    run.now += 10_000;
    let actions = run.failed(busy);
    assert_eq!(urls(&actions), ["http://a/web.img"]);
}

#[test]
fn a_worker_that_says_nothing_is_let_go_and_its_job_tried_again() {
    let mut run = Run::at_image(&["http://a/web.img"]);
    let job = run.job();
    run.now = 1000;
    run.engine.heard(job, run.now);
    run.now = 20_000;
    let actions = run.on(Event::Timer);
    assert_eq!(actions[0], Action::Cancel { lane: 0, job });
    assert!(matches!(news(&actions)[..], [StoreNews::Trouble { cause: FetchCause::Stalled, .. }]), "{actions:?}");
    run.now = 30_999;
    assert!(!run.on(Event::Timer).contains(&Action::DropFetcher));
    run.now = 31_000;
    let actions = run.on(Event::Timer);
    assert_eq!((&actions[0], news(&actions).last()), (&Action::DropFetcher, Some(&StoreNews::NeedFetcher)));
}

#[test]
fn a_connection_that_crawls_is_given_up() {
    let mut run = Run::at_image(&["http://a/web.img"]);
    let job = run.job();
    run.head(SIZE);
    run.now = 20_000;
    run.engine.heard(job, run.now);
    run.engine.count(job, 19_999, run.now);
    let actions = run.on(Event::Timer);
    assert_eq!(actions[0], Action::Cancel { lane: 0, job }, "a byte a millisecond is the least");
    let news = news(&actions);
    assert!(matches!(news[..], [StoreNews::Trouble { cause: FetchCause::Stalled, .. }]), "{news:?}");
}

#[test]
fn what_an_earlier_job_still_says_changes_nothing() {
    let mut run = Run::at_image(&["http://a/web.img"]);
    let (old, before) = (run.job() - 1, format!("{:?}", run.engine));
    let head = Head { status: 200, length: Some(1), range: None, size: Some(1), validator: None };
    assert_eq!(run.on(Event::Head { job: old, head }), []);
    assert_eq!(run.on(Event::End { job: old, document: vec![1] }), []);
    assert_eq!(run.on(Event::Failed { job: old, cause: NOT_FOUND }), []);
    assert_eq!(format!("{:?}", run.engine), before);
}

#[test]
fn an_answer_for_a_part_that_was_not_asked_for_is_refused() {
    let mut run = Run::at_image(&["http://a/web.img"]);
    let range = Some(Range { start: 10, end: 20 });
    let head = Head { status: 206, length: None, range, size: Some(SIZE), validator: None };
    let job = run.job();
    let actions = run.on(Event::Head { job, head });
    assert_eq!(actions[0], Action::Cancel { lane: 0, job });
    let trouble = news(&actions);
    assert!(matches!(trouble[..], [StoreNews::Trouble { cause: FetchCause::Protocol, .. }]), "{trouble:?}");
}

#[test]
fn an_end_without_a_chunk_is_a_failure_with_a_pause() {
    let mut run = Run::at_image(&["http://a/web.img"]);
    run.head(SIZE);
    let job = run.job();
    let actions = run.on(Event::End { job, document: vec![] });
    assert!(matches!(news(&actions)[..], [StoreNews::Trouble { cause: FetchCause::Short, .. }]), "{actions:?}");
}

#[test]
fn memory_that_is_refused_makes_every_chunk_missing_again() {
    let mut run = Run::at_image(&["http://a/web.img"]);
    run.head(SIZE);
    run.chunk(1, &[], true);
    let actions = run.on(Event::NoMemory { errno: 12 });
    assert_eq!(news(&actions), [StoreNews::Failed(StoreCause::Memory { errno: 12 })]);
    assert_eq!(run.engine.transfer().map(Transfer::verified), Some(0));
    // Memory is asked for anew before anything else.
    assert_eq!(run.on(Event::Again), [Action::News(StoreNews::Size { bytes: SIZE })]);
    let actions = run.on(Event::Admitted);
    assert_eq!(actions[0], Action::Allocate { size: SIZE });
    assert_eq!(urls(&actions), ["http://a/web.img"]);
}

/// The first chunk of an image of [`SIZE`].
pub(super) fn superblock() -> Vec<u8> {
    let mut first = vec![0; 4096];
    first[1024..1028].copy_from_slice(&0xE0F5_E1E2_u32.to_le_bytes());
    first[1036] = 12;
    first[1060] = 1;
    first
}

#[test]
fn memory_that_is_refused_at_the_seal_is_no_dead_end() {
    let mut run = Run::at_image(&["http://a/web.img"]);
    run.head(SIZE);
    run.chunk(0, &superblock(), true);
    for chunk in [1, 2, 3] {
        run.chunk(chunk, &[], true);
    }
    run.engine.written(run.now);
    assert_eq!(run.actions().pop(), Some(Action::Complete { hash: false }));
    assert_eq!(run.on(Event::Hashed(None)), [Action::Seal]);
    run.on(Event::NoMemory { errno: 12 });
    run.on(Event::Again);
    assert_eq!(urls(&run.on(Event::Admitted)), ["http://a/web.img"]);
}

#[test]
fn memory_that_is_refused_while_the_image_is_served_takes_nothing_from_its_readers() {
    let mut run = Run::at_image(&["http://a/web.img"]);
    run.head(SIZE);
    run.chunk(0, &superblock(), true);
    run.engine.stream(run.now);
    run.chunk(1, &[], true);
    let verified = run.engine.transfer().map(Transfer::verified);
    let refused = [StoreNews::Failed(StoreCause::Memory { errno: 16 })];
    let actions = run.on(Event::NoMemory { errno: 16 });
    assert_eq!(news(&actions), refused);
    let keeps = |actions: &[Action]| {
        assert!(
            !actions.iter().any(|action| matches!(action, Action::Allocate { .. } | Action::StartOver)),
            "{actions:?}"
        );
    };
    keeps(&actions);
    assert_eq!(run.engine.transfer().map(Transfer::verified), verified);
    let actions = run.on(Event::Again);
    keeps(&actions);
    assert_eq!((news(&actions), urls(&actions)), (vec![], vec!["http://a/web.img".to_owned()]));
    for chunk in [2, 3] {
        run.chunk(chunk, &[], true);
    }
    run.engine.written(run.now);
    assert_eq!(run.actions().pop(), Some(Action::Complete { hash: false }));
    assert_eq!(run.on(Event::Hashed(None)), [Action::Seal]);
    assert_eq!(news(&run.on(Event::NoMemory { errno: 16 })), refused);
    assert_eq!(run.on(Event::Again), [Action::Seal]);
    assert!(matches!(news(&run.on(Event::Sealed))[..], [.., StoreNews::Done { .. }]));
}

#[test]
fn a_signature_that_cannot_be_had_does_not_hold_up_another_source() {
    let mut wanted = wanted(&["http://a/web.img", "http://b/web.img"]);
    wanted.anchors = trust::one_key().0;
    let mut run = Run::new(wanted);
    run.on(Event::Fetcher);
    assert_eq!(urls(&run.document(manifest())), ["http://a/web.img.manifest.minisig"]);
    run.failed(FetchCause::Reset);
    run.now = 40_000;
    run.on(Event::Timer);
    assert_eq!(urls(&run.failed(FetchCause::Reset)), ["http://b/web.img.manifest"]);
}

#[test]
fn no_order_of_events_makes_it_panic_or_run_two_requests_in_a_lane() {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut draw = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for round in 0..400 {
        let mut wanted = wanted(&["http://a/web.img", "http://b/latest.manifest", "http://c/web.img"]);
        wanted.sha256 = (round % 3 == 0).then_some(Sha256([9; 32]));
        wanted.require_verified = round % 5 == 0;
        wanted.streams = round % 2 == 0;
        let mut run = Run::new(wanted);
        // Jobs by lane, up to their end; a job may stand behind one that was delivered.
        let mut busy: [Vec<u32>; crate::contract::LANES] = Default::default();
        for _ in 0..80 {
            let jobs: Vec<u32> = busy.iter().flatten().copied().collect();
            let job = jobs.get(draw(8) as usize).copied().unwrap_or(99);
            let size = [0, 1, SIZE, 128, u64::MAX][draw(5) as usize];
            let range = (draw(3) == 0).then(|| Range { start: draw(4) * 65_536, end: SIZE });
            let head = Head { status: 200, length: Some(size), range, size: Some(size), validator: None };
            let cause = [NOT_FOUND, FetchCause::Reset, FetchCause::NameUnknown][draw(3) as usize].clone();
            let document = [manifest(), vec![], list(), vec![b'a'; 64]][draw(4) as usize].clone();
            let chunk = draw(5);
            let ended = |busy: &mut [Vec<u32>]| busy.iter_mut().for_each(|lane| lane.retain(|other| *other != job));
            match draw(14) {
                0 => {
                    run.engine.take(job, chunk);
                    let expected = Sha256([draw(5) as u8; 32]);
                    run.engine.judged(job, chunk, &superblock(), expected, draw(2) == 0, run.now);
                }
                1 => run.engine.list_chunk(job, 0, &list(), run.now),
                2 => drop(run.engine.next_chunk(job, chunk, &superblock())),
                3 => run.engine.written(run.now),
                4 => {
                    busy = Default::default();
                    run.engine.handle(Event::FetcherLost, run.now);
                }
                5 => run.engine.handle(Event::Again, run.now),
                6 => run.engine.handle(Event::Admitted, run.now),
                7 => run.engine.handle(Event::Hashed(Some(Sha256([9; 32]))), run.now),
                8 => {
                    ended(&mut busy);
                    run.engine.handle(Event::Failed { job, cause }, run.now);
                }
                9 => {
                    busy = Default::default();
                    run.engine.handle(Event::Fetcher, run.now);
                }
                10 | 11 => run.engine.handle(Event::Head { job, head }, run.now),
                _ => {
                    ended(&mut busy);
                    run.engine.handle(Event::End { job, document }, run.now);
                }
            }
            run.now += draw(2000);
            run.engine.handle(Event::Timer, run.now);
            for action in run.actions() {
                match action {
                    Action::Get(request) => busy[usize::from(request.lane)].push(request.job),
                    Action::Cancel { lane, job } => assert!(busy[usize::from(lane)].contains(&job)),
                    Action::DropFetcher => busy = Default::default(),
                    _ => {}
                }
            }
            for lane in &busy {
                let live = lane.iter().filter(|job| run.engine.jobs.get(**job).is_some()).count();
                assert!(live <= 1, "{busy:?}");
            }
        }
    }
}

#[test]
fn a_successor_fetches_only_what_the_dead_store_had_not_verified() {
    for streams in [false, true] {
        let wanted = Wanted { streams, ..wanted(&["http://a/web.img"]) };
        let mut run = Run { engine: Engine::new(wanted, 1).inheriting(true), now: 0 };
        run.on(Event::Fetcher);
        run.document(manifest());
        run.on(Event::Admitted);
        run.head(list().len() as u64);
        run.list_chunk();
        assert_eq!(run.actions(), [Action::Recover], "nothing is asked for before that");
        assert_eq!(run.on(Event::Timer), []);
        // Chunk 0 has a right hash and no superblock: it is fetched, and judged like any other.
        run.engine.recover(0, b"<html>", Sha256([0; 32]));
        run.engine.recover(1, b"", Sha256([1; 32]));
        run.engine.recover(2, b"", Sha256([9; 32]));
        run.engine.recover(3, b"", Sha256([3; 32]));
        let actions = run.on(Event::Recovered);
        let [Action::Get(request)] = actions.as_slice() else { panic!("{actions:?}") };
        let chunk = u64::from(CHUNK_SIZE);
        assert_eq!(request.asked.range, Some(Range { start: 0, end: chunk }));
        assert_eq!(run.engine.transfer().map(Transfer::verified), Some(chunk + 5));
    }
}
