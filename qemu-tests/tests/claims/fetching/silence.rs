//! Servers that fall silent, or nearly: whoever waits for them waits no longer than he must.

use super::{CHUNK, PATH, SIZE, Scene};
use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use rootbeam_qemu_tests::claim::claim;
use rootbeam_qemu_tests::netns;
use rootbeam_qemu_tests::servers::fault::{FOR_EVER, Fault, Rule, When};
use std::time::Instant;

pub fn claims() -> Vec<Trial> {
    let claim = |name, check: fn() -> Result<()>| claim(name, &[netns::available], check);
    vec![
        claim("fetching: a connection that stalls for ever is given up, and another goes on there", stalls),
        claim("fetching: a server that never begins its answer is asked again", never_begins),
        claim("fetching: a manifest that stalls half-way is asked for again", manifest_stalls),
        claim("fetching: a connection that gives a byte a second is not waited for", trickles),
    ]
}

fn stalls() -> Result<()> {
    let stall = |at| Rule::of(PATH, When::First(1), Fault::StallAt(at));
    let scene = Scene::new([0, CHUNK * 3 + 7, SIZE / 2, SIZE - 1].map(stall))?;
    let begun = Instant::now();
    scene.boots_thriftily("rootbeam.stall=2")?;
    ensure!(begun.elapsed().as_secs() < 30, "it took {:?}", begun.elapsed());
    Ok(())
}

fn never_begins() -> Result<()> {
    let silent = Rule::of(PATH, When::First(2), Fault::Delay(FOR_EVER));
    Scene::new([silent])?.boots_thriftily("rootbeam.stall=2").map(drop)
}

fn manifest_stalls() -> Result<()> {
    let silent = Rule::of(&format!("{PATH}.manifest"), When::First(2), Fault::StallAfter(60, FOR_EVER));
    Scene::new([silent])?.boots_thriftily("rootbeam.stall=1").map(drop)
}

/// Never silent for as long as the stall limit, and yet of no use.
fn trickles() -> Result<()> {
    let scene = Scene::new([Rule::of(PATH, When::First(1), Fault::Rate(1))])?;
    let begun = Instant::now();
    scene.boots_thriftily("rootbeam.stall=2")?;
    ensure!(begun.elapsed().as_secs() < 45, "it took {:?}", begun.elapsed());
    Ok(())
}
