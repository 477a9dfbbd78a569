//! Memory: after the hand-over, at its peak, and the smallest machine.

use crate::emulated::{BASELINE, Duel, Reached};
use crate::row::{Budget, Row, Unit};
use crate::runs::{Samples, alternate};
use crate::wires::Bed;
use anyhow::{Context, Result, ensure};
use rootbeam_init::contract::RING_BYTES;
use rootbeam_initramfs::inspect::Report;
use rootbeam_qemu_tests::packages::{self, Suite};
use rootbeam_qemu_tests::world::World;
use rootbeam_qemu_tests::{archives, images};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The mounts that a booted system has by design.
const MOUNTS: [&str; 7] = ["/", "/dev", "/proc", "/sys", "/run", "/run/rootbeam/lower/0", "/run/rootbeam/rw"];

/// Memory in use, in MB.
fn used(world: &World) -> f64 {
    world.memory_in_use() as f64 / 1e6
}

/// What the hand-over leaves behind.
pub fn after(runs: usize) -> Result<Vec<Row>> {
    let duel = Duel::new(&images::probe()?, 512)?;
    left("memory-after", "at the real init, 1 MB image", Duel::ours, &duel, runs)
}

/// What is left when a streamed image is whole.
pub fn after_streaming(runs: usize) -> Result<Vec<Row>> {
    let duel = Duel::new(&images::probe_with_noise(100_000_000)?, 512)?;
    left("memory-after-stream", "when a streamed image of 100 MB is whole", Duel::streamed, &duel, runs)
}

/// What `boots` leaves behind, beside the baseline.
fn left(
    name: &'static str,
    when: &str,
    boots: fn(&Duel) -> Result<Option<Reached>>,
    duel: &Duel,
    runs: usize,
) -> Result<Vec<Row>> {
    let mut left = [Samples::default(), Samples::default()];
    let ours = || {
        let world = boots(duel)?.context("no real init")?.world;
        let [processes, mounts] = &mut left;
        processes.push(world.other_processes().len() as f64);
        mounts.push(world.mount_points().iter().filter(|point| !MOUNTS.contains(point)).count() as f64);
        Ok([used(&world)])
    };
    let [(ours, theirs)] = alternate(runs, ours, || Ok([used(&duel.theirs()?.context("no real init")?.world)]))?;
    let row = |what: String, unit, ours, theirs, budget| Row { name, what, unit, ours, theirs, budget };
    let [processes, mounts] = left;
    Ok(vec![
        row(
            format!("RAM in use {when}, QEMU"),
            Unit::Megabytes,
            ours,
            Some((BASELINE, theirs)),
            Budget::AtMostMore(1.0),
        ),
        row(format!("processes left {when}"), Unit::Count, processes, None, Budget::AtMost(0.0)),
        row(format!("mounts left {when} but those of the design"), Unit::Count, mounts, None, Budget::AtMost(0.0)),
    ])
}

/// The most that PID 1 and its workers hold while they fetch.
pub fn peak(runs: usize) -> Result<Vec<Row>> {
    // The modules are those of a real machine.
    let archive = archives::for_qemu(&packages::kernel(Suite::Bookworm)?)?;
    let unpacked: u64 = Report::of(&fs::read(archive)?)?.archives.iter().map(|part| part.unpacked as u64).sum();
    let bed = Bed::new(256, None)?;
    let mut most = Samples::default();
    for _ in 0..runs {
        let mut guest = bed.boot().start()?;
        let pid = guest.pid()?;
        let ended = AtomicBool::new(false);
        let (reached, held) = std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let mut most = 0;
                while !ended.load(Ordering::Relaxed) {
                    most = most.max(held(pid));
                    std::thread::sleep(Duration::from_millis(1));
                }
                most
            });
            let reached = guest.probe();
            ended.store(true, Ordering::Relaxed);
            (reached, watch.join().unwrap_or(u64::MAX))
        });
        let (probe, _) = reached?.context("no real init")?;
        probe.power_off()?;
        guest.finish(None)?;
        ensure!(held > 0, "the workers were never seen");
        most.push((held + unpacked + RING_BYTES as u64) as f64 / f64::from(1 << 20));
    }
    let (ring, unpacked) = (RING_BYTES >> 20, unpacked as f64 / f64::from(1 << 20));
    Ok(vec![Row {
        name: "memory-peak",
        what: format!("RAM beyond the image while fetching: initramfs {unpacked:.1} MiB, ring {ring} MiB, processes"),
        unit: Unit::Mebibytes,
        ours: most,
        theirs: None,
        budget: Budget::AtMost(32.0),
    }])
}

/// Bytes of memory of their own that a process and its descendants have, page tables included; 0 where there are no
/// descendants.
fn held(pid: u32) -> u64 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let workers: Vec<u32> = children.split_whitespace().filter_map(|child| child.parse().ok()).collect();
    if workers.is_empty() { 0 } else { own(pid) + workers.into_iter().map(own).sum::<u64>() }
}

fn own(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let lines = status.lines().filter(|line| line.starts_with("RssAnon:") || line.starts_with("VmPTE:"));
    let kib = lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.sum::<u64>() * 1024
}

/// The step of the search, in MiB.
const STEP: u32 = 4;
/// No machine is smaller, in MiB.
const LOW: u32 = 160;
/// Both sides boot in so much, in MiB.
const HIGH: u32 = 256;

/// The smallest machines that boot an image of 100 MB.
pub fn smallest() -> Result<Vec<Row>> {
    let mut duel = Duel::new(&images::probe_with_noise(100_000_000)?, HIGH)?;
    let mut side = |boots: fn(&Duel) -> Result<Option<Reached>>| {
        // A machine that is too small for the baseline may hang without a word: the time that one with room takes tells
        // when to stop waiting, whatever the host's speed.
        let mut limit = Duration::from_secs(180);
        search(|memory| {
            duel.with_memory(memory, limit);
            let began = Instant::now();
            let booted = boots(&duel)?.is_some();
            if memory == HIGH {
                limit = began.elapsed() * 3 + Duration::from_secs(5);
            }
            Ok(booted)
        })
    };
    let [ours, theirs] = [Duel::ours, Duel::theirs].map(|boots| side(boots).map(f64::from));
    Ok(vec![Row {
        name: "smallest",
        what: "smallest machine that boots a 100 MB image, QEMU".into(),
        unit: Unit::Mebibytes,
        ours: Samples::exact(ours?),
        theirs: Some((BASELINE, Samples::exact(theirs?))),
        budget: Budget::AtMostMore(16.0),
    }])
}

/// The least multiple of [`STEP`] for which `boots` holds.
fn search(mut boots: impl FnMut(u32) -> Result<bool>) -> Result<u32> {
    let (mut low, mut high) = (LOW / STEP, HIGH / STEP);
    ensure!(boots(high * STEP)?, "it does not boot in {HIGH} MiB");
    while low < high {
        let middle = low.midpoint(high);
        if boots(middle * STEP)? { high = middle } else { low = middle + 1 }
    }
    Ok(high * STEP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_finds_the_least() {
        for least in [LOW, LOW + STEP, 192, HIGH - STEP, HIGH] {
            assert_eq!(search(|memory| Ok(memory >= least)).unwrap(), least);
        }
        assert!(search(|_| Ok(false)).is_err());
    }
}
