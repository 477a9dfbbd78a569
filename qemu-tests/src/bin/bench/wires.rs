//! Native speed, in namespaces: the download by the boot beside what else could fetch the same file.

use crate::row::{Budget, Row, Unit};
use crate::runs::alternate;
use anyhow::{Context, Result, ensure};
use rootbeam_init::digest::Sha256;
use rootbeam_init::failure::Step;
use rootbeam_init::report::Report;
use rootbeam_qemu_tests::command::run;
use rootbeam_qemu_tests::netns::{self, Boot, Namespace, Network, Nic};
use rootbeam_qemu_tests::servers::delay::FarAway;
use rootbeam_qemu_tests::servers::nginx::Nginx;
use rootbeam_qemu_tests::{archives, images, places};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The name under which every image is served.
const NAME: &str = "root.squashfs";

/// A server with an image at the end of a wire.
pub struct Bed {
    network: Network,
    archive: PathBuf,
    wire: Option<u32>,
    /// Bytes of the image.
    pub size: u64,
    _server: Nginx,
    _far: Option<FarAway>,
    _folder: TempDir,
}

/// What a boot by rootbeam took.
struct Boots {
    download_seconds: f64,
    whole_seconds: f64,
    processor_seconds: f64,
}

impl Bed {
    /// Serves an image of so many MiB by a wire of so many Mbit/s.
    pub fn new(mebibytes: u64, wire: Option<u32>) -> Result<Self> {
        Self::far_away(mebibytes, wire, Duration::ZERO)
    }

    /// The same with a server that is `round_trip` away.
    pub fn far_away(mebibytes: u64, wire: Option<u32>, round_trip: Duration) -> Result<Self> {
        Self::serving(&images::probe_with_noise(mebibytes << 20)?, None, wire, round_trip)
    }

    /// Serves an image, in a boot order where one is given.
    pub fn serving(image: &Path, order: Option<&Path>, wire: Option<u32>, round_trip: Duration) -> Result<Self> {
        netns::available()?;
        let network = Network::new()?;
        let folder = images::published(image, NAME)?;
        if let Some(order) = order {
            images::order(&folder.path().join(NAME), order)?;
        }
        let size = std::fs::metadata(folder.path().join(NAME))?.len();
        let near: SocketAddr =
            format!("{}:{}", network.server(), if round_trip.is_zero() { 80 } else { 8080 }).parse()?;
        let server = network.namespace().enter(|| Nginx::start(near, folder.path()))??;
        let far = (!round_trip.is_zero()).then(|| {
            let namespace = network.namespace().clone();
            let connect = move || namespace.enter(|| TcpStream::connect(near).map_err(Into::into))?;
            Ok::<_, anyhow::Error>(FarAway::start(network.listen(80)?, round_trip, connect))
        });
        let far = far.transpose()?;
        let archive = archives::for_namespaces()?;
        Ok(Self { network, archive, wire, size, _server: server, _far: far, _folder: folder })
    }

    /// Where the image is.
    pub fn url(&self) -> String {
        self.network.url(&format!("/{NAME}"))
    }

    /// The network of its server.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// A card at the end of its wire.
    pub fn nic(&self) -> Nic<'_> {
        Nic { wire: self.wire, ..Nic::on(&self.network) }
    }

    /// A machine to be booted.
    pub fn boot(&self) -> Boot<'_> {
        let words = format!("rootbeam.image={} rootbeam.on-failure=poweroff", self.url());
        Boot::new(&self.archive).nic(self.nic()).cmdline(&words).limit(Duration::from_secs(120))
    }

    fn boots(&self) -> Result<Boots> {
        let booted = self.boot().run()?;
        let world = booted.world()?;
        let report: Report = serde_json::from_value(world.report.clone().context("no report.json")?)?;
        let image = report.image.as_ref().context("no image in the report")?;
        ensure!(image.tally.verified == self.size, "{:?}", image.tally);
        let step = report.steps.iter().find(|step| step.step == Step::Image).context("no image step")?;
        Ok(Boots {
            download_seconds: step.took_ms as f64 / 1e3,
            whole_seconds: world.started.saturating_sub(booted.started) as f64 / 1e9,
            processor_seconds: world.used as f64 / 1e9,
        })
    }

    /// Runs a program like a machine's: in a namespace of its own, at the end of an equal wire.
    fn client(&self, command: &mut Command) -> Result<String> {
        let namespace = Namespace::new()?;
        self.network.plug(&self.nic(), &namespace, "eth0")?;
        namespace.ip("addr add 10.77.0.2/24 dev eth0")?;
        namespace.ip("link set eth0 up")?;
        namespace.enter(|| run(command))?
    }

    fn curl(&self) -> Result<f64> {
        self.curl_to("/dev/null")
    }

    fn curl_to(&self, file: &str) -> Result<f64> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--output", file]);
        curl.args(["--write-out", "%{time_total} %{size_download}"]).arg(self.url());
        let said = self.client(&mut curl)?;
        let (seconds, size) = said.split_once(' ').with_context(|| said.clone())?;
        ensure!(size.parse() == Ok(self.size), "curl has {size} bytes of {}", self.size);
        seconds.parse().context(said)
    }

    /// Seconds of curl into memory and sha256sum behind it.
    fn curl_then_sha256sum(&self, digest: Sha256) -> Result<f64> {
        let folder = tempfile::tempdir_in("/dev/shm")?;
        let file = folder.path().join(NAME);
        let fetched = self.curl_to(&file.to_string_lossy())?;
        let began = Instant::now();
        let said = run(Command::new("sha256sum").arg(&file))?;
        ensure!(said.starts_with(&digest.to_string()), "sha256sum says {said}");
        Ok(fetched + began.elapsed().as_secs_f64())
    }

    /// Processor seconds of curl, as the shell that starts it counts them.
    fn curl_processor(&self) -> Result<f64> {
        let script = "TIMEFORMAT='%U %S'; time curl --silent --fail --output /dev/null \"$0\" 2>&1";
        let mut shell = Command::new("bash");
        shell.args(["-c", &format!("{{ {script}; }} 2>&1")]).arg(self.url());
        let said = self.client(&mut shell)?;
        let times = said.split_whitespace().map(str::parse::<f64>).collect::<Result<Vec<_>, _>>();
        times.ok().filter(|times| times.len() == 2).map(|times| times.iter().sum()).with_context(|| said.clone())
    }

    /// Seconds and processor seconds of the least program.
    fn least(&self, program: &std::path::Path, digest: Sha256) -> Result<(f64, f64)> {
        let path = format!("/{NAME}");
        let said = self.client(Command::new(program).args([self.network.server().as_str(), "80", &path]))?;
        let words: Vec<&str> = said.split_whitespace().collect();
        let [size, wall, used, hash] = words.as_slice() else { anyhow::bail!("recv-sha256 says {said:?}") };
        ensure!(size.parse() == Ok(self.size) && *hash == digest.to_string(), "recv-sha256 says {said}");
        let seconds = |nanoseconds: &str| nanoseconds.parse::<f64>().map(|n| n / 1e9);
        Ok((seconds(wall)?, seconds(used)?))
    }

    fn speed(&self, seconds: f64) -> f64 {
        self.size as f64 / 1e6 / seconds
    }

    fn digest(&self) -> Result<Sha256> {
        Ok(Sha256::of(&std::fs::read(self._folder.path().join(NAME))?))
    }
}

