//! Answers that say "not now": they are waited for, for as long as the server wants.

use super::{PATH, SIZE, Scene, Vouched};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::netns;
use rootbeam_qemu_tests::servers::fault::{Fault, Rule, When};
use std::time::Duration;

pub fn claims() -> Vec<Trial> {
    let claim = |name, check: fn() -> Result<()>| claim(name, &[netns::available], check);
    vec![
        claim("fetching: a server that answers 503, then well, is asked again for every file", unavailable),
        claim("fetching: 408, 500, 502 and 504 are asked again too", others),
        claim("fetching: 429 with Retry-After is obeyed", || retry_after(429)),
        claim("fetching: 503 with Retry-After is obeyed", || retry_after(503)),
        claim("fetching: a server that ignores ranges, though it says it knows them, serves a boot", || {
            without_ranges(Fault::IgnoreRange)
        }),
        claim("fetching: a server that says it knows no ranges serves a boot", || without_ranges(Fault::NoRanges)),
        claim("fetching: a redirect is followed, range and all", redirect),
    ]
}

fn unavailable() -> Result<()> {
    let scene = Scene::new([Rule::everywhere(When::First(3), Fault::Status(503))])?;
    scene.boots_thriftily("")?;
    let refused = |suffix: &str| {
        let path = format!("{PATH}{suffix}");
        scene.http.log().iter().filter(|exchange| exchange.path == path && exchange.status == 503).count()
    };
    // Not one was taken for absent.
    equal(&["", ".manifest", ".chunks"].map(refused), &[3; 3])
}

fn others() -> Result<()> {
    let rule = |(nth, status)| Rule::of(PATH, When::Nth(nth), Fault::Status(status));
    Scene::new([(1, 408), (2, 500), (3, 502), (4, 504)].map(rule))?.boots_thriftily("").map(drop)
}

/// The server is in trouble until it has said so once and its pause is over.
fn retry_after(status: u16) -> Result<()> {
    const PAUSE: u32 = 3;
    let scene = Scene::new([Rule::of(PATH, When::Always, Fault::RetryAfter(status, PAUSE))])?;
    let guest = scene.machine("")?.start()?;
    let is_refusal = |exchange: &&rootbeam_qemu_tests::servers::http::Exchange| exchange.status == status;
    let log = scene.http.wait_log(super::SOON, |log| log.iter().any(|exchange| is_refusal(&exchange)))?;
    let told = log.iter().find(is_refusal).context("no refusal")?.at;
    // Requests that were under way already are no disobedience.
    std::thread::sleep(Duration::from_millis(500));
    scene.http.behave();
    super::arrives(guest, &scene.image)?;
    super::thrifty(scene.http.sent(PATH), SIZE)?;
    let early: Vec<_> = scene
        .http
        .log()
        .into_iter()
        .filter(|exchange| exchange.path == PATH)
        .filter(|exchange| {
            let after = exchange.at.saturating_sub(told);
            after > Duration::from_millis(500) && after < Duration::from_secs(u64::from(PAUSE))
        })
        .collect();
    ensure!(early.is_empty(), "told at {told:?} to wait {PAUSE} s, and then: {early:#?}");
    Ok(())
}

/// One stream, begun again where it must.
fn without_ranges(fault: Fault) -> Result<()> {
    for vouched in [Vouched::Manifest, Vouched::Checksum, Vouched::Not] {
        let rules = [
            Rule::of(PATH, When::Always, fault.clone()),
            Rule::of(PATH, When::First(1), Fault::CutAt(SIZE / 4)),
            Rule::of(PATH, When::First(1), Fault::CutAt(SIZE / 2)),
        ];
        let scene = Scene::of(SIZE, vouched, rules)?;
        scene.boots("").with_context(|| format!("{vouched:?}"))?;
        // A quarter and a half were for nothing; the rest is what a client needs to find out.
        let sent = scene.http.sent(PATH);
        ensure!(sent < SIZE * 5 / 2, "{vouched:?}: {sent} bytes were sent for an image of {SIZE}");
    }
    Ok(())
}

fn redirect() -> Result<()> {
    let image = super::Published::new(SIZE, 1)?;
    let network = rootbeam_qemu_tests::netns::Network::new()?;
    let site = image.site(Vouched::Manifest)?.bytes("/elsewhere", image.bytes.clone());
    let rules = [
        Rule::of(PATH, When::Always, Fault::Redirect("/between".into())),
        Rule::of("/between", When::Always, Fault::Redirect("/elsewhere".into())),
        Rule::of("/elsewhere", When::First(1), Fault::CutAt(SIZE / 3)),
    ];
    let http = network.http(site)?.faults(rules);
    super::boots(&super::machine(&network, "")?, &image)?;
    super::thrifty(http.sent("/elsewhere"), SIZE)
}
