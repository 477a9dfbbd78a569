//! `stall=reboot`: once the system runs in QEMU only, since the magic SysRq key restarts whatever has the kernel. And what
//! bounds the making of a root whose server goes away meanwhile.

use super::super::boots::report;
use super::{PATH, Scene};
use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::netns;
use rootbeam_qemu_tests::outcome::{Booted, Outcome};
use rootbeam_qemu_tests::packages::{self, Suite};
use rootbeam_qemu_tests::probe::Request;
use rootbeam_qemu_tests::servers::fault::{Fault, Rule, When};
use rootbeam_qemu_tests::servers::http::HttpServer;
use rootbeam_qemu_tests::servers::site::Site;
use rootbeam_qemu_tests::{archives, images, qemu};
use std::time::{Duration, Instant};

/// How long a read may wait.
const STALL: Duration = Duration::from_secs(8);
const SOON: Duration = Duration::from_secs(60);

pub fn claims() -> Vec<Trial> {
    let early = |name, check: fn() -> Result<()>| claim(name, &[netns::available], check);
    vec![
        claim(
            "streaming: with stall=reboot a machine whose server is gone restarts after that time, not before",
            &[qemu::available],
            restarts,
        ),
        early(
            "streaming: with stall=reboot a machine restarts whose server goes away before the real init",
            early_stall,
        ),
        early("streaming: rootbeam.timeout= ends a boot whose server goes away before the real init", early_timeout),
    ]
}

fn restarts() -> Result<()> {
    let kernel = packages::kernel(Suite::Bookworm)?;
    let folder = images::published(&images::probe_with_noise(48 << 20)?, "image")?;
    let site = Site::new().folder(folder.path())?;
    let mut http = HttpServer::on_loopback(site)?.fault("/image", When::Always, Fault::Rate(1 << 20));
    let url = format!("http://{}:{}/image", qemu::HOST, http.address().port());
    let words = format!("rootbeam.image={url} rootbeam.mode=stream rootbeam.stream.stall=reboot:{}", STALL.as_secs());
    let mut guest =
        qemu::Boot::new(&kernel, &archives::for_qemu(&kernel)?).nic(qemu::Nic::user()).cmdline(&words).start()?;
    let Some((mut probe, world)) = guest.probe()? else { bail!("no real init\n{}", guest.console().text()) };
    let device = report(&world)?.image.and_then(|image| image.device).context("no RAM disk in the report")?;
    http.stop();
    // It waits to read, and goes with its machine.
    let begun = Instant::now();
    let reading =
        std::thread::spawn(move || probe.ask(&Request::Digest(device), SOON).map(|answer| format!("{answer:?}")));
    let ended = guest.finish(Some(world))?;
    let took = begun.elapsed();
    let answer = reading.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
    ensure!(answer.is_err(), "the image was read without a server: {answer:?}");
    equal(&ended.outcome, &Outcome::Restarted)?;
    equal(&ended.console.matches("image: what is to be read does not come: the machine restarts").count(), &1)
        .with_context(|| ended.console.clone())?;
    ensure!(took >= STALL, "it restarted after {took:?}\n{}", ended.console);
    ensure!(took < STALL * 4, "it restarted only after {took:?}\n{}", ended.console);
    Ok(())
}

/// What a machine does whose server goes away while the root is made, and how long it took to that.
fn forsaken(words: &'static str) -> Result<(Booted, Duration)> {
    /// Slow enough that the root is not made before that.
    const SLOW: u64 = 128 << 10;
    let mut scene = Scene::with(words)?;
    scene.http.behave();
    scene.http.commit(Rule::of(PATH, When::Always, Fault::Rate(SLOW)));
    let mut guest = scene.machine()?.start()?;
    guest.console().wait_for("squashfs on /dev/loop", SOON)?;
    scene.http.stop();
    let gone = Instant::now();
    if let Some((probe, _)) = guest.probe()? {
        probe.power_off()?;
        bail!("it came to a real init without a server\n{}", guest.finish(None)?.console);
    }
    Ok((guest.finish(None)?, gone.elapsed()))
}

fn early_stall() -> Result<()> {
    let (ended, took) = forsaken("rootbeam.stream.stall=reboot:8")?;
    equal(&ended.outcome, &Outcome::Restarted).with_context(|| ended.console.clone())?;
    equal(&ended.console.matches("image: what is to be read does not come: the machine restarts").count(), &1)?;
    // The read may have been under way when the server went.
    ensure!(took >= STALL - Duration::from_secs(2), "it restarted after {took:?}\n{}", ended.console);
    ensure!(took < STALL * 2, "it restarted only after {took:?}\n{}", ended.console);
    Ok(())
}

fn early_timeout() -> Result<()> {
    let (ended, _) = forsaken("rootbeam.timeout=12")?;
    equal(&ended.outcome, &Outcome::PoweredOff).with_context(|| ended.console.clone())?;
    ensure!(ended.console.contains(", and the 12 s of rootbeam.timeout= are over. Remedy: "), "{}", ended.console);
    Ok(())
}
