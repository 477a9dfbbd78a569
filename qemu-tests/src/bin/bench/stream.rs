//! Streaming, in namespaces: when the real init runs, how long the whole image takes, and how fast the RAM disk is read
//! afterwards.

use crate::row::{Budget, Row, Unit};
use crate::runs::alternate;
use crate::wires::Bed;
use anyhow::{Context, Result, bail, ensure};
use rootbeam_init::streaming::keeper::Status;
use rootbeam_qemu_tests::probe::{Answer, Probe, Request};
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

/// From the start to the real init and to the whole image, over a wire of so many Mbit/s to a server that many
/// milliseconds away and back, beside a boot that loads it first.
pub fn beside_ram(
    name: &'static str,
    (mbit, milliseconds): (Option<u32>, u64),
    mebibytes: u64,
    runs: usize,
) -> Result<Vec<Row>> {
    let bed = Bed::far_away(mebibytes, mbit, Duration::from_millis(milliseconds))?;
    let figures = |booted: Booted| [booted.init, booted.whole];
    let [init, whole] = alternate(runs, || streamed(&bed).map(figures), || loaded(&bed).map(figures))?;
    let wire = mbit.map_or("without a limit".to_owned(), |mbit| format!("at {mbit} Mbit/s"));
    let row = |what: &str, (ours, theirs), budget| Row {
        name,
        what: format!("stream: start to {what} {mebibytes} MiB {wire}, round trips of {milliseconds} ms"),
        unit: Unit::Seconds,
        ours,
        theirs: Some(("rootbeam.mode=ram", theirs)),
        budget,
    };
    Ok(vec![
        row("the real init of", init, Budget::AtMostTimes(1.0)),
        row("the whole of", whole, Budget::AtMostTimes(1.1)),
    ])
}

/// The whole image, and reading it afterwards, beside a boot that loads it first.
pub fn whole(runs: usize) -> Result<Vec<Row>> {
    let bed = Bed::new(256, Some(1000))?;
    let figures = |booted: Booted| [booted.whole, booted.read, booted.read_at_random];
    let [whole, read, at_random] = alternate(runs, || streamed(&bed).map(figures), || loaded(&bed).map(figures))?;
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
        row("stream: the same in pieces of 16 KiB at random", at_random, Budget::AtMostTimes(1.05)),
    ])
}

/// What became of a boot, in seconds.
struct Booted {
    /// From the start to the real init.
    init: f64,
    /// From the start until all of the image was in memory.
    whole: f64,
    /// For the RAM disk to be read through,
    read: f64,
    /// and in pieces in no order.
    read_at_random: f64,
}

/// Boots while the image comes.
fn streamed(bed: &Bed) -> Result<Booted> {
    booted(bed, "rootbeam.mode=stream", completion)
}

/// Boots once it is there.
fn loaded(bed: &Bed) -> Result<Booted> {
    booted(bed, "rootbeam.mode=ram", |_| Ok(()))
}

fn booted(bed: &Bed, words: &str, complete: fn(&mut Probe) -> Result<()>) -> Result<Booted> {
    let (mut guest, begun) = (bed.boot().cmdline(words).start()?, Instant::now());
    let (mut probe, world) = guest.probe()?.context("no real init")?;
    let init = begun.elapsed().as_secs_f64();
    complete(&mut probe)?;
    let whole = begun.elapsed().as_secs_f64();
    let device = world.mount("/run/rootbeam/lower/0").context("no lower")?.source.clone();
    let read = timed(&mut probe, &Request::Digest(device.clone()))?;
    let read_at_random = timed(&mut probe, &Request::DigestAtRandom(device))?;
    probe.power_off()?;
    guest.finish(Some(world))?;
    Ok(Booted { init, whole, read, read_at_random })
}

fn to_init(bed: &Bed) -> Result<f64> {
    let booted = bed.boot().cmdline("rootbeam.mode=stream").run()?;
    let world = booted.world()?;
    let mode = world.report.as_ref().and_then(|report| report.get("mode")?.as_str().map(str::to_owned));
    ensure!(mode.as_deref() == Some("stream"), "{mode:?}: {}", booted.console);
    Ok(world.started.saturating_sub(booted.started) as f64 / 1e9)
}

/// Waits until all of the image is in memory.
pub fn completion(probe: &mut Probe) -> Result<()> {
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

/// Seconds that the probe takes to read what it is asked for.
fn timed(probe: &mut Probe, request: &Request) -> Result<f64> {
    let begun = Instant::now();
    match probe.ask(request, LIMIT)? {
        Answer::Digest { .. } => Ok(begun.elapsed().as_secs_f64()),
        other => bail!("{other:?}"),
    }
}
