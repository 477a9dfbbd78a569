//! The web node: from the start of the machine to the answered page. In QEMU, where the firmware and all of Debian start on
//! an emulated processor, and at native speed, where the web server alone does.

use crate::row::{Budget, Row, Unit};
use crate::runs::{Samples, alternate};
use crate::wires;
use anyhow::{Context, Result, ensure};
use rootbeam_init::streaming::keeper::Status;
use rootbeam_qemu_tests::images::{self, Web};
use rootbeam_qemu_tests::netns::{self, Namespace, Network, Nic, web};
use rootbeam_qemu_tests::servers::nginx::Nginx;
use rootbeam_qemu_tests::{archives, qemu};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a page is waited for.
const LIMIT: Duration = Duration::from_secs(400);
/// An answer that takes longer is asked for again: QEMU takes the connection before the guest does, and one that the guest
/// missed hangs.
const ANSWER: Duration = Duration::from_secs(5);
/// For so long reads are recorded for the boot order; the page is answered within that.
const TRACE: u32 = 90;
/// How far an image is, in the booted system.
const STATUS: &str = "/run/rootbeam/stream/status.json";

/// The page's time in stream mode beside ram mode over a wire of so many Mbit/s, without a boot order and with one.
pub fn answered(name: &'static str, mbit: u32, runs: usize) -> Result<Vec<Row>> {
    let web = images::web()?;
    let plain = Bed::new(&web, None, Some(mbit))?;
    let trace = tempfile::NamedTempFile::new()?;
    std::fs::write(trace.path(), Bed::new(&web, None, None)?.trace()?)?;
    let ordered = Bed::new(&web, Some(trace.path()), Some(mbit))?;
    let ours = || Ok([plain.seconds("rootbeam.mode=stream")?, ordered.seconds("rootbeam.mode=stream")?]);
    let theirs = || plain.seconds("rootbeam.mode=ram").map(|seconds| [seconds; 2]);
    rows(name, &format!("QEMU: start to the answered page at {mbit} Mbit/s"), mbit, alternate(runs, ours, theirs)?)
}

/// The same at native speed, the server being so many milliseconds away and back.
pub fn native(name: &'static str, mbit: u32, milliseconds: u64, runs: usize) -> Result<Vec<Row>> {
    let image = images::web()?.image;
    let trace = tempfile::NamedTempFile::new()?;
    let free = wires::Bed::serving(&image, None, None, Duration::ZERO)?;
    std::fs::write(trace.path(), recorded(&free)?)?;
    let bed = |order| wires::Bed::serving(&image, order, Some(mbit), Duration::from_millis(milliseconds));
    let (plain, ordered) = (bed(None)?, bed(Some(trace.path()))?);
    let seconds = |bed: &wires::Bed, words: &str| native_page(bed, words).map(|(_, seconds)| seconds);
    let ours = || Ok([seconds(&plain, "rootbeam.mode=stream")?, seconds(&ordered, "rootbeam.mode=stream")?]);
    let theirs = || seconds(&plain, "rootbeam.mode=ram").map(|seconds| [seconds; 2]);
    let what = format!(
        "native, the web server as PID 1: start to the answered page at {mbit} Mbit/s, round trips of {milliseconds} ms"
    );
    rows(name, &what, mbit, alternate(runs, ours, theirs)?)
}

/// The two rows of a wire.
fn rows(name: &'static str, what: &str, mbit: u32, [without, with]: [(Samples, Samples); 2]) -> Result<Vec<Row>> {
    let row = |how: &str, (ours, theirs), budget| Row {
        name,
        what: format!("web node, {what}, {how}"),
        unit: Unit::Seconds,
        ours,
        theirs: Some(("rootbeam.mode=ram", theirs)),
        budget: Budget::AtMostTimes(budget),
    };
    Ok(vec![
        row("streamed without a boot order", without, 1.0),
        row("streamed with a boot order", with, if mbit <= 100 { 0.35 } else { 1.0 }),
    ])
}

