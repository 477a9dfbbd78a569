//! Who is believed: packed keys, their threshold, the version floor, and a pinned manifest. Keys are made and manifests
//! signed by the shipped `rootbeam`; the matrix does the same with Debian's minisign.

use super::super::boots::{assert_clean, report};
use super::{PATH, Scene, URL, refused};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_init::digest::Sha256;
use rootbeam_init::manifest::Manifest;
use rootbeam_init::messages::Trust;
use rootbeam_init::trust::{Key, KeyId, listed};
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::command;
use rootbeam_qemu_tests::images::{self, published};
use rootbeam_qemu_tests::netns::{self, Boot, Network, Nic};
use rootbeam_qemu_tests::outcome::Booted;
use rootbeam_qemu_tests::packages::{self, Suite};
use rootbeam_qemu_tests::servers::http::HttpServer;
use rootbeam_qemu_tests::servers::site::Site;
use rootbeam_qemu_tests::{archives, places, qemu};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

pub fn claims() -> Vec<Trial> {
    let under_qemu =
        claim("trust: under QEMU a signed image boots and an unsigned one does not", &[qemu::available], emulated);
    let claim = |name, check: fn() -> Result<()>| claim(name, &[netns::available], check);
    vec![
        under_qemu,
        claim("trust: a signed manifest boots, and report and log name the key", signed),
        claim("trust: with a key packed an unsigned manifest is refused, whatever the command line says", unsigned),
        claim("trust: a manifest signed by a stranger, or altered since, is refused with the key's number", wrongly),
        claim("trust: a manifest is parsed only after its signature was found good", garbage),
        claim("trust: one of two needed signatures is refused, two boot", threshold),
        claim("trust: an older manifest is refused under its good signature, with both versions", rollback),
        claim("trust: a pinned manifest boots from the source that has it, and no other does", pinned),
        claim("trust: a misspelt proof boots nothing", misspelt),
    ]
}

/// A key pair made by the shipped `rootbeam`, once.
pub struct Pair {
    folder: PathBuf,
    name: &'static str,
}

impl Pair {
    pub fn of(name: &'static str) -> Result<Self> {
        let folder = places::cache("keys")?.join(format!("rootbeam-{name}"));
        places::once(&folder, |half| {
            std::fs::create_dir(half)?;
            command::run(rootbeam()?.current_dir(half).args(["keygen", name, "--no-password"])).map(drop)
        })?;
        Ok(Self { folder, name })
    }

    pub fn public(&self) -> String {
        self.folder.join(format!("{}.pub", self.name)).display().to_string()
    }

    /// Adds its signature to that of a manifest.
    pub fn sign(&self, manifest: &Path) -> Result<()> {
        let key = self.folder.join(format!("{}.key", self.name));
        command::run(rootbeam()?.arg("sign").arg(manifest).arg("--add").arg("-s").arg(key)).map(drop)
    }

    fn id(&self) -> Result<KeyId> {
        let file = std::fs::read_to_string(self.public())?;
        Ok(Key::parse(&file).context("no key")?.id())
    }
}

fn rootbeam() -> Result<Command> {
    let mut command = Command::new(places::shipped_rootbeam()?);
    command.arg("--quiet");
    Ok(command)
}

/// The smallest image as it stands on a server, its manifest of this version.
struct Publication(TempDir);

impl Publication {
    fn of_version(version: u32) -> Result<Self> {
        let folder = published(&images::probe()?, "web.squashfs")?;
        let image = folder.path().join("web.squashfs");
        command::run(rootbeam()?.args(["image", "manifest", "--version"]).arg(version.to_string()).arg(image))?;
        Ok(Self(folder))
    }

    fn manifest(&self) -> PathBuf {
        self.0.path().join("web.squashfs.manifest")
    }

    fn bytes(&self) -> Result<Vec<u8>> {
        Ok(std::fs::read(self.manifest())?)
    }

