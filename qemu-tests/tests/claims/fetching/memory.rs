//! Images at the edge of what the memory holds, and beyond four gigabytes.

use super::{Scene, Vouched, thrifty};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_qemu_tests::claim::{claim, equal, row};
use rootbeam_qemu_tests::netns::{self, Boot, Network, Nic};
use rootbeam_qemu_tests::outcome::Outcome;
use rootbeam_qemu_tests::servers::nginx::Nginx;
use rootbeam_qemu_tests::{archives, images};
use std::time::Duration;

pub fn claims() -> Vec<Trial> {
    let claim = |name, check: fn() -> Result<()>| claim(name, &[netns::available], check);
    vec![
        claim("fetching: an image boots in the memory that it just fits, and in a page more", || {
            fits(0)?;
            fits(4)
        }),
        claim("fetching: an image that lacks a page of memory is refused before its first byte", a_page_short),
    ]
}

/// The same where a claim takes minutes.
pub fn rows() -> Vec<Trial> {
    vec![row("fetching: an image beyond 4 GiB arrives whole", &[netns::available], beyond_four_gib)]
}

/// Whole chunks but for one page, so that its end is in the middle of one.
const SIZE: u64 = 5 * 1024 * 1024 + 4096;
/// Overlay and reserve.
const BESIDE: u64 = 24 << 20;

/// A server of such an image, and the memory of a machine that has so many KiB more than an image of [`SIZE`] needs.
fn scene(more_kib: i64) -> Result<(Scene, String)> {
    let scene = Scene::of(SIZE, Vouched::Manifest, [])?;
    let given_back = archives::given_back(&archives::for_namespaces()?)?;
    let kib = i64::try_from((SIZE + BESIDE - given_back) / 1024)? + more_kib;
    let lines = ["MemTotal", "MemFree", "MemAvailable"].map(|name| format!("{name}: {kib} kB\n"));
    Ok((scene, lines.concat()))
}

fn fits(more_kib: i64) -> Result<()> {
    let (scene, meminfo) = scene(more_kib)?;
    let arrived = super::boots(&scene.machine("")?.meminfo(&meminfo), &scene.image)?;
    ensure!(arrived.report.warnings.iter().any(|warning| warning.starts_with("memory is tight")), "it is tight");
    thrifty(scene.http.sent(super::PATH), SIZE)
}

fn a_page_short() -> Result<()> {
    let (scene, meminfo) = scene(-4)?;
    let booted = scene.machine("")?.meminfo(&meminfo).run()?;
    equal(&booted.outcome, &Outcome::PoweredOff)?;
    let remedy = "give the machine 4.0 KiB more RAM";
    ensure!(booted.console.contains("FAILED at memory") && booted.console.contains(remedy), "{}", booted.console);
    equal(&scene.http.sent(super::PATH), &0)
}

fn beyond_four_gib() -> Result<()> {
    const NAME: &str = "web.squashfs";
    let folder = images::published(&images::probe_with_noise((4 << 30) + 12_345)?, NAME)?;
    let size = std::fs::metadata(folder.path().join(NAME))?.len();
    let network = Network::new()?;
    let address = format!("{}:80", network.server()).parse()?;
    let _nginx = network.namespace().enter(|| Nginx::start(address, folder.path()))??;
    let words = format!("rootbeam.image={} rootbeam.on-failure=poweroff", network.url(&format!("/{NAME}")));
    let boot = Boot::new(&archives::for_namespaces()?).nic(Nic::on(&network)).cmdline(&words);
    let booted = boot.limit(Duration::from_secs(300)).run()?;
    let report = super::report(booted.world()?)?;
    let about = report.image.context("no image in the report")?;
    ensure!(size > 4 << 30, "{size} bytes are not beyond 4 GiB");
    equal(&(about.size, about.tally.verified, about.tally.rejected_chunks), &(size, size, 0))
}
