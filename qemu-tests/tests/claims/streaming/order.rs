//! A boot order: what one machine reads first is recorded, put into the manifest, and comes first on the next.

use super::{PATH, SOON, alone, arrives, completion, identical, report, status};
use crate::boots::assert_clean;
use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use rootbeam_init::boot_order::{BootOrder, Subject};
use rootbeam_init::digest::Sha256;
use rootbeam_init::manifest::{CHUNK_SIZE, Manifest};
use rootbeam_init::settings::values::Mode;
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::netns::{self, Boot, Guest, Network, Nic};
use rootbeam_qemu_tests::places::shipped_rootbeam;
use rootbeam_qemu_tests::probe::{Answer, Probe, Request};
use rootbeam_qemu_tests::servers::fault::{Fault, Rule, When};
use rootbeam_qemu_tests::servers::http::HttpServer;
use rootbeam_qemu_tests::servers::site::Site;
use rootbeam_qemu_tests::{archives, command, images};
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

pub fn claims() -> Vec<Trial> {
    let claim = |name, check: fn() -> Result<()>| claim(name, &[netns::available], check);
    vec![
        claim("streaming: what a boot read first is recorded, and comes first on the next one", recorded),
        claim("streaming: an image that is loaded first is not recorded, and the log says so", not_recorded),
    ]
}

/// Bytes before and behind what is read in the middle of the image, and of that.
const ASIDE: usize = 12 << 20;
const READ: usize = 1 << 20;
/// Bytes a second and connection.
const RATE: u64 = 4 << 20;
/// How long the recording takes, in seconds: longer than all of the image.
const RECORDED: u64 = 12;
/// What may be asked for before the boot order: what this machine reads and the other one did not, by chance.
const BEFORE: u64 = 1 << 20;

/// An image, in whose middle lies what a machine reads; the bytes of that.
struct Scene {
    image: Vec<u8>,
    folder: tempfile::TempDir,
    read: Range<usize>,
    network: Network,
}

impl Scene {
    fn new() -> Result<Self> {
        let noise = |seed: u64, size: usize| {
            let mut bytes = vec![0; size];
            fastrand::Rng::with_seed(seed).fill(&mut bytes);
            bytes
        };
        let wanted = noise(2, READ);
        let tree = images::probe_tree()?
            .file("noise/before", 0o644, noise(1, ASIDE))
            .file("noise/read", 0o644, wanted.clone())
            .file("noise/then", 0o644, noise(3, ASIDE));
        let file = tree.squashfs("boot-order")?;
        let image = std::fs::read(&file)?;
        let folder = images::published(&file, PATH.trim_start_matches('/'))?;
        // What cannot be compressed lies there as it is.
        let head = wanted.get(..4096).context("no head")?;
        let start = image.windows(4096).position(|window| window == head).context("it is not in the image")?;
        Ok(Self { image, folder, read: start..start + READ, network: Network::new()? })
    }

    fn published(&self) -> std::path::PathBuf {
        self.folder.path().join(PATH.trim_start_matches('/'))
    }

    fn server(&self) -> Result<HttpServer> {
        let http = self.network.http(Site::new().folder(self.folder.path())?)?;
        Ok(http.faults([Rule::of(PATH, When::Always, Fault::Rate(RATE))]))
    }

    fn boot(&self, words: &str) -> Result<Guest> {
        let image = format!("rootbeam.image={} rootbeam.on-failure=poweroff", self.network.url(PATH));
        let boot = Boot::new(&archives::for_namespaces()?).nic(Nic::on(&self.network)).limit(SOON);
        boot.cmdline(&image).cmdline(words).start()
    }

    fn subject(&self) -> Subject {
        Subject { size: self.image.len() as u64, chunk_size: CHUNK_SIZE, sha256: Sha256::of(&self.image) }
    }
}

/// The chunks of these bytes.
fn chunks(bytes: &Range<usize>) -> BTreeSet<u32> {
    let size = CHUNK_SIZE as usize;
    ((bytes.start / size) as u32..bytes.end.div_ceil(size) as u32).collect()
}

fn recorded() -> Result<()> {
    let scene = Scene::new()?;
    let order = record(&scene)?;
    let trace = scene.folder.path().join("trace");
    let made = scene.folder.path().join("web.order");
    std::fs::write(&trace, order.render())?;
    let rootbeam = |words: &[&str], files: &[&Path]| -> Result<()> {
        command::run(Command::new(shipped_rootbeam()?).arg("--quiet").args(words).args(files)).map(drop)
    };
    rootbeam(&["trace", "-o"], &[&made, &trace])?;
    rootbeam(&["image", "manifest", "--boot-order"], &[&made, &scene.published()])?;
    let manifest = Manifest::parse(&std::fs::read(scene.published().with_file_name("web.squashfs.manifest"))?)?;
    equal(&(&manifest.boot_order, manifest.version), &(&order.chunks, 2))?;
    followed(&scene, &order)
}

