//! Several sources of which some are away, slow or ask for patience: none of them holds up the others, and what one is given
//! up for may be put right.

use super::trust::one_key;
use super::*;

const THREE: [&str; 3] = ["http://a/web.img", "http://b/web.img", "http://c/web.img"];
const MINUTE: Millis = 60_000;

/// What a source does with a request.
enum Reply {
    /// A document, or a failure, after so long; a request that may not be silent for so long fails before.
    After(Millis, Result<Vec<u8>, FetchCause>),
    /// Nothing, ever.
    Never,
}

/// Asks for documents until a chunk list or an image is asked for, at most for an hour; when that was, and what was asked
/// for until then.
fn search(wanted: Wanted, reply: impl Fn(&str, Millis) -> Reply) -> (Option<Millis>, Vec<String>) {
    let mut run = Run::new(wanted);
    let mut actions = run.on(Event::Fetcher);
    let mut asked = Vec::new();
    while run.now < 60 * MINUTE {
        let get = actions.iter().rev().find_map(|action| match action {
            Action::Get(request) => Some(request.clone()),
            _ => None,
        });
        actions = match get {
            Some(Request { asked: Asked { url, .. }, .. }) if !url.contains(".img.") && !url.ends_with("SUMS") => {
                asked.push(url);
                return (Some(run.now), asked);
            }
            Some(Request { job, asked: Asked { url, .. }, stall_seconds, .. }) => {
                if url.ends_with(".chunks") {
                    asked.push(url);
                    return (Some(run.now), asked);
                }
                let stall = Millis::from(stall_seconds) * 1000;
                let (took, answer) = match reply(&url, run.now) {
                    Reply::After(took, answer) if took < stall => (took, answer),
                    _ => (stall, Err(FetchCause::Stalled)),
                };
                asked.push(url);
                run.now += took;
                match answer {
                    Ok(document) => run.document(document),
                    Err(cause) => run.on(Event::Failed { job, cause }),
                }
            }
            None => {
                assert!(!news(&actions).iter().any(|news| matches!(news, StoreNews::Failed(_))), "{actions:?}");
                run.pass();
                run.on(Event::Timer)
            }
        };
        if matches!(actions.last(), Some(Action::News(StoreNews::Size { .. }))) {
            actions.extend(run.on(Event::Admitted));
        }
    }
    // Enough to tell what goes on.
    asked.truncate(12);
    (None, asked)
}

/// A fetch whose manifest must be signed, and the signature.
fn signed(sources: &[&str]) -> (Wanted, Vec<u8>) {
    let (anchors, sign) = one_key();
    let signature = sign(&manifest());
    (Wanted { anchors, stall_seconds: 10, ..wanted(sources) }, signature)
}

/// What a source has: manifest and signature, and nothing else.
fn document(url: &str, signature: &[u8]) -> Result<Vec<u8>, FetchCause> {
    match url {
        url if url.ends_with(".minisig") => Ok(signature.to_vec()),
        url if url.ends_with(".manifest") => Ok(manifest()),
        _ => Err(NOT_FOUND),
    }
}

#[test]
fn a_server_that_takes_its_time_with_documents_is_waited_for_beside_others() {
    for sources in [&THREE[..2], &THREE] {
        let (wanted, signature) = signed(sources);
        // Too slow for the first request, whose time is short, and for any where all are like that.
        let (at, asked) = search(wanted, |url, _| Reply::After(4000, document(url, &signature)));
        assert!(at.is_some_and(|at| at < 30_000), "{at:?}: {asked:?}");
    }
    let (wanted, signature) = signed(&THREE[..2]);
    let (at, asked) = search(wanted, |url, _| match url.starts_with("http://a/") {
        true => Reply::After(4000, document(url, &signature)),
        false => Reply::Never,
    });
    assert!(at.is_some_and(|at| at < 40_000), "{at:?}: {asked:?}");
}

#[test]
fn a_source_that_asks_for_a_long_pause_is_not_waited_for_where_another_has_it() {
    let busy = || Err(FetchCause::Status { status: 429, retry_after: Some(300) });
    // The signature, of the source whose manifest it is.
    let (wanted, signature) = signed(&THREE[..2]);
    let (at, asked) = search(wanted, |url, _| match url {
        "http://a/web.img.manifest.minisig" => Reply::After(10, busy()),
        url => Reply::After(10, document(url, &signature)),
    });
    assert!(at.is_some_and(|at| at < 1000), "{at:?}: {asked:?}");
    // A proof that nobody demands.
    let (at, asked) = search(in_need_of_nothing(), |url, _| match url.starts_with("http://a/") {
        true => Reply::After(10, busy()),
        false => Reply::After(10, Err(NOT_FOUND)),
    });
    assert!(at.is_some_and(|at| at < 1000), "{at:?}: {asked:?}");
}

