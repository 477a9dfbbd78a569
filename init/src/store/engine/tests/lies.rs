//! Sources that contradict themselves or send wrong bytes: who is blamed, who is asked next, and when it is the end.

use super::*;

const TWO: [&str; 2] = ["http://a/web.img", "http://b/web.img"];
const RIGHT: Sha256 = Sha256([0xAB; 32]);
const WRONG: Event = Event::Hashed(Some(Sha256([1; 32])));

impl Run {
    /// What is asked of whom by the request that runs.
    fn asked(&self) -> (SourceIndex, Option<Range>) {
        let job = self.engine.jobs.get(self.job()).unwrap();
        (job.source, job.range)
    }

    /// Until something is due.
    pub(super) fn pass(&mut self) {
        // Progress, which nobody takes here, is due for ever.
        self.now = self.engine.deadline().unwrap().max(self.now + 100);
    }

    /// Until something is asked for.
    fn until_asked(&mut self) -> String {
        for _ in 0..20 {
            let actions = self.on(Event::Timer);
            if let Some(url) = urls(&actions).pop() {
                return url;
            }
            self.pass();
        }
        panic!("nothing is asked for: {:?}", self.engine);
    }

    /// The running request answers with these chunks of an image without chunk hashes.
    fn chunks(&mut self, from: u64, to: u64) {
        let (job, (_, range)) = (self.job(), self.asked());
        let head = Head { status: 200, length: None, range, size: Some(SIZE), validator: None };
        self.on(Event::Head { job, head });
        if !self.engine.is_admitted() {
            self.on(Event::Admitted);
        }
        for chunk in from..to {
            assert!(self.engine.next_chunk(job, chunk, &superblock()), "chunk {chunk}");
        }
        self.engine.written(self.now);
        self.actions();
    }

    /// Without manifests, to the checksum at this URL and the request for the image that follows.
    fn reach_checksum(&mut self, url: &str) {
        let asked = self.until_asked();
        self.reach_checksum_from(asked, url);
    }

    /// The same where this is asked for.
    fn reach_checksum_from(&mut self, mut asked: String, url: &str) {
        while asked != url {
            let actions = self.failed(NOT_FOUND);
            asked = urls(&actions).pop().unwrap_or_else(|| self.until_asked());
        }
        let actions = self.document(RIGHT.to_string().into_bytes());
        if urls(&actions).is_empty() {
            self.until_asked();
        }
    }
}

fn started(sources: &[&str]) -> Run {
    let mut run = Run::new(wanted(sources));
    run.engine.handle(Event::Fetcher, 0);
    run.failed(NOT_FOUND);
    run
}

/// From sources without manifests, of which the first one has a checksum.
fn by_checksum() -> Run {
    let mut run = started(&TWO);
    run.failed(NOT_FOUND);
    assert_eq!(urls(&run.document(RIGHT.to_string().into_bytes())), ["http://a/web.img"]);
    run
}

#[test]
fn a_contradiction_is_let_off_four_times_after_pauses_that_grow() {
    for cause in [FetchCause::Redirect, FetchCause::Protocol] {
        let mut run = Run::at_image(&["http://a/web.img"]);
        for about in [500, 1000, 2000, 4000] {
            let trouble = news(&run.failed(cause.clone()));
            let [StoreNews::Trouble { source: 0, cause: told, pause_ms }] = trouble.as_slice() else {
                panic!("{trouble:?}")
            };
            assert_eq!(*told, cause);
            assert!((about / 2..about * 3 / 2).contains(pause_ms), "{pause_ms} ms");
            run.now += Millis::from(*pause_ms);
            assert_eq!(urls(&run.on(Event::Timer)), ["http://a/web.img"]);
        }
        let failed = StoreNews::Failed(StoreCause::Fetch { source: 0, cause: cause.clone() });
        assert_eq!(news(&run.failed(cause)), [failed]);
        run.now += 1_000_000;
        assert_eq!(run.on(Event::Timer), [], "a refusal is final");
    }
}

#[test]
fn three_lies_in_a_row_of_the_only_source_do_not_end_it() {
    let mut run = started(&["http://a/web.img"]);
    assert_eq!(urls(&run.document(RIGHT.to_string().into_bytes())), ["http://a/web.img"]);
    for _ in 0..2 {
        run.failed(FetchCause::Protocol);
        run.until_asked();
    }
    // An answer without a length, where nothing else tells the size.
    let head = Head { status: 200, length: None, range: None, size: None, validator: None };
    let job = run.job();
    run.on(Event::Head { job, head });
    run.until_asked();
    assert_eq!(news(&run.head(SIZE)), [StoreNews::Size { bytes: SIZE }]);
}

