//! Each way to trust: https with packed roots, manifests signed for packed keys.

use super::super::boots::{assert_clean, report};
use super::{PATH, diagnoses, probe};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_init::digest::Sha256;
use rootbeam_init::messages::Trust;
use rootbeam_qemu_tests::claim::{equal, row};
use rootbeam_qemu_tests::keep::Kept;
use rootbeam_qemu_tests::netns::{self, Boot, Network, Nic};
use rootbeam_qemu_tests::outcome::Booted;
use rootbeam_qemu_tests::servers::site::Site;
use rootbeam_qemu_tests::{archives, command, images, packages, places};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub fn rows() -> Vec<Trial> {
    let row = |name, check: fn() -> Result<()>| row(name, &[netns::available], check);
    vec![
        row("matrix: an image by https boots where its server's root is packed, and nowhere else", https),
        row("matrix: a signed manifest boots where its key is packed", signed),
        row("matrix: an unsigned manifest, a foreign key and an altered manifest are refused", not_signed),
    ]
}

/// A root certificate and a server's, made once: `NAME.pem` and `NAME.key` of `root`, `other` and `server`.
fn certificates() -> Result<PathBuf> {
    let folder = places::cache("tls")?.join("certificates");
    places::once(&folder, |half| {
        std::fs::create_dir(half)?;
        let openssl = |line: &str| {
            let mut words = line.split(' ');
            command::run(Command::new("openssl").current_dir(half).args(words.by_ref())).map(drop)
        };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc";
        for root in ["root", "other"] {
            openssl(&format!("req -x509 -days 3650 {key} -subj /CN={root} -keyout {root}.key -out {root}.pem"))?;
        }
        openssl(&format!("req -new {key} -subj /CN=boot.test -keyout server.key -out server.csr"))?;
        std::fs::write(half.join("names"), "subjectAltName=DNS:boot.test,IP:10.77.0.1\nbasicConstraints=CA:FALSE\n")?;
        openssl("x509 -req -in server.csr -CA root.pem -CAkey root.key -days 3650 -extfile names -out server.pem")
    })?;
    Ok(folder)
}

/// nginx on 443 of `network`'s server with the files of `folder`.
fn nginx(network: &Network, certificates: &Path, folder: &Path, scratch: &Path) -> Result<Kept> {
    let config = scratch.join("nginx.conf");
    let (here, there) = (scratch.display(), certificates.display());
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {here}/{name};\n"))
        .concat();
    std::fs::write(
        &config,
        format!(
            "daemon off; master_process off; pid {here}/pid; error_log stderr info; events {{}}\n\
             http {{\n{paths}access_log off;\nserver {{ listen 10.77.0.1:443 ssl; root {};\n\
             ssl_certificate {there}/server.pem; ssl_certificate_key {there}/server.key; }} }}\n",
            folder.display()
        ),
    )?;
    let mut command = Command::new(packages::file("nginx-light", "usr/sbin/nginx")?);
    command.arg("-p").arg(scratch).arg("-c").arg(&config).args(["-e", "stderr"]);
    let log = scratch.join("log");
    let nginx = network.namespace().enter(|| Kept::start(&command, &log))??;
    // The first line that it writes once its sockets listen.
    nginx.output().wait_for("getrlimit", Duration::from_secs(20))?;
    Ok(nginx)
}

fn https() -> Result<()> {
    let certificates = certificates()?;
    let folder = images::published(&images::probe()?, "probe.squashfs")?;
    // nginx gives up root's rights over files.
    command::run(Command::new("chmod").args(["-R", "a+rX"]).arg(folder.path()))?;
    let scratch = tempfile::tempdir()?;
    let network = Network::new()?;
    let _nginx = nginx(&network, &certificates, folder.path(), scratch.path())?;
    let boot = |arguments: &[&str], server: &str| -> Result<Booted> {
        let words = format!("rootbeam.image=https://{server}{PATH} rootbeam.on-failure=poweroff rootbeam.timeout=20");
        Boot::new(&archives::for_namespaces_with(arguments)?).nic(Nic::on(&network)).cmdline(&words).run()
    };
    let ca = |name: &str| certificates.join(format!("{name}.pem")).display().to_string();
    for server in ["10.77.0.1", "boot.test"] {
        let booted = boot(&["--ca", &ca("root")], server)?;
        let world = booted.world()?;
        assert_clean(world)?;
        let report = report(world)?;
        equal(&report.image.map(|image| image.sources), &Some(vec![format!("https://{server}{PATH}")]))?;
    }
    for arguments in [vec![], vec!["--ca".to_owned(), ca("other")]] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let booted = boot(&arguments, "boot.test")?;
        ensure!(booted.world().is_err(), "{arguments:?}: a server that nobody vouches for was believed");
        let said = diagnoses(&booted.console);
        ensure!(said.contains("certificate") && said.contains("--ca"), "{arguments:?}: {said}");
    }
    Ok(())
}

/// A key pair for minisign without a password, made once: `NAME.pub` and `NAME.key` in the folder.
fn key_pair(name: &str) -> Result<PathBuf> {
    let folder = places::cache("keys")?.join(name);
    places::once(&folder, |half| {
        std::fs::create_dir(half)?;
        let files = ["-p", "web.pub", "-s", "web.key"];
        command::run(Command::new("minisign").current_dir(half).args(["-G", "-W"]).args(files)).map(drop)
    })?;
    Ok(folder)
}

fn sign(folder: &Path, keys: &Path) -> Result<()> {
    let manifest = folder.join("probe.squashfs.manifest");
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
    sign(folder.path(), &ours)?;
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
    sign(by_another.path(), &foreign)?;
    sign(folder.path(), &ours)?;
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
