//! Connections that end too early: the download goes on where it stopped.

use super::{CHUNK, PATH, SIZE, Scene, Vouched, seed};
use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::netns;
use rootbeam_qemu_tests::servers::fault::{Fault, Rule, When};

pub fn claims() -> Vec<Trial> {
    let claim = |name, check: fn() -> Result<()>| claim(name, &[netns::available], check);
    vec![
        claim("fetching: cut at 0, 1, and at chunk boundaries and a byte beside them, it goes on there", || {
            at_boundaries(Vouched::Manifest)
        }),
        claim("fetching: cut at the same places without chunk hashes, it goes on there", || {
            at_boundaries(Vouched::Checksum)
        }),
        claim("fetching: cut at the same places with nothing to verify by, it goes on there", || {
            at_boundaries(Vouched::Not)
        }),
        claim("fetching: cut at random bytes, it goes on there", at_random),
        claim("fetching: a server that hangs up before it answers is asked again", hangs_up),
        claim("fetching: a body without a length that ends early is completed", || without_length(Vouched::Manifest)),
        claim("fetching: a body without a length does not keep an image without a manifest away", || {
            without_length(Vouched::Checksum)
        }),
        claim("fetching: manifest and chunk list are completed too when they are cut", documents),
    ]
}

/// Each byte cuts the first connection that gets to it.
fn cuts(offsets: &[u64]) -> Vec<Rule> {
    offsets.iter().map(|offset| Rule::of(PATH, When::First(1), Fault::CutAt(*offset))).collect()
}

fn at_boundaries(vouched: Vouched) -> Result<()> {
    let (middle, last) = (SIZE / 2 / CHUNK * CHUNK, SIZE / CHUNK * CHUNK);
    let offsets =
        [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, middle - 1, middle, middle + 1, last - 1, last, last + 1, SIZE - 1];
    let scene = Scene::of(SIZE, vouched, cuts(&offsets))?;
    let arrived = scene.boots_thriftily("")?;
    equal(&arrived.report.worker_restarts, &0)?;
    ensure!(arrived.about.tally.failures >= 1, "{:?}", arrived.about.tally);
    Ok(())
}

fn at_random() -> Result<()> {
    let mut random = fastrand::Rng::with_seed(seed("cut at random bytes")?);
    // Each may cost most of a chunk, which is a hundredth of the image.
    let offsets: Vec<u64> = (0..8).map(|_| random.u64(0..SIZE)).collect();
    Scene::new(cuts(&offsets))?.boots("").map(drop)
}

fn hangs_up() -> Result<()> {
    Scene::new([Rule::everywhere(When::First(2), Fault::Hangup)])?.boots_thriftily("").map(drop)
}

fn without_length(vouched: Vouched) -> Result<()> {
    let short = |nth| {
        let rule = |fault| Rule::of(PATH, When::Nth(nth), fault);
        [rule(Fault::NoLength), rule(Fault::CutAfter(CHUNK * 5 / 2))]
    };
    Scene::of(SIZE, vouched, [1, 3].into_iter().flat_map(short))?.boots("").map(drop)
}

fn documents() -> Result<()> {
    let cut = |suffix: &str, after| Rule::of(&format!("{PATH}{suffix}"), When::First(2), Fault::CutAfter(after));
    Scene::new([cut(".manifest", 100), cut(".chunks", 33)])?.boots_thriftily("").map(drop)
}
