//! The download under faults: whatever the servers, the network and the workers do, the machine comes to its real init
//! as soon as that is possible, and the image in its memory is the source's, byte by byte.

mod answers;
mod changes;
mod cuts;
mod layers;
mod lies;
mod memory;
mod names;
pub mod publish;
mod schedule;
mod servers;
mod silence;
pub mod soak;
mod sources;
mod whole;
mod workers;

use super::boots::{assert_clean, report};
use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use rootbeam_init::digest::Sha256;
use rootbeam_init::report::{ImageReport, Report};
use rootbeam_qemu_tests::archives;
use rootbeam_qemu_tests::claim::equal;
use rootbeam_qemu_tests::images;
use rootbeam_qemu_tests::netns::{Boot, Guest, Network, Nic};
use rootbeam_qemu_tests::outcome::Outcome;
use rootbeam_qemu_tests::probe::{Answer, Probe, Request};
use rootbeam_qemu_tests::servers::fault::Rule;
use rootbeam_qemu_tests::servers::http::HttpServer;
use rootbeam_qemu_tests::servers::site::Site;
use rootbeam_qemu_tests::world::World;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

pub fn claims() -> Vec<Trial> {
    let groups = [
        cuts::claims(),
        silence::claims(),
        answers::claims(),
        layers::claims(),
        lies::claims(),
        changes::claims(),
        sources::claims(),
        memory::claims(),
        workers::claims(),
        names::claims(),
        publish::claims(),
        servers::claims(),
        whole::claims(),
        soak::sample(),
    ];
    groups.into_iter().flatten().collect()
}

/// The same where a claim takes minutes.
pub fn rows() -> Vec<Trial> {
    [workers::rows(), memory::rows()].into_iter().flatten().collect()
}

/// Where the image is on a server.
const PATH: &str = "/web.squashfs";
/// The image's URL on the server of a network.
const URL: &str = "http://10.77.0.1/web.squashfs";
/// How long anything is waited for.
const SOON: Duration = Duration::from_secs(90);
/// What the chunk hashes of a manifest are over.
const CHUNK: u64 = 65_536;
/// The size of most images here: room for many chunks, quick to hash, and no multiple of anything.
const SIZE: u64 = 6 * 1024 * 1024 + 4321;

/// What a server has to hold the image against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vouched {
    /// A manifest with the hash of every chunk.
    Manifest,
    /// A hash of the whole file.
    Checksum,
    /// Nothing.
    Not,
}

/// An image and what lies beside it on a server.
#[derive(Debug)]
struct Published {
    bytes: Vec<u8>,
    folder: TempDir,
}

impl Published {
    /// An image of exactly `size` bytes, its noise by `seed`.
    fn new(size: u64, seed: u64) -> Result<Self> {
        let bytes = images::probe_of(size, seed)?;
        let folder = images::published_bytes(&bytes, PATH.trim_start_matches('/'))?;
        Ok(Self { bytes, folder })
    }

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A server's files.
    fn site(&self, vouched: Vouched) -> Result<Site> {
        let alone = || Site::new().bytes(PATH, self.bytes.clone());
        Ok(match vouched {
            Vouched::Manifest => Site::new().folder(self.folder())?,
            Vouched::Checksum => alone().bytes(&format!("{PATH}.sha256"), format!("{}\n", Sha256::of(&self.bytes))),
            Vouched::Not => alone(),
        })
    }
}

/// A network with one server, and a machine that boots [`URL`] from it or switches itself off.
struct Scene {
    image: Published,
    network: Network,
    http: HttpServer,
}

impl Scene {
    /// A server with an image of [`SIZE`] and its manifest, and what goes wrong there.
    fn new(rules: impl IntoIterator<Item = Rule>) -> Result<Self> {
        Self::of(SIZE, Vouched::Manifest, rules)
    }

    /// A server with an image of that size, vouched for like that.
    fn of(size: u64, vouched: Vouched, rules: impl IntoIterator<Item = Rule>) -> Result<Self> {
        let image = Published::new(size, 1)?;
        let network = Network::new()?;
        let http = network.http(image.site(vouched)?)?.faults(rules);
        Ok(Self { image, network, http })
    }