/// Boots at native speed with these words as well, and waits for the page.
fn native_page(bed: &wires::Bed, words: &str) -> Result<(netns::Guest, f64)> {
    let mut guest = web::boot(bed.nic(), &bed.url())?.cmdline(words).limit(LIMIT).start()?;
    let begun = Instant::now();
    web::serve(&mut guest, LIMIT)?;
    while !bed.network().namespace().enter(|| answers(web::ADDRESS))? {
        ensure!(begun.elapsed() < LIMIT, "no page within {LIMIT:?}:\n{}", guest.console().last_lines());
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok((guest, begun.elapsed().as_secs_f64()))
}

/// What a machine at native speed reads first: the recording ends, and the image is whole, some seconds after the page.
fn recorded(bed: &wires::Bed) -> Result<String> {
    let (guest, seconds) = native_page(bed, "rootbeam.mode=stream rootbeam.stream.trace=5")?;
    ensure!(seconds < 5.0, "the page was not answered while reads were recorded");
    let deadline = Instant::now() + LIMIT;
    let status = || Ok::<Status, anyhow::Error>(serde_json::from_str(&web::text(&guest, STATUS)?)?);
    while !status()?.complete {
        ensure!(Instant::now() < deadline, "not complete after {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    web::text(&guest, "/run/rootbeam/stream/trace")
}

/// A server on a network, and QEMU in a namespace at the end of a cable: what its user network sends goes over that.
struct Bed {
    machine: Namespace,
    boot: qemu::Boot,
    _server: Nginx,
    _network: Network,
    _folder: TempDir,
}

impl Bed {
    fn new(web: &Web, order: Option<&Path>, mbit: Option<u32>) -> Result<Self> {
        qemu::available()?;
        let folder = images::published(&web.image, "web.squashfs")?;
        if let Some(order) = order {
            images::order(&folder.path().join("web.squashfs"), order)?;
        }
        let network = Network::silent()?;
        let machine = Namespace::new()?;
        let nic = Nic { wire: mbit, ..Nic::on(&network) };
        network.plug(&nic, &machine, "eth0")?;
        machine.ip("addr add 10.77.0.2/24 dev eth0")?;
        machine.ip("link set eth0 up")?;
        let address = SocketAddr::new(network.server().parse()?, 80);
        let server = network.namespace().enter(|| Nginx::start(address, folder.path()))??;
        let kernel = web.kernel()?;
        let boot = qemu::Boot::new(&kernel, &archives::for_qemu(&kernel)?)
            .nic(qemu::Nic::user())
            .forward(80)
            .memory(1024)
            .cpus(2)
            .limit(LIMIT)
            .cmdline(&format!("rootbeam.image={} rootbeam.on-failure=poweroff", network.url("/web.squashfs")));
        Ok(Self { machine, boot, _server: server, _network: network, _folder: folder })
    }

    /// Boots with these words as well, and waits for the page.
    fn page(&self, words: &str) -> Result<(qemu::Guest, f64)> {
        let boot = self.boot.clone().cmdline(words);
        let begun = Instant::now();
        let guest = self.machine.enter(|| boot.start())??;
        let address = guest.forwarded(80).context("no forwarded port")?;
        let deadline = begun + LIMIT;
        while !self.machine.enter(|| answers(address))? {
            ensure!(Instant::now() < deadline, "no page within {LIMIT:?}:\n{}", guest.console().last_lines());
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok((guest, begun.elapsed().as_secs_f64()))
    }

    fn seconds(&self, words: &str) -> Result<f64> {
        // The machine ends with the guest that is dropped here.
        self.page(words).map(|(_, seconds)| seconds)
    }

    /// What the machine reads first.
    fn trace(&self) -> Result<String> {
        let (mut guest, _) = self.page(&format!("quiet rootbeam.mode=stream rootbeam.stream.trace={TRACE}"))?;
        guest.log_in("web-node")?;
        let text = guest.shell("sleep 2; cat /run/rootbeam/stream/trace")?;
        ensure!(text.lines().count() > 1, "nothing was recorded: {text}");
        Ok(text.trim_start().to_owned())
    }
}

/// Whether the machine answers with its page.
fn answers(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.write_all(b"GET /index.php HTTP/1.0\r\nHost: node\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.") && answer.contains(" 200 "))
}