#[test]
fn a_source_given_up_for_lies_is_asked_now_and_then_while_a_dead_one_is_waited_for() {
    let mut run = Run::at_image(&TWO);
    let (mut lies, mut said) = (0, Vec::new());
    while run.now < 3_600_000 {
        let Some(job) = run.engine.jobs.live().last() else {
            run.pass();
            said.extend(news(&run.on(Event::Timer)));
            continue;
        };
        let lie = job.source == 0;
        lies += u32::from(lie);
        said.extend(news(&run.failed(if lie { FetchCause::Protocol } else { FetchCause::Refused })));
    }
    assert!((40..200).contains(&lies), "{lies} in an hour");
    assert!(!said.iter().any(|news| matches!(news, StoreNews::Failed(_))), "{said:?}");
    let unfit = StoreNews::Unfit { source: 0, cause: StoreCause::Fetch { source: 0, cause: FetchCause::Protocol } };
    assert_eq!(said.iter().filter(|news| **news == unfit).count(), 1, "it is said once");
}

#[test]
fn where_every_source_lies_it_is_the_end_within_half_a_minute() {
    let mut run = Run::at_image(&TWO);
    loop {
        let actions = match run.engine.jobs.live().count() {
            1.. => run.failed(FetchCause::Protocol),
            0 => {
                run.pass();
                run.on(Event::Timer)
            }
        };
        if news(&actions).iter().any(|news| matches!(news, StoreNews::Failed(_))) {
            break;
        }
        assert!(run.now < 30_000, "{:?}", run.engine);
    }
}

#[test]
fn for_a_wrong_whole_the_source_of_the_bytes_is_blamed_and_not_that_of_the_checksum() {
    let mut run = by_checksum();
    run.failed(FetchCause::Reset);
    assert_eq!(run.asked().0, 1);
    run.chunks(0, 4);
    let actions = run.on(WRONG);
    let told = news(&actions);
    let [StoreNews::Trouble { source: 1, cause: FetchCause::WrongBytes, .. }] = told.as_slice() else {
        panic!("{told:?}")
    };
    run.now += 10_000;
    // Either may be what is wrong: another is asked for its checksum, and another for its bytes.
    run.confirm();
    run.reach_checksum("http://b/web.img.sha256");
    assert_eq!(run.asked().0, 0);
    run.chunks(0, 4);
    assert_eq!(run.on(Event::Hashed(Some(RIGHT))), [Action::Seal]);
}

#[test]
fn where_nothing_is_left_of_a_file_whoever_told_its_size_is_blamed() {
    let mut run = by_checksum();
    let job = run.job();
    let head = Head { status: 200, length: None, range: None, size: Some(SIZE + 1000), validator: None };
    run.on(Event::Head { job, head });
    run.on(Event::Admitted);
    for chunk in 0..3 {
        assert!(run.engine.next_chunk(job, chunk, &superblock()), "chunk {chunk}");
    }
    // It was as long as the file is, so it broke off.
    run.failed(FetchCause::Short);
    assert_eq!(run.asked(), (1, Some(Range { start: SIZE - 5, end: SIZE + 1000 })));
    let actions = run.failed(FetchCause::Status { status: 416, retry_after: None });
    let told = news(&actions);
    let [StoreNews::Trouble { source: 0, cause: FetchCause::Protocol, .. }] = told.as_slice() else {
        panic!("{told:?}")
    };
    run.confirm();
    let asked = urls(&actions).pop().expect("the others are asked anew");
    run.reach_checksum_from(asked, "http://b/web.img.sha256");
    assert_eq!(run.asked(), (1, None));
    run.chunks(0, 4);
    assert_eq!(run.on(Event::Hashed(Some(RIGHT))), [Action::Seal]);
}

#[test]
fn a_source_that_sends_a_wrong_whole_for_ever_keeps_nobody_from_asking_one_that_lied_for_a_while() {
    let mut run = started(&["http://a/web.img", "http://b/web.img", "http://c/web.img"]);
    let mut wholes = 0;
    loop {
        assert!(run.now < 600_000, "{:?}", run.engine);
        let Some(source) = run.engine.jobs.live().last().map(|job| job.source) else {
            run.pass();
            run.on(Event::Timer);
            run.confirm();
            continue;
        };
        match run.engine.phase {
            // A dead one beside them.
            _ if source == 2 => drop(run.failed(FetchCause::Refused)),
            Phase::Discovery(Rung::Manifest) => drop(run.failed(NOT_FOUND)),
            Phase::Discovery(_) => drop(run.document(RIGHT.to_string().into_bytes())),
            _ if source == 0 && run.now < 60_000 => drop(run.failed(FetchCause::Protocol)),
            _ if source == 0 => break,
            _ => {
                run.chunks(0, 4);
                wholes += 1;
                run.on(WRONG);
            }
        }
    }
    assert!(wholes < 10, "{wholes} wholes were fetched for nothing");
}

