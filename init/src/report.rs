//! `/run/rootbeam/report.json`: what this boot did, for scripts and for `make demo`.

use crate::digest::Sha256;
use crate::failure::{Failure, Step};
use crate::messages::{Compressor, FilesystemKind, ImageFacts, Tally, Trust};
use crate::settings::values::{Mode, human};
use crate::trust::{KeyId, listed};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// The value of [`Report::format`].
pub const FORMAT: &str = "rootbeam-report-1";
/// The most failures that are kept.
const FAILURES: usize = 64;

/// One boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// How well image and layers are vouched for, which is as well as the weakest of them; `UNVERIFIED` in capitals where
    /// that is not at all. The first line of the file.
    pub verification: String,
    /// [`FORMAT`].
    pub format: String,
    /// Version of rootbeam.
    pub version: String,
    /// `uname -r`.
    pub kernel: String,
    /// The steps in the order in which they ended.
    pub steps: Vec<StepReport>,
    /// The network.
    pub network: Option<NetworkReport>,
    /// The image.
    pub image: Option<ImageReport>,
    /// The layers that were asked for, the topmost last.
    #[serde(default)]
    pub layers: Vec<LayerReport>,
    /// When the real init was started: with the whole image in memory, or before.
    #[serde(default)]
    pub mode: Option<Mode>,
    /// Why an image was loaded before it was used, where `rootbeam.mode=auto` would have streamed it.
    #[serde(default)]
    pub not_streamed: Vec<String>,
    /// Memory, in bytes.
    pub memory: MemoryReport,
    /// The real init.
    pub init: Option<String>,
    /// Failures on the way, the last [`FAILURES`] of them.
    pub failures: Vec<Failure>,
    /// Warnings of the boot.
    pub warnings: Vec<String>,
    /// Workers that died and were started again.
    pub worker_restarts: u32,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepReport {
    /// Which.
    pub step: Step,
    /// What it did, in words.
    pub what: String,
    /// When it began, in milliseconds since the kernel started.
    pub began_ms: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// Bytes that it moved.
    pub bytes: u64,
    /// RAM that it took, in bytes (MemAvailable before less after; other things move it too).
    pub ram: u64,
}

/// The network of the boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct NetworkReport {
    pub link: String,
    pub mac: String,
    pub address: Ipv4Addr,
    pub prefix: u8,
    pub gateway: Option<Ipv4Addr>,
    pub dns: Vec<IpAddr>,
    pub server: Option<Ipv4Addr>,
    pub lease_seconds: Option<u32>,
    pub hostname: Option<String>,
}

/// The image of the boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct ImageReport {
    pub sources: Vec<String>,
    /// What each source did that was asked, in the order of `sources`.
    #[serde(default)]
    pub shares: Vec<Share>,
    pub filesystem: FilesystemKind,
    pub compressor: Compressor,
    pub size: u64,
    pub sha256: Option<Sha256>,
    pub trust: Trust,
    /// The packed keys that signed the manifest.
    #[serde(default)]
    pub signers: Vec<KeyId>,
    /// SHA-256 of the manifest, as `rootbeam.manifest=` takes it.
    #[serde(default)]
    pub manifest: Option<Sha256>,
    pub version: Option<u64>,
    pub tally: Tally,
    /// The RAM disk.
    pub device: Option<String>,
}

/// A layer of the boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerReport {
    /// Where it was looked for.
    pub sources: Vec<String>,
    /// Whether no source had it. The fields below are then empty.
    pub absent: bool,
    /// True size in bytes.
    pub size: Option<u64>,
    /// How well it is vouched for.
    pub trust: Option<Trust>,
    /// Its manifest's version.
    pub version: Option<u64>,
    /// SHA-256 of the whole, where it is known.
    pub sha256: Option<Sha256>,
    /// What each source did that was asked.
    pub shares: Vec<Share>,
    /// The RAM disk.
    pub device: Option<String>,
}

impl fmt::Display for LayerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layer {}: ", self.sources.first().map_or("", String::as_str))?;
        let (Some(size), Some(trust)) = (self.size, self.trust) else { return f.write_str("absent") };
        write!(f, "{}, {trust}", human(size))?;
        self.version.map_or(Ok(()), |version| write!(f, ", version {version}"))?;
        self.device.as_ref().map_or(Ok(()), |device| write!(f, ", on {device}"))
    }
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Signed => "signed",
            Self::Pinned => "pinned",
            Self::Checksummed => "checksummed",
            Self::Unverified => "UNVERIFIED",
        })
    }
}

