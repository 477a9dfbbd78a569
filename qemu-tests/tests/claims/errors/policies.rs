//! What follows a failure is what the operator chose.

use super::super::boots::report;
use super::{PATH, SOON, Scene, URL, diagnoses, machine, refused};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::images::{self, Tree};
use rootbeam_qemu_tests::netns::{self, Boot, Dhcp, Guest, Network, Nic};
use rootbeam_qemu_tests::outcome::{Booted, Outcome};
use rootbeam_qemu_tests::packages::{self, Suite};
use rootbeam_qemu_tests::servers::fault::{Fault, When};
use rootbeam_qemu_tests::servers::http::HttpServer;
use rootbeam_qemu_tests::servers::site::Site;
use rootbeam_qemu_tests::{archives, qemu};
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub fn claims() -> Vec<Trial> {
    let by_hand = "errors: on-failure=shell gives a shell on a serial console under QEMU";
    let under_qemu = claim(by_hand, &[qemu::available], shell_on_a_serial_console);
    let claim = |name, check: fn() -> Result<()>| claim(name, &[netns::available], check);
    vec![
        under_qemu,
        claim("errors: on-failure=reboot lets the diagnosis stand for its seconds, then restarts", reboot),
        claim("errors: on-failure=halt stops the machine and says so", halt),
        claim("errors: a failure that no waiting mends restarts the machine, when panic= says", by_panic),
        claim("errors: on-failure=shell without a packed shell says so and restarts", no_shell),
        claim("errors: on-failure=shell gives a shell, and the boot goes on when it ends", shell),
        claim(
            "errors: what the shell mends in the assembled root is booted, and nothing is fetched again",
            mended_by_hand,
        ),
        claim("errors: a server that is absent at first is waited for, and the machine boots by itself", late_server),
        claim(
            "errors: a DHCP server that is absent at first is waited for, and the machine boots by itself",
            late_dhcp,
        ),
        claim("errors: rootbeam.timeout= ends the wait for a server that never comes, with its last cause", timeout),
    ]
}

const NOT_FOUND: &str = "FAILED at image: http://10.77.0.1/web.squashfs: the server answered 404 Not Found. Remedy: \
                         correct the path in rootbeam.image=, or put the file there.";

/// A boot that fails by a missing image, and how long it took.
fn missing(words: &str) -> Result<(Booted, Duration)> {
    let begun = Instant::now();
    let booted = Scene::of(Site::new())?.machine(words)?.run()?;
    equal(&diagnoses(&booted.console).join("\n").as_str(), &NOT_FOUND)?;
    Ok((booted, begun.elapsed()))
}

fn reboot() -> Result<()> {
    let (booted, took) = missing("rootbeam.on-failure=reboot:2")?;
    equal(&booted.outcome, &Outcome::Restarted)?;
    ensure!(booted.console.contains("rebooting in 2 s"), "{}", booted.console);
    ensure!(took >= Duration::from_secs(2), "it took {took:?}");
    Ok(())
}

fn halt() -> Result<()> {
    let (booted, _) = missing("rootbeam.on-failure=halt")?;
    // In a namespace a halt looks like this too.
    equal(&booted.outcome, &Outcome::PoweredOff)?;
    ensure!(booted.console.contains("the machine stops here"), "{}", booted.console);
    Ok(())
}

fn by_panic() -> Result<()> {
    for (words, said, outcome) in [
        ("rootbeam.on-failure=retry panic=-1", "rebooting now", Outcome::Restarted),
        ("rootbeam.on-failure=retry panic=1", "rebooting in 1 s", Outcome::Restarted),
        ("rootbeam.on-failure=retry panic=0", "the machine stops here", Outcome::PoweredOff),
    ] {
        let (booted, _) = missing(words)?;
        ensure!(booted.console.contains(said), "{words}:\n{}", booted.console);
        equal(&booted.outcome, &outcome)?;
    }
    Ok(())
}

fn no_shell() -> Result<()> {
    let (booted, _) = missing("rootbeam.on-failure=shell panic=1")?;
    equal(&booted.outcome, &Outcome::Restarted)?;
    let said = "no shell was packed with this initramfs (rootbeam pack --shell)";
    ensure!(booted.console.contains(said), "{}", booted.console);
    ensure!(booted.console.contains("rebooting in 1 s"), "{}", booted.console);
    Ok(())
}

/// An archive with a shell.
fn with_shell() -> Result<PathBuf> {
    let busybox = packages::busybox()?;
    archives::for_namespaces_with(&["--shell", busybox.to_str().context("not a path")?])
}

fn shell() -> Result<()> {
    let archive = with_shell()?;
    let site = Site::new().file(PATH, &images::probe()?);
    let scene = Scene::of(site)?.fault(PATH, When::Always, Fault::Status(404));
    let mut guest = Boot::new(&archive)
        .nic(Nic::on(&scene.network))
        .cmdline(&format!("rootbeam.image={URL} rootbeam.on-failure=shell rootbeam.timeout=20"))
        .start()?;
    guest.console().wait_for("leave it with `exit`", SOON)?;
    guest.type_keys("echo it is $((6*7)); ls /run/rootbeam\n")?;
    guest.console().wait_for("it is 42", SOON)?;
    guest.console().wait_for("report.json", SOON)?;
    scene.http.behave();
    guest.type_keys("exit\n")?;
    let booted = goes_on(guest)?;
    let report = report(booted.world()?)?;
    equal(&report.failures.iter().map(ToString::to_string).collect::<Vec<_>>(), &vec![NOT_FOUND.to_owned()])
}

