//! What passes: the fetch goes on where it stopped.

use crate::bed::{Bed, CHUNK, Outcome, image, published, wanted};
use crate::good::{checksummed, facts};
use crate::server::{Reply, Server, file};
use rootbeam_init::digest::Sha256;
use rootbeam_init::messages::{FetchCause, StoreCause, StoreNews, StoreOrder, Trust, Wanted};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// Serves what is published of `image`; the image itself as `answer` says.
fn server_of(image: &[u8], answer: impl Fn(&crate::server::Request, Reply) -> Reply + Send + Sync + 'static) -> Server {
    let files = published(image);
    Server::start(move |request| match files.get(&request.path) {
        Some(bytes) if request.path == "/web.img" => answer(request, file(bytes, request)),
        Some(bytes) => file(bytes, request),
        None => Reply::status("404 Not Found"),
    })
}

#[test]
fn a_cut_connection_is_resumed_at_the_first_chunk_that_is_missing() {
    let image = image(12 * CHUNK + 9);
    for (cut, resumed) in [(5 * CHUNK - 1, 4), (5 * CHUNK, 5), (5 * CHUNK + 1, 5), (1, 0), (12 * CHUNK + 8, 12)] {
        let server = server_of(&image, move |request, reply| if request.nth == 0 { reply.cut(cut) } else { reply });
        let mut bed = Bed::new();
        assert_eq!(bed.run(wanted(&[server.url("/web.img")])), checksummed(&image));
        bed.assert_holds(&image);
        let requests = server.requests("/web.img");
        // On a slow machine a second connection may be tried, and share out what is missing.
        let starts = |request: &crate::server::Request| request.range.map_or(0, |(start, _)| start);
        let resumes: Vec<usize> = requests[1..].iter().map(|(request, _)| starts(request)).collect();
        assert_eq!(resumes.iter().min(), Some(&(resumed * CHUNK)), "cut after {cut}: {resumes:?}");
        let least = (cut + image.len() - resumed * CHUNK) as u64;
        assert!((least..least + CHUNK as u64).contains(&bed.tally.fetched), "cut after {cut}: {:?}", bed.tally);
        assert_eq!(bed.tally.failures, 1);
    }
}

#[test]
fn without_chunk_hashes_a_cut_is_resumed_under_the_files_validator() {
    let image = image(12 * CHUNK + 9);
    let bytes = image.clone();
    let server = Server::start(move |request| match request.path.as_str() {
        "/web.img" if request.nth == 0 => file(&bytes, request).cut(5 * CHUNK + 1),
        "/web.img" => file(&bytes, request),
        _ => Reply::status("404 Not Found"),
    });
    let mut bed = Bed::new();
    assert_eq!(bed.run(wanted(&[server.url("/web.img")])), facts(&image, Trust::Unverified, None, None));
    bed.assert_holds(&image);
    let requests = server.requests("/web.img");
    assert_eq!((requests.len(), requests[1].0.range), (2, Some((5 * CHUNK, image.len()))));
    assert!(requests[1].0.if_range.is_some());
}

#[test]
fn a_file_that_changed_meanwhile_is_fetched_from_its_beginning() {
    let (old, new) = (image(12 * CHUNK), image(11 * CHUNK + 5));
    let expected = new.clone();
    let server = Server::start(move |request| match request.path.as_str() {
        "/web.img" if request.nth == 0 => file(&old, request).cut(5 * CHUNK + 1),
        "/web.img" => file(&new, request),
        _ => Reply::status("404 Not Found"),
    });
    let mut bed = Bed::new();
    assert_eq!(bed.run(wanted(&[server.url("/web.img")])), facts(&expected, Trust::Unverified, None, None));
    bed.assert_holds(&expected);
    assert_eq!(bed.sizes, [12 * CHUNK as u64, 11 * CHUNK as u64 + 5]);
}