/// The download over a wire of so many Mbit/s beside curl's.
pub fn wire(name: &'static str, mbit: u32, mebibytes: u64, runs: usize) -> Result<Vec<Row>> {
    let bed = Bed::new(mebibytes, Some(mbit))?;
    let mut whole = crate::runs::Samples::default();
    let ours = || {
        let boots = bed.boots()?;
        whole.push(boots.whole_seconds);
        Ok([bed.speed(boots.download_seconds)])
    };
    let [(ours, theirs)] = alternate(runs, ours, || Ok([bed.speed(bed.curl()?)]))?;
    let (low, high) = whole.range();
    let told = format!("whole boot {:.3} s ({low:.3}–{high:.3})", whole.median());
    Ok(vec![Row {
        name,
        what: format!("verified download of {mebibytes} MiB at {mbit} Mbit/s; {told}"),
        unit: Unit::MegabytesPerSecond,
        ours,
        theirs: Some(("curl", theirs)),
        budget: Budget::AtLeastTimes(0.95),
    }])
}

/// The download without a limit beside the least program that could do it, and what it costs.
pub fn unlimited(runs: usize) -> Result<Vec<Row>> {
    let program = recv_sha256()?;
    let bed = Bed::new(1024, None)?;
    let digest = bed.digest()?;
    let gib = bed.size as f64 / f64::from(1 << 30);
    let ours = || {
        let boots = bed.boots()?;
        Ok([bed.speed(boots.download_seconds), boots.processor_seconds / gib])
    };
    let theirs = || {
        let (seconds, used) = bed.least(&program, digest)?;
        Ok([bed.speed(seconds), used / gib])
    };
    let [speed, processor] = alternate(runs, ours, theirs)?;
    let row = |what: &str, unit, (ours, theirs), budget| Row {
        name: "unlimited",
        what: what.to_owned(),
        unit,
        ours,
        theirs: Some(("recv-sha256.c", theirs)),
        budget,
    };
    Ok(vec![
        row("verified download of 1 GiB", Unit::MegabytesPerSecond, speed, Budget::AtLeastTimes(0.9)),
        row("processor time, ours of the whole boot", Unit::SecondsPerGib, processor, Budget::AtMostTimes(1.15)),
    ])
}

/// The download without a limit beside the two commands that do as much, and what it costs beside the first of them.
pub fn then_sha256sum(runs: usize) -> Result<Vec<Row>> {
    let bed = Bed::new(1024, None)?;
    let digest = bed.digest()?;
    let gib = bed.size as f64 / f64::from(1 << 30);
    let ours = || {
        let boots = bed.boots()?;
        Ok([boots.download_seconds, boots.processor_seconds / gib])
    };
    let theirs = || Ok([bed.curl_then_sha256sum(digest)?, bed.curl_processor()? / gib]);
    let [seconds, processor] = alternate(runs, ours, theirs)?;
    let row = |what: &str, unit, who, (ours, theirs), budget| Row {
        name: "sha256sum",
        what: what.to_owned(),
        unit,
        ours,
        theirs: Some((who, theirs)),
        budget,
    };
    let whole = "verified download of 1 GiB";
    let cost = "processor time, ours of the whole boot with its verification";
    Ok(vec![
        row(whole, Unit::Seconds, "curl, then sha256sum", seconds, Budget::AtMostTimes(1.0)),
        row(cost, Unit::SecondsPerGib, "curl", processor, Budget::AtMostTimes(f64::INFINITY)),
    ])
}

/// The least program, compiled.
fn recv_sha256() -> Result<PathBuf> {
    let source = places::project().join("bench/recv-sha256.c");
    let digest = images::digest(&std::fs::read(&source)?);
    let program = places::cache("bench")?.join(format!("recv-sha256-{digest}"));
    places::once(&program, |half| {
        run(Command::new("gcc").args(["-O2", "-std=gnu11", "-pthread", "-o"]).arg(half).arg(&source)).map(drop)
    })?;
    Ok(program)
}