fn in_need_of_nothing() -> Wanted {
    Wanted { stall_seconds: 10, ..wanted(&THREE[..2]) }
}

#[test]
fn a_source_that_never_said_a_word_comes_last_in_what_follows() {
    let sources = ["http://a/web.img", "http://b/web.img", "http://c/web.img"];
    let (at, asked) =
        search(Wanted { stall_seconds: 10, ..wanted(&sources) }, |url, _| match url.starts_with("http://c/") {
            true => Reply::After(10, Err(NOT_FOUND)),
            false => Reply::Never,
        });
    assert_eq!(asked.last().map(String::as_str), Some("http://c/web.img"));
    assert!(at.is_some_and(|at| at < 20_000), "{at:?}: {asked:?}");
}

#[test]
fn what_a_source_is_given_up_for_may_be_put_right_while_another_is_waited_for() {
    let unknown: fn() -> Result<Vec<u8>, FetchCause> = || Err(FetchCause::NameUnknown);
    let missing: fn() -> Result<Vec<u8>, FetchCause> = || Err(NOT_FOUND);
    for (at_first, of) in [(unknown, ".manifest"), (missing, ".manifest"), (missing, ".minisig")] {
        let (wanted, signature) = signed(&THREE[..2]);
        let (at, asked) = search(wanted, |url, now| match url.starts_with("http://a/") {
            true if now < 5 * MINUTE && url.ends_with(of) => Reply::After(10, at_first()),
            true => Reply::After(10, document(url, &signature)),
            false => Reply::Never,
        });
        let at = at.unwrap_or_else(|| panic!("never, of {of}: {asked:?}"));
        assert!((5 * MINUTE..7 * MINUTE).contains(&at), "{at}");
        let often = asked.iter().filter(|url| url.starts_with("http://a/")).count();
        assert!(often < 24, "about once a minute, and not {often} times");
    }
}

/// Without a manifest, at the image's request: the first source, which has sent two chunks of it.
fn begun(validator: Option<&str>) -> Run {
    let mut run = Run::new(in_need_of_nothing());
    run.on(Event::Fetcher);
    // Neither has manifest or checksum.
    while urls(&run.failed(NOT_FOUND)) != ["http://a/web.img"] {}
    let validator = validator.map(str::to_owned);
    let head = Head { status: 200, length: Some(SIZE), range: None, size: Some(SIZE), validator };
    let job = run.job();
    assert_eq!(news(&run.on(Event::Head { job, head })), [StoreNews::Size { bytes: SIZE }]);
    run.on(Event::Admitted);
    for chunk in 0..2 {
        assert!(run.engine.next_chunk(job, chunk, &superblock()), "chunk {chunk}");
    }
    run.engine.written(run.now);
    run.actions();
    run
}

/// Goes on until something is asked for.
fn until_asked(run: &mut Run, mut actions: Vec<Action>) -> (Asked, Vec<Action>) {
    for _ in 0..100 {
        run.confirm();
        if let Some(Action::Get(request)) = actions.iter().find(|action| matches!(action, Action::Get(_))) {
            return (request.asked.clone(), actions);
        }
        run.pass();
        actions = run.on(Event::Timer);
    }
    panic!("nothing is asked for");
}

#[test]
fn what_came_of_an_image_without_hashes_is_not_thrown_away_for_a_moments_break() {
    let mut run = begun(Some("\"v1\""));
    let rest = Range { start: 2 * u64::from(CHUNK_SIZE), end: SIZE };
    for _ in 0..3 {
        let actions = run.failed(FetchCause::Reset);
        let (asked, actions) = until_asked(&mut run, actions);
        assert_eq!(
            (asked.url.as_str(), asked.range, asked.if_range.as_deref()),
            ("http://a/web.img", Some(rest), Some("\"v1\""))
        );
        assert!(!actions.contains(&Action::StartOver));
    }
    // One that is away for long is left for the other, which begins at the beginning.
    let actions = run.failed(FetchCause::Reset);
    let (asked, _) = until_asked(&mut run, actions);
    assert_eq!((asked.url.as_str(), asked.range), ("http://b/web.img", None));
    // The sooner where it takes its time to fail.
    let mut run = begun(Some("\"v1\""));
    for (url, range) in [("http://a/web.img", Some(rest)), ("http://b/web.img", None)] {
        run.now += 10_000;
        let actions = run.failed(FetchCause::Stalled);
        let (asked, _) = until_asked(&mut run, actions);
        assert_eq!((asked.url.as_str(), asked.range), (url, range));
    }
    // So is one of which nothing tells whether its file is the same still.
    let mut run = begun(None);
    let actions = run.failed(FetchCause::Reset);
    let (asked, _) = until_asked(&mut run, actions);
    assert_eq!((asked.url.as_str(), asked.range), ("http://b/web.img", None));
}

