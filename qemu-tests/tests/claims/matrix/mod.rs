//! The wide cases: a row for each option of the README, for each kernel and card, for each shape of the archive, for
//! each way to trust an image.

mod archive;
mod drivers;
mod failures;
mod image;
mod kernels;
mod network;
pub mod trust;

use anyhow::Result;
use libtest_mimic::Trial;
use rootbeam_qemu_tests::netns::{Boot, Network, Nic};
use rootbeam_qemu_tests::outcome::Booted;
use rootbeam_qemu_tests::packages::Kernel;
use rootbeam_qemu_tests::servers::http::HttpServer;
use rootbeam_qemu_tests::servers::site::Site;
use rootbeam_qemu_tests::{archives, images, qemu};
use std::path::Path;
use std::time::Duration;

/// Where the image is on a server.
const PATH: &str = "/probe.squashfs";
/// The image's URL on the server of a network that was not told otherwise.
const URL: &str = "http://10.77.0.1/probe.squashfs";
/// How long anything is waited for.
const SOON: Duration = Duration::from_secs(60);

pub fn rows() -> Vec<Trial> {
    let groups = [
        image::rows(),
        failures::rows(),
        network::rows(),
        drivers::rows(),
        kernels::rows(),
        archive::rows(),
        trust::rows(),
    ];
    groups.into_iter().flatten().collect()
}

/// A machine in namespaces that boots [`URL`], or switches itself off when it fails; later words win. No card yet.
fn machine<'a>(words: &str) -> Result<Boot<'a>> {
    let archive = archives::for_namespaces()?;
    Ok(Boot::new(&archive).cmdline(&format!("rootbeam.image={URL} rootbeam.on-failure=poweroff {words}")))
}

/// Boots such a machine on a network of its own, from `site`.
fn boot(site: Site, words: &str) -> Result<Booted> {
    let network = Network::new()?;
    let _http = network.http(site)?;
    machine(words)?.nic(Nic::on(&network)).run()
}

/// The smallest image, alone on its server.
fn probe() -> Result<Site> {
    Ok(Site::new().file(PATH, &images::probe()?))
}

/// A server on the host for guests of QEMU, and the words that have them boot its image.
fn host(site: Site) -> Result<(HttpServer, String)> {
    let http = HttpServer::on_loopback(site)?;
    let words = format!("rootbeam.image=http://{}:{}{PATH}", qemu::HOST, http.address().port());
    Ok((http, words))
}

/// Boots the smallest image by `archive` in QEMU, with a virtio card.
fn emulated(kernel: &Kernel, archive: &Path, words: &str) -> Result<Booted> {
    let (_http, image) = host(probe()?)?;
    qemu::Boot::new(kernel, archive).nic(qemu::Nic::user()).cmdline(&format!("{image} {words}")).run()
}

/// The diagnoses on a console, in order, a line each.
fn diagnoses(console: &str) -> String {
    let lines: Vec<_> = console.lines().filter_map(|line| line.get(line.find("FAILED at ")?..)).collect();
    lines.join("\n")
}