    /// With one more signature.
    fn signed(self, pair: &Pair) -> Result<Self> {
        pair.sign(&self.manifest())?;
        Ok(self)
    }

    fn site(&self) -> Result<Site> {
        Site::new().folder(self.0.path())
    }
}

/// Packs with these arguments, and boots what `site` has.
fn boot(site: Site, arguments: &[&str], words: &str) -> Result<Booted> {
    let scene = Scene::of(site)?;
    let archive = archives::for_namespaces_with(arguments)?;
    let words = format!("rootbeam.image={URL} rootbeam.on-failure=poweroff {words}");
    Boot::new(&archive).cmdline(&words).nic(Nic::on(&scene.network)).run()
}

/// It booted by a manifest that exactly these keys signed.
#[track_caller]
fn boots_signed(booted: &Booted, manifest: &[u8], keys: &[KeyId]) -> Result<()> {
    let world = booted.world()?;
    assert_clean(world)?;
    let report = report(world)?;
    let word = if keys.len() == 1 { "key" } else { "keys" };
    let said = format!("signed: the manifest by the packed {word} {}, every chunk is as it says", listed(keys));
    equal(&report.verification, &said)?;
    ensure!(world.boot_log.as_deref().is_some_and(|log| log.contains(&said)), "{:?}", world.boot_log);
    let image = report.image.context("no image in the report")?;
    equal(&(image.trust, image.manifest), &(Trust::Signed, Some(Sha256::of(manifest))))?;
    equal(&image.signers, &keys.to_vec())
}

const SIGN: &str = "sign it with `rootbeam sign MANIFEST -s KEY`, and publish MANIFEST.minisig beside it";

fn not_signed() -> String {
    format!(
        "FAILED at manifest: manifest of {URL}: it is not signed, and this initramfs has a key packed. Remedy: {SIGN}."
    )
}

fn signed() -> Result<()> {
    let ours = Pair::of("ours")?;
    let publication = Publication::of_version(1)?.signed(&ours)?;
    let booted = boot(publication.site()?, &["--key", &ours.public()], "")?;
    boots_signed(&booted, &publication.bytes()?, &[ours.id()?])
}

fn unsigned() -> Result<()> {
    let ours = Pair::of("ours")?;
    let publication = Publication::of_version(1)?;
    let image = Sha256::of(&std::fs::read(images::probe()?)?);
    let manifest = Sha256::of(&publication.bytes()?);
    let packed = tempfile::tempdir()?;
    let config = packed.path().join("config");
    std::fs::write(&config, format!("rootbeam.verify=require rootbeam.manifest=sha256:{}\n", Sha256([7; 32])))?;
    let with_config = ["--key", &ours.public(), "--config", config.to_str().context("no UTF-8")?];
    let key = &with_config[..2];
    for (arguments, words) in [
        (key, String::new()),
        (key, "rootbeam.verify=default".to_owned()),
        (key, format!("rootbeam.sha256={image}")),
        (key, format!("rootbeam.manifest=sha256:{manifest}")),
        (&with_config, format!("rootbeam.verify=default rootbeam.manifest=sha256:{manifest} rootbeam.sha256={image}")),
    ] {
        refused(&boot(publication.site()?, arguments, &words)?, &not_signed()).context(words)?;
    }
    // Neither does an image alone boot, whatever is said of it.
    let alone = || Ok::<_, anyhow::Error>(Site::new().file(PATH, &images::probe()?));
    let diagnosis = format!(
        "FAILED at manifest: manifest of {URL}: there is none, and this boot takes no image without a signed or pinned \
         one. Remedy: make one with `rootbeam image manifest IMAGE`, sign it with `rootbeam sign`, and publish it \
         beside the image."
    );
    for words in [String::new(), format!("rootbeam.sha256={image} rootbeam.verify=default")] {
        refused(&boot(alone()?, key, &words)?, &diagnosis).context(words)?;
    }
    Ok(())
}