fn shell_on_a_serial_console() -> Result<()> {
    let kernel = packages::kernel(Suite::Bookworm)?;
    let busybox = packages::busybox()?;
    let archive = archives::for_qemu_with(&kernel, &["--shell", busybox.to_str().context("not a path")?])?;
    let site = Site::new().file(PATH, &images::probe()?);
    let http = HttpServer::on_loopback(site)?.fault(PATH, When::Always, Fault::Status(404));
    let url = format!("http://{}:{}{PATH}", qemu::HOST, http.address().port());
    let mut guest = qemu::Boot::new(&kernel, &archive)
        .nic(qemu::Nic::user())
        .cmdline(&format!("quiet rootbeam.image={url} rootbeam.on-failure=shell"))
        .start()?;
    let slow = Duration::from_secs(240);
    guest.console().wait_for("leave it with `exit`", slow)?;
    guest.console().wait_for("/ # ", slow)?;
    guest.type_keys("echo it is $((6*7))\r")?;
    guest.console().wait_for("it is 42", slow)?;
    http.behave();
    guest.type_keys("exit\r")?;
    let (probe, world) = guest.probe()?.context("the machine ended")?;
    probe.power_off()?;
    let booted = guest.finish(Some(world))?;
    equal(&booted.outcome, &Outcome::PoweredOff)?;
    equal(&report(booted.world()?)?.failures.len(), &1)
}

fn mended_by_hand() -> Result<()> {
    let image = Tree::root().file("sbin/init", 0o644, images::probe_program()?).squashfs("not-executable")?;
    let scene = Scene::of(Site::new().file(PATH, &image))?;
    let mut guest = Boot::new(&with_shell()?)
        .nic(Nic::on(&scene.network))
        .cmdline(&format!("rootbeam.image={URL} rootbeam.on-failure=shell"))
        .start()?;
    guest.console().wait_for("leave it with `exit`", SOON)?;
    guest.type_keys("chmod 755 /sysroot/sbin/init && exit\n")?;
    let booted = goes_on(guest)?;
    let failures = report(booted.world()?)?.failures;
    let [failure] = &failures[..] else { anyhow::bail!("{failures:?}") };
    ensure!(failure.cause.starts_with("/sbin/init is not executable (mode 0644)"), "{failure}");
    equal(&scene.http.sent(PATH), &std::fs::metadata(&image)?.len())
}

/// The machine comes to its real init, and is switched off.
fn goes_on(mut guest: Guest) -> Result<Booted> {
    let Some((probe, world)) = guest.probe()? else {
        anyhow::bail!("the machine ended:\n{}", guest.console().last_lines())
    };
    ensure!(world.other_processes().is_empty(), "{:?}", world.processes);
    probe.power_off()?;
    guest.finish(Some(world))
}

fn late_server() -> Result<()> {
    let network = Network::new()?;
    let guest = machine("rootbeam.on-failure=retry")?.nic(Nic::on(&network)).start()?;
    guest.console().wait_for("the server refused the connection; next try in", SOON)?;
    let image = images::probe()?;
    let http = network.http(Site::new().file(PATH, &image))?;
    let booted = goes_on(guest)?;
    equal(&report(booted.world()?)?.failures, &Vec::new())?;
    equal(&http.sent(PATH), &std::fs::metadata(&image)?.len())
}

fn late_dhcp() -> Result<()> {
    let network = Network::silent()?;
    let guest = machine("rootbeam.on-failure=retry rootbeam.net.lease=2")?
        .nic(Nic::on(&network).mac("52:54:00:00:00:91"))
        .start()?;
    guest.console().wait_for("trying again in", SOON)?;
    let network = network.dhcp(Dhcp::default())?;
    let _http = network.http(Site::new().file(PATH, &images::probe()?))?;
    let booted = goes_on(guest)?;
    let failures = report(booted.world()?)?.failures;
    let expected = "FAILED at network: eth0: no DHCP server answered within 2 s. Remedy: check the DHCP server and the \
                    VLAN of the port, or give an address with ip=.";
    ensure!(!failures.is_empty() && failures.iter().all(|failure| failure.to_string() == expected), "{failures:?}");
    Ok(())
}

fn timeout() -> Result<()> {
    let network = Network::new()?;
    let _http = network.http(Site::new())?.fault(PATH, When::Always, Fault::Status(503));
    let booted = machine("rootbeam.timeout=3")?.nic(Nic::on(&network)).run()?;
    refused(
        &booted,
        &format!(
            "FAILED at image: {URL}: the server answered 503 Service Unavailable, and the 3 s of rootbeam.timeout= are \
             over. Remedy: look at the server's log."
        ),
    )
}
