//! An image and its layers that are used before any of them is whole.

use super::{PATH, RATE, SOON, alone, completion, identical};
use crate::boots::report;
use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use rootbeam_init::contract::role;
use rootbeam_init::settings::values::Mode;
use rootbeam_qemu_tests::archives;
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::images::{self, Tree};
use rootbeam_qemu_tests::netns::{self, Boot, Network, Nic};
use rootbeam_qemu_tests::probe::{Answer, Request};
use rootbeam_qemu_tests::servers::fault::{Fault, Rule, When};
use rootbeam_qemu_tests::servers::site::Site;

pub fn claims() -> Vec<Trial> {
    vec![claim("streaming: an image and its layers are used before any of them is whole", &[netns::available], stacked)]
}

/// A layer of so much noise that says who it is.
fn layer(name: &str, size: usize) -> Result<Vec<u8>> {
    let mut noise = vec![0; size];
    fastrand::Rng::with_seed(size as u64).fill(&mut noise);
    let tree = Tree::default().file("who", 0o644, name).file("noise", 0o644, noise);
    Ok(std::fs::read(tree.squashfs(&format!("streamed-layer-{name}"))?)?)
}

/// The image and a large layer are streamed; a tiny one is whole before it could be, and an optional one is not there.
fn stacked() -> Result<()> {
    let image = std::fs::read(images::probe_with_noise(24 << 20)?)?;
    let large = layer("large", 12 << 20)?;
    let tiny = layer("tiny", 1 << 10)?;
    let network = Network::new()?;
    let mut site = Site::new();
    let mut folders = Vec::new();
    for (path, bytes) in [(PATH, &image), ("/large", &large), ("/tiny", &tiny)] {
        let folder = images::published_bytes(bytes, path.trim_start_matches('/'))?;
        site = site.folder(folder.path())?;
        folders.push(folder);
    }
    let mut http = network.http(site)?;
    for (path, bytes) in [(PATH, &image), ("/large", &large)] {
        http.commit(Rule::of(path, When::Always, Fault::Rate(RATE)));
        // In the noise, so neither is whole before this claim lets go.
        http.commit(Rule::of(path, When::Always, Fault::StallAt(bytes.len() as u64 / 2)));
    }
    let words = format!(
        "rootbeam.image={} rootbeam.layer={} rootbeam.layer={}?optional rootbeam.layer={} rootbeam.mode=stream \
         rootbeam.on-failure=poweroff",
        network.url(PATH),
        network.url("/tiny"),
        network.url("/nowhere"),
        network.url("/large"),
    );
    let boot = Boot::new(&archives::for_namespaces()?).nic(Nic::on(&network)).limit(SOON).cmdline(&words);
    let mut guest = boot.start()?;
    let Some((mut probe, world)) = guest.probe()? else {
        let ended = guest.finish(None)?;
        bail!("the machine came to no real init, but {:?}:\n{}", ended.outcome, ended.console)
    };
    let checked = (|| -> Result<()> {
        let stores = |world: &rootbeam_qemu_tests::world::World| {
            world.processes.iter().filter(|process| process.args.first().is_some_and(|arg| arg == role::STORE)).count()
        };
        equal(&stores(&world), &2)?;
        let report = report(&world)?;
        equal(&report.mode, &Some(Mode::Stream))?;
        // The last layer's file wins, and it has not come in whole.
        equal(&probe.ask(&Request::Text("/who".to_owned()), SOON)?, &Answer::Text("large".to_owned()))?;
        let device = |device: Option<String>| device.context("no RAM disk in the report");
        let disks = [device(report.image.and_then(|image| image.device))?];
        let layers = report.layers.into_iter().filter(|layer| !layer.absent).map(|layer| device(layer.device));
        let disks: Vec<String> = disks.into_iter().map(Ok).chain(layers).collect::<Result<_>>()?;
        equal(&disks.len(), &3)?;
        http.behave();
        http.cut();
        for (disk, bytes) in disks.iter().zip([&image, &tiny, &large]) {
            identical(&mut probe, disk, bytes).with_context(|| disk.clone())?;
        }
        let done = completion(&mut probe)?;
        let size = (image.len() + large.len()) as u64;
        equal(&(done.total, done.verified), &(size, size))?;
        let after = alone(&mut probe)?;
        equal(&after.other_processes().len(), &0)?;
        http.stop();
        for (disk, bytes) in disks.iter().zip([&image, &tiny, &large]) {
            identical(&mut probe, disk, bytes).with_context(|| disk.clone())?;
            let disk = after.loops.get(disk.trim_start_matches("/dev/")).context("no RAM disk")?;
            ensure!(disk.file.contains("rootbeam-image") && disk.read_only, "{disk:?}");
        }
        ensure!(!after.mounts.iter().any(|mount| mount.kind.contains("fuse")), "{:?}", after.mounts);
        Ok(())
    })();
    probe.power_off()?;
    let booted = guest.finish(Some(world))?;
    checked.with_context(|| booted.console.clone())
}
