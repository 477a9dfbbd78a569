//! What goes wrong, and what a person reads on the console then: step, object, cause and remedy, whole; and how the
//! machine ended. Most of these machines are told to switch themselves off when they fail.

mod choices;
mod crashes;
mod images;
mod inits;
mod kernels;
mod links;
mod network;
mod policies;
pub mod trust;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use rootbeam_qemu_tests::archives;
use rootbeam_qemu_tests::claim::equal;
use rootbeam_qemu_tests::netns::{Boot, Network, Nic};
use rootbeam_qemu_tests::outcome::{Booted, Outcome};
use rootbeam_qemu_tests::servers::fault::{Fault, When};
use rootbeam_qemu_tests::servers::http::HttpServer;
use rootbeam_qemu_tests::servers::site::Site;
use std::time::Duration;

pub fn claims() -> Vec<Trial> {
    let groups = [
        network::claims(),
        links::claims(),
        images::claims(),
        inits::claims(),
        kernels::claims(),
        crashes::claims(),
        policies::claims(),
        choices::claims(),
        trust::claims(),
    ];
    groups.into_iter().flatten().collect()
}

/// Where the image is on a server.
const PATH: &str = "/web.squashfs";
/// The image's URL on the server of a [`Scene`].
const URL: &str = "http://10.77.0.1/web.squashfs";
/// How long anything is waited for.
const SOON: Duration = Duration::from_secs(60);

/// A network with a server, and a machine that boots [`URL`] from it or switches itself off.
pub struct Scene {
    network: Network,
    pub http: HttpServer,
}

impl Scene {
    /// A server that has `site`.
    pub fn of(site: Site) -> Result<Self> {
        let network = Network::new()?;
        let http = network.http(site)?;
        Ok(Self { network, http })
    }

    /// The same with a fault for the requests of `path`.
    fn fault(self, path: &str, when: When, fault: Fault) -> Self {
        Self { http: self.http.fault(path, when, fault), ..self }
    }

    /// The machine; later words win over `rootbeam.image=` and `rootbeam.on-failure=poweroff`.
    pub fn machine(&self, words: &str) -> Result<Boot<'_>> {
        self.packed(&[], words)
    }

    /// The same with more arguments of `rootbeam pack`.
    pub fn packed(&self, arguments: &[&str], words: &str) -> Result<Boot<'_>> {
        Ok(packed(arguments, words)?.nic(Nic::on(&self.network)))
    }
}

/// The machine of a [`Scene`] without a card.
fn machine<'a>(words: &str) -> Result<Boot<'a>> {
    packed(&[], words)
}

fn packed<'a>(arguments: &[&str], words: &str) -> Result<Boot<'a>> {
    let archive = archives::for_namespaces_with(arguments)?;
    Ok(Boot::new(&archive).cmdline(&format!("rootbeam.image={URL} rootbeam.on-failure=poweroff {words}")))
}

/// The diagnoses on a console, in order.
pub fn diagnoses(console: &str) -> Vec<&str> {
    console.lines().filter_map(|line| line.get(line.find("FAILED at ")?..)).collect()
}

/// The boot failed with exactly this one diagnosis, and the machine switched itself off.
#[track_caller]
pub fn refused(booted: &Booted, diagnosis: &str) -> Result<()> {
    equal(&diagnoses(&booted.console).join("\n").as_str(), &diagnosis)?;
    equal(&booted.outcome, &Outcome::PoweredOff)?;
    ensure!(booted.world().is_err(), "a real init was started all the same");
    ensure!(!booted.console.contains("panicked"), "{}", booted.console);
    Ok(())
}