#[test]
fn a_server_without_ranges_is_enough() {
    let image = image(12 * CHUNK + 9);
    let bytes = image.clone();
    let server = server_of(&image, move |request, _| {
        let whole = crate::server::Request { range: None, ..request.clone() };
        let reply = file(&bytes, &whole);
        if request.nth == 0 { reply.cut(5 * CHUNK) } else { reply }
    });
    let mut bed = Bed::new();
    assert_eq!(bed.run(wanted(&[server.url("/web.img")])), checksummed(&image));
    bed.assert_holds(&image);
}

#[test]
fn refused_connections_and_busy_servers_are_tried_again() {
    let image = image(3 * CHUNK);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let server = server_of(&image, |request, reply| match request.nth {
        0 => Reply::status("503 Service Unavailable"),
        1 => Reply::status("429 Too Many Requests").header("Retry-After", "0"),
        _ => reply,
    });
    let mut bed = Bed::new();
    let sources = [format!("http://{address}/web.img"), server.url("/web.img")];
    assert_eq!(bed.run(wanted(&sources)), checksummed(&image));
    let status = |status, retry_after| FetchCause::Status { status, retry_after };
    let of_server: Vec<_> = bed.troubles.iter().filter(|(source, _)| *source == 1).map(|(_, c)| c.clone()).collect();
    assert_eq!(of_server, [status(503, None), status(429, Some(0))]);
    assert!(bed.troubles.contains(&(0, FetchCause::Refused)));
}

#[test]
fn a_busy_server_may_name_the_time_to_come_back_at_by_its_own_clock() {
    let image = image(3 * CHUNK);
    let server = server_of(&image, |request, reply| match request.nth {
        0 => Reply::status("503 Service Unavailable")
            .header("Date", "Sun, 06 Nov 1994 08:49:37 GMT")
            .header("Retry-After", "Sun, 06 Nov 1994 08:49:39 GMT"),
        _ => reply,
    });
    let mut bed = Bed::new();
    let begun = Instant::now();
    assert_eq!(bed.run(wanted(&[server.url("/web.img")])), checksummed(&image));
    assert_eq!(bed.troubles, [(0, FetchCause::Status { status: 503, retry_after: Some(2) })]);
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[test]
fn that_a_source_answered_is_told_before_what_the_answer_leads_to_and_a_404_is_an_answer() {
    let server = Server::start(|_| Reply::status("404 Not Found"));
    let mut bed = Bed::new();
    bed.send(StoreOrder::Start(wanted(&[server.url("/web.img")])));
    while !matches!(bed.news(), StoreNews::Failed(_)) {}
    assert!(bed.answered);
}

#[test]
fn a_server_that_only_refuses_is_asked_for_ever_and_told_of() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let mut bed = Bed::new();
    bed.send(StoreOrder::Start(wanted(&[format!("http://{address}/web.img")])));
    while bed.troubles.len() < 3 {
        let news = bed.news();
        assert!(!matches!(news, StoreNews::Failed(_) | StoreNews::Answered), "{news:?}");
    }
    assert_eq!(bed.troubles, vec![(0, FetchCause::Refused); 3]);
}

#[test]
fn a_stalled_connection_is_left_and_resumed() {
    let image = image(12 * CHUNK);
    let server = server_of(&image, |request, reply| if request.nth == 0 { reply.stall(5 * CHUNK) } else { reply });
    let mut bed = Bed::new();
    let mut wanted = wanted(&[server.url("/web.img")]);
    wanted.stall_seconds = 1;
    assert_eq!(bed.run(wanted), checksummed(&image));
    assert_eq!(bed.troubles, [(0, FetchCause::Stalled)]);
    assert_eq!(server.requests("/web.img")[1].0.range, Some((5 * CHUNK, image.len())));
}

