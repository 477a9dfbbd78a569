//! An image that is replaced on its server, its manifest with it, while a machine runs from what came of it.

use super::super::boots::assert_clean;
use super::trouble::device;
use super::{PATH, RATE, SOON, alone, completion, identical, padded};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::netns::{self, Boot, Network, Nic};
use rootbeam_qemu_tests::outcome::Outcome;
use rootbeam_qemu_tests::servers::fault::{Fault, Rule, When};
use rootbeam_qemu_tests::servers::site::Site;
use rootbeam_qemu_tests::{archives, images};
use std::time::Duration;

/// Bytes of the image, and fewer than of the other.
const SIZE: u64 = 24 << 20;
/// What is on the server of an image.
const SUFFIXES: [&str; 3] = ["", ".manifest", ".chunks"];
const REMEDY: &str = "What is read meanwhile waits.";

pub fn claims() -> Vec<Trial> {
    vec![claim(
        "streaming: of an image that is replaced in place no byte is read, and the old one is waited for",
        &[netns::available],
        replaced,
    )]
}

fn replaced() -> Result<()> {
    let (old, new) = (images::probe_of(SIZE, 1)?, images::probe_of(SIZE + 65_536, 2)?);
    let folders = [images::published_bytes(&old, "web.squashfs")?, images::published_bytes(&new, "new.squashfs")?];
    let network = Network::new()?;
    let mut http = network.http(Site::new().folder(folders[0].path())?.folder(folders[1].path())?)?;
    let slow = || Rule::of(PATH, When::Always, Fault::Rate(RATE / 4));
    http.commit(slow());
    let words = format!("rootbeam.image={} rootbeam.mode=stream", network.url(PATH));
    let archive = archives::for_namespaces()?;
    let mut guest = Boot::new(&archive).nic(Nic::on(&network)).limit(SOON).cmdline(&words).start()?;
    let (mut probe, _) = guest.probe()?.with_context(|| guest.console().last_lines())?;
    let checked = (|| -> Result<()> {
        let device = device(&mut probe)?;
        for suffix in SUFFIXES {
            let instead = Fault::Instead(format!("/new.squashfs{suffix}"));
            http.commit(Rule::of(&format!("{PATH}{suffix}"), When::Always, instead));
        }
        http.cut();
        std::thread::scope(|scope| -> Result<()> {
            let reading = scope.spawn(|| identical(&mut probe, &device, &old));
            guest.console().wait_for(REMEDY, SOON)?;
            // So long that it was asked for again.
            std::thread::sleep(Duration::from_secs(12));
            ensure!(!reading.is_finished(), "something was read that is not there");
            http.behave();
            http.commit(slow());
            reading.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?
        })?;
        let done = completion(&mut probe)?;
        equal(&(done.total, done.verified), &(SIZE, SIZE))?;
        assert_clean(&alone(&mut probe)?)?;
        http.stop();
        // What is in memory now, not what was read before.
        let file = format!("/proc/{}/root{device}", guest.pid()?);
        ensure!(std::fs::read(&file).with_context(|| file.clone())? == padded(&old), "the image changed");
        Ok(())
    })();
    checked.with_context(|| guest.console().last_lines())?;
    probe.power_off()?;
    equal(&guest.finish(None)?.outcome, &Outcome::PoweredOff)
}
