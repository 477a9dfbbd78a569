//! A new version is published while machines fetch the old one.

use super::super::boots::report;
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam::serve::log::Log;
use rootbeam::serve::server::Server;
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::netns::{self, Boot, Guest, Network, Nic};
use rootbeam_qemu_tests::outcome::Outcome;
use rootbeam_qemu_tests::places::{shipped_rootbeam, sum};
use rootbeam_qemu_tests::probe::{Answer, Request};
use rootbeam_qemu_tests::servers::site::Site;
use rootbeam_qemu_tests::{archives, command, images};
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// How many machines fetch at once.
const MACHINES: usize = 8;
const SOON: Duration = Duration::from_secs(60);

pub fn claims() -> Vec<Trial> {
    vec![
        claim(
            "fetching: eight machines finish the version that they began, whatever is published meanwhile",
            &[netns::available],
            eight_machines,
        ),
        claim(
            "fetching: a manifest from before a publication is signed by the signature file from after it",
            &[netns::available],
            across_a_swap,
        ),
    ]
}

/// Runs the shipped `rootbeam`.
fn rootbeam(arguments: &[&OsStr]) -> Result<()> {
    command::run(Command::new(shipped_rootbeam()?).arg("--quiet").args(arguments)).map(drop)
}

/// Publishes an image in a folder, as a new version where there is one already.
fn publish(image: &Path, folder: &Path, options: &[&OsStr]) -> Result<()> {
    let words = ["image", "publish"].map(OsStr::new);
    rootbeam(&[&words, options, &[image.as_os_str(), folder.as_os_str()]].concat())
}

/// Mbit/s of a wire on which nobody is done before the next version is there.
const SLOW: u32 = 3;

/// A folder in which versions are published, and a server of it. Each machine has a wire of its own: on a shared one, one
/// may get all of it and another none.
pub struct Newsstand {
    pub network: Network,
    folder: TempDir,
    _server: Server,
}

impl Newsstand {
    /// With a first version.
    pub fn open(image: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        publish(image, folder.path(), &[])?;
        let network = Network::new()?;
        let address = format!("{}:80", network.server()).parse()?;
        let server = network.namespace().enter(|| Server::start(folder.path(), address, Log::none()))??;
        Ok(Self { network, folder, _server: server })
    }

    /// Publishes the next version.
    pub fn publish(&self, image: &Path) -> Result<()> {
        publish(image, self.folder.path(), &[])
    }

    /// A slow wire.
    pub fn nic(&self) -> Nic<'_> {
        Nic::on(&self.network).wire(SLOW)
    }

    /// From now on the wires of these machines are fast.
    pub fn hurry(&self, guests: &[Guest]) -> Result<()> {
        let ports = guests.iter().filter_map(|guest| guest.port(0));
        ports.into_iter().try_for_each(|port| self.network.set_wire(port, 1000))
    }
}

/// The version that a machine booted, and the digest of its RAM disk.
fn booted(mut guest: Guest) -> Result<(Option<u64>, String)> {
    let (mut probe, world) = guest.probe()?.context("the machine ended")?;
    let image = report(&world)?.image.context("no image in the report")?;
    let device = image.device.context("no RAM disk in the report")?;
    let answer = probe.ask(&Request::Digest(device), SOON)?;
    probe.power_off()?;
    let booted = guest.finish(Some(world))?;
    equal(&booted.outcome, &Outcome::PoweredOff)?;
    equal(&report(booted.world()?)?.failures, &Vec::new())?;
    match answer {
        Answer::Digest { sha256, .. } => Ok((image.version, sha256)),
        other => anyhow::bail!("no digest, but {other:?}"),
    }
}

fn eight_machines() -> Result<()> {
    let (old, new) = (images::probe_with_noise(8 << 20)?, images::probe_with_noise(9 << 20)?);
    let stand = Newsstand::open(&old)?;
    let url = stand.network.url("/latest.manifest");
    let archive = archives::for_namespaces()?;
    let boot = |nic| Boot::new(&archive).cmdline(&format!("rootbeam.image={url}")).nic(nic).start();
    let guests: Vec<Guest> = (0..MACHINES).map(|_| boot(stand.nic())).collect::<Result<_>>()?;
    // The first line of progress: it has read the manifest, and some of the image.
    for guest in &guests {
        guest.console().wait_for(" %), ", SOON)?;
    }
    stand.publish(&new)?;
    for guest in &guests {
        ensure!(!guest.console().text().contains("(100 %)"), "one was done already: {}", guest.console().text());
    }
    stand.hurry(&guests)?;
    let old = (Some(1), sum(&old)?);
    for guest in guests {
        equal(&booted(guest)?, &old)?;
    }
    equal(&booted(boot(Nic::on(&stand.network))?)?, &(Some(2), sum(&new)?))
}

/// A machine asks twice, and a publication may come between: it gets the manifest of before and the signature of after.
fn across_a_swap() -> Result<()> {
    let (old, new) = (images::probe()?, images::probe_with_noise(1 << 20)?);
    let folder = tempfile::tempdir()?;
    let (www, key) = (folder.path().join("www"), folder.path().join("web"));
    rootbeam(&[OsStr::new("keygen"), OsStr::new("--no-password"), key.as_os_str()])?;
    let secret = key.with_extension("key");
    let signed = [OsStr::new("--sign-key"), secret.as_os_str()];
    publish(&old, &www, &signed)?;
    let before = std::fs::read(www.join("latest.manifest"))?;
    publish(&new, &www, &signed)?;
    let network = Network::new()?;
    let public = key.with_extension("pub").to_string_lossy().into_owned();
    let archive = archives::for_namespaces_with(&["--key", &public])?;
    let boot = |address: String| {
        let words = format!("rootbeam.image=http://{address}/latest.manifest");
        Boot::new(&archive).cmdline(&words).nic(Nic::on(&network)).start()
    };
    let _between = network.http(Site::new().folder(&www)?.bytes("/latest.manifest", before))?;
    equal(&booted(boot(network.server())?)?, &(Some(1), sum(&old)?))?;
    let _after = network.http_on(8080, Site::new().folder(&www)?)?;
    equal(&booted(boot(format!("{}:8080", network.server()))?)?, &(Some(2), sum(&new)?))
}
