//! Which certificates are believed, on both sides.

use super::{Scene, URL, booted_from, diagnoses, refused, told_once};
use crate::matrix::trust::{key_pair, sign};
use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use rootbeam_init::clock::Utc;
use rootbeam_init::digest::Sha256;
use rootbeam_init::sys::machine::wall_clock;
use rootbeam_qemu_tests::claim::claim;
use rootbeam_qemu_tests::netns;
use rootbeam_qemu_tests::servers::nginx::Nginx;

pub fn claims() -> Vec<Trial> {
    let claim = |name, check: fn() -> Result<()>| claim(name, &[netns::available], check);
    vec![
        claim("https: an image arrives over TLS 1.2 and over TLS 1.3, by name and by address", good),
        claim("https: one of several packed roots is enough, and without any no server is believed", roots),
        claim("https: a certificate for another name is refused", wrong_name),
        claim("https: an expired certificate and one of the future are refused with both times", wrong_time),
        claim("https: a pinned or signed image boots over an expired certificate, with a warning", pinned),
        claim("https: a pin helps neither an unknown root nor a wrong name", pinned_and_wrong),
        claim("https: a server that requires a client certificate gets the packed one", client),
        claim("https: a redirect to http is refused", redirect),
    ]
}

fn good() -> Result<()> {
    for version in ["TLSv1.2", "TLSv1.3"] {
        let scene = Scene::of("good.pem", &format!("ssl_protocols {version};"))?;
        for url in [URL, "https://10.77.0.1/web.squashfs"] {
            booted_from(&scene.trusting(&[], &format!("rootbeam.image={url}"))?, url)?;
        }
    }
    Ok(())
}

const NO_ROOT: &str = "FAILED at image: https://boot.test/web.squashfs: no trusted root has signed the server's \
                       certificate. Remedy: pack the root certificate with `rootbeam pack --ca PEM`.";

fn roots() -> Result<()> {
    let scene = Scene::of("good.pem", "")?;
    let other = scene.certificates.path("other.pem");
    booted_from(&scene.trusting(&["--ca", &other], "")?, URL)?;
    refused(&scene.boot(&["--ca", &other], "")?, NO_ROOT)?;
    refused(&scene.boot(&[], "")?, NO_ROOT)
}

const WRONG_NAME: &str = "FAILED at image: https://boot.test/web.squashfs: the server's certificate is for another \
                          name. Remedy: use the name that the certificate has.";

fn wrong_name() -> Result<()> {
    refused(&Scene::of("wrong.pem", "")?.trusting(&[], "")?, WRONG_NAME)
}

fn wrong_time() -> Result<()> {
    for (name, validity) in [
        ("expired.pem", "valid only until 2021-01-01 00:00:00 UTC"),
        ("future.pem", "valid only from 2040-01-01 00:00:00 UTC"),
    ] {
        let scene = Scene::of(name, "")?;
        let before = Utc(wall_clock()).to_string();
        let booted = scene.trusting(&[], "")?;
        let said = diagnoses(&booted.console).join("\n");
        let start =
            format!("FAILED at image: {URL}: the server's certificate is {validity}, and this machine's clock says ");
        // Such times sort as text.
        let clock = said.strip_prefix(&start).and_then(|rest| rest.split(". Remedy").next()).unwrap_or_default();
        ensure!(before.as_str() <= clock && clock <= Utc(wall_clock()).to_string().as_str(), "{name}: {said}");
        let remedy = "renew the certificate, or set the machine's clock: rootbeam.ntp= names a time server";
        refused(&booted, &format!("{start}{clock}. Remedy: {remedy}."))?;
    }
    Ok(())
}

const LET_PASS: &str = "it is let pass, since the image itself is verified by key or hash";

fn pinned() -> Result<()> {
    let scene = Scene::of("expired.pem", "")?;
    let hash = Sha256::of(&std::fs::read(scene.folder.path().join("web.squashfs"))?);
    let booted = scene.trusting(&[], &format!("rootbeam.sha256={hash}"))?;
    booted_from(&booted, URL)?;
    told_once(&booted, LET_PASS)?;
    let keys = key_pair("ours")?;
    sign(scene.folder.path(), "web.squashfs", &keys)?;
    let booted = scene.trusting(&["--key", &keys.join("web.pub").display().to_string()], "")?;
    ensure!(booted_from(&booted, URL)?.verification.starts_with("signed: "), "{}", booted.console);
    let warning =
        "the server's certificate is valid only until 2021-01-01 00:00:00 UTC, and this machine's clock says ";
    ensure!(booted.console.contains(warning) && booted.console.contains(LET_PASS), "{}", booted.console);
    Ok(())
}

fn pinned_and_wrong() -> Result<()> {
    let hash = |scene: &Scene| -> Result<String> {
        let image = std::fs::read(scene.folder.path().join("web.squashfs"))?;
        Ok(format!("rootbeam.sha256={}", Sha256::of(&image)))
    };
    let scene = Scene::of("wrong.pem", "")?;
    refused(&scene.trusting(&[], &hash(&scene)?)?, WRONG_NAME)?;
    let scene = Scene::of("expired.pem", "")?;
    refused(&scene.boot(&["--ca", &scene.certificates.path("other.pem")], &hash(&scene)?)?, NO_ROOT)
}

fn client() -> Result<()> {
    let scene = Scene::quiet(netns::Dhcp::default())?;
    let root = scene.certificates.path("root.pem");
    // Whoever shows no certificate by the root is answered 400 by nginx itself.
    let scene = scene.serve("good.pem", &format!("ssl_client_certificate {root}; ssl_verify_client on;"))?;
    let packed = |name: &str| ["pem", "key"].map(|kind| scene.certificates.path(&format!("{name}.{kind}")));
    let boot =
        |[certificate, key]: [String; 2]| scene.trusting(&["--client-cert", &certificate, "--client-key", &key], "");
    booted_from(&boot(packed("client"))?, URL)?;
    let diagnosis = format!("FAILED at image: {URL}: the server answered 400. Remedy: look at the server's log.");
    refused(&boot(packed("stranger"))?, &diagnosis)?;
    refused(&scene.trusting(&[], "")?, &diagnosis)
}

fn redirect() -> Result<()> {
    let scene = Scene::of("good.pem", "return 302 http://boot.test$request_uri;")?;
    let open = || Nginx::start("10.77.0.1:80".parse()?, scene.folder.path());
    let _open = scene.network.namespace().enter(open)??;
    let diagnosis = format!(
        "FAILED at image: {URL}: the server redirects in circles, or from https to http. Remedy: name the final URL in \
         rootbeam.image=."
    );
    refused(&scene.trusting(&[], "")?, &diagnosis)
}