#[test]
fn a_wrong_chunk_is_fetched_from_another_source() {
    let image = image(90 * CHUNK);
    let bad = server_of(&image, |request, mut reply| {
        let (start, end) = request.range.unwrap_or((0, 90 * CHUNK));
        if (start..end).contains(&(CHUNK + 5)) {
            reply.body[CHUNK + 5 - start] ^= 1;
        }
        reply
    });
    let good = Server::of(published(&image));
    let mut bed = Bed::new();
    let sources = [bad.url("/web.img"), good.url("/web.img")];
    assert_eq!(bed.run(wanted(&sources)), checksummed(&image));
    bed.assert_holds(&image);
    let asked: Vec<_> = good.requests("/web.img").iter().filter_map(|(request, _)| request.range).collect();
    assert!(asked.iter().any(|(start, end)| (*start..*end).contains(&CHUNK)), "{asked:?}");
    assert_eq!(
        (bed.tally.rejected_chunks, bed.sources[&0].rejected_chunks, bed.sources[&1].rejected_chunks),
        (1, 1, 0)
    );
    assert_eq!(bed.sources[&0].trouble, Some(FetchCause::WrongBytes));
    assert!(bed.tally.fetched <= (image.len() + 4 * CHUNK) as u64, "{:?}", bed.tally);
}

#[test]
fn a_source_that_has_another_file_is_left_for_one_that_has_the_image() {
    let (image, other) = (image(9 * CHUNK), image(9 * CHUNK + 4096)[..9 * CHUNK].to_vec());
    let bad = Server::start(move |request| match request.path.as_str() {
        "/web.img" => file(&other, request),
        _ => Reply::status("404 Not Found"),
    });
    let good = Server::of(published(&image));
    let mut bed = Bed::new();
    assert_eq!(bed.run(wanted(&[bad.url("/web.img"), good.url("/web.img")])), checksummed(&image));
    bed.assert_holds(&image);
}

#[test]
fn a_crash_of_the_fetch_worker_loses_no_verified_chunk() {
    let image = image(60 * CHUNK);
    // The first answer stops half-way, so the crash finds it there.
    let server = server_of(&image, |request, reply| if request.nth == 0 { reply.stall(30 * CHUNK + 7) } else { reply });
    let mut bed = Bed::new();
    bed.send(StoreOrder::Start(wanted(&[server.url("/web.img")])));
    while bed.progress.last().is_none_or(|tally| tally.verified < 30 * CHUNK as u64) {
        if let StoreNews::Size { .. } = bed.news() {
            bed.send(StoreOrder::Admitted);
        }
    }
    bed.crash_fetcher();
    assert_eq!(bed.outcome(), checksummed(&image));
    bed.assert_holds(&image);
    assert_eq!(bed.troubles, [(0, FetchCause::WorkerDied)]);
    let requests = server.requests("/web.img");
    // What was still to come may have been shared out already.
    assert!(requests[1..].iter().all(|(request, _)| request.range.is_some_and(|(start, _)| start >= 30 * CHUNK)));
    assert!(bed.tally.fetched < (image.len() + CHUNK) as u64, "{:?}", bed.tally);
}

#[test]
fn a_failed_fetch_goes_on_when_told_to() {
    let image = image(6 * CHUNK);
    let server = server_of(&image, |request, reply| match request.nth {
        0 => reply.cut(2 * CHUNK),
        1 => Reply::status("404 Not Found"),
        _ => reply,
    });
    let mut bed = Bed::new();
    let cause = FetchCause::Status { status: 404, retry_after: None };
    let outcome = bed.run(wanted(&[server.url("/web.img")]));
    assert_eq!(outcome, Outcome::Failed(StoreCause::Fetch { source: 0, cause }));
    bed.send(StoreOrder::Again);
    assert_eq!(bed.outcome(), checksummed(&image));
    assert_eq!(server.requests("/web.img")[2].0.range, Some((2 * CHUNK, image.len())));
}

#[test]
fn redirects_are_followed_but_not_in_a_circle() {
    let image = image(3 * CHUNK);
    let files = published(&image);
    let server = Server::start(move |request| match files.get(request.path.trim_start_matches("/moved")) {
        Some(_) if request.path.starts_with("/moved") => {
            let there = request.path.trim_start_matches("/moved").to_owned();
            Reply::status("302 Found").header("Location", there)
        }
        Some(bytes) => file(bytes, request),
        None if request.path.starts_with("/circle") => Reply::status("302 Found").header("Location", "/circle"),
        None => Reply::status("404 Not Found"),
    });
    assert_eq!(Bed::new().run(wanted(&[server.url("/moved/web.img")])), checksummed(&image));
    let outcome = Bed::new().run(wanted(&[server.url("/circle/web.img")]));
    let cause = StoreCause::Fetch { source: 0, cause: FetchCause::Redirect };
    assert_eq!(outcome, Outcome::Failed(cause));
}