/// What one source did for an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Its URL.
    pub source: String,
    /// Bytes that came from it for the image.
    pub fetched: u64,
    /// Requests made to it.
    pub requests: u32,
    /// Requests that failed.
    pub failures: u32,
    /// Chunks whose hash was wrong.
    pub rejected_chunks: u64,
    /// What the last one failed with, in words.
    pub trouble: Option<String>,
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (requests, failures) = (self.requests, self.failures);
        write!(f, "source {}: {} by {requests} requests, {failures} failed", self.source, human(self.fetched))?;
        if self.rejected_chunks > 0 {
            write!(f, ", {} chunks with a wrong hash", self.rejected_chunks)?;
        }
        self.trouble.as_ref().map_or(Ok(()), |trouble| write!(f, "; last trouble: {trouble}"))
    }
}

/// Memory of the boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryReport {
    /// MemTotal.
    pub total: u64,
    /// MemAvailable before the image.
    pub available_before: u64,
    /// MemAvailable at the hand-over.
    pub available_after: u64,
    /// Limit of the overlay.
    pub overlay: u64,
}

impl Report {
    /// An empty report of this build.
    pub fn new(kernel: &str) -> Self {
        Self {
            verification: "no image yet".to_owned(),
            format: FORMAT.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: kernel.to_owned(),
            ..Self::default()
        }
    }

    /// Keeps a failure: of a machine that tries for weeks, the last ones.
    pub fn failed(&mut self, failure: &Failure) {
        if self.failures.len() >= FAILURES {
            self.failures.remove(0);
        }
        self.failures.push(failure.clone());
    }

    /// The file, JSON with a final newline.
    pub fn render(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

/// A line a step for people: what, how long, how many bytes, how much RAM.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.verification)?;
        let before = self.steps.first().map_or(0, |step| step.began_ms);
        row(f, "kernel", before, 0, 0, &self.kernel)?;
        for StepReport { step, what, took_ms, bytes, ram, .. } in &self.steps {
            row(f, &step.to_string(), *took_ms, *bytes, *ram, what)?;
        }
        let end = self.steps.last().map_or(before, |step| step.began_ms.saturating_add(step.took_ms));
        let init = self.init.as_deref().unwrap_or("no init yet");
        row(f, "together", end, 0, self.memory.available_before.saturating_sub(self.memory.available_after), init)?;
        let MemoryReport { total, available_after, overlay, .. } = self.memory;
        writeln!(
            f,
            "memory: {} of {} available, overlay at most {}",
            human(available_after),
            human(total),
            human(overlay)
        )?;
        self.layers.iter().try_for_each(|layer| writeln!(f, "{layer}"))?;
        let shares = self.image.iter().flat_map(|image| &image.shares);
        let shares = shares.chain(self.layers.iter().flat_map(|layer| &layer.shares));
        shares.filter(|share| share.failures > 0).try_for_each(|share| writeln!(f, "{share}"))?;
        self.not_streamed.iter().try_for_each(|text| writeln!(f, "{text}"))?;
        self.warnings.iter().try_for_each(|warning| writeln!(f, "warning: {warning}"))?;
        self.failures.iter().try_for_each(|failure| writeln!(f, "{failure}"))
    }
}

fn row(f: &mut fmt::Formatter<'_>, step: &str, milliseconds: u64, bytes: u64, ram: u64, what: &str) -> fmt::Result {
    let amount = |bytes: u64| if bytes == 0 { "-".to_owned() } else { human(bytes) };
    let (seconds, rest) = (milliseconds / 1000, milliseconds % 1000);
    writeln!(f, "{step:<9} {seconds:>4}.{rest:03} s {:>11} {:>11} RAM  {what}", amount(bytes), amount(ram))
}

