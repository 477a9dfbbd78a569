//! A server that is away for half a minute, at any point of an image on its way.

use super::super::boots::assert_clean;
use super::trouble::device;
use super::{PATH, SOON, Scene, alone, completion, identical};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_init::contract::RING_BYTES;
use rootbeam_init::streaming::keeper::Status;
use rootbeam_qemu_tests::claim::{equal, row};
use rootbeam_qemu_tests::images;
use rootbeam_qemu_tests::netns;
use rootbeam_qemu_tests::outcome::Outcome;
use rootbeam_qemu_tests::servers::fault::{Fault, Rule, When};
use std::time::{Duration, Instant};

/// How long the server is away.
const AWAY: Duration = Duration::from_secs(30);
/// The image's bytes: so many that the real init runs before a hundredth of them has come.
const SIZE: u64 = 256 << 20;
/// Bytes a second, and before the first hundredth.
const RATE: u64 = 16 << 20;
const SLOW: u64 = 1 << 20;

pub fn rows() -> Vec<Trial> {
    let row = |percent: u64| {
        let name = format!("streaming: a server that is away for 30 s at {percent} % of the image");
        row(&name, &[netns::available], move || away(percent))
    };
    [1, 10, 50, 99].map(row).into()
}

fn away(percent: u64) -> Result<()> {
    // The real init is to run before that point.
    let image = images::probe_of(SIZE, percent)?;
    let folder = images::published_bytes(&image, PATH.trim_start_matches('/'))?;
    let mut scene = Scene::of(image, folder, if percent > 1 { RATE } else { SLOW }, "")?;
    let (size, point) = (SIZE, SIZE * percent / 100);
    let (guest, mut probe, _) = scene.boot()?;
    let init = guest.pid()?;
    let checked = (|| -> Result<()> {
        let sent = scene.http.sent(PATH);
        ensure!(sent < point, "{sent} of {size} bytes were sent before the real init ran");
        let device = device(&mut probe)?;
        let bytes = &scene.image;
        std::thread::scope(|scope| -> Result<()> {
            let reading = scope.spawn(|| identical(&mut probe, &device, bytes));
            scene.http.wait_sent(PATH, point, SOON)?;
            scene.http.stop();
            let gone = Instant::now();
            guest.console().wait_for("something waits to be read that has not come yet", SOON)?;
            let told = waits(init)?;
            equal(&(told.complete, told.total), &(false, size))?;
            // What was sent may have come twice, or be on the wire and in chunks that are not whole.
            ensure!(told.verified < size && told.verified + RING_BYTES as u64 >= point, "{told:?}");
            std::thread::sleep(AWAY.saturating_sub(gone.elapsed()));
            ensure!(!reading.is_finished(), "the image was read without a server");
            scene.http.behave();
            scene.http.commit(Rule::of(PATH, When::Always, Fault::Rate(RATE)));
            scene.http.resume(scene.network.listen(80)?)?;
            reading.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?
        })?;
        let done = completion(&mut probe)?;
        equal(&done, &Status { complete: true, total: size, verified: size, waits: false, ..done.clone() })?;
        assert_clean(&alone(&mut probe)?)
    })();
    checked.with_context(|| guest.console().last_lines())?;
    probe.power_off()?;
    let ended = guest.finish(None)?;
    equal(&ended.outcome, &Outcome::PoweredOff)?;
    let count = |text: &str| ended.console.matches(text).count();
    equal(&(count("something waits to be read"), count("what waited to be read has come")), &(1, 1))
        .with_context(|| ended.console.clone())
}

/// The machine's own word that something waits, as soon as it says so.
fn waits(init: u32) -> Result<Status> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let text = std::fs::read(format!("/proc/{init}/root/run/rootbeam/stream/status.json"))?;
        let status: Status = serde_json::from_slice(&text)?;
        if status.waits {
            return Ok(status);
        }
        ensure!(Instant::now() < deadline, "it does not say that something waits: {status:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
