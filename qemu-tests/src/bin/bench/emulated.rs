//! The machine that is emulated whole: size of the initramfs, and the way from `/init` to the real init.

use crate::row::{Budget, Row, Unit};
use crate::runs::{Samples, alternate};
use crate::stream;
use anyhow::{Context, Result};
use rootbeam_initramfs::inspect::Report;
use rootbeam_qemu_tests::packages::{self, Kernel, Suite};
use rootbeam_qemu_tests::probe::Probe;
use rootbeam_qemu_tests::servers::nginx::Nginx;
use rootbeam_qemu_tests::world::World;
use rootbeam_qemu_tests::{archives, images, qemu};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What the kernel says when it starts `/init`.
const START: &str = "Run /init as init process";
/// What the kernel (TOMOYO, which Debian builds in) says at the first exec of `/sbin/init`.
const END: &str = "Not activating Mandatory Access Control";

/// The baseline's name in the rows.
pub const BASELINE: &str = "shell-initramfs";

/// The initramfs for QEMU, in one row.
pub fn size() -> Result<Vec<Row>> {
    let archive = std::fs::read(archives::for_qemu(&packages::kernel(Suite::Bookworm)?)?)?;
    let theirs = std::fs::metadata(archives::baseline(&packages::kernel(Suite::Bookworm)?)?)?.len();
    let report = Report::of(&archive)?;
    let rooms: Vec<_> =
        report.rooms.iter().map(|(room, size)| format!("{room} {:.2}", megabytes(size.bytes))).collect();
    Ok(vec![Row {
        name: "size",
        what: format!("initramfs for QEMU by zstd (unpacked MB: {})", rooms.join(", ")),
        unit: Unit::Megabytes,
        ours: Samples::exact(megabytes(archive.len() as u64)),
        theirs: Some((BASELINE, Samples::exact(megabytes(theirs)))),
        budget: Budget::AtMost(3.0),
    }])
}

/// 10⁶ bytes.
pub fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// An image that both sides boot in the same machine from the same server.
pub struct Duel {
    kernel: Kernel,
    ours: (PathBuf, String),
    theirs: (PathBuf, String),
    memory: u32,
    limit: Duration,
    _server: Nginx,
    _folder: TempDir,
}

/// A machine that reached its real init.
pub struct Reached {
    /// From the start of `/init` to the real init.
    pub seconds: f64,
    /// What the real init found.
    pub world: World,
}

impl Duel {
    /// Serves `image` with its manifest to machines with so many MiB of memory.
    pub fn new(image: &Path, memory: u32) -> Result<Self> {
        qemu::available()?;
        let kernel = packages::kernel(Suite::Bookworm)?;
        let folder = images::published(image, "root.squashfs")?;
        let (server, address) = Nginx::on_loopback(folder.path())?;
        let url = format!("http://{}:{}/root.squashfs", qemu::HOST, address.port());
        Ok(Self {
            ours: (archives::for_qemu(&kernel)?, format!("rootbeam.image={url} rootbeam.on-failure=poweroff")),
            theirs: (archives::baseline(&kernel)?, format!("img={url}")),
            kernel,
            memory,
            limit: Duration::from_secs(180),
            _server: server,
            _folder: folder,
        })
    }

    /// With other machines, which hang if they have not booted after `limit`.
    pub fn with_memory(&mut self, memory: u32, limit: Duration) {
        (self.memory, self.limit) = (memory, limit);
    }

    /// Boots by rootbeam; none where it did not reach its real init.
    pub fn ours(&self) -> Result<Option<Reached>> {
        self.boot(&self.ours, |_, world| Ok(world))
    }

    /// Boots by the baseline; none where it did not reach its real init.
    pub fn theirs(&self) -> Result<Option<Reached>> {
        self.boot(&self.theirs, |_, world| Ok(world))
    }

    /// Boots by rootbeam while the image comes; what the real init finds when all of it is there.
    pub fn streamed(&self) -> Result<Option<Reached>> {
        let (archive, words) = &self.ours;
        self.boot(&(archive.clone(), format!("{words} rootbeam.mode=stream")), |probe, _| {
            stream::completion(probe)?;
            self.await_end_of_workers(probe)
        })
    }

    /// They end after they have told that the image is whole.
    fn await_end_of_workers(&self, probe: &mut Probe) -> Result<World> {
        let deadline = Instant::now() + self.limit;
        loop {
            let world = probe.world(self.limit)?;
            if world.other_processes().is_empty() || Instant::now() > deadline {
                return Ok(world);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn boot(
        &self,
        (archive, words): &(PathBuf, String),
        when: impl FnOnce(&mut Probe, World) -> Result<World>,
    ) -> Result<Option<Reached>> {
        let boot = qemu::Boot::new(&self.kernel, archive).nic(qemu::Nic::user()).cmdline(words);
        let mut guest = boot.memory(self.memory).start()?;
        // The baseline's shell after a failure reads this and ends, and the machine with it.
        guest.type_keys("exit\n")?;
        if !guest.stirs(self.limit)? {
            return Ok(None);
        }
        let Some((mut probe, world)) = guest.probe()? else { return Ok(None) };
        let world = when(&mut probe, world)?;
        let start = guest.console().arrived(START).context("the kernel does not say when it started /init")?;
        let end = guest.console().arrived(END).context("the kernel does not say when it started /sbin/init")?;
        probe.power_off()?;
        guest.finish(None)?;
        Ok(Some(Reached { seconds: end.saturating_sub(start) as f64 / 1e9, world }))
    }

    fn seconds(&self, runs: usize) -> Result<(Samples, Samples)> {
        let reached = |side: Option<Reached>| Ok([side.context("no real init")?.seconds]);
        let [pair] = alternate(runs, || reached(self.ours()?), || reached(self.theirs()?))?;
        Ok(pair)
    }
}

/// `/init` to the real init with the smallest image.
pub fn init(runs: usize) -> Result<Vec<Row>> {
    let (ours, theirs) = Duel::new(&images::probe()?, 512)?.seconds(runs)?;
    Ok(vec![Row {
        name: "init",
        what: "/init to the real init, 1 MB image, QEMU".to_owned(),
        unit: Unit::Seconds,
        ours,
        theirs: Some((BASELINE, theirs)),
        budget: Budget::AtMostTimes(0.6),
    }])
}

/// The same with an image of so many MB.
pub fn ram(name: &'static str, megabytes: u64, runs: usize) -> Result<Vec<Row>> {
    let (ours, theirs) = Duel::new(&images::probe_with_noise(megabytes * 1_000_000)?, 1024)?.seconds(runs)?;
    Ok(vec![Row {
        name,
        what: format!("/init to the real init, {megabytes} MB image, verified (theirs is not), QEMU"),
        unit: Unit::Seconds,
        ours,
        theirs: Some((BASELINE, theirs)),
        budget: Budget::AtMostTimes(1.0),
    }])
}
