//! Where the time comes from.

use super::{Scene, URL, booted_from};
use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use rootbeam_init::access::time::{Clock, TimeServers};
use rootbeam_init::sys::machine::wall_clock;
use rootbeam_qemu_tests::claim::claim;
use rootbeam_qemu_tests::netns::{self, Dhcp, Namespace};
use rootbeam_qemu_tests::servers::time::{Chrony, fixed};
use std::net::SocketAddr;

pub fn claims() -> Vec<Trial> {
    let claim = |name, check: fn() -> Result<()>| claim(name, &[netns::available], check);
    vec![
        claim("https: where a certificate fails for time, the lease's time server is asked", of_lease),
        claim("https: rootbeam.ntp= names time servers, and the first that helps is believed", of_the_line),
        claim("https: the last server of a static ip= is a time server", of_the_address),
        claim("https: a time server that says a time before the build is not believed", before_the_build),
        claim("https: chrony is a time server", chrony),
    ]
}

/// 2041-01-01, when the certificate of the future is valid.
const THEN: u64 = 2_240_611_200;
/// Port 123 of the network's server.
const SERVER: &str = "10.77.0.1:123";
/// What a machine says that believed it.
const BELIEVED: &str = "the time server 10.77.0.1 says 2041-01-01 00:00:00 UTC, this machine's clock 20";

fn of_lease() -> Result<()> {
    let arguments = vec!["--dhcp-option=option:ntp-server,10.77.0.1".to_owned()];
    let scene = Scene::quiet(Dhcp { arguments, ..Dhcp::default() })?.serve("future.pem", "")?;
    scene.network.namespace().enter(|| fixed(SERVER.parse()?, THEN))??;
    let booted = scene.trusting(&[], "")?;
    booted_from(&booted, URL)?;
    ensure!(booted.console.matches(BELIEVED).count() == 1, "{}", booted.console);
    Ok(())
}

fn of_the_line() -> Result<()> {
    let scene = Scene::of("future.pem", "")?;
    scene.network.namespace().enter(|| fixed(SERVER.parse()?, THEN))??;
    // Nobody answers at the first.
    let booted = scene.trusting(&[], "rootbeam.ntp=10.77.0.9,boot.test")?;
    booted_from(&booted, URL)?;
    ensure!(booted.console.contains("the time server 10.77.0.9 is of no help"), "{}", booted.console);
    ensure!(booted.console.contains(BELIEVED), "{}", booted.console);
    Ok(())
}

fn of_the_address() -> Result<()> {
    let scene = Scene::of("future.pem", "")?;
    scene.network.namespace().enter(|| fixed(SERVER.parse()?, THEN))??;
    let fixed = "ip=10.77.0.40::10.77.0.1:24:::none:10.77.0.1:";
    ensure!(scene.trusting(&[], fixed)?.world().is_err(), "it needs no time server");
    let booted = scene.trusting(&[], &format!("{fixed}:10.77.0.1"))?;
    booted_from(&booted, URL)?;
    ensure!(booted.console.matches(BELIEVED).count() == 1, "{}", booted.console);
    Ok(())
}

fn before_the_build() -> Result<()> {
    let scene = Scene::of("expired.pem", "")?;
    // 2020-06-01: the certificate would be valid.
    scene.network.namespace().enter(|| fixed(SERVER.parse()?, 1_590_969_600))??;
    let booted = scene.trusting(&[], "rootbeam.ntp=10.77.0.1")?;
    ensure!(booted.world().is_err(), "it was believed");
    let said = "the time server 10.77.0.1 says 2020-06-01 00:00:00 UTC, which cannot be";
    ensure!(booted.console.contains(said), "{}", booted.console);
    ensure!(booted.console.contains("valid only until 2021-01-01"), "{}", booted.console);
    Ok(())
}

fn chrony() -> Result<()> {
    let namespace = Namespace::new()?;
    let address: SocketAddr = "127.0.0.1:123".parse()?;
    let _chrony = Chrony::start(&namespace, address)?;
    namespace.enter(|| {
        // Built a day ago.
        let clock = Clock::new(wall_clock().saturating_sub(86_400));
        ensure!(TimeServers::at(address).correct(&clock), "chrony did not help");
        ensure!(clock.now().abs_diff(wall_clock()) <= 2, "{} is not {}", clock.now(), wall_clock());
        Ok(())
    })?
}