#[test]
fn once_a_whole_was_wrong_bytes_of_two_sources_do_not_meet_again() {
    let mut run = by_checksum();
    run.chunks(0, 2);
    run.failed(FetchCause::Reset);
    let rest = Some(Range { start: 2 * u64::from(CHUNK_SIZE), end: SIZE });
    assert_eq!(run.asked(), (1, rest));
    run.chunks(2, 4);
    run.on(WRONG);
    run.now += 10_000;
    run.confirm();
    run.reach_checksum("http://b/web.img.sha256");
    assert_eq!(run.asked(), (0, None));
    run.chunks(0, 2);
    let mut asked = Vec::new();
    for _ in 0..12 {
        if urls(&run.failed(FetchCause::Reset)).is_empty() {
            run.until_asked();
        }
        asked.push(run.asked());
    }
    // What it began itself is gone on with, unless it is away for long; what another began is not.
    let (own, other) = ((0, rest), (1, None));
    assert_eq!(asked[..4], [own, own, own, other]);
    assert!(asked[4..].contains(&own) && asked.iter().all(|asked| *asked == own || *asked == other), "{asked:?}");
}

#[test]
fn a_wrong_checksum_beside_an_image_that_cannot_be_had_gives_way_to_the_other_sources() {
    let mut run = by_checksum();
    run.failed(FetchCause::Stalled);
    run.chunks(0, 4);
    run.on(WRONG);
    run.now += 10_000;
    run.confirm();
    run.reach_checksum("http://b/web.img.sha256");
    run.failed(FetchCause::Stalled);
    assert_eq!(run.asked().0, 1);
    run.chunks(0, 4);
    assert_eq!(run.on(Event::Hashed(Some(RIGHT))), [Action::Seal]);
}

#[test]
fn a_first_chunk_that_is_no_filesystem_is_held_against_its_sender_where_nothing_vouches_for_it() {
    let mut run = by_checksum();
    run.failed(FetchCause::Reset);
    run.head(SIZE);
    run.on(Event::Admitted);
    let job = run.job();
    assert!(!run.engine.next_chunk(job, 0, b"<html>"));
    let told = news(&run.actions());
    assert!(matches!(told[..], [StoreNews::Trouble { source: 1, cause: FetchCause::Protocol, .. }]), "{told:?}");
}

#[test]
fn chunks_that_were_overwritten_since_are_fetched_again_when_their_manifest_is_back() {
    for between in [SIZE, 77_777] {
        let mut run = Run::at_image(&["http://a/web.img"]);
        run.head(SIZE);
        (0..2).for_each(|chunk| run.chunk(chunk, &superblock(), true));
        run.engine.written(run.now);
        assert_eq!(run.engine.tally.verified, 2 * u64::from(CHUNK_SIZE));
        // Image and manifest are gone for a moment, and something stands in their place that nobody vouches for.
        run.failed(FetchCause::Reset);
        run.until_asked();
        run.head(SIZE - 1);
        run.confirm();
        let mut asked = run.until_asked();
        while asked != "http://a/web.img" {
            asked = urls(&run.failed(NOT_FOUND)).pop().unwrap_or_else(|| run.until_asked());
        }
        let mut actions = run.head(between);
        actions.extend(run.on(Event::Admitted));
        let job = run.job();
        assert!(!run.engine.next_chunk(job, 0, b"<html>"));
        run.confirm();
        assert_eq!(run.until_asked(), "http://a/web.img.manifest");
        run.document(manifest());
        run.on(Event::Admitted);
        assert_eq!(run.engine.tally.verified, 0, "{between}");
        assert!(matches!(run.engine.phase, Phase::List { .. }), "{between}: {:?}", run.engine.phase);
    }
}

#[test]
fn a_file_that_ends_before_what_is_asked_is_another_one_and_its_manifest_is_asked_for_again() {
    let mut run = Run::at_image(&["http://a/web.img"]);
    run.head(SIZE);
    (0..3).for_each(|chunk| run.chunk(chunk, &superblock(), true));
    run.engine.written(run.now);
    run.failed(FetchCause::Reset);
    run.until_asked();
    assert!(run.asked().1.is_some());
    let told = news(&run.failed(FetchCause::Status { status: 416, retry_after: None }));
    let [StoreNews::Trouble { source: 0, cause: FetchCause::Protocol, .. }] = told.as_slice() else {
        panic!("{told:?}")
    };
    run.confirm();
    assert_eq!(run.until_asked(), "http://a/web.img.manifest");
}

#[test]
fn another_attempt_looks_for_the_manifest_again_and_keeps_what_it_had() {
    let mut run = Run::at_image(&["http://a/web.img"]);
    run.head(SIZE);
    run.chunk(0, &superblock(), true);
    run.engine.written(run.now);
    run.failed(FetchCause::Reset);
    run.until_asked();
    let told = news(&run.failed(NOT_FOUND));
    assert!(matches!(told[..], [StoreNews::Failed(_)]), "{told:?}");
    assert_eq!(urls(&run.on(Event::Again)), ["http://a/web.img.manifest"]);
    run.document(manifest());
    let rest = Range { start: u64::from(CHUNK_SIZE), end: SIZE };
    assert_eq!((run.asked(), run.engine.tally.verified), ((0, Some(rest)), u64::from(CHUNK_SIZE)));
}
