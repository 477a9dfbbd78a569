//! When an image that may be missing is absent, and when it is not.

use super::trust::one_key;
use super::*;

const GONE: FetchCause = FetchCause::Status { status: 410, retry_after: None };
const FORBIDDEN: FetchCause = FetchCause::Status { status: 403, retry_after: None };

/// How much this boot demands of what is there.
fn demands() -> Vec<(&'static str, Wanted)> {
    let optional = || Wanted { optional: true, ..wanted(&["http://a/web.img", "http://b/web.img"]) };
    vec![
        ("nothing", optional()),
        ("something to verify by", Wanted { require_verified: true, ..optional() }),
        ("a signature", Wanted { anchors: one_key().0, ..optional() }),
    ]
}

/// Answers each request with what `answer` says of its URL, until nothing more is asked; the last news.
fn play(wanted: Wanted, answer: impl Fn(&str) -> Result<u64, FetchCause>) -> (Vec<String>, Option<StoreNews>) {
    let mut run = Run::new(wanted);
    let mut actions = run.on(Event::Fetcher);
    let (mut asked, mut told) = (Vec::new(), None);
    for _ in 0..40 {
        told = news(&actions).last().cloned().or(told);
        let Some(url) = urls(&actions).last().cloned() else { break };
        actions = match answer(&url) {
            Ok(size) => run.head(size),
            Err(cause) => run.failed(cause),
        };
        asked.push(url);
    }
    (asked, told)
}

#[test]
fn it_is_absent_where_every_source_says_so_whatever_is_demanded() {
    for (name, wanted) in demands() {
        let (asked, told) = play(wanted, |url| Err(if url.contains("//a/") { NOT_FOUND } else { GONE }));
        assert_eq!(told, Some(StoreNews::Absent), "{name}");
        assert!(asked.ends_with(&["http://a/web.img".to_owned(), "http://b/web.img".to_owned()]), "{name}: {asked:?}");
    }
}

#[test]
fn one_that_is_there_without_what_is_demanded_is_refused_and_not_absent() {
    let there = |url: &str| if url == "http://b/web.img" { Ok(SIZE) } else { Err(NOT_FOUND) };
    let told = demands().into_iter().map(|(_, wanted)| play(wanted, there).1.unwrap());
    let expected = [
        StoreNews::Size { bytes: SIZE },
        StoreNews::Failed(StoreCause::Unverified),
        StoreNews::Failed(StoreCause::ManifestMissing { source: 1 }),
    ];
    assert_eq!(told.collect::<Vec<_>>(), expected);
}

#[test]
fn one_that_may_not_be_read_is_not_absent() {
    for (name, wanted) in demands() {
        let (_, told) = play(wanted, |url| Err(if url == "http://b/web.img" { FORBIDDEN } else { NOT_FOUND }));
        assert_eq!(told, Some(StoreNews::Failed(StoreCause::Fetch { source: 1, cause: FORBIDDEN })), "{name}");
    }
}

#[test]
fn one_whose_manifest_or_checksum_is_there_is_not_absent() {
    let alone = |wanted: Wanted| Wanted { optional: true, ..wanted };
    let mut run = Run::new(alone(wanted(&["http://a/web.img"])));
    run.on(Event::Fetcher);
    run.document(manifest());
    run.on(Event::Admitted);
    let missing = StoreNews::Failed(StoreCause::Fetch { source: 0, cause: NOT_FOUND });
    assert_eq!(news(&run.failed(NOT_FOUND)).last(), Some(&missing));

    let mut run = Run::new(alone(wanted(&["http://a/web.img"])));
    run.on(Event::Fetcher);
    run.failed(NOT_FOUND);
    assert_eq!(urls(&run.document("ab".repeat(32).into_bytes())), ["http://a/web.img"]);
    assert_eq!(news(&run.failed(NOT_FOUND)), [missing]);
}

#[test]
fn a_manifest_that_alone_knows_the_image_tells_of_its_absence() {
    let latest = |optional| Wanted { optional, ..wanted(&["http://a/latest.manifest"]) };
    let nothing = |_: &str| Err(NOT_FOUND);
    assert_eq!(play(latest(true), nothing), (vec!["http://a/latest.manifest".to_owned()], Some(StoreNews::Absent)));
    let missing = StoreNews::Failed(StoreCause::Fetch { source: 0, cause: NOT_FOUND });
    assert_eq!(play(latest(false), nothing).1, Some(missing));
}

#[test]
fn after_a_refusal_its_manifest_is_looked_for_again() {
    let mut run = Run::new(Wanted { optional: true, anchors: one_key().0, ..wanted(&["http://a/web.img"]) });
    run.on(Event::Fetcher);
    assert_eq!(urls(&run.failed(NOT_FOUND)), ["http://a/web.img"]);
    assert_eq!(news(&run.head(SIZE)), [StoreNews::Failed(StoreCause::ManifestMissing { source: 0 })]);
    assert_eq!(urls(&run.on(Event::Again)), ["http://a/web.img.manifest"]);
}

#[test]
fn a_server_that_does_not_answer_is_waited_for() {
    for (name, wanted) in demands() {
        let mut run = Run::new(wanted);
        let mut actions = run.on(Event::Fetcher);
        for _ in 0..60 {
            assert!(!news(&actions).iter().any(|n| matches!(n, StoreNews::Absent | StoreNews::Failed(_))), "{name}");
            actions = match urls(&actions).last() {
                Some(url) if url.contains("//b/") => run.failed(FetchCause::Refused),
                Some(_) => run.failed(NOT_FOUND),
                None => {
                    run.now += 40_000;
                    run.on(Event::Timer)
                }
            };
        }
    }
}
