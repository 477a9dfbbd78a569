//! Streaming: the real init runs before the image is whole, every byte that it reads is right, and when the image is
//! whole the machine needs neither server nor workers.

mod handover;
mod inits;
mod kernels;
mod layers;
mod leases;
mod managers;
mod order;
mod outages;
mod publish;
mod reach;
mod replaced;
mod shutdown;
mod stall;
mod trouble;
mod web;

use super::boots::{assert_clean, report};
use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use rootbeam_init::contract::role;
use rootbeam_init::digest::Sha256;
use rootbeam_init::report::Report;
use rootbeam_init::settings::values::Mode;
use rootbeam_init::streaming::keeper::Status;
use rootbeam_qemu_tests::archives;
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::images;
use rootbeam_qemu_tests::netns::{self, Boot, Guest, Network, Nic};
use rootbeam_qemu_tests::outcome::Outcome;
use rootbeam_qemu_tests::probe::{Answer, PIECE, Probe, Request};
use rootbeam_qemu_tests::servers::fault::{Fault, Rule, When};
use rootbeam_qemu_tests::servers::http::HttpServer;
use rootbeam_qemu_tests::servers::site::Site;
use rootbeam_qemu_tests::world::World;
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub fn claims() -> Vec<Trial> {
    let claim = |name, check: fn() -> Result<()>| claim(name, &[netns::available], check);
    let mut claims = vec![
        claim("streaming: the real init runs before the image is whole, and then needs nobody", streams),
        claim("streaming: workers beside the booted system have no privilege", workers_have_no_privilege),
        claim("streaming: what cannot be streamed is loaded first, and the report says why", not_streamed),
        claim("streaming: an image that is whole when it comes to be served is as good as one that is not", soon_whole),
    ];
    claims.extend(handover::claims());
    claims.extend(inits::claims());
    claims.extend(kernels::claims());
    claims.extend(publish::claims());
    claims.extend(reach::claims());
    claims.extend(replaced::claims());
    claims.extend(stall::claims());
    claims.extend(layers::claims());
    claims.extend(shutdown::claims());
    claims.extend(order::claims());
    claims.extend(trouble::claims());
    claims.extend(web::claims());
    claims
}

pub fn rows() -> Vec<Trial> {
    let mut rows = kernels::rows();
    rows.extend(inits::rows());
    rows.extend(leases::rows());
    rows.extend(managers::rows());
    rows.extend(outages::rows());
    rows.extend(shutdown::rows());
    rows.extend(web::rows());
    rows
}

/// Where the image is on the server.
const PATH: &str = "/web.squashfs";
/// How long anything is waited for.
const SOON: Duration = Duration::from_secs(90);
/// The noise in the image: at [`RATE`] it comes in some seconds.
const NOISE: u64 = 24 << 20;
/// Bytes a second and connection.
const RATE: u64 = 4 << 20;

/// A network with one server that is not fast.
struct Scene {
    image: Vec<u8>,
    network: Network,
    http: HttpServer,
    words: &'static str,
    _folder: TempDir,
}

impl Scene {
    fn new() -> Result<Self> {
        Self::with("")
    }

    /// The same with more words on the command line.
    fn with(words: &'static str) -> Result<Self> {
        let file = images::probe_with_noise(NOISE)?;
        let folder = images::published(&file, PATH.trim_start_matches('/'))?;
        Self::of(std::fs::read(file)?, folder, RATE, words)
    }

    /// With an image that is published in `folder`, at so many bytes a second.
    fn of(image: Vec<u8>, folder: TempDir, rate: u64, words: &'static str) -> Result<Self> {
        let network = Network::new()?;
        let http = network.http(Site::new().folder(folder.path())?)?;
        let http = http.faults([Rule::of(PATH, When::Always, Fault::Rate(rate))]);
        Ok(Self { image, network, http, words, _folder: folder })
    }