/// How an image is vouched for, in words; `pin` is `rootbeam.manifest=`.
pub fn verification(facts: &ImageFacts, pin: Option<Sha256>) -> String {
    match (facts.trust, facts.signers.as_slice()) {
        (Trust::Signed, [one]) => format!("signed: the manifest by the packed key {one}, every chunk is as it says"),
        (Trust::Signed, keys) => {
            format!("signed: the manifest by the packed keys {}, every chunk is as it says", listed(keys))
        }
        (Trust::Pinned, _) => match pin {
            Some(_) => "pinned: the manifest has the SHA-256 of the command line, every chunk is as it says",
            None => "pinned: the image has the SHA-256 of the command line",
        }
        .to_owned(),
        (Trust::Checksummed, _) => {
            "checksummed: undamaged by a manifest or checksum from the server, which is not signed".to_owned()
        }
        (Trust::Unverified, _) => "UNVERIFIED: no manifest, no checksum, no key".to_owned(),
    }
}

/// Milliseconds, for the report.
pub fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn of_a_machine_that_tries_for_weeks_the_last_failures_are_kept() {
        let mut report = Report::new("6.1.0-1-amd64");
        let failure = |number: usize| Failure::new(Step::Image, number.to_string(), "cause", "remedy");
        (0..100).for_each(|number| report.failed(&failure(number)));
        assert_eq!(report.failures, (36..100).map(failure).collect::<Vec<_>>());
    }

    #[test]
    fn people_get_a_line_a_step() {
        let mut report = Report::new("6.1.0-1-amd64");
        let what = "eth0 has 10.0.2.15/24".to_owned();
        report.steps.push(StepReport {
            step: Step::Network,
            what,
            began_ms: 2100,
            took_ms: 340,
            bytes: 0,
            ram: 1 << 20,
        });
        let text = report.to_string();
        assert_eq!(text.lines().nth(1), Some("kernel       2.100 s           -           - RAM  6.1.0-1-amd64"));
        let network = "network      0.340 s           -     1.0 MiB RAM  eth0 has 10.0.2.15/24";
        assert_eq!(text.lines().nth(2), Some(network));
    }

    /// An image so vouched for.
    pub fn facts(trust: Trust, signers: &[u64]) -> ImageFacts {
        ImageFacts {
            filesystem: FilesystemKind::Squashfs,
            compressor: Compressor::Zstd,
            size: 1,
            sha256: None,
            trust,
            signers: signers.iter().copied().map(KeyId).collect(),
            manifest: None,
            version: None,
            date: None,
            layers: vec![],
        }
    }

    #[test]
    fn whoever_signed_is_named() {
        let pin = Some(Sha256([7; 32]));
        assert_eq!(
            verification(&facts(Trust::Signed, &[0xE762, 0xA0]), pin),
            "signed: the manifest by the packed keys E762, A0, every chunk is as it says"
        );
        assert_eq!(
            verification(&facts(Trust::Pinned, &[]), pin),
            "pinned: the manifest has the SHA-256 of the command line, every chunk is as it says"
        );
    }

    #[test]
    fn a_layer_is_a_line() {
        let absent = LayerReport {
            sources: vec!["http://10.0.0.1/node.img".to_owned()],
            absent: true,
            size: None,
            trust: None,
            version: None,
            sha256: None,
            shares: vec![],
            device: None,
        };
        assert_eq!(absent.to_string(), "layer http://10.0.0.1/node.img: absent");
        let there = LayerReport {
            absent: false,
            size: Some(3 << 20),
            trust: Some(Trust::Signed),
            version: Some(7),
            device: Some("/dev/loop1".to_owned()),
            ..absent
        };
        let line = "layer http://10.0.0.1/node.img: 3.0 MiB, signed, version 7, on /dev/loop1";
        assert_eq!(there.to_string(), line);
    }

    #[test]
    fn a_source_in_trouble_is_told_of() {
        let share = Share {
            source: "http://10.0.0.1/web.squashfs".to_owned(),
            fetched: 3 << 20,
            requests: 9,
            failures: 2,
            rejected_chunks: 1,
            trouble: Some("the connection broke".to_owned()),
        };
        assert_eq!(
            share.to_string(),
            "source http://10.0.0.1/web.squashfs: 3.0 MiB by 9 requests, 2 failed, 1 chunks with a wrong hash; last \
             trouble: the connection broke"
        );
    }

    #[test]
    fn the_first_line_of_the_file_says_how_it_was_verified() {
        let mut report = Report::new("6.1.0-1-amd64");
        report.verification = verification(&facts(Trust::Unverified, &[]), None);
        let text = report.render();
        assert_eq!(text.lines().nth(1), Some("  \"verification\": \"UNVERIFIED: no manifest, no checksum, no key\","));
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }
}