fn wrongly() -> Result<()> {
    let (ours, foreign) = (Pair::of("ours")?, Pair::of("foreign")?);
    let diagnosis =
        |cause: &str, remedy: &str| format!("FAILED at manifest: manifest of {URL}: {cause}. Remedy: {remedy}.");
    let stranger = Publication::of_version(1)?.signed(&foreign)?;
    refused(
        &boot(stranger.site()?, &["--key", &ours.public()], "")?,
        &diagnosis(
            &format!("it is signed by {}, and by none of the trusted keys", foreign.id()?),
            "sign it with a key that was packed, or pack the one that signed it with `rootbeam pack --key`",
        ),
    )?;
    let good = Publication::of_version(1)?.signed(&ours)?;
    let altered = Publication::of_version(2)?;
    refused(
        &boot(good.site()?.bytes("/web.squashfs.manifest", altered.bytes()?), &["--key", &ours.public()], "")?,
        &altered_since(&ours)?,
    )?;
    refused(
        &boot(good.site()?.bytes("/web.squashfs.manifest.minisig", "<html>"), &["--key", &ours.public()], "")?,
        &diagnosis("its signature file holds no minisign signature", SIGN),
    )
}

fn altered_since(pair: &Pair) -> Result<String> {
    Ok(format!(
        "FAILED at manifest: manifest of {URL}: its signature by {} is wrong: it was altered since, or the signature \
         is of another manifest. Remedy: sign the manifest again, and publish manifest and signature together.",
        pair.id()?
    ))
}

fn garbage() -> Result<()> {
    let ours = Pair::of("ours")?;
    let good = Publication::of_version(1)?.signed(&ours)?;
    for garbage in ["<html>404</html>".to_owned(), "[".repeat(100_000)] {
        let site = good.site()?.bytes("/web.squashfs.manifest", garbage);
        refused(&boot(site, &["--key", &ours.public()], "")?, &altered_since(&ours)?)?;
    }
    Ok(())
}

fn threshold() -> Result<()> {
    let (ours, theirs, third) = (Pair::of("ours")?, Pair::of("theirs")?, Pair::of("third")?);
    let keys = [&ours, &theirs, &third].map(Pair::public);
    let mut arguments: Vec<&str> = keys.iter().flat_map(|key| ["--key", key]).collect();
    arguments.extend(["--key-threshold", "2"]);
    let publication = Publication::of_version(1)?.signed(&theirs)?;
    // The same signature twice is one.
    let file = std::fs::read_to_string(publication.0.path().join("web.squashfs.manifest.minisig"))?;
    let twice = publication.site()?.bytes("/web.squashfs.manifest.minisig", file.repeat(2));
    let diagnosis = format!(
        "FAILED at manifest: manifest of {URL}: it is signed by 1 of the 2 trusted keys that are needed ({}). Remedy: \
         let another keyholder add a signature with `rootbeam sign MANIFEST -s KEY --add`.",
        theirs.id()?
    );
    refused(&boot(publication.site()?, &arguments, "")?, &diagnosis)?;
    refused(&boot(twice, &arguments, "")?, &diagnosis)?;
    let publication = publication.signed(&ours)?;
    let booted = boot(publication.site()?, &arguments, "")?;
    boots_signed(&booted, &publication.bytes()?, &[ours.id()?, theirs.id()?])
}

fn rollback() -> Result<()> {
    let ours = Pair::of("ours")?;
    let arguments = ["--key", &ours.public(), "--min-version", "4"];
    let old = Publication::of_version(3)?.signed(&ours)?;
    let diagnosis = format!(
        "FAILED at manifest: manifest of {URL}: it has version 3, and this initramfs boots none below 4. Remedy: publish \
         the newer image, or pack the initramfs again with a lower `rootbeam pack --min-version`."
    );
    let pin = format!("rootbeam.manifest=sha256:{}", Sha256::of(&old.bytes()?));
    for words in ["", "rootbeam.verify=default", &pin] {
        refused(&boot(old.site()?, &arguments, words)?, &diagnosis).context(words.to_owned())?;
    }
    let new = Publication::of_version(4)?.signed(&ours)?;
    let bytes = new.bytes()?;
    equal(&Manifest::parse(&bytes)?.version, &4)?;
    boots_signed(&boot(new.site()?, &arguments, "")?, &bytes, &[ours.id()?])
}

