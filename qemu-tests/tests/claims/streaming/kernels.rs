//! Streaming on stock kernels, whose fuse, loop, squashfs and erofs are modules, and where the workers' private mount
//! namespace begins on whatever the kernel mounts the initramfs on. Here they also have the privilege to keep the memory
//! killer away, which machines in namespaces may lack.

use super::super::boots::{assert_clean, report};
use super::{alone, completion, identical, status};
use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use rootbeam_init::contract::role;
use rootbeam_init::report::Report;
use rootbeam_init::settings::values::Mode;
use rootbeam_qemu_tests::claim::{claim, equal, row};
use rootbeam_qemu_tests::packages::{self, Suite};
use rootbeam_qemu_tests::probe::{Answer, Probe, Request};
use rootbeam_qemu_tests::servers::fault::{Fault, When};
use rootbeam_qemu_tests::servers::http::HttpServer;
use rootbeam_qemu_tests::servers::site::Site;
use rootbeam_qemu_tests::world::World;
use rootbeam_qemu_tests::{archives, images, qemu};
use std::path::PathBuf;
use std::time::Duration;

/// How long the probe may think.
const SOON: Duration = Duration::from_secs(60);
/// The noise in the image: at [`RATE`] it takes longer than everything that is looked at before.
const NOISE: u64 = 48 << 20;
/// Bytes a second, until the machine was looked at.
const RATE: u64 = 1 << 20;

/// An image of that filesystem.
type Image = fn(u64) -> Result<PathBuf>;

const SQUASHFS: (&str, Image) = ("squashfs", images::probe_with_noise);
const EROFS: (&str, Image) = ("erofs", images::probe_with_noise_erofs);

pub fn claims() -> Vec<Trial> {
    vec![
        claim("streaming: 6.1 in QEMU runs from a squashfs that is on its way", &[qemu::available], || {
            streams(Suite::Bookworm, SQUASHFS)
        }),
        claim("streaming: a kernel without fuse loads the image first, and the report says why", &[qemu::available], {
            without_fuse
        }),
        claim("streaming: what was read while it came is in memory no second time", &[qemu::available], held_once),
    ]
}

/// All of the image is read, of the loaded one as of the one that is on its way: the block device's own cache is the same
/// then, and the served file's would be as large again.
fn held_once() -> Result<()> {
    let kernel = packages::kernel(Suite::Bookworm)?;
    let folder = images::published(&images::probe_with_noise(NOISE)?, "image")?;
    let in_use = |mode: Mode, word: &str| -> Result<u64> {
        let rate = Fault::Rate(8 * RATE);
        let http = HttpServer::on_loopback(Site::new().folder(folder.path())?)?.fault("/image", When::Always, rate);
        let url = format!("http://{}:{}/image", qemu::HOST, http.address().port());
        let mut guest = qemu::Boot::new(&kernel, &archives::for_qemu(&kernel)?)
            .nic(qemu::Nic::user())
            .cmdline(&format!("rootbeam.image={url} rootbeam.mode={word}"))
            .start()?;
        let Some((mut probe, world)) = guest.probe()? else { bail!("no real init\n{}", guest.console().text()) };
        let report = report(&world)?;
        equal(&report.mode, &Some(mode))?;
        let device = report.image.and_then(|image| image.device).context("no RAM disk in the report")?;
        if mode == Mode::Stream {
            ensure!(!status(&mut probe)?.complete, "it was complete before it was read");
        }
        probe.ask(&Request::Digest(device), SOON)?;
        if mode == Mode::Stream {
            completion(&mut probe)?;
        }
        let memory = alone(&mut probe)?.memory;
        probe.power_off()?;
        guest.finish(None)?;
        let of = |name: &str| memory.get(name).copied().with_context(|| format!("no {name} in /proc/meminfo"));
        Ok(of("MemTotal")? - of("MemFree")?)
    };
    let (loaded, streamed) = (in_use(Mode::Ram, "ram")?, in_use(Mode::Stream, "stream")?);
    ensure!(streamed < loaded + NOISE / 4, "{streamed} bytes are in use, {loaded} where it was loaded first");
    Ok(())
}

fn without_fuse() -> Result<()> {
    let kernel = packages::kernel(Suite::Bookworm)?;
    let folder = images::published(&images::probe_for(&kernel)?, "image")?;
    let http = HttpServer::on_loopback(Site::new().folder(folder.path())?)?;
    let url = format!("http://{}:{}/image", qemu::HOST, http.address().port());
    let booted = qemu::Boot::new(&kernel, &archives::for_qemu(&kernel)?)
        .nic(qemu::Nic::user())
        .cmdline(&format!("rootbeam.image={url} rootbeam.mode=auto modprobe.blacklist=fuse"))
        .run()?;
    let Report { mode, not_streamed, warnings, .. } = report(booted.world()?)?;
    let why = "the image is loaded before it is used: fuse: the module is blacklisted".to_owned();
    equal(&(mode, not_streamed, warnings), &(Some(Mode::Ram), vec![why], vec![]))
}

