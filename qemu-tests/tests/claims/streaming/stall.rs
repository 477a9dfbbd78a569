//! `stall=reboot`: in QEMU only, since the magic SysRq key restarts whatever has the kernel.

use super::super::boots::report;
use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::outcome::Outcome;
use rootbeam_qemu_tests::packages::{self, Suite};
use rootbeam_qemu_tests::probe::Request;
use rootbeam_qemu_tests::servers::fault::{Fault, When};
use rootbeam_qemu_tests::servers::http::HttpServer;
use rootbeam_qemu_tests::servers::site::Site;
use rootbeam_qemu_tests::{archives, images, qemu};
use std::time::{Duration, Instant};

/// How long a read may wait.
const STALL: Duration = Duration::from_secs(8);
const SOON: Duration = Duration::from_secs(60);

pub fn claims() -> Vec<Trial> {
    vec![claim(
        "streaming: with stall=reboot a machine whose server is gone restarts after that time, not before",
        &[qemu::available],
        restarts,
    )]
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
