//! Real servers: Debian's nginx and the shipped `rootbeam serve`.

use super::{PATH, Published, SIZE, SOON, URL, Vouched, arrives, boots, machine};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_qemu_tests::archives;
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::command::run;
use rootbeam_qemu_tests::netns::{self, Boot, Network, Nic};
use rootbeam_qemu_tests::outcome::Outcome;
use rootbeam_qemu_tests::servers::nginx::Nginx;
use rootbeam_qemu_tests::servers::serve::Serve;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

pub fn claims() -> Vec<Trial> {
    let claim = |name, check: fn() -> Result<()>| claim(name, &[netns::available], check);
    vec![
        claim("fetching: nginx serves a boot", || nginx("")),
        claim("fetching: nginx that knows no ranges serves a boot", || nginx("max_ranges 0;")),
        claim("fetching: nginx that closes each connection after an answer serves a boot", || {
            nginx("keepalive_timeout 0;")
        }),
        claim("fetching: nginx that is killed and started again serves a boot", nginx_killed),
        claim("fetching: rootbeam serve serves a boot", rootbeam_serve),
        claim("fetching: rootbeam serve that is killed and started again serves a boot", rootbeam_serve_killed),
        claim("fetching: a redirect from https to http is refused, and called so", insecure),
        claim("fetching: a source that redirects from https to http leaves the boot to the other", insecure_of_two),
    ]
}

/// Where the servers of these claims listen.
fn address(port: u16) -> SocketAddr {
    ([10, 77, 0, 1], port).into()
}

fn nginx(directives: &str) -> Result<()> {
    let (image, network) = (Published::new(SIZE, 1)?, Network::new()?);
    let start = || Nginx::start_with(address(80), image.folder(), directives);
    let _nginx = network.namespace().enter(start)??;
    boots(&machine(&network, "")?, &image).map(drop)
}

fn rootbeam_serve() -> Result<()> {
    let (image, network) = (Published::new(SIZE, 1)?, Network::new()?);
    let server = network.namespace().enter(|| Serve::start(address(80), image.folder()))??;
    boots(&machine(&network, "")?, &image)?;
    ensure!(server.log().contains(PATH), "no request in the access log:\n{}", server.log());
    Ok(())
}

/// Kills a server in the middle of a download over a wire that gives it a middle, and starts another in its place.
fn killed<S: Send>(start: impl Fn(&Path) -> Result<S> + Sync) -> Result<()> {
    let (image, network) = (Published::new(SIZE, 1)?, Network::new()?);
    let start = || network.namespace().enter(|| start(image.folder()))?;
    let server = start()?;
    let words = format!("rootbeam.image={URL} rootbeam.on-failure=poweroff rootbeam.stall=2");
    let boot = Boot::new(&archives::for_namespaces()?).nic(Nic::on(&network).wire(8)).cmdline(&words).limit(SOON);
    let guest = boot.start()?;
    let before = guest.console().wait_for(" %), ", SOON)?;
    ensure!(!before.contains("(100 %)"), "the image was complete already: {before}");
    drop(server);
    guest.console().wait_for("; next try in ", SOON)?;
    let _server = start()?;
    let arrived = arrives(guest, &image)?;
    equal(&arrived.report.worker_restarts, &0)
}

fn nginx_killed() -> Result<()> {
    killed(|folder| Nginx::start(address(80), folder))
}

fn rootbeam_serve_killed() -> Result<()> {
    killed(|folder| Serve::start(address(80), folder))
}

/// A network where https://10.77.0.1 leads to http://10.77.0.1, and an archive that trusts its certificate.
struct Downgrade {
    image: Published,
    network: Network,
    archive: PathBuf,
    _folder: tempfile::TempDir,
    _nginx: Nginx,
}

impl Downgrade {
    fn new() -> Result<Self> {
        let (image, network) = (Published::new(SIZE, 1)?, Network::new()?);
        let folder = tempfile::tempdir()?;
        let [root, root_key, certificate, key] =
            ["root.pem", "root.key", "leaf.pem", "leaf.key"].map(|name| folder.path().join(name));
        let self_signed =
            ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "9"];
        let mut openssl = Command::new("openssl");
        openssl.args(self_signed).args(["-subj", "/CN=root", "-out"]).arg(&root);
        run(openssl.arg("-keyout").arg(&root_key))?;
        let mut openssl = Command::new("openssl");
        openssl.args(self_signed).args(["-subj", "/CN=leaf", "-addext", "subjectAltName=IP:10.77.0.1"]);
        openssl.args(["-addext", "basicConstraints=critical,CA:FALSE", "-CA"]).arg(&root).arg("-CAkey").arg(&root_key);
        run(openssl.arg("-out").arg(&certificate).arg("-keyout").arg(&key))?;
        let archive = archives::for_namespaces_with(&["--ca", root.to_str().context("not a path")?])?;
        let redirect = "return 302 http://10.77.0.1$request_uri;";
        let start = || Nginx::start_tls(address(443), image.folder(), &certificate, &key, redirect);
        let nginx = network.namespace().enter(start)??;
        Ok(Self { image, network, archive, _folder: folder, _nginx: nginx })
    }

    fn machine(&self, urls: &str) -> Boot<'_> {
        let words = format!("rootbeam.image={urls} rootbeam.on-failure=poweroff");
        Boot::new(&self.archive).nic(Nic::on(&self.network)).cmdline(&words).limit(SOON)
    }
}

fn insecure() -> Result<()> {
    let scene = Downgrade::new()?;
    let http = scene.network.http(scene.image.site(Vouched::Manifest)?)?;
    let url = format!("https://10.77.0.1{PATH}");
    let booted = scene.machine(&url).run()?;
    equal(&booted.outcome, &Outcome::PoweredOff)?;
    let expected = format!("FAILED at image: {url}: the server redirects in circles, or from https to http.");
    ensure!(booted.console.contains(&expected), "{}", booted.console);
    equal(&http.log(), &Vec::new())
}

fn insecure_of_two() -> Result<()> {
    let scene = Downgrade::new()?;
    let other = scene.network.http_on(81, scene.image.site(Vouched::Manifest)?)?;
    boots(&scene.machine(&format!("https://10.77.0.1{PATH},http://10.77.0.1:81{PATH}")), &scene.image)?;
    super::thrifty(other.sent(PATH), SIZE)
}