pub fn rows() -> Vec<Trial> {
    let cases = [
        (Suite::Bookworm, "6.1", EROFS),
        (Suite::Trixie, "6.12", SQUASHFS),
        (Suite::Trixie, "6.12", EROFS),
        (Suite::Sid, "the newest kernel", SQUASHFS),
        (Suite::Sid, "the newest kernel", EROFS),
    ];
    let row = |(suite, version, image): (Suite, &str, (&'static str, Image))| {
        let name = format!("streaming: {version} in QEMU runs from an image on its way, {}", image.0);
        row(&name, &[qemu::available], move || streams(suite, image))
    };
    cases.into_iter().map(row).collect()
}

fn streams(suite: Suite, (filesystem, image): (&str, Image)) -> Result<()> {
    let kernel = packages::kernel(suite)?;
    let file = image(NOISE)?;
    let folder = images::published(&file, "image")?;
    let image = std::fs::read(file)?;
    let mut http =
        HttpServer::on_loopback(Site::new().folder(folder.path())?)?.fault("/image", When::Always, Fault::Rate(RATE));
    let url = format!("http://{}:{}/image", qemu::HOST, http.address().port());
    let mut guest = qemu::Boot::new(&kernel, &archives::for_qemu(&kernel)?)
        .nic(qemu::Nic::user())
        .cmdline(&format!("rootbeam.image={url} rootbeam.mode=stream"))
        .start()?;
    let Some((mut probe, world)) = guest.probe()? else { bail!("no real init\n{}", guest.console().text()) };
    let size = image.len() as u64;
    let sent = http.sent("/image");
    let checked = (|| {
        equal(&world.kernel, &kernel.release)?;
        ensure!(sent < size, "{sent} of {size} bytes were sent before the real init ran");
        equal(&world.mount("/run/rootbeam/lower/0").map(|mount| mount.kind.as_str()), &Some(filesystem))?;
        points(&world)?;
        kept_in_memory(&mut probe, &world)?;
        let device = report(&world)?.image.and_then(|image| image.device).context("no RAM disk in the report")?;
        // They wait for what has not come, and read on over the swap.
        equal(&probe.ask(&Request::Crowd(device.clone(), 100), SOON)?, &Answer::ReadsAlong)?;
        // It was looked at while it was incomplete, every time.
        ensure!(!status(&mut probe)?.complete, "it was complete before it was looked at");
        http.behave();
        http.cut();
        let done = completion(&mut probe)?;
        equal(&(done.total, done.verified), &(size, size))?;
        let after = alone(&mut probe)?;
        let crowd = probe.ask(&Request::CrowdEnds, SOON)?;
        ensure!(matches!(crowd, Answer::CrowdRead { reads: 1000.., wrong: 0 }), "{crowd:?}");
        assert_clean(&after)?;
        points(&after)?;
        http.stop();
        identical(&mut probe, &device, &image)?;
        let disk = after.loops.get(device.trim_start_matches("/dev/")).context("no RAM disk")?;
        equal(&disk.file.as_str(), &"/memfd:rootbeam-image (deleted)")
    })();
    probe.power_off()?;
    let booted = guest.finish(Some(world))?;
    checked.with_context(|| booted.console.clone())
}

/// The mount table has what a machine whose image is whole has: no FUSE mount, no trace of the workers' own roots.
fn points(world: &World) -> Result<()> {
    let mut points = world.mount_points();
    points.sort_unstable();
    equal(&points.join(" "), &"/ /dev /proc /run /run/rootbeam/lower/0 /run/rootbeam/rw /sys".to_owned())
}

/// The workers that the system's files depend on are never the memory killer's victims, and never wait for those files.
fn kept_in_memory(probe: &mut Probe, world: &World) -> Result<()> {
    let named = |name: &str| world.processes.iter().find(|process| process.args.first().is_some_and(|arg| arg == name));
    for name in [role::NET, role::STORE, role::KEEPER, role::FETCH] {
        let worker = named(name).with_context(|| format!("no {name}: {:?}", world.processes))?;
        let mut read = |file: &str| match probe.ask(&Request::Text(format!("/proc/{}/{file}", worker.pid)), SOON)? {
            Answer::Text(text) => Ok(text),
            other => bail!("{name}: {file}: {other:?}"),
        };
        equal(&read("oom_score_adj")?.trim(), &"-1000").context(name)?;
        let status = read("status")?;
        let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).context("no VmLck")?;
        ensure!(locked.trim() != "0 kB", "{name} has no locked memory");
        // A root of their own, and what the resolver of fetch workers reads; neither can be written through.
        let seen = read("mountinfo")?;
        let seen = seen.lines().map(|line| line.split(' ').skip(4).take(2).collect::<Vec<_>>().join(" "));
        let seen: Vec<String> = seen.map(|mount| mount.split(",").take(1).collect()).collect();
        let resolver = if matches!(name, role::KEEPER | role::FETCH) { &["/etc/resolv.conf ro"][..] } else { &[] };
        equal(&seen.join("; "), &[&["/ ro"], resolver].concat().join("; "))
            .with_context(|| format!("mounts that {name} sees"))?;
    }
    Ok(())
}
