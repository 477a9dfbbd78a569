//! Workers that die while the image is being fetched: they are started again, the boot succeeds, and what was verified
//! is not fetched again.

use super::super::boots::report;
use super::{PATH, SOON, Scene};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_init::contract::{LANES, role};
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
use rustix::process::{Pid, Signal, kill_process};

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

/// What the server sends of an answer at once, in bytes.
const PIECE: u64 = 1 << 17;

fn survives(role: &str, said: &str) -> Result<()> {
    let image = images::probe_with_noise(24 << 20)?;
    let size = std::fs::metadata(&image)?.len();
    let folder = published(&image, "web.squashfs")?;
    let scene = Scene::of(Site::new().folder(folder.path())?)?;
    let (booted, about, then) = boot_and(&scene, "", role, kill)?;
    ensure!(booted.console.contains(said), "{}", booted.console);
    equal(&(about.size, about.tally.verified, about.tally.rejected_chunks), &(size, size, 0))?;
    let (twice, under_way) = (came_twice(&scene, size), then.under_way(size)?);
    ensure!(twice <= under_way, "{twice} bytes came twice, {under_way} were under way:\n{}", booted.console);
    Ok(())
}

fn kill(worker: Pid) -> Result<()> {
    Ok(kill_process(worker, Signal::KILL)?)
}

fn begins_anew() -> Result<()> {
    let image = images::probe_with_noise(24 << 20)?;
    let bytes = std::fs::read(&image)?;
    let (hash, size) = (Sha256::of(&bytes), bytes.len() as u64);
    let scene = Scene::of(Site::new().bytes(PATH, bytes))?;
    let (_, about, then) = boot_and(&scene, &format!("rootbeam.sha256={hash}"), role::STORE, kill)?;
    // So the claims above would see it.
    let (twice, under_way) = (came_twice(&scene, size), then.under_way(size)?);
    ensure!(twice > under_way, "{twice} bytes came twice, {under_way} were under way");
    equal(&(about.sha256, about.trust), &(Some(hash), Trust::Pinned))
}

/// How far a download was when its worker was dealt with: bytes that the server had sent, and how much of the image was
/// verified at least.
struct Then {
    sent: u64,
    percent: u64,
}

impl Then {
    /// How many bytes of an image of `size` may come twice at the most: what was verified may not, what was under way may,
    /// and what each answer went on with before its connection was closed.
    fn under_way(&self, size: u64) -> Result<u64> {
        let bytes = self.sent.saturating_sub(size * self.percent / 100) + LANES as u64 * PIECE;
        ensure!(bytes < size / 4, "{bytes} bytes were under way, which says nothing of those that were verified");
        Ok(bytes)
    }
}

/// How many bytes of an image of `size` were sent more than once.
fn came_twice(scene: &Scene, size: u64) -> u64 {
    scene.http.sent(PATH).saturating_sub(size)
}

/// Does something to a worker of the machine in the middle of the download; the boot succeeds all the same.
fn boot_and(
    scene: &Scene,
    words: &str,
    role: &str,
    deed: impl FnOnce(Pid) -> Result<()>,
) -> Result<(Booted, ImageReport, Then)> {
    // Slow enough that there is a middle to be hit: a line of progress comes each second.
    scene.http.commit(Rule { path: Some(PATH.to_owned()), when: When::Always, fault: Fault::Rate(4 << 20) });
    let mut guest = scene.machine(words)?.start()?;
    let (mut read, mut percent) = (0, 0);
    while percent < 40 {
        read = guest.console().wait_for_after(read, " %), ", SOON)?;
        percent = verified(&guest.console().text()).context("no line of progress")?;
    }
    ensure!(percent < 100, "the image was complete already: {}", guest.console().last_lines());
    let worker = guest.worker(role)?.with_context(|| format!("no {role} runs"))?;
    deed(worker)?;
    let then = Then { sent: scene.http.sent(PATH), percent };
    let (probe, world) = guest.probe()?.context("the machine ended")?;
    probe.power_off()?;
    let booted = guest.finish(Some(world))?;
    equal(&booted.outcome, &Outcome::PoweredOff)?;
    let report = report(booted.world()?)?;
    equal(&report.worker_restarts, &1)?;
    equal(&report.failures, &Vec::new())?;
    Ok((booted, report.image.context("no image in the report")?, then))
}

/// How many percent the newest line of progress says.
fn verified(console: &str) -> Option<u64> {
    console.rsplit_once(" %), ")?.0.rsplit_once('(')?.1.parse().ok()
}
