//! The options about the network.

use super::super::boots::report;
use super::{PATH, SOON, URL, machine, probe};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_init::report::NetworkReport;
use rootbeam_qemu_tests::claim::{equal, row};
use rootbeam_qemu_tests::netns::{self, Dhcp, Guest, Network, Nic};
use rootbeam_qemu_tests::outcome::Booted;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

pub fn rows() -> Vec<Trial> {
    let row = |name, check: fn() -> Result<()>| row(name, &[netns::available], check);
    vec![
        row("matrix: rootbeam.net.carrier= waits for a cable that is plugged in late, and no longer", carrier),
        row("matrix: rootbeam.net.lease= waits for a DHCP server that comes late, and no longer", lease),
        row("matrix: ip= by DHCP in each form takes the link it names", ip_dynamic),
        row("matrix: ip= with an address in each form gives what it says", ip_static),
        row("matrix: BOOTIF= chooses the card in each spelling of its address", bootif),
        row("matrix: nameserver= is asked, and the booted system gets three at most", nameserver),
    ]
}

fn network_of(booted: &Booted) -> Result<NetworkReport> {
    report(booted.world()?)?.network.context("no network in the report")
}

/// The machine comes to its real init without a failure on the way, and is switched off.
fn goes_on(mut guest: Guest) -> Result<Booted> {
    let (probe, world) = guest.probe()?.with_context(|| guest.console().last_lines())?;
    equal(&report(&world)?.failures, &vec![])?;
    probe.power_off()?;
    guest.finish(Some(world))
}

/// A boot that ends by itself takes about `seconds`.
fn gives_up(guest: Guest, seconds: u64, said: &str) -> Result<()> {
    let begun = Instant::now();
    let booted = guest.finish(None)?;
    ensure!(booted.console.contains(said), "{}", booted.console);
    let took = begun.elapsed();
    ensure!((seconds..seconds + 8).contains(&took.as_secs()), "it took {took:?}");
    Ok(())
}

fn carrier() -> Result<()> {
    let network = Network::new()?;
    let _http = network.http(probe()?)?;
    let nic = || Nic::on(&network).unplugged();
    let guest = machine("rootbeam.net.carrier=30")?.nic(nic()).start()?;
    guest.console().wait_for("has no carrier", SOON)?;
    network.set_carrier(guest.port(0).context("no port")?, true)?;
    equal(&network_of(&goes_on(guest)?)?.link.as_str(), &"eth0")?;
    gives_up(machine("rootbeam.net.carrier=3")?.nic(nic()).start()?, 3, "eth0: no link has a carrier")
}

fn lease() -> Result<()> {
    let network = Network::silent()?;
    let _http = network.http(probe()?)?;
    let ask = |words: &str| machine(words)?.nic(Nic::on(&network)).start();
    gives_up(ask("rootbeam.net.lease=4")?, 4, "eth0: no DHCP server answered within 4 s")?;
    let guest = ask("rootbeam.net.lease=30")?;
    guest.console().wait_for("asking for an address on eth0", SOON)?;
    let network = network.dhcp(Dhcp::default())?;
    let booted = goes_on(guest)?;
    equal(&network_of(&booted)?.server, &Some(Ipv4Addr::new(10, 77, 0, 1)))?;
    drop(network);
    Ok(())
}

fn ip_dynamic() -> Result<()> {
    let (first, second) = (Network::new()?, Network::subnet(78)?.dhcp(Dhcp::default())?);
    let _http = (first.http(probe()?)?, second.http(probe()?)?);
    let other = format!("http://10.78.0.1{PATH}");
    // A forced link, where the other one would do as well; and without one the server that answers decides.
    for (words, url, link) in [
        ("ip=dhcp BOOTIF=01-52-54-00-00-00-b1", URL, "eth0"),
        ("ip=eth0:dhcp", URL, "eth0"),
        ("ip=eth1:dhcp", &*other, "eth1"),
        ("ip=eth0:dhcp ip=eth1:on", &*other, "eth1"),
        ("ip=::::node7:eth1:dhcp", &*other, "eth1"),
        ("ip=eth1:dhcp BOOTIF=01-52-54-00-00-00-b1", &*other, "eth1"),
    ] {
        let booted = machine(&format!("rootbeam.image={url} {words}"))?
            .nic(Nic::on(&first).mac("52:54:00:00:00:b1"))
            .nic(Nic::on(&second).mac("52:54:00:00:00:b2"))
            .run()?;
        let network = network_of(&booted).with_context(|| words.to_owned())?;
        equal(&(words, network.link.as_str()), &(words, link))?;
        if words.contains("node7") {
            equal(&booted.world()?.hostname.as_str(), &"node7")?;
        }
    }
    Ok(())
}