#[test]
fn a_second_source_with_the_right_bytes_mends_a_wrong_hash_of_the_first() {
    let (good, mut bad) = (image(6 * CHUNK), image(6 * CHUNK));
    bad[4 * CHUNK] ^= 1;
    let hash = Sha256::of(&good);
    let first = Server::of(BTreeMap::from([("/web.img".into(), bad)]));
    let second = Server::of(BTreeMap::from([("/web.img".into(), good.clone())]));
    let mut bed = Bed::new();
    let mut wanted = wanted(&[first.url("/web.img"), second.url("/web.img")]);
    wanted.sha256 = Some(hash);
    assert_eq!(bed.run(wanted), facts(&good, Trust::Pinned, Some(hash), None));
    bed.assert_holds(&good);
}

/// A store that was told to stream, up to the news that its image could be served, with most of it still to come; then the
/// server has `other` in the place of it while `meanwhile` lasts.
fn replaced_once_opened(image: &[u8], other: &[u8], meanwhile: impl Fn(&mut Bed, Sha256)) {
    let (old, new) = (published(image), published(other));
    let replaced = Arc::new(AtomicU8::new(0));
    let state = Arc::clone(&replaced);
    let server = Server::start(move |request| {
        let state = state.load(Ordering::SeqCst);
        let files = if state == 1 { &new } else { &old };
        let reply = files.get(&request.path).map_or(Reply::status("404 Not Found"), |bytes| file(bytes, request));
        if state == 0 && request.path == "/web.img" { reply.stall(4 * CHUNK) } else { reply }
    });
    let mut bed = Bed::new();
    bed.send(StoreOrder::Start(Wanted { streams: true, ..wanted(&[server.url("/web.img")]) }));
    let manifest = loop {
        match bed.news() {
            StoreNews::Size { .. } => bed.send(StoreOrder::Admitted),
            StoreNews::Opened { facts } => break facts.manifest.expect("it has one"),
            _ => {}
        }
    };
    assert_eq!(manifest, Sha256::of(&published(image)["/web.img.manifest"]));
    replaced.store(1, Ordering::SeqCst);
    meanwhile(&mut bed, manifest);
    replaced.store(2, Ordering::SeqCst);
    let found = match bed.outcome() {
        Outcome::Done(facts) => facts,
        outcome => panic!("{outcome:?}"),
    };
    assert_eq!((found.manifest, found.size), (Some(manifest), image.len() as u64));
    bed.assert_holds(image);
}

#[test]
fn an_image_that_was_replaced_after_it_was_opened_is_waited_for() {
    let image = image(300 * CHUNK);
    let mut other = image.clone();
    other[200 * CHUNK] ^= 1;
    replaced_once_opened(&image, &other, |bed, manifest| {
        bed.send(StoreOrder::Keep { manifest });
        bed.crash_fetcher();
        let refused = |bed: &Bed| bed.unfit.len() + bed.troubles.len() > 1;
        while !refused(bed) {
            assert!(!matches!(bed.news(), StoreNews::Done { .. }), "another image was taken");
        }
    });
}

#[test]
fn an_image_that_was_replaced_before_anybody_was_told_to_keep_to_it_is_looked_for_again() {
    let (image, other) = (image(300 * CHUNK), image(200 * CHUNK));
    replaced_once_opened(&image, &other, |bed, manifest| {
        bed.crash_fetcher();
        while bed.sizes.len() < 2 {
            bed.news();
        }
        assert_eq!(bed.sizes[1], 200 * CHUNK as u64);
        bed.send(StoreOrder::Keep { manifest });
    });
}
