//! The moment of the hand-over: what is known by then, and what is let go by then.

use super::super::boots::{assert_clean, report};
use super::{PATH, SOON, Scene, identical};
use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use rootbeam_init::contract::role;
use rootbeam_init::settings::values::Mode;
use rootbeam_init::streaming::keeper::Status;
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::netns::{self, Guest};
use rootbeam_qemu_tests::outcome::Outcome;
use rootbeam_qemu_tests::probe::{Answer, Request};
use rootbeam_qemu_tests::servers::fault::{Fault, Rule, When};
use rustix::process::{Pid, Signal, kill_process};
use std::time::{Duration, Instant};

pub fn claims() -> Vec<Trial> {
    let claim = |name, check: fn() -> Result<()>| claim(name, &[netns::available], check);
    vec![
        claim("streaming: an image that is let go before the hand-over leaves nobody and nothing", let_go_before),
        claim("streaming: a store that dies while the root is made fails the boot, and no root is entered", store_dies),
        claim("streaming: how far the image is can be told from the real init's first moment on", told_at_once),
    ]
}

/// Slow enough that the process that makes the root is met while it waits for bytes.
const SLOW: u64 = 128 << 10;

/// The process that makes the root: PID 1's only child that is no worker, once the workers are there.
fn builder(guest: &Guest) -> Result<Pid> {
    let init = guest.pid()?;
    let deadline = Instant::now() + SOON;
    while Instant::now() < deadline {
        let children = std::fs::read_to_string(format!("/proc/{init}/task/{init}/children"))?;
        let (mut workers, mut others) = (0, Vec::new());
        for pid in children.split_whitespace() {
            match std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().first() {
                Some(b'@') => workers += 1,
                _ => others.push(pid.parse()?),
            }
        }
        // Before that it may be a worker that is not called so yet.
        if let (3, [pid]) = (workers, others.as_slice()) {
            return Pid::from_raw(*pid).context("not a process id");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    bail!("no process makes the root\n{}", guest.console().last_lines())
}

/// Waits until a process that was told to stop has stopped: not while the kernel reads for it.
fn stopped(pid: Pid) -> Result<()> {
    let deadline = Instant::now() + SOON;
    while Instant::now() < deadline {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))?;
        if stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    bail!("process {pid:?} does not stop")
}

/// The process that makes the root is held until the RAM disk stands on the image itself: so PID 1 hears of that, and a
/// keeper would wait for it in vain.
fn let_go_before() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.http.behave();
    scene.http.commit(Rule::of(PATH, When::Always, Fault::Rate(SLOW)));
    let mut guest = scene.machine()?.start()?;
    // By then PID 1 has the loop device.
    guest.console().wait_for("squashfs on /dev/loop", SOON)?;
    let builder = builder(&guest)?;
    kill_process(builder, Signal::STOP)?;
    scene.http.behave();
    scene.http.cut();
    guest.console().wait_for("image: the RAM disk stands by itself", SOON)?;
    stopped(builder)?;
    scene.http.stop();
    kill_process(builder, Signal::CONT)?;
    let Some((mut probe, world)) = guest.probe()? else {
        let ended = guest.finish(None)?;
        bail!("the machine came to no real init, but {:?}:\n{}", ended.outcome, ended.console)
    };
    let checked = (|| -> Result<()> {
        // From the real init's first moment on there is no other process.
        assert_clean(&world)?;
        ensure!(!world.mounts.iter().any(|mount| mount.kind.contains("fuse")), "{:?}", world.mounts);
        let report = report(&world)?;
        equal(&report.mode, &Some(Mode::Stream))?;
        equal(&(report.failures.len(), report.worker_restarts), &(0, 0))?;
        for gone in
            ["/run/rootbeam/stream", "/run/rootbeam/stream.json", "/run/rootbeam/served", "/run/sendsigs.omit.d"]
        {
            let answer = probe.ask(&Request::Text(gone.to_owned()), SOON)?;
            ensure!(matches!(&answer, Answer::Error(text) if text.contains("os error 2")), "{gone}: {answer:?}");
        }
        let device = report.image.and_then(|image| image.device).context("no RAM disk in the report")?;
        identical(&mut probe, &device, &scene.image)?;
        let disk = world.loops.get(device.trim_start_matches("/dev/")).context("no RAM disk")?;
        ensure!(disk.file.contains("rootbeam-image"), "{disk:?}");
        Ok(())
    })();
    checked.with_context(|| guest.console().last_lines())?;
    probe.power_off()?;
    equal(&guest.finish(Some(world))?.outcome, &Outcome::PoweredOff)
}

fn store_dies() -> Result<()> {
    let scene = Scene::new()?;
    scene.http.behave();
    scene.http.commit(Rule::of(PATH, When::Always, Fault::Rate(SLOW)));
    let mut guest = scene.machine()?.start()?;
    guest.console().wait_for("squashfs on /dev/loop", SOON)?;
    // It looks at the root, and takes no notice of much that cannot be read.
    builder(&guest)?;
    kill_process(guest.worker(role::STORE)?.context("no store")?, Signal::KILL)?;
    if let Some((probe, _)) = guest.probe()? {
        probe.power_off()?;
        bail!("a root was entered that cannot be read\n{}", guest.finish(None)?.console);
    }
    let ended = guest.finish(None)?;
    equal(&ended.outcome, &Outcome::PoweredOff)?;
    let diagnosis = "FAILED at worker: @rootbeam-store: it was ended by signal 9 while the root was read through it";
    ensure!(ended.console.contains(diagnosis), "{}", ended.console);
    ensure!(!ended.console.contains("it is started again"), "{}", ended.console);
    Ok(())
}

/// Everything but a piece in the middle comes at once, and then nothing: there may be no news that a keeper could tell.
fn told_at_once() -> Result<()> {
    let scene = Scene::new()?;
    let size = scene.image.len() as u64;
    scene.http.behave();
    // In the noise, which nobody reads.
    scene.http.commit(Rule::of(PATH, When::Always, Fault::StallAt(size / 2)));
    let (guest, probe, _) = scene.boot()?;
    let init = guest.pid()?;
    let deadline = Instant::now() + SOON;
    let checked = (|| -> Result<()> {
        loop {
            std::thread::sleep(Duration::from_millis(5));
            let status: Status = match std::fs::read(format!("/proc/{init}/root/run/rootbeam/stream/status.json")) {
                Ok(text) => serde_json::from_slice(&text)?,
                // It comes with the keeper's first words.
                Err(_) if Instant::now() < deadline => continue,
                Err(error) => return Err(error.into()),
            };
            equal(&(status.complete, status.waits, status.total), &(false, false, size))?;
            // The store's word may be a tenth of a second old, and the file a second.
            if status.verified > 0 {
                ensure!(status.verified < size && status.fetched >= status.verified, "{status:?}");
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{status:?}");
        }
    })();
    checked.with_context(|| guest.console().last_lines())?;
    probe.power_off()?;
    equal(&guest.finish(None)?.outcome, &Outcome::PoweredOff)
}
