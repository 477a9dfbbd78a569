//! Every state of the engine and every event: what follows is written down in `table.txt`, a row a state and a line
//! an event, and each cell is tried. `ROOTBEAM_REWRITE=1 cargo test -p rootbeam-init table` writes it anew.

use super::tests::trust::one_key;
use super::tests::{Run, list, manifest, superblock, wanted};
use super::*;
use crate::manifest::LIST_BLOCK;
use crate::messages::TlsFault;
use crate::messages::{FetchCause, Head};
use std::fmt::Write as _;

const SIZE: u64 = 3 * CHUNK_SIZE as u64 + 5;

/// A way into each state, from one source.
fn states() -> Vec<(&'static str, Run)> {
    let manifest_wanted = || {
        let mut run = Run::new(wanted(&["http://a/web.img"]));
        run.on(Event::Fetcher);
        run
    };
    let keyed = || {
        let mut run = Run::new(Wanted { anchors: one_key().0, ..wanted(&["http://a/web.img"]) });
        run.on(Event::Fetcher);
        run.document(manifest());
        run
    };
    let weighed = || {
        let mut run = manifest_wanted();
        run.document(manifest());
        run
    };
    let listing = || {
        let mut run = weighed();
        run.on(Event::Admitted);
        run
    };
    // One chunk more than a block of the list has hashes.
    let streamed = || {
        let mut run = Run::new(Wanted { streams: true, ..wanted(&["http://a/web.img"]) });
        run.on(Event::Fetcher);
        let blocks = [vec![0; LIST_BLOCK as usize], vec![0; 32]];
        let chunk_list = blocks.iter().map(|block| Sha256::of(block)).collect();
        let small = Manifest::parse(&manifest()).unwrap();
        let size = 2049 * u64::from(CHUNK_SIZE);
        run.document(Manifest { size, chunk_list, ..small }.render().into_bytes());
        run.on(Event::Admitted);
        run
    };
    let listed = || {
        let mut run = streamed();
        let job = run.job();
        let range = run.engine.jobs.get(job).unwrap().range;
        let size = Some(u64::from(LIST_BLOCK) + 32);
        run.on(Event::Head { job, head: Head { status: 206, length: None, range, size, validator: None } });
        run.engine.take(job, 0);
        run.engine.list_chunk(job, 0, &[0; LIST_BLOCK as usize], run.now);
        run.engine.written(run.now);
        run.actions();
        run.on(Event::End { job, document: vec![] });
        run
    };
    let image = || Run::at_image(&["http://a/web.img"]);
    let flowing = || {
        let mut run = image();
        run.head(SIZE);
        run
    };
    let not_found = || FetchCause::Status { status: 404, retry_after: None };
    let opening = || {
        let mut run = manifest_wanted();
        (0..3).for_each(|_| drop(run.failed(not_found())));
        run
    };
    let unsigned = || {
        let mut run = Run::new(Wanted { optional: true, anchors: one_key().0, ..wanted(&["http://a/web.img"]) });
        run.on(Event::Fetcher);
        run.failed(not_found());
        run
    };
    let unhashed = |admitted: bool| {
        let mut run = opening();
        run.head(SIZE);
        if admitted {
            run.on(Event::Admitted);
        }
        run
    };
    let recovering = || {
        let engine = Engine::new(wanted(&["http://a/web.img"]), 1).inheriting(true);
        let mut run = Run { engine, now: 0 };
        run.on(Event::Fetcher);
        run.document(manifest());
        run.on(Event::Admitted);
        run.head(list().len() as u64);
        run.list_chunk();
        run.actions();
        run
    };
    let completing = || {
        let mut run = flowing();
        run.chunk(0, &superblock(), true);
        (1..4).for_each(|chunk| run.chunk(chunk, &[], true));
        run.engine.written(run.now);
        run.actions();
        run
    };
    let done = || {
        let mut run = completing();
        run.on(Event::Hashed(None));
        run.on(Event::Sealed);
        run
    };
    let pausing = || {
        let mut run = flowing();
        run.failed(FetchCause::Status { status: 503, retry_after: Some(60) });
        run
    };
    let failed = || {
        let mut run = flowing();
        run.failed(not_found());
        run
    };
    vec![
        ("new", Run::new(wanted(&["http://a/web.img"]))),
        ("manifest asked for", manifest_wanted()),
        ("signature asked for", keyed()),
        ("size told", weighed()),
        ("chunk list asked for", listing()),
        ("first block of the list asked for", streamed()),
        ("first chunk asked for", listed()),
        ("image asked for", image()),
        ("image coming", flowing()),
        ("pausing", pausing()),
        ("image of unknown size asked for", opening()),
        ("unsigned image asked for, optional", unsigned()),
        ("image without hashes held", unhashed(false)),
        ("image without hashes coming", unhashed(true)),
        ("looking at what is there", recovering()),
        ("completing", completing()),
        ("done", done()),
        ("failed", failed()),
    ]
}