/// What a machine records that reads the middle of its image, and then nothing more before the RAM disk stands by itself.
fn record(scene: &Scene) -> Result<BootOrder> {
    let _http = scene.server()?;
    let mut guest = scene.boot(&format!("rootbeam.mode=stream rootbeam.stream.trace={RECORDED}"))?;
    let Some((mut probe, world)) = guest.probe()? else { bail!("{}", guest.finish(None)?.console) };
    let began = Instant::now();
    let checked = (|| -> Result<BootOrder> {
        let digest = probe.ask(&Request::Digest("/noise/read".to_owned()), SOON)?;
        ensure!(matches!(digest, Answer::Digest { size, .. } if size == READ as u64), "{digest:?}");
        let whole = whole(&mut probe)?;
        ensure!(began.elapsed() < Duration::from_secs(RECORDED), "the image took too long to see it held");
        ensure!(!whole.complete, "the served file was let go while it was recorded");
        completion(&mut probe)?;
        assert_clean(&alone(&mut probe)?)?;
        let order = trace(&mut probe)?;
        let device = report(&world)?.image.and_then(|image| image.device).context("no RAM disk in the report")?;
        identical(&mut probe, &device, &scene.image)?;
        equal(&trace(&mut probe)?, &order)?;
        Ok(order)
    })();
    probe.power_off()?;
    let ended = guest.finish(None)?;
    let order = checked.with_context(|| ended.console.clone())?;
    equal(&order.subject, &scene.subject())?;
    equal(&order.chunks.first(), &Some(&0))?;
    let read: BTreeSet<u32> = order.chunks.iter().copied().collect();
    equal(&read.intersection(&chunks(&scene.read)).count(), &chunks(&scene.read).len())?;
    // Nobody has read of what lies before and behind, but for what the kernel reads ahead.
    let aside = |range: Range<usize>| read.intersection(&chunks(&range)).count();
    let others =
        [aside(scene.read.start - ASIDE / 2..scene.read.start), aside(scene.read.end..scene.read.end + ASIDE / 2)];
    ensure!(others.iter().all(|count| *count < 12), "{others:?} of {:?}", order.chunks);
    Ok(order)
}

/// Waits until all of the image is in memory.
fn whole(probe: &mut Probe) -> Result<rootbeam_init::streaming::keeper::Status> {
    let deadline = Instant::now() + SOON;
    loop {
        match status(probe) {
            Ok(status) if status.total > 0 && status.verified == status.total => return Ok(status),
            last if Instant::now() > deadline => bail!("not whole after {SOON:?}: {last:?}"),
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn trace(probe: &mut Probe) -> Result<BootOrder> {
    match probe.ask(&Request::Text("/run/rootbeam/stream/trace".to_owned()), SOON)? {
        Answer::Text(text) => BootOrder::parse(&text).context(text),
        other => bail!("{other:?}"),
    }
}

/// A machine that reads nothing of that gets it before the rest of the image.
fn followed(scene: &Scene, order: &BootOrder) -> Result<()> {
    let http = scene.server()?;
    let report = arrives(scene.boot("rootbeam.mode=stream")?, &scene.image)?;
    equal(&report.mode, &Some(Mode::Stream))?;
    equal(&report.image.and_then(|image| image.version), &Some(2))?;
    let mut requests = http.log();
    requests.retain(|exchange| exchange.path == PATH && exchange.status == 206);
    requests.sort_by_key(|exchange| exchange.at);
    let mut missing: BTreeSet<u32> = order.chunks.iter().copied().collect();
    let (mut others, mut seen) = (0, Vec::new());
    for (at, exchange) in requests.iter().enumerate() {
        let sent = exchange.range.start as usize..(exchange.range.start + exchange.sent) as usize;
        seen.push((sent.clone(), exchange.at));
        for chunk in chunks(&sent) {
            let named = missing.remove(&chunk) || order.chunks.contains(&chunk);
            // The first request was made before the image was served, by nobody's order.
            others += if named || at == 0 { 0 } else { u64::from(CHUNK_SIZE) };
        }
        if missing.is_empty() {
            break;
        }
    }
    ensure!(missing.is_empty(), "{missing:?} were never asked for alone: {seen:?}");
    ensure!(others <= BEFORE, "{others} bytes of others came before the last of the boot order: {seen:?}");
    Ok(())
}

fn not_recorded() -> Result<()> {
    let scene = Scene::new()?;
    let _http = scene.server()?;
    let booted = {
        let mut guest = scene.boot("rootbeam.stream.trace=5")?;
        let Some((probe, world)) = guest.probe()? else { bail!("{}", guest.finish(None)?.console) };
        probe.power_off()?;
        guest.finish(Some(world))?
    };
    let world = booted.world()?;
    assert_clean(world)?;
    let warnings = report(world)?.warnings;
    equal(&warnings.iter().filter(|warning| warning.contains("no trace is recorded")).count(), &1)
        .with_context(|| format!("{warnings:?}\n{}", booted.console))
}