    /// The machine; later words win.
    fn machine(&self, words: &str) -> Result<Boot<'_>> {
        machine(&self.network, words)
    }

    /// The machine boots, has the very image, and got it for its price.
    fn boots_thriftily(&self, words: &str) -> Result<Arrived> {
        let arrived = boots(&self.machine(words)?, &self.image)?;
        thrifty(self.http.sent(PATH), self.image.size())?;
        Ok(arrived)
    }

    /// The machine boots and has the very image, whatever that cost.
    fn boots(&self, words: &str) -> Result<Arrived> {
        boots(&self.machine(words)?, &self.image)
    }
}

/// A machine on `network` that boots [`URL`] or switches itself off; later words win.
fn machine<'a>(network: &'a Network, words: &str) -> Result<Boot<'a>> {
    let archive = archives::for_namespaces()?;
    let boot = Boot::new(&archive).nic(Nic::on(network)).limit(SOON);
    Ok(boot.cmdline(&format!("rootbeam.image={URL} rootbeam.on-failure=poweroff {words}")))
}

/// A boot that came to its real init, with the very image that it was to have.
struct Arrived {
    report: Report,
    about: ImageReport,
}

fn boots(boot: &Boot<'_>, image: &Published) -> Result<Arrived> {
    arrives(boot.start()?, image)
}

/// The machine comes to its real init without a failure on the way, and its RAM disk is the image and then zeros up to
/// the end of a page; it is switched off.
fn arrives(mut guest: Guest, image: &Published) -> Result<Arrived> {
    let Some((mut probe, world)) = guest.probe()? else {
        let ended = guest.finish(None)?;
        bail!("the machine came to no real init, but {:?}:\n{}", ended.outcome, ended.console)
    };
    let judged = identical(&mut probe, &world, &image.bytes);
    probe.power_off()?;
    let booted = guest.finish(Some(world))?;
    let (report, about) = judged.with_context(|| booted.console.clone())?;
    equal(&booted.outcome, &Outcome::PoweredOff)?;
    ensure!(!booted.console.contains("panicked"), "{}", booted.console);
    Ok(Arrived { report, about })
}

fn identical(probe: &mut Probe, world: &World, image: &[u8]) -> Result<(Report, ImageReport)> {
    assert_clean(world)?;
    let report = report(world)?;
    let about = report.image.clone().context("no image in the report")?;
    equal(&report.failures, &Vec::new())?;
    let size = image.len() as u64;
    equal(&(about.size, about.tally.total, about.tally.verified), &(size, size, size))?;
    ensure!(about.tally.fetched >= size, "{:?}", about.tally);
    let device = about.device.clone().context("no RAM disk in the report")?;
    let mut held = image.to_vec();
    held.resize(image.len().next_multiple_of(4096), 0);
    let expected = Answer::Digest { size: held.len() as u64, sha256: Sha256::of(&held).to_string() };
    equal(&probe.ask(&Request::Digest(device), SOON)?, &expected)?;
    Ok((report, about))
}

/// What a server sent for an image is the image and hardly more.
#[track_caller]
pub fn thrifty(sent: u64, size: u64) -> Result<()> {
    let at = std::panic::Location::caller();
    if sent > size + size / 20 {
        bail!("{at}: {sent} bytes were sent for an image of {size}");
    }
    Ok(())
}

/// A seed for this run, printed so that the run can be made again with `ROOTBEAM_SEED`.
pub fn seed(claim: &str) -> Result<u64> {
    let seed = number("ROOTBEAM_SEED")?.unwrap_or_else(|| fastrand::u64(..));
    println!("{claim}: ROOTBEAM_SEED={seed}");
    Ok(seed)
}

/// A number from the environment, where there is one.
fn number(name: &str) -> Result<Option<u64>> {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => text.parse().map(Some).with_context(|| format!("{name}={text}: no number")),
        _ => Ok(None),
    }
}
