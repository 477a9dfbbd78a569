//! Who is waited for, and who is not, beside a source that does not answer.

use super::*;
use std::collections::BTreeMap;

const TWO: [&str; 2] = ["http://a/web.img", "http://b/web.img"];

#[test]
fn a_chunk_that_the_only_source_there_sent_wrong_does_not_wait_for_a_dead_one() {
    let mut run = Run::at_image(&TWO);
    let mut asked = Vec::new();
    for _ in 0..40 {
        // The second source is dead; the first sends chunk 1 wrong, and right what comes before it.
        let Some(job) = run.engine.jobs.live().last().cloned() else {
            run.now += 20_000;
            asked.extend(urls(&run.on(Event::Timer)));
            continue;
        };
        if job.source == 1 {
            asked.extend(urls(&run.failed(FetchCause::Refused)));
        } else if asked.last().is_some_and(|url| url.ends_with(".manifest")) {
            break;
        } else {
            let head = Head { status: 206, length: None, range: job.range, size: Some(SIZE), validator: None };
            let head = if job.range.is_some() { head } else { Head { status: 200, ..head } };
            run.on(Event::Head { job: job.number, head });
            for chunk in job.claim.clone() {
                run.engine.take(job.number, chunk);
                let bytes = superblock();
                run.engine.judged(job.number, chunk, &bytes, Sha256([chunk as u8; 32]), chunk != 1, run.now);
                run.engine.written(run.now);
            }
            asked.extend(urls(&run.on(Event::End { job: job.number, document: vec![] })));
            asked.extend(urls(&run.actions()));
        }
        run.confirm();
    }
    assert_eq!(asked.last().map(String::as_str), Some("http://a/web.img.manifest"), "{asked:?}");
}

impl Run {
    /// Until whatever pauses is due.
    fn wait(&mut self) -> Vec<Action> {
        self.now += 20_000;
        self.on(Event::Timer)
    }
}

/// A fetch from a first source that is dead and a second that answers each request with `answer`, for some minutes.
struct Vigil {
    run: Run,
    /// Every request so far, by its job.
    asked: BTreeMap<u32, String>,
    said: Vec<StoreNews>,
}

impl Vigil {
    fn keep(wanted: Wanted, answer: impl Fn(&mut Run, &str) -> Vec<Action>) -> Self {
        let mut vigil = Self { run: Run::new(wanted), asked: BTreeMap::new(), said: Vec::new() };
        let actions = vigil.run.on(Event::Fetcher);
        vigil.note(&actions);
        for _ in 0..60 {
            let actions = match vigil.running() {
                None => vigil.run.wait(),
                Some(url) if url.starts_with("http://a/") => vigil.run.failed(FetchCause::Refused),
                Some(url) => answer(&mut vigil.run, &url),
            };
            vigil.note(&actions);
        }
        vigil
    }

    /// The URL of a request that runs.
    fn running(&self) -> Option<String> {
        self.asked.get(&self.run.engine.jobs.live().last()?.number).cloned()
    }

    fn note(&mut self, actions: &[Action]) {
        for action in actions {
            match action {
                Action::Get(request) => drop(self.asked.insert(request.job, request.asked.url.clone())),
                Action::News(news) => self.said.push(news.clone()),
                _ => {}
            }
        }
        self.run.confirm();
        if matches!(actions.last(), Some(Action::News(StoreNews::Size { .. }))) {
            let actions = self.run.on(Event::Admitted);
            self.note(&actions);
        }
    }

    /// It was not given up, and both causes were told: that the first refuses, and this of the second.
    fn assert_waits_and_says(&self, cause: StoreCause) {
        let said = &self.said;
        assert!(!said.iter().any(|news| matches!(news, StoreNews::Failed(_))), "{said:?}");
        assert!(said.iter().any(|news| matches!(news, StoreNews::Trouble { source: 0, .. })), "{said:?}");
        let of_second = StoreNews::Unfit { source: 1, cause };
        assert_eq!(said.iter().filter(|news| **news == of_second).count(), 1, "{said:?}");
    }
}

fn in_need_of_proof() -> Wanted {
    Wanted { require_verified: true, ..wanted(&TWO) }
}

#[test]
fn a_demanded_proof_is_waited_for_while_a_dead_source_may_have_it() {
    let mut vigil = Vigil::keep(in_need_of_proof(), |run, _| run.failed(NOT_FOUND));
    vigil.assert_waits_and_says(StoreCause::Unverified);
    // The other one is looked at now and then: a proof may be put beside its image.
    let last: Vec<&str> = vigil.asked.values().rev().take(10).map(String::as_str).collect();
    assert!(last.iter().all(|url| TWO.iter().any(|image| *url == format!("{image}.manifest"))), "{last:?}");
    let looks = last.iter().filter(|url| url.starts_with("http://b/")).count();
    assert!((1..6).contains(&looks), "{last:?}");
    while vigil.running().is_none() {
        let actions = vigil.run.wait();
        vigil.note(&actions);
    }
    assert_eq!(news(&vigil.run.document(manifest())), [StoreNews::Size { bytes: SIZE }]);
}

#[test]
fn a_demanded_proof_that_nobody_has_is_the_end_once_all_have_answered() {
    let mut vigil = Vigil::keep(in_need_of_proof(), |run, _| run.failed(NOT_FOUND));
    vigil.said.clear();
    for _ in 0..20 {
        let actions = if vigil.running().is_some() { vigil.run.failed(NOT_FOUND) } else { vigil.run.wait() };
        vigil.note(&actions);
    }
    assert_eq!(vigil.said, [StoreNews::Failed(StoreCause::Unverified)]);
}

#[test]
fn a_checksum_of_the_source_that_is_there_is_proof_enough() {
    let vigil = Vigil::keep(in_need_of_proof(), |run, url| match url {
        "http://b/web.img.sha256" => run.document(vec![b'a'; 64]),
        "http://b/web.img" => run.head(SIZE),
        _ => run.failed(NOT_FOUND),
    });
    assert!(vigil.said.contains(&StoreNews::Size { bytes: SIZE }), "{:?}", vigil.said);
}

#[test]
fn what_is_wrong_with_the_source_that_is_there_is_told_while_a_dead_one_is_waited_for() {
    let mut wanted = wanted(&TWO);
    wanted.anchors = trust::one_key().0;
    let vigil = Vigil::keep(wanted, |run, _| run.failed(NOT_FOUND));
    vigil.assert_waits_and_says(StoreCause::ManifestMissing { source: 1 });
    // A page for everything.
    let vigil = Vigil::keep(self::wanted(&TWO), |run, _| run.document(b"<html>".to_vec()));
    vigil.assert_waits_and_says(StoreCause::ManifestMalformed { source: 1 });
    // Chunks that are not the manifest's.
    let vigil = Vigil::keep(self::wanted(&TWO), |run, url| match url {
        "http://b/web.img.manifest" => run.document(manifest()),
        _ => {
            let size = run.engine.transfer().map_or(SIZE, Transfer::size);
            run.head(size + 1)
        }
    });
    vigil.assert_waits_and_says(StoreCause::ChunkList { source: 1 });
}
