//! Manifests signed for packed keys.

use super::super::boots::{assert_clean, report};
use super::{diagnoses, probe};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_init::digest::Sha256;
use rootbeam_init::messages::Trust;
use rootbeam_qemu_tests::claim::{equal, row};
use rootbeam_qemu_tests::netns::{self, Boot, Network, Nic};
use rootbeam_qemu_tests::outcome::Booted;
use rootbeam_qemu_tests::servers::site::Site;
use rootbeam_qemu_tests::{archives, command, images, places};
use std::path::{Path, PathBuf};
use std::process::Command;

pub fn rows() -> Vec<Trial> {
    let row = |name, check: fn() -> Result<()>| row(name, &[netns::available], check);
    vec![
        row("matrix: a signed manifest boots where its key is packed", signed),
        row("matrix: an unsigned manifest, a foreign key and an altered manifest are refused", not_signed),
    ]
}

/// A key pair for minisign without a password, made once: `NAME.pub` and `NAME.key` in the folder.
pub fn key_pair(name: &str) -> Result<PathBuf> {
    let folder = places::cache("keys")?.join(name);
    places::once(&folder, |half| {
        std::fs::create_dir(half)?;
        let files = ["-p", "web.pub", "-s", "web.key"];
        command::run(Command::new("minisign").current_dir(half).args(["-G", "-W"]).args(files)).map(drop)
    })?;
    Ok(folder)
}

/// Signs the manifest of `image` in `folder`.
pub fn sign(folder: &Path, image: &str, keys: &Path) -> Result<()> {
    let manifest = folder.join(format!("{image}.manifest"));
    let mut minisign = Command::new("minisign");
    minisign.args(["-S", "-s"]).arg(keys.join("web.key")).arg("-m").arg(manifest);
    command::run(&mut minisign).map(drop)
}

/// A boot with `keys` packed from what `site` has.
fn boot_with(keys: &[&Path], site: Site, words: &str) -> Result<Booted> {
    let paths: Vec<String> = keys.iter().map(|keys| keys.join("web.pub").display().to_string()).collect();
    let arguments: Vec<&str> = paths.iter().flat_map(|path| ["--key", path]).collect();
    let network = Network::new()?;
    let _http = network.http(site)?;
    Boot::new(&archives::for_namespaces_with(&arguments)?)
        .nic(Nic::on(&network))
        .cmdline(&format!("rootbeam.image={} rootbeam.on-failure=poweroff {words}", super::URL))
        .run()
}

fn signed() -> Result<()> {
    let ours = key_pair("ours")?;
    let folder = images::published(&images::probe()?, "probe.squashfs")?;
    sign(folder.path(), "probe.squashfs", &ours)?;
    for words in ["", "rootbeam.verify=require"] {
        let booted = boot_with(&[&ours], Site::new().folder(folder.path())?, words)?;
        let world = booted.world()?;
        assert_clean(world)?;
        let report = report(world)?;
        ensure!(report.verification.starts_with("signed: "), "{}", report.verification);
        equal(&report.image.map(|image| image.trust), &Some(Trust::Signed))?;
    }
    Ok(())
}

fn not_signed() -> Result<()> {
    let (ours, foreign) = (key_pair("ours")?, key_pair("foreign")?);
    let image = images::probe()?;
    let hash = Sha256::of(&std::fs::read(&image)?);
    let [unsigned, by_another, folder] = [(); 3].map(|()| images::published(&image, "probe.squashfs"));
    let (unsigned, by_another, folder) = (unsigned?, by_another?, folder?);
    sign(by_another.path(), "probe.squashfs", &foreign)?;
    sign(folder.path(), "probe.squashfs", &ours)?;
    let site = |folder: &tempfile::TempDir| Site::new().folder(folder.path());
    let mut manifest = std::fs::read(folder.path().join("probe.squashfs.manifest"))?;
    let at = manifest.iter().position(|byte| *byte == b'{').context("no manifest")?;
    manifest.insert(at + 1, b' ');
    let altered = site(&folder)?.bytes("/probe.squashfs.manifest", manifest);
    for (what, site, words) in [
        ("no manifest", probe()?, String::new()),
        ("no manifest, a hash on the command line", probe()?, format!("rootbeam.sha256={hash}")),
        ("no signature", site(&unsigned)?, "rootbeam.verify=default".to_owned()),
        ("a foreign key's signature", site(&by_another)?, String::new()),
        ("a manifest altered after it was signed", altered, String::new()),
    ] {
        let booted = boot_with(&[&ours], site, &words).context(what)?;
        ensure!(booted.world().is_err(), "{what}: it booted");
        let said = diagnoses(&booted.console);
        ensure!(said.starts_with("FAILED at manifest: ") && said.contains("sign"), "{what}: {said}");
    }
    Ok(())
}