fn pinned() -> Result<()> {
    let (first, second) = (Publication::of_version(1)?, Publication::of_version(2)?);
    let (found, expected) = (Sha256::of(&first.bytes()?), Sha256::of(&second.bytes()?));
    let pin = format!("rootbeam.manifest=sha256:{expected}");
    let diagnosis = format!(
        "FAILED at manifest: manifest of {URL}: its SHA-256 is {found}, and rootbeam.manifest= asks for {expected}. \
         Remedy: publish the manifest that was pinned, or correct rootbeam.manifest= if the new one is meant."
    );
    refused(&boot(first.site()?, &[], &pin)?, &diagnosis)?;
    // What it would have been parsed as does not count.
    let garbage = first.site()?.bytes("/web.squashfs.manifest", "<html>");
    let diagnosis = diagnosis.replace(&found.to_string(), &Sha256::of(b"<html>").to_string());
    refused(&boot(garbage, &[], &pin)?, &diagnosis)?;

    let network = Network::new()?;
    let (_old, _new) = (network.http(first.site()?)?, network.http_on(8081, second.site()?)?);
    let words = format!("rootbeam.image={URL},http://10.77.0.1:8081{PATH} {pin} rootbeam.verify=require");
    let booted = Boot::new(&archives::for_namespaces()?).cmdline(&words).nic(Nic::on(&network)).run()?;
    let world = booted.world()?;
    assert_clean(world)?;
    let report = report(world)?;
    let said = "pinned: the manifest has the SHA-256 of the command line, every chunk is as it says";
    equal(&report.verification.as_str(), &said)?;
    let image = report.image.context("no image in the report")?;
    equal(&(image.trust, image.manifest, image.version), &(Trust::Pinned, Some(expected), Some(2)))
}

fn misspelt() -> Result<()> {
    let publication = Publication::of_version(1)?;
    let hash = Sha256::of(&publication.bytes()?);
    for (word, expected) in [
        (format!("rootbeam.manifest={hash}"), "sha256: and 64 hexadecimal digits"),
        ("rootbeam.sha256=abc".to_owned(), "64 hexadecimal digits"),
        ("rootbeam.verify=yes".to_owned(), "require or default"),
    ] {
        let diagnosis = format!(
            "FAILED at settings: {word}: its value must be {expected}. Remedy: correct it on the kernel command line, \
             or in the file that was packed with `rootbeam pack --config`."
        );
        refused(&boot(publication.site()?, &[], &word)?, &diagnosis)?;
    }
    Ok(())
}

fn emulated() -> Result<()> {
    let ours = Pair::of("ours")?;
    let kernel = packages::kernel(Suite::Bookworm)?;
    let archive = archives::for_qemu_with(&kernel, &["--key", &ours.public(), "--min-version", "2"])?;
    let boot = |folder: &Path| -> Result<Booted> {
        let http = HttpServer::on_loopback(Site::new().folder(folder)?)?;
        let words = format!("rootbeam.image=http://{}:{}{PATH}", qemu::HOST, http.address().port());
        let words = format!("{words} rootbeam.on-failure=poweroff");
        qemu::Boot::new(&kernel, &archive).nic(qemu::Nic::user()).cmdline(&words).run()
    };
    let publication = Publication::of_version(2)?;
    let booted = boot(publication.0.path())?;
    ensure!(booted.world().is_err(), "an unsigned image booted");
    ensure!(booted.console.contains("it is not signed, and this initramfs has a key packed"), "{}", booted.console);
    let publication = publication.signed(&ours)?;
    boots_signed(&boot(publication.0.path())?, &publication.bytes()?, &[ours.id()?])
}