    fn machine(&self) -> Result<Boot<'_>> {
        let archive = archives::for_namespaces()?;
        let words =
            format!("rootbeam.image={} rootbeam.mode=stream rootbeam.on-failure=poweroff", self.network.url(PATH));
        Ok(Boot::new(&archive).nic(Nic::on(&self.network)).limit(SOON).cmdline(&words).cmdline(self.words))
    }

    /// A machine that has come to its real init.
    fn boot(&self) -> Result<(Guest, Probe, World)> {
        let mut guest = self.machine()?.start()?;
        match guest.probe()? {
            Some((probe, world)) => Ok((guest, probe, world)),
            None => {
                let ended = guest.finish(None)?;
                bail!("the machine came to no real init, but {:?}:\n{}", ended.outcome, ended.console)
            }
        }
    }
}

/// How far the image is, by the booted system's file.
fn status(probe: &mut Probe) -> Result<Status> {
    match probe.ask(&Request::Text("/run/rootbeam/stream/status.json".to_owned()), SOON)? {
        Answer::Text(text) => serde_json::from_str(&text).context(text),
        other => bail!("{other:?}"),
    }
}

/// Waits until the RAM disk stands by itself.
pub fn completion(probe: &mut Probe) -> Result<Status> {
    let deadline = Instant::now() + SOON;
    loop {
        // The file comes with the keeper's first words.
        match status(probe) {
            Ok(status) if status.complete => return Ok(status),
            last if Instant::now() > deadline => bail!("not complete after {SOON:?}: {last:?}"),
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Waits until the workers are gone.
fn alone(probe: &mut Probe) -> Result<World> {
    let deadline = Instant::now() + SOON;
    loop {
        let world = probe.world(SOON)?;
        if world.other_processes().is_empty() || Instant::now() > deadline {
            return Ok(world);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An image as a RAM disk holds it: with zeros up to the end of a page.
fn padded(image: &[u8]) -> Vec<u8> {
    let mut held = image.to_vec();
    held.resize(image.len().next_multiple_of(4096), 0);
    held
}

/// The RAM disk is the image.
fn identical(probe: &mut Probe, device: &str, image: &[u8]) -> Result<()> {
    let held = padded(image);
    let expected = Answer::Digest { size: held.len() as u64, sha256: Sha256::of(&held).to_string() };
    equal(&probe.ask(&Request::Digest(device.to_owned()), SOON)?, &expected)
}

/// A machine comes to its real init, streaming or not, reads the very image from its RAM disk, and then needs nobody.
pub fn arrives(mut guest: Guest, image: &[u8]) -> Result<Report> {
    let Some((mut probe, world)) = guest.probe()? else {
        let ended = guest.finish(None)?;
        bail!("the machine came to no real init, but {:?}:\n{}", ended.outcome, ended.console)
    };
    let judged = (|| -> Result<Report> {
        let report = report(&world)?;
        let about = report.image.as_ref().context("no image in the report")?;
        identical(&mut probe, about.device.as_deref().context("no RAM disk in the report")?, image)?;
        // One that was whole before the hand-over has nobody who would tell.
        if report.mode == Some(Mode::Stream) && !world.other_processes().is_empty() {
            completion(&mut probe)?;
        }
        assert_clean(&alone(&mut probe)?)?;
        Ok(report)
    })();
    let report = judged.with_context(|| guest.console().last_lines())?;
    probe.power_off()?;
    let booted = guest.finish(None)?;
    ensure!(!booted.console.contains("panicked"), "{}", booted.console);
    Ok(report)
}

/// A machine comes to its real init, streaming, and restarts `after` that in time, while its RAM disk is read: as far as it
/// is read, it is the very image.
pub fn restarts(mut guest: Guest, image: &[u8], after: Duration) -> Result<Report> {
    /// A shutdown, whatever the server and the link are like.
    const IN_TIME: Duration = Duration::from_secs(15);
    let Some((mut probe, world)) = guest.probe()? else {
        let ended = guest.finish(None)?;
        bail!("the machine came to no real init, but {:?}:\n{}", ended.outcome, ended.console)
    };
    let report = report(&world)?;
    let device = report.image.as_ref().and_then(|image| image.device.clone()).context("no RAM disk in the report")?;
    let pieces = padded(image).chunks(PIECE).map(|piece| Sha256::of(piece).to_string()).collect();
    equal(&probe.ask(&Request::ReadAlong(device, pieces), SOON)?, &Answer::ReadsAlong)?;
    std::thread::sleep(after);
    let asked = Instant::now();
    probe.restart()?;
    let booted = guest.finish(None)?;
    equal(&booted.outcome, &Outcome::Restarted)?;
    ensure!(asked.elapsed() < IN_TIME, "it took {:?}", asked.elapsed());
    let said: Vec<&str> = booted.console.lines().filter(|line| line.contains("probe: ")).collect();
    equal(&said, &vec!["probe: here I am"]).with_context(|| booted.console.clone())?;
    Ok(report)
}

fn streams() -> Result<()> {
    let mut scene = Scene::new()?;
    let size = scene.image.len() as u64;
    let (guest, mut probe, world) = scene.boot()?;
    let sent = scene.http.sent(PATH);
    let checked = (|| -> Result<()> {
        ensure!(sent < size / 2, "{sent} of {size} bytes were sent before the real init ran");
        ensure!(!world.mounts.iter().any(|mount| mount.kind.contains("fuse")), "{:?}", world.mounts);
        let report = report(&world)?;
        let about = report.image.context("no image in the report")?;
        let device = about.device.context("no RAM disk in the report")?;
        let done = completion(&mut probe)?;
        equal(&(done.total, done.verified), &(size, size))?;
        let after = alone(&mut probe)?;
        assert_clean(&after)?;
        scene.http.stop();
        identical(&mut probe, &device, &scene.image)?;
        ensure!(!after.mounts.iter().any(|mount| mount.kind.contains("fuse")), "{:?}", after.mounts);
        let disk = after.loops.get(device.trim_start_matches("/dev/")).context("no RAM disk")?;
        equal(&(disk.size, disk.read_only), &(size.next_multiple_of(4096), true))?;
        ensure!(disk.file.contains("rootbeam-image"), "{disk:?}");
        let left = probe.ask(&Request::Text("/run/rootbeam/stream/rootbeam".to_owned()), SOON)?;
        ensure!(matches!(left, Answer::Error(_)), "the workers' program is left");
        Ok(())
    })();
    probe.power_off()?;
    let booted = guest.finish(Some(world))?;
    checked.with_context(|| booted.console.clone())
}

fn workers_have_no_privilege() -> Result<()> {
    let scene = Scene::new()?;
    let (guest, mut probe, _) = scene.boot()?;
    let checked = (|| -> Result<()> {
        let world = probe.world(SOON)?;
        let of = |name: &str| {
            world.processes.iter().filter(|process| process.args.first().is_some_and(|a| a == name)).count()
        };
        equal(&[role::NET, role::STORE, role::KEEPER].map(of), &[1, 1, 1])?;
        for process in world.processes.iter().filter(|process| process.pid != world.pid) {
            let status = match probe.ask(&Request::Text(format!("/proc/{}/status", process.pid)), SOON)? {
                Answer::Text(text) => text,
                // It came between.
                Answer::Error(_) if process.args.first().is_some_and(|name| name == role::FETCH) => continue,
                other => bail!("{other:?}"),
            };
            let field =
                |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).unwrap_or_default();
            let keeper = process.args.first().is_some_and(|name| name == role::KEEPER);
            let id = if keeper { 65533 } else { 65534 };
            equal(&field("Uid:").to_owned(), &format!("0\t{id}\t{id}\t{id}"))?;
            equal(&field("Gid:").to_owned(), &[id; 4].map(|id| id.to_string()).join("\t"))?;
            equal(&(field("NoNewPrivs:"), field("Seccomp:"), field("Groups:")), &("1", "2", ""))?;
            // CAP_NET_BIND_SERVICE, CAP_NET_ADMIN and CAP_NET_RAW are bits 10, 12 and 13.
            let net = process.args.first().is_some_and(|name| name == role::NET);
            let capabilities = if net { "0000000000003400" } else { "0000000000000000" };
            for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
                equal(&field(set), &capabilities).with_context(|| format!("{set} of {process:?}"))?;
            }
            equal(&field("CapInh:"), &"0000000000000000")?;
        }
        Ok(())
    })();
    probe.power_off()?;
    let booted = guest.finish(None)?;
    checked.with_context(|| booted.console.clone())
}

fn soon_whole() -> Result<()> {
    // On a fast wire the rest of it comes while its file is being mounted.
    for size in [2, 3, 4, 8, 16].map(|mib| mib << 20) {
        let image = images::probe_of(size, size)?;
        let folder = images::published_bytes(&image, PATH.trim_start_matches('/'))?;
        let network = Network::new()?;
        let _http = network.http(Site::new().folder(folder.path())?)?;
        let words = format!("rootbeam.image={} rootbeam.mode=stream rootbeam.on-failure=poweroff", network.url(PATH));
        let boot = Boot::new(&archives::for_namespaces()?).nic(Nic::on(&network)).limit(SOON).cmdline(&words);
        let mut guest = boot.start()?;
        let Some((mut probe, world)) = guest.probe()? else { bail!("{size} bytes:\n{}", guest.finish(None)?.console) };
        let checked = (|| -> Result<()> {
            let report = report(&world)?;
            equal(&(report.worker_restarts, report.failures), &(0, vec![]))?;
            let device = report.image.and_then(|image| image.device).context("no RAM disk in the report")?;
            // Nobody tells of what was let go before the hand-over.
            assert_clean(&alone(&mut probe)?)?;
            identical(&mut probe, &device, &image)
        })();
        probe.power_off()?;
        let booted = guest.finish(None)?;
        checked.with_context(|| format!("{size} bytes:\n{}", booted.console))?;
    }
    Ok(())
}

fn not_streamed() -> Result<()> {
    let file = images::probe()?;
    let (folder, bytes) = (images::published(&file, PATH.trim_start_matches('/'))?, std::fs::read(file)?);
    let hash = Sha256::of(&bytes);
    let alone = Site::new().bytes(PATH, bytes).bytes(&format!("{PATH}.sha256"), format!("{hash}\n"));
    loaded_first(alone, "", "it has no hash for each of its chunks")?;
    let by_sha256 = format!("rootbeam.sha256={hash}");
    loaded_first(Site::new().folder(folder.path())?, &by_sha256, "rootbeam.sha256= vouches for the whole of it alone")
}

fn loaded_first(site: Site, words: &str, why: &str) -> Result<()> {
    let network = Network::new()?;
    let _http = network.http(site)?;
    let why = format!("the image is loaded before it is used: {why}");
    let told = |mode: &str| {
        let words = format!("rootbeam.image={} rootbeam.mode={mode} {words}", network.url(PATH));
        let archive = archives::for_namespaces()?;
        let booted = Boot::new(&archive).nic(Nic::on(&network)).limit(SOON).cmdline(&words).run()?;
        assert_clean(booted.world()?)?;
        let Report { mode, not_streamed, warnings, .. } = report(booted.world()?)?;
        Ok::<_, anyhow::Error>((mode, not_streamed, warnings))
    };
    equal(&told("auto")?, &(Some(Mode::Ram), vec![why.clone()], vec![]))?;
    equal(&told("stream")?, &(Some(Mode::Ram), vec![], vec![why]))
}