#[test]
fn sources_that_take_their_time_to_say_that_they_have_no_proof_end_the_search_for_it() {
    let sources: Vec<String> = (0..8).map(|number| format!("http://{number}/web.img")).collect();
    let wanted = Wanted { stall_seconds: 10, ..wanted(&sources.iter().map(String::as_str).collect::<Vec<_>>()) };
    let (at, asked) = search(wanted, |_, _| Reply::After(9000, Err(NOT_FOUND)));
    assert!(at.is_some_and(|at| at < 8 * MINUTE), "{at:?}: {asked:?}");
}

#[test]
fn an_image_that_its_own_manifest_spoke_against_does_not_come_back_without_one() {
    let other =
        String::from_utf8(manifest()).unwrap().replace("\"version\": 1", "\"kernel\": \"5.10.0\", \"version\": 1");
    let mut run = Run::new(in_need_of_nothing());
    run.on(Event::Fetcher);
    run.document(other.into_bytes());
    let mut asked = Vec::new();
    while run.now < 5 * MINUTE {
        run.confirm();
        let actions = match run.engine.jobs.live().last().cloned() {
            Some(job) if job.stage == Stage::Discovery => run.failed(NOT_FOUND),
            Some(_) => run.failed(FetchCause::Refused),
            None => {
                run.pass();
                run.on(Event::Timer)
            }
        };
        asked.extend(urls(&actions));
    }
    assert!(asked.iter().any(|url| url == "http://b/web.img"), "{asked:?}");
    assert!(!asked.iter().any(|url| url == "http://a/web.img"), "{asked:?}");
}

#[test]
fn a_mirror_without_the_chunk_list_serves_chunks_at_once() {
    let mut run = Run::new(in_need_of_nothing());
    run.on(Event::Fetcher);
    run.document(manifest());
    assert_eq!(urls(&run.on(Event::Admitted)), ["http://a/web.img.chunks"]);
    // The list is small: it is asked of the other one where the first fails.
    assert_eq!(urls(&run.failed(NOT_FOUND)), ["http://b/web.img.chunks"]);
    run.confirm();
    run.head(list().len() as u64);
    run.list_chunk();
    let asked = urls(&run.actions());
    assert!(!asked.is_empty() && run.engine.sources.live().count() == 2, "{asked:?}");
    assert!(run.engine.sources.all().all(|(_, source)| source.readiness().0 <= run.now));
}

#[test]
fn a_mirror_without_the_signature_serves_chunks_at_once() {
    let (wanted, signature) = signed(&THREE[..2]);
    let mut run = Run::new(wanted);
    run.on(Event::Fetcher);
    run.document(manifest());
    // The first one lacks the signature.
    assert_eq!(urls(&run.failed(NOT_FOUND)), ["http://b/web.img.manifest"]);
    run.document(manifest());
    run.document(signature);
    assert_eq!(urls(&run.on(Event::Admitted)), ["http://a/web.img.chunks"]);
}

#[test]
fn a_source_that_lacks_the_image_is_looked_at_again_while_a_dead_one_is_waited_for() {
    let mut run = Run::at_image(&THREE[..2]);
    let mut asked = 0;
    while run.now < 10 * MINUTE {
        run.confirm();
        let Some(job) = run.engine.jobs.live().last().cloned() else {
            run.pass();
            run.on(Event::Timer);
            continue;
        };
        asked += u32::from(job.source == 0);
        let said = news(&run.failed(if job.source == 0 { NOT_FOUND } else { FetchCause::Refused }));
        assert!(!said.iter().any(|news| matches!(news, StoreNews::Failed(_))), "{said:?}");
    }
    assert!((8..12).contains(&asked), "{asked} times in ten minutes");
}
