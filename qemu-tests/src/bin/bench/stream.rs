//! Streaming, in namespaces: when the real init runs, how long the whole image takes, and how fast the RAM disk is read
//! afterwards.

use crate::row::{Budget, Row, Unit};
use crate::runs::alternate;
use crate::wires::Bed;
use anyhow::{Context, Result, bail, ensure};
use rootbeam_init::streaming::keeper::Status;
use rootbeam_qemu_tests::probe::{Answer, Probe, Request};
use rootbeam_qemu_tests::world::World;
use std::time::{Duration, Instant};

/// How long anything is waited for.
const LIMIT: Duration = Duration::from_secs(300);

/// From the start of /init to the real init over a wire of so many Mbit/s, for images of several sizes beside one of
/// 1 MB.
pub fn start(name: &'static str, mbit: u32, runs: usize) -> Result<Vec<Row>> {
    let small = Bed::new(1, Some(mbit))?;
    let mut rows = Vec::new();
    for mebibytes in [100, 1024, 4096] {
        let bed = Bed::new(mebibytes, Some(mbit))?;
        let [(ours, theirs)] = alternate(runs, || Ok([to_init(&bed)?]), || Ok([to_init(&small)?]))?;
        rows.push(Row {
            name,
            what: format!("stream: start to the real init, {mebibytes} MiB at {mbit} Mbit/s"),
            unit: Unit::Seconds,
            ours,
            theirs: Some(("an image of 1 MiB", theirs)),
            budget: Budget::AtMostTimes(1.3),
        });
    }
    Ok(rows)
}

/// The whole image, and reading it afterwards, beside a boot that loads it first.
pub fn whole(runs: usize) -> Result<Vec<Row>> {
    let bed = Bed::new(256, Some(1000))?;
    let ours = || {
        let (mut guest, begun) = (bed.boot().cmdline("rootbeam.mode=stream").start()?, Instant::now());
        let (mut probe, world) = guest.probe()?.context("no real init")?;
        completion(&mut probe)?;
        let whole = begun.elapsed().as_secs_f64();
        let read = read(&mut probe, &world)?;
        probe.power_off()?;
        guest.finish(Some(world))?;
        Ok([whole, read])
    };
    let theirs = || {
        let (mut guest, begun) = (bed.boot().start()?, Instant::now());
        let (mut probe, world) = guest.probe()?.context("no real init")?;
        let whole = begun.elapsed().as_secs_f64();
        let read = read(&mut probe, &world)?;
        probe.power_off()?;
        guest.finish(Some(world))?;
        Ok([whole, read])
    };
    let [whole, read] = alternate(runs, ours, theirs)?;
    let row = |what: &str, (ours, theirs), budget| Row {
        name: "stream-whole",
        what: what.to_owned(),
        unit: Unit::Seconds,
        ours,
        theirs: Some(("rootbeam.mode=ram", theirs)),
        budget,
    };
    Ok(vec![
        row("stream: start to the whole of 256 MiB at 1000 Mbit/s", whole, Budget::AtMostTimes(1.1)),
        row("stream: the RAM disk read through after that", read, Budget::AtMostTimes(1.05)),
    ])
}

fn to_init(bed: &Bed) -> Result<f64> {
    let booted = bed.boot().cmdline("rootbeam.mode=stream").run()?;
    let world = booted.world()?;
    let mode = world.report.as_ref().and_then(|report| report.get("mode")?.as_str().map(str::to_owned));
    ensure!(mode.as_deref() == Some("stream"), "{mode:?}: {}", booted.console);
    Ok(world.started.saturating_sub(booted.started) as f64 / 1e9)
}

fn completion(probe: &mut Probe) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        let answer = probe.ask(&Request::Text("/run/rootbeam/stream/status.json".to_owned()), LIMIT)?;
        if let Answer::Text(text) = answer
            && serde_json::from_str::<Status>(&text).is_ok_and(|status| status.complete)
        {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("not complete after {LIMIT:?}")
}

/// Seconds that the RAM disk takes to be read through.
fn read(probe: &mut Probe, world: &World) -> Result<f64> {
    let device = world.mount("/run/rootbeam/lower/0").context("no lower")?.source.clone();
    let begun = Instant::now();
    match probe.ask(&Request::Digest(device), LIMIT)? {
        Answer::Digest { .. } => Ok(begun.elapsed().as_secs_f64()),
        other => bail!("{other:?}"),
    }
}
