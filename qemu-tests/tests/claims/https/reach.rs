//! What goes along with requests, through which proxy, and the machine's own words in URLs.

use super::{Scene, URL, booted_from, refused, told_once};
use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use rootbeam_qemu_tests::claim::claim;
use rootbeam_qemu_tests::netns;
use rootbeam_qemu_tests::outcome::Booted;
use rootbeam_qemu_tests::servers::nginx::Nginx;
use rootbeam_qemu_tests::servers::tinyproxy::Tinyproxy;

pub fn claims() -> Vec<Trial> {
    let claim = |name, check: fn() -> Result<()>| claim(name, &[netns::available], check);
    vec![
        claim("https: header and token reach the server and no console, report or log", credentials),
        claim("https: credentials that go by plain http are warned of, without being shown", open),
        claim("https: header and token do not go along to the server of a redirect", redirected),
        claim("https: everything goes through the proxy, by http and by https", proxied),
        claim("https: a proxy that is not there is named as the cause", no_proxy),
        claim("https: a URL's words become the machine's own, and so it is reported", words),
        claim("https: a word that the machine has nothing for is named", no_word),
    ]
}

const HEADER: &str = "rootbeam.header=X-Node:s3cret-header";

/// Only who shows both gets anything.
const DEMANDING: &str = "if ($http_authorization != \"Bearer s3cret-token\") { return 401; }\n\
                         if ($http_x_node != s3cret-header) { return 403; }";

fn token(scene: &Scene) -> Result<String> {
    let path = scene.folder.path().join("token");
    std::fs::write(&path, "s3cret-token\n")?;
    Ok(path.display().to_string())
}

fn credentials() -> Result<()> {
    let scene = Scene::of("good.pem", DEMANDING)?;
    let token = token(&scene)?;
    let booted = scene.trusting(&["--token", &token], &format!("{HEADER} rootbeam.log=debug"))?;
    booted_from(&booted, URL)?;
    silent(&booted)?;
    let refusal = |answer: &str| {
        format!(
            "FAILED at image: {URL}: the server answered {answer}. Remedy: let the server's permissions allow the file \
             to be read."
        )
    };
    refused(&scene.trusting(&[], HEADER)?, &refusal("401 Unauthorized"))?;
    let booted = scene.trusting(&["--token", &token], "rootbeam.header=Host:s3cret-header")?;
    refused(&booted, &refusal("403 Forbidden"))?;
    silent(&booted)
}

fn open() -> Result<()> {
    let scene = Scene::quiet(netns::Dhcp::default())?;
    let start = || Nginx::start_with("10.77.0.1:80".parse()?, scene.folder.path(), DEMANDING);
    let _nginx = scene.network.namespace().enter(start)??;
    let url = "http://10.77.0.1/web.squashfs";
    let booted = scene.boot(&["--token", &token(&scene)?], &format!("{HEADER} rootbeam.image={url}"))?;
    booted_from(&booted, url)?;
    let warning = "the token or header for 10.77.0.1 can be read by everybody on the way: use https";
    told_once(&booted, warning)?;
    silent(&booted)
}

/// No secret stands where a person or a program of the booted system reads.
fn silent(booted: &Booted) -> Result<()> {
    let world = booted.world().ok();
    let report = world.and_then(|world| world.report.clone()).unwrap_or_default().to_string();
    let log = world.and_then(|world| world.boot_log.clone()).unwrap_or_default();
    for (what, text) in [("console", &booted.console), ("report", &report), ("boot.log", &log)] {
        ensure!(!text.contains("s3cret"), "{what}: {text}");
    }
    Ok(())
}

fn redirected() -> Result<()> {
    let scene = Scene::of("good.pem", "return 302 https://boot.test:8443$request_uri;")?;
    let [certificate, key] = ["good.pem", "server.key"].map(|name| scene.certificates.file(name));
    let bare = "if ($http_authorization$http_x_node) { return 403; }";
    let start = || Nginx::start_tls("10.77.0.1:8443".parse()?, scene.folder.path(), &certificate, &key, bare);
    let _other = scene.network.namespace().enter(start)??;
    booted_from(&scene.trusting(&["--token", &token(&scene)?], HEADER)?, URL).map(drop)
}

fn proxied() -> Result<()> {
    // The server hears nobody but the proxy, which runs on the same host.
    let scene = Scene::of("good.pem", "allow 10.77.0.1; deny all;")?;
    let address = "10.77.0.1:80".parse()?;
    let open = || Nginx::start_with(address, scene.folder.path(), "allow 10.77.0.1; deny all;");
    let _open = scene.network.namespace().enter(open)??;
    let proxy = Tinyproxy::start(scene.network.namespace(), "10.77.0.1:3128".parse()?)?;
    for (option, url, said) in [
        ("rootbeam.proxy", "https://10.77.0.1/web.squashfs", "CONNECT 10.77.0.1:443"),
        ("proxy", "http://10.77.0.1/web.squashfs", "GET http://10.77.0.1/web.squashfs HTTP/1.1"),
    ] {
        let words = format!("rootbeam.image={url} {option}=http://boot.test:3128");
        booted_from(&scene.trusting(&[], &words)?, url)?;
        ensure!(proxy.log().contains(said), "{}", proxy.log());
    }
    // Without it the server says no; and the environment, which the kernel makes of such words, names no proxy.
    let words = "http_proxy=http://boot.test:3128 https_proxy=http://boot.test:3128";
    let booted = scene.trusting(&[], words)?;
    ensure!(booted.console.contains("the server answered 403 Forbidden"), "{}", booted.console);
    ensure!(booted.world().is_err(), "the environment named the proxy");
    Ok(())
}

fn no_proxy() -> Result<()> {
    let scene = Scene::of("good.pem", "")?;
    let booted = scene.trusting(&[], "rootbeam.proxy=http://10.77.0.1:3128 rootbeam.timeout=3")?;
    ensure!(booted.world().is_err(), "it booted past the proxy");
    let said = "the proxy cannot be reached, or makes no connection to the server";
    ensure!(booted.console.contains(said) && booted.console.contains("check rootbeam.proxy="), "{}", booted.console);
    Ok(())
}

fn words() -> Result<()> {
    let scene = Scene::quiet(netns::Dhcp::default())?;
    let arch = std::env::consts::ARCH;
    let own = format!("{arch}/web7/52-54-00-00-00-77.squashfs");
    let place = scene.folder.path().join(&own);
    std::fs::create_dir_all(place.parent().unwrap_or(scene.folder.path()))?;
    for suffix in ["", ".manifest", ".chunks"] {
        let shared = scene.folder.path().join(format!("web.squashfs{suffix}"));
        std::fs::rename(shared, place.with_extension(format!("squashfs{suffix}")))?;
    }
    rootbeam_qemu_tests::command::run(
        std::process::Command::new("chmod").args(["-R", "a+rX"]).arg(scene.folder.path()),
    )?;
    let scene = scene.serve("good.pem", "")?;
    let words = "rootbeam.image=https://boot.test/{arch}/{hostname}/{mac}.squashfs ip=::::web7::dhcp";
    booted_from(&scene.trusting(&[], words)?, &format!("https://boot.test/{own}")).map(drop)
}

fn no_word() -> Result<()> {
    let scene = Scene::of("good.pem", "")?;
    let booted = scene.trusting(&[], "rootbeam.image=https://boot.test/{hostname}.squashfs")?;
    refused(
        &booted,
        "FAILED at settings: https://boot.test/{hostname}.squashfs: this machine has no {hostname}. Remedy: leave the \
         word out of rootbeam.image=, or give the machine what it stands for.",
    )
}