/// Each event, for the job that runs where it is of one.
fn events(run: &Run) -> Vec<(&'static str, Event)> {
    let job = run.engine.jobs.live().last().map_or(99, |job| job.number);
    let head = |size| Head { status: 200, length: Some(size), range: None, size: Some(size), validator: None };
    let failed = |cause| Event::Failed { job, cause };
    let status = |status, retry_after| FetchCause::Status { status, retry_after };
    let right = run.engine.file(job).or(run.engine.transfer()).map_or(SIZE, Transfer::size);
    vec![
        ("worker comes", Event::Fetcher),
        ("worker dies", Event::FetcherLost),
        ("admitted", Event::Admitted),
        ("again", Event::Again),
        ("head", Event::Head { job, head: head(right) }),
        ("head of another size", Event::Head { job, head: head(right + 1) }),
        ("head of nothing", Event::Head { job, head: head(0) }),
        ("head of an old job", Event::Head { job: 77, head: head(right) }),
        ("end", Event::End { job, document: b"<html>".to_vec() }),
        ("end with a manifest", Event::End { job, document: manifest() }),
        ("name unknown", failed(FetchCause::NameUnknown)),
        ("no name server", failed(FetchCause::NameServer)),
        ("refused", failed(FetchCause::Refused)),
        ("unreachable", failed(FetchCause::Unreachable)),
        ("reset", failed(FetchCause::Reset)),
        ("stalled", failed(FetchCause::Stalled)),
        ("short", failed(FetchCause::Short)),
        ("TLS", failed(FetchCause::Tls(TlsFault::Issuer))),
        ("redirect", failed(FetchCause::Redirect)),
        ("contradiction", failed(FetchCause::Protocol)),
        ("401", failed(status(401, None))),
        ("403", failed(status(403, None))),
        ("404", failed(status(404, None))),
        ("408", failed(status(408, None))),
        ("429 after 7 s", failed(status(429, Some(7)))),
        ("500", failed(status(500, None))),
        ("503", failed(status(503, None))),
        ("hashed right", Event::Hashed(None)),
        ("hashed wrong", Event::Hashed(Some(Sha256([1; 32])))),
        ("looked at", Event::Recovered),
        ("sealed", Event::Sealed),
        ("no memory", Event::NoMemory { errno: 12 }),
        ("time", Event::Timer),
    ]
}

/// What is to be done, in a few words. Pauses are chance, but for the least one.
fn words(actions: &[Action]) -> String {
    let word = |action: &Action| match action {
        Action::Get(request) => format!("get {}", request.asked.url.trim_start_matches("http://a/")),
        Action::Cancel { .. } => "cancel".to_owned(),
        Action::News(StoreNews::Trouble { pause_ms, .. }) if *pause_ms >= 7000 => "trouble, long pause".to_owned(),
        Action::News(StoreNews::Trouble { .. }) => "trouble".to_owned(),
        Action::News(StoreNews::Unfit { .. }) => "tell of the unfit".to_owned(),
        Action::News(StoreNews::Failed(cause)) => {
            let cause = format!("{cause:?}");
            format!("FAILED {}", cause.split(['{', '(']).next().unwrap_or_default().trim())
        }
        Action::News(StoreNews::NeedFetcher) => "need a worker".to_owned(),
        Action::News(StoreNews::Size { .. }) => "tell the size".to_owned(),
        Action::News(StoreNews::Source { .. }) => "tell of the source".to_owned(),
        Action::News(StoreNews::Done { .. }) => "DONE".to_owned(),
        Action::News(StoreNews::Time { .. }) => "tell the time".to_owned(),
        Action::News(
            StoreNews::Opened { .. }
            | StoreNews::ReadWaits
            | StoreNews::ReadGoesOn
            | StoreNews::Released
            | StoreNews::Touched { .. }
            | StoreNews::NotReleased { .. }
            | StoreNews::Answered
            | StoreNews::Lost,
        ) => {
            unreachable!("these are the worker's own")
        }
        Action::News(StoreNews::Warning(_)) => "warn".to_owned(),
        Action::News(StoreNews::Absent) => "ABSENT".to_owned(),
        Action::News(StoreNews::Progress(_)) => "progress".to_owned(),
        Action::Receive { .. } => "receive".to_owned(),
        Action::Allocate { .. } => "allocate".to_owned(),
        Action::StartOver => "start over".to_owned(),
        Action::Recover => "look".to_owned(),
        Action::Complete { .. } => "complete".to_owned(),
        Action::Seal => "seal".to_owned(),
        Action::DropFetcher => "drop the worker".to_owned(),
    };
    if actions.is_empty() { "–".to_owned() } else { actions.iter().map(word).collect::<Vec<_>>().join(", ") }
}

#[test]
fn every_state_answers_every_event_as_the_table_says() {
    let mut found = String::new();
    let names: Vec<&str> = states().iter().map(|(name, _)| *name).collect();
    for (at, state) in names.iter().enumerate() {
        writeln!(found, "{state}").unwrap();
        let events = events(&states()[at].1).len();
        for number in 0..events {
            let mut run = states().swap_remove(at).1;
            let (name, event) = self::events(&run).swap_remove(number);
            let mut actions = run.on(event);
            // What is to be tried again is tried again, at the latest when the longest pause is over.
            let paused = run.engine.jobs.live().next().is_none() && run.engine.wake.is_some();
            if paused && run.engine.link == Link::Ready {
                run.confirm();
                run.now += 400_000;
                let later = run.on(Event::Timer);
                assert!(later.iter().any(|action| matches!(action, Action::Get(_))), "{state}, {name}: {later:?}");
                actions.extend(later);
            }
            writeln!(found, "    {name:<22} {}", words(&actions)).unwrap();
        }
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/engine/table.txt");
    if std::env::var_os("ROOTBEAM_REWRITE").is_some() {
        std::fs::write(file, &found).unwrap();
    }
    let expected = std::fs::read_to_string(file).unwrap_or_default();
    for (line, (found, expected)) in found.lines().zip(expected.lines()).enumerate() {
        assert_eq!(found, expected, "line {}", line + 1);
    }
    assert_eq!(found.lines().count(), expected.lines().count());
}
