//! How servers are reached: TLS with nginx, clocks, credentials, a proxy, and what of it a console shows.

mod certificates;
mod clock;
mod reach;

use super::boots::{assert_clean, report};
use super::errors::{diagnoses, refused};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_init::report::Report;
use rootbeam_qemu_tests::archives;
use rootbeam_qemu_tests::certificates::Certificates;
use rootbeam_qemu_tests::claim::equal;
use rootbeam_qemu_tests::command;
use rootbeam_qemu_tests::images;
use rootbeam_qemu_tests::netns::{Boot, Dhcp, Network, Nic};
use rootbeam_qemu_tests::outcome::Booted;
use rootbeam_qemu_tests::servers::nginx::Nginx;
use std::process::Command;
use tempfile::TempDir;

pub fn claims() -> Vec<Trial> {
    [certificates::claims(), clock::claims(), reach::claims()].into_iter().flatten().collect()
}

/// The image's URL on the server of a [`Scene`].
const URL: &str = "https://boot.test/web.squashfs";

/// A network with nginx that serves the probe's image with its manifest by https.
struct Scene {
    certificates: Certificates,
    network: Network,
    folder: TempDir,
    _nginx: Option<Nginx>,
}

impl Scene {
    /// With DHCP and DNS as described, and no web server yet.
    fn quiet(dhcp: Dhcp) -> Result<Self> {
        let folder = images::published(&images::probe()?, "web.squashfs")?;
        // nginx gives up root's rights over files.
        command::run(Command::new("chmod").args(["-R", "a+rX"]).arg(folder.path()))?;
        let (certificates, network) = (Certificates::made()?, Network::silent()?.dhcp(dhcp)?);
        Ok(Self { certificates, network, folder, _nginx: None })
    }

    /// With the certificate `name` and more directives for the server.
    fn of(name: &str, directives: &str) -> Result<Self> {
        Self::quiet(Dhcp::default())?.serve(name, directives)
    }

    /// With nginx on port 443.
    fn serve(self, name: &str, directives: &str) -> Result<Self> {
        let [certificate, key] = [name, "server.key"].map(|name| self.certificates.file(name));
        let address = "10.77.0.1:443".parse()?;
        let start = || Nginx::start_tls(address, self.folder.path(), &certificate, &key, directives);
        let _nginx = Some(self.network.namespace().enter(start)??);
        Ok(Self { _nginx, ..self })
    }

    /// A boot of [`URL`] with more arguments of `rootbeam pack`; later words win.
    fn boot(&self, arguments: &[&str], words: &str) -> Result<Booted> {
        Boot::new(&archives::for_namespaces_with(arguments)?)
            .nic(Nic::on(&self.network).mac("52:54:00:00:00:77"))
            .cmdline(&format!("rootbeam.image={URL} rootbeam.on-failure=poweroff {words}"))
            .run()
    }

    /// A boot that trusts `root.pem`.
    fn trusting(&self, arguments: &[&str], words: &str) -> Result<Booted> {
        let root = self.certificates.path("root.pem");
        self.boot(&[&["--ca", root.as_str()], arguments].concat(), words)
    }
}

/// A warning stands on the console, once, and in the log that the booted system finds.
#[track_caller]
fn told_once(booted: &Booted, warning: &str) -> Result<()> {
    equal(&booted.console.matches(warning).count(), &1)?;
    let log = booted.world()?.boot_log.as_deref().unwrap_or_default();
    ensure!(log.contains(warning), "{log}");
    Ok(())
}

/// It booted as every boot does, from `source`.
#[track_caller]
fn booted_from(booted: &Booted, source: &str) -> Result<Report> {
    let world = booted.world()?;
    assert_clean(world)?;
    let report = report(world)?;
    equal(&report.image.clone().context("no image in the report")?.sources, &vec![source.to_owned()])?;
    Ok(report)
}
