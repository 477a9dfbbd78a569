//! More than one server, and more than one machine.

use crate::row::{Budget, Row, Unit};
use crate::runs::{Samples, alternate};
use anyhow::{Context, Result, ensure};
use rootbeam_init::failure::Step;
use rootbeam_init::report::Report;
use rootbeam_qemu_tests::netns::{self, Boot, Namespace, Network, Nic};
use rootbeam_qemu_tests::outcome::Booted;
use rootbeam_qemu_tests::servers::nginx::Nginx;
use rootbeam_qemu_tests::{archives, images};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// The name under which every image is served.
const NAME: &str = "root.squashfs";
/// Of a wire of 1 Gbit/s, what is left for the contents of full TCP segments with time stamps, in MB/s.
const PAYLOAD: f64 = 125.0 * 1448.0 / 1514.0;

/// An nginx on a machine of its own, whose wire carries so many Mbit/s away from it.
struct Mirror {
    url: String,
    _nginx: Nginx,
    _namespace: Namespace,
}

impl Mirror {
    fn new(network: &Network, host: u8, mbit: u32, folder: &Path) -> Result<Self> {
        let namespace = Namespace::new()?;
        network.plug(&Nic::on(network), &namespace, "eth0")?;
        namespace.ip(&format!("addr add 10.77.0.{host}/24 dev eth0"))?;
        namespace.ip("link set eth0 up")?;
        // Room for 10 ms at full speed, as on the machines' own wires.
        let burst = u64::from(mbit) * 1_000_000 / 8 / 100;
        namespace.run("tc", &format!("qdisc add dev eth0 root tbf rate {mbit}mbit burst {burst}b latency 50ms"))?;
        let address = format!("10.77.0.{host}:80").parse()?;
        let nginx = namespace.enter(|| Nginx::start(address, folder))??;
        Ok(Self { url: format!("http://10.77.0.{host}/{NAME}"), _nginx: nginx, _namespace: namespace })
    }
}

/// A network, an image, and the servers that have it.
struct Bed {
    network: Network,
    mirrors: Vec<Mirror>,
    size: u64,
    _folder: TempDir,
}

impl Bed {
    fn new(mebibytes: u64, mirrors: u8, mbit: u32) -> Result<Self> {
        netns::available()?;
        let network = Network::new()?;
        let folder = images::published(&images::probe_with_noise(mebibytes << 20)?, NAME)?;
        let size = std::fs::metadata(folder.path().join(NAME))?.len();
        let mirror = |number| Mirror::new(&network, 10 + number, mbit, folder.path());
        let mirrors = (0..mirrors).map(mirror).collect::<Result<_>>()?;
        Ok(Self { network, mirrors, size, _folder: folder })
    }

    fn boot(&self, mirrors: &[Mirror]) -> Result<Booted> {
        let urls: Vec<_> = mirrors.iter().map(|mirror| mirror.url.as_str()).collect();
        let words = format!("rootbeam.image={} rootbeam.on-failure=poweroff", urls.join(","));
        let limit = Duration::from_secs(300);
        Boot::new(&archives::for_namespaces()?).nic(Nic::on(&self.network)).cmdline(&words).limit(limit).run()
    }
}

/// Beginning and end of a boot's download, in milliseconds of the host's clock.
fn download(booted: &Booted) -> Result<(u64, u64)> {
    let report: Report = serde_json::from_value(booted.world()?.report.clone().context("no report.json")?)?;
    let step = report.steps.iter().find(|step| step.step == Step::Image).context("no image step")?;
    Ok((step.began_ms, step.began_ms + step.took_ms))
}

/// Three sources at the ends of slow wires beside one of them.
pub fn sources(runs: usize) -> Result<Vec<Row>> {
    let bed = Bed::new(256, 3, 300)?;
    let speed = |mirrors: &[Mirror]| {
        let (began, ended) = download(&bed.boot(mirrors)?)?;
        Ok([bed.size as f64 / 1e3 / (ended - began) as f64])
    };
    let one = bed.mirrors.get(..1).context("no source")?;
    let [(ours, theirs)] = alternate(runs, || speed(&bed.mirrors), || speed(one))?;
    Ok(vec![Row {
        name: "sources",
        what: "verified download of 256 MiB from three sources of 300 Mbit/s each".to_owned(),
        unit: Unit::MegabytesPerSecond,
        ours,
        theirs: Some(("one of them", theirs)),
        budget: Budget::AtLeastTimes(2.7),
    }])
}

/// A rack that is switched on: so many machines at once, one nginx, one wire of 1 Gbit/s.
pub fn rack(_: usize) -> Result<Vec<Row>> {
    const NODES: usize = 64;
    let bed = Bed::new(48, 1, 1000)?;
    let boots: Vec<Result<Booted>> = std::thread::scope(|scope| {
        let nodes: Vec<_> = (0..NODES).map(|_| scope.spawn(|| bed.boot(&bed.mirrors))).collect();
        nodes.into_iter().map(|node| node.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a node panicked")))).collect()
    });
    let times = boots.into_iter().map(|booted| download(&booted?)).collect::<Result<Vec<_>>>()?;
    let began = times.iter().map(|(began, _)| *began).min().context("no node")?;
    let (first, last) = (times.iter().map(|(_, ended)| *ended).min(), times.iter().map(|(_, ended)| *ended).max());
    let (first, last) = (first.context("no node")? - began, last.context("no node")? - began);
    ensure!(last > 0, "no time passed");
    let speed = bed.size as f64 * NODES as f64 / 1e3 / last as f64;
    Ok(vec![Row {
        name: "rack",
        what: format!(
            "{NODES} nodes of 48 MiB from one nginx at 1 Gbit/s; the first done after {:.1} s, the last after {:.1} s",
            first as f64 / 1e3,
            last as f64 / 1e3
        ),
        unit: Unit::MegabytesPerSecond,
        ours: Samples::exact(speed),
        theirs: Some(("the wire", Samples::exact(PAYLOAD))),
        budget: Budget::AtLeastTimes(0.9),
    }])
}
