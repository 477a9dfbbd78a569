//! The web node in QEMU, on a wire of its own: from the start of the machine to the answered page.

use crate::row::{Budget, Row, Unit};
use crate::runs::alternate;
use anyhow::{Context, Result, ensure};
use rootbeam_qemu_tests::images::{self, Web};
use rootbeam_qemu_tests::netns::{Namespace, Network, Nic};
use rootbeam_qemu_tests::servers::nginx::Nginx;
use rootbeam_qemu_tests::{archives, command, places, qemu};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a page is waited for.
const LIMIT: Duration = Duration::from_secs(400);
/// For so long reads are recorded for the boot order; the page is answered within that.
const TRACE: u32 = 90;

/// The page's time in stream mode beside ram mode over a wire of so many Mbit/s, without a boot order and with one.
pub fn answered(name: &'static str, mbit: u32, runs: usize) -> Result<Vec<Row>> {
    let web = images::web()?;
    let plain = Bed::new(&web, None, Some(mbit))?;
    let trace = tempfile::NamedTempFile::new()?;
    std::fs::write(trace.path(), Bed::new(&web, None, None)?.trace()?)?;
    let ordered = Bed::new(&web, Some(trace.path()), Some(mbit))?;
    let ours = || Ok([plain.seconds("rootbeam.mode=stream")?, ordered.seconds("rootbeam.mode=stream")?]);
    let theirs = || plain.seconds("rootbeam.mode=ram").map(|seconds| [seconds; 2]);
    let [without, with] = alternate(runs, ours, theirs)?;
    let row = |what: &str, (ours, theirs), budget| Row {
        name,
        what: format!("web node, QEMU: start to the answered page at {mbit} Mbit/s, {what}"),
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
            let image = folder.path().join("web.squashfs");
            let mut tool = Command::new(places::shipped_rootbeam()?);
            tool.args(["--quiet", "image", "manifest"]).arg(&image).arg("--boot-order").arg(order);
            command::run(&mut tool)?;
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

/// Whether the machine answers with its page. QEMU takes the connection before the guest does.
fn answers(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(b"GET /index.php HTTP/1.0\r\nHost: node\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.") && answer.contains(" 200 "))
}
