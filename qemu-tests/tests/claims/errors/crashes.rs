//! Workers that die, or talk nonsense to PID 1 as one does that was taken over, while the image is being fetched: they are
//! started again, the boot succeeds, and what was verified is not fetched again.

use super::super::boots::report;
use super::{PATH, SOON, Scene, refused};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_init::contract::{LANES, fd, role};
use rootbeam_init::digest::Sha256;
use rootbeam_init::messages::Trust;
use rootbeam_init::messages::wire::MAX_PACKET;
use rootbeam_init::report::ImageReport;
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::images;
use rootbeam_qemu_tests::images::published;
use rootbeam_qemu_tests::netns;
use rootbeam_qemu_tests::outcome::{Booted, Outcome};
use rootbeam_qemu_tests::servers::fault::{Fault, Rule, When};
use rootbeam_qemu_tests::servers::site::Site;
use rustix::net::SendFlags;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, kill_process, pidfd_getfd, pidfd_open};
use std::time::{Duration, Instant};

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
        claim("errors: a net worker that talks nonsense to PID 1 is ended and replaced, and the boot succeeds", || {
            raves(role::NET, &[0xff; 9], "the packet is not a message of this channel")
        }),
        claim("errors: a store that talks nonsense to PID 1 is ended and replaced, and the boot succeeds", || {
            raves(role::STORE, &[1; MAX_PACKET + 1], "the message is longer than 32768 bytes")
        }),
        claim("errors: a worker that talks nothing but nonsense to PID 1 ends the boot as its policy says", raves_on),
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

/// What PID 1 hears from a worker is no message.
fn raves(role: &str, words: &'static [u8], fault: &str) -> Result<()> {
    let folder = published(&images::probe_with_noise(24 << 20)?, "web.squashfs")?;
    let scene = Scene::of(Site::new().folder(folder.path())?)?;
    let (booted, about, _) = boot_and(&scene, "", role, |worker| say(worker, words))?;
    equal(&(about.tally.verified, about.tally.rejected_chunks), &(about.size, 0))?;
    let about: Vec<_> = booted.console.lines().filter_map(|line| line.get(line.find("worker @")?..)).collect();
    let ended = format!("worker {role}: {fault}; it is ended");
    equal(&about, &vec![&*ended, &*format!("worker {role} was ended by signal 9; it is started again")])
}

fn raves_on() -> Result<()> {
    let folder = published(&images::probe_with_noise(24 << 20)?, "web.squashfs")?;
    let scene = Scene::of(Site::new().folder(folder.path())?)?;
    scene.http.commit(Rule { path: Some(PATH.to_owned()), when: When::Always, fault: Fault::Rate(1 << 20) });
    let guest = scene.machine("")?.start()?;
    guest.console().wait_for(" %), ", SOON)?;
    let (mut last, end) = (None, Instant::now() + SOON);
    while !guest.console().text().contains("FAILED at ") {
        ensure!(Instant::now() < end, "the boot goes on\n{}", guest.console().last_lines());
        match guest.worker(role::NET)? {
            Some(worker) if last != Some(worker) => {
                say(worker, &[0xff; 9])?;
                last = Some(worker);
            }
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    refused(
        &guest.finish(None)?,
        "FAILED at worker: @rootbeam-net: it was ended by signal 9, for the 6th time. \
         Remedy: report this as a bug, with the log; a reboot may help.",
    )
}

/// Has PID 1 hear `words` from a worker: they go in at the worker's own end of its channel.
fn say(worker: Pid, words: &[u8]) -> Result<()> {
    let worker = pidfd_open(worker, PidfdFlags::empty())?;
    let channel = pidfd_getfd(&worker, fd::CHANNEL, PidfdGetfdFlags::empty()).context("no channel")?;
    rustix::net::send(&channel, words, SendFlags::NOSIGNAL)?;
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
