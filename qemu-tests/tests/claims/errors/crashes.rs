//! Workers that die while the image is being fetched: they are started again, the boot succeeds, and what was verified
//! is not fetched again.

use super::super::boots::report;
use super::{PATH, SOON, Scene};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_init::contract::{RING_BYTES, role};
use rootbeam_init::digest::Sha256;
use rootbeam_init::messages::Trust;
use rootbeam_init::report::ImageReport;
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::images;
use rootbeam_qemu_tests::images::published;
use rootbeam_qemu_tests::netns;
use rootbeam_qemu_tests::outcome::{Booted, Outcome};
use rootbeam_qemu_tests::servers::fault::{Fault, Rule, When};
use rootbeam_qemu_tests::servers::site::Site;

pub fn claims() -> Vec<Trial> {
    let claim = |name, check: fn() -> Result<()>| claim(name, &[netns::available], check);
    vec![
        claim("errors: a fetch worker that is killed is replaced, and nothing verified is fetched twice", || {
            survives(role::FETCH, "@rootbeam-fetch was ended by signal 9; what it fetched is kept")
        }),
        claim("errors: a store that is killed is replaced, and nothing verified is fetched twice", || {
            survives(role::STORE, "@rootbeam-store was ended by signal 9; it is started again")
        }),
        claim(
            "errors: a store that is killed without chunk hashes begins anew, and the image has its hash",
            begins_anew,
        ),
        claim("errors: a net worker that is killed is replaced, and the download goes on", || {
            survives(role::NET, "@rootbeam-net was ended by signal 9; it is started again")
        }),
    ]
}

fn survives(role: &str, said: &str) -> Result<()> {
    let image = images::probe_with_noise(24 << 20)?;
    let size = std::fs::metadata(&image)?.len();
    let folder = published(&image, "web.squashfs")?;
    let scene = Scene::of(Site::new().folder(folder.path())?)?;
    let (booted, about) = boot_and_kill(&scene, "", role)?;
    ensure!(booted.console.contains(said), "{}", booted.console);
    equal(&(about.size, about.tally.verified, about.tally.rejected_chunks), &(size, size, 0))?;
    let sent = scene.http.sent(PATH);
    ensure!(sent <= size + RING_BYTES as u64, "{sent} bytes were sent for an image of {size}:\n{}", booted.console);
    Ok(())
}

fn begins_anew() -> Result<()> {
    let image = images::probe_with_noise(24 << 20)?;
    let bytes = std::fs::read(&image)?;
    let hash = Sha256::of(&bytes);
    let scene = Scene::of(Site::new().bytes(PATH, bytes))?;
    let (_, about) = boot_and_kill(&scene, &format!("rootbeam.sha256={hash}"), role::STORE)?;
    equal(&(about.sha256, about.trust), &(Some(hash), Trust::Pinned))
}

/// Kills a worker of the machine in the middle of the download; the boot succeeds all the same.
fn boot_and_kill(scene: &Scene, words: &str, role: &str) -> Result<(Booted, ImageReport)> {
    // Slow enough that there is a middle to be hit: the first line of progress comes after a second.
    scene.http.commit(Rule { path: Some(PATH.to_owned()), when: When::Always, fault: Fault::Rate(4 << 20) });
    let mut guest = scene.machine(words)?.start()?;
    let before = guest.console().wait_for(" %), ", SOON)?;
    ensure!(!before.contains("(100 %)"), "the image was complete already: {before}");
    let worker = guest.worker(role)?.with_context(|| format!("no {role} runs"))?;
    rustix::process::kill_process(worker, rustix::process::Signal::KILL)?;
    let (probe, world) = guest.probe()?.context("the machine ended")?;
    probe.power_off()?;
    let booted = guest.finish(Some(world))?;
    equal(&booted.outcome, &Outcome::PoweredOff)?;
    let report = report(booted.world()?)?;
    equal(&report.worker_restarts, &1)?;
    equal(&report.failures, &Vec::new())?;
    Ok((booted, report.image.context("no image in the report")?))
}