fn ip_static() -> Result<()> {
    let network = Network::silent()?;
    let _http = network.http(probe()?)?;
    let gateway = Ipv4Addr::new(10, 77, 0, 1);
    for (words, address, gateway, hostname, dns) in [
        ("ip=10.77.0.40:::255.255.255.0::eth0:none", 40, None, None, vec![]),
        ("ip=10.77.0.41::10.77.0.1:24::eth0:off", 41, Some(gateway), None, vec![]),
        ("ip=10.77.0.42::10.77.0.1:255.255.255.0:node:eth0:static:10.77.0.1", 42, Some(gateway), Some("node"), vec![1]),
        ("ip=10.77.0.43::10.77.0.1:24:::none:10.77.0.1:10.77.0.2", 43, Some(gateway), None, vec![1, 2]),
    ] {
        let booted = machine(words)?.nic(Nic::on(&network).mac("52:54:00:00:00:b3")).run()?;
        let found = network_of(&booted).with_context(|| words.to_owned())?;
        let expected = NetworkReport {
            link: "eth0".into(),
            mac: "52:54:00:00:00:b3".into(),
            address: Ipv4Addr::new(10, 77, 0, address),
            prefix: 24,
            gateway,
            dns: dns.iter().map(|&last| Ipv4Addr::new(10, 77, 0, last).into()).collect(),
            server: None,
            lease_seconds: None,
            hostname: hostname.map(str::to_owned),
        };
        equal(&found, &expected)?;
        let world = booted.world()?;
        let card = world.links.get("eth0").context("no eth0")?;
        ensure!(card.addresses.contains(&format!("10.77.0.{address}/24")), "{words}: {card:?}");
        let out = world.routes.iter().find(|route| route.to == "0.0.0.0/0").and_then(|route| route.via.as_deref());
        equal(&out, &gateway.map(|_| "10.77.0.1"))?;
    }
    Ok(())
}

fn bootif() -> Result<()> {
    let network = Network::new()?;
    let _http = network.http(probe()?)?;
    // As PXELINUX and iPXE write it, and in capitals.
    for address in ["01-52-54-00-00-ab-c2", "01-52-54-00-00-AB-C2"] {
        let booted = machine(&format!("BOOTIF={address}"))?
            .nic(Nic::on(&network).mac("52:54:00:00:ab:c1"))
            .nic(Nic::on(&network).mac("52:54:00:00:ab:c2"))
            .run()?;
        let found = network_of(&booted)?;
        equal(&(found.link.as_str(), found.mac.as_str()), &("eth1", "52:54:00:00:ab:c2"))?;
        let world = booted.world()?;
        let other = world.links.get("eth0").context("no eth0")?;
        ensure!(!other.addresses.iter().any(|address| address.contains('.')), "{other:?}");
    }
    Ok(())
}

fn nameserver() -> Result<()> {
    let network = Network::new()?;
    let _http = network.http(probe()?)?;
    let named = format!("rootbeam.image=http://boot.test{PATH}");
    let fixed = "ip=10.77.0.44:::24::eth0:none";
    for (words, servers) in [
        (format!("{named} {fixed} nameserver=10.77.0.1"), vec!["10.77.0.1"]),
        // In place of those of the lease; more than three are no use to resolv.conf(5).
        (
            format!("{named} nameserver=10.77.0.1 nameserver=10.77.0.8 nameserver=10.77.0.9 nameserver=10.77.0.10"),
            vec!["10.77.0.1", "10.77.0.8", "10.77.0.9"],
        ),
        (named.clone(), vec!["10.77.0.1"]),
    ] {
        let booted = machine(&words)?.nic(Nic::on(&network)).run()?;
        let found = network_of(&booted).with_context(|| words.clone())?.dns;
        let expected = servers.iter().map(|text| Ok(text.parse::<IpAddr>()?)).collect::<Result<Vec<_>>>()?;
        equal(&found, &expected)?;
        let text = booted.world()?.resolv_conf.clone().context("no resolv.conf")?;
        let listed: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("nameserver ")).collect();
        equal(&listed, &servers)?;
    }
    // Nobody to ask: the name stays unknown, and that is said.
    let words = format!("{named} {fixed} nameserver=10.77.0.99 rootbeam.timeout=8");
    let booted = machine(&words)?.nic(Nic::on(&network)).limit(Duration::from_secs(90)).run()?;
    ensure!(booted.world().is_err() && booted.console.contains("no name server answered"), "{}", booted.console);
    Ok(())
}
