//! Several links, several servers, none of the usual services: the machine finds its way, or takes the one it was told.

use super::super::boots::report;
use super::{PATH, URL, machine};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_init::report::NetworkReport;
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::images;
use rootbeam_qemu_tests::netns::{self, Dhcp, Network, Nic};
use rootbeam_qemu_tests::outcome::Booted;
use rootbeam_qemu_tests::servers::site::Site;
use rootbeam_qemu_tests::world::World;
use std::net::Ipv4Addr;

pub fn claims() -> Vec<Trial> {
    let claim = |name, check: fn() -> Result<()>| claim(name, &[netns::available], check);
    vec![
        claim("errors: BOOTIF= chooses among two cards that both have a network", bootif),
        claim("errors: of two cards the one with a DHCP server wins", first_lease),
        claim("errors: ip= with an address needs no DHCP server", fixed_address),
        claim("errors: the image's server is found by its name", by_name),
        claim("errors: name servers in the image's own resolv.conf are kept, and the log says so", own_resolver),
        claim("errors: of several sources the first that lives gives the image", second_source),
    ]
}

fn network_of(booted: &Booted) -> Result<(&World, NetworkReport)> {
    let world = booted.world()?;
    Ok((world, report(world)?.network.context("no network in the report")?))
}

fn served(network: &Network) -> Result<rootbeam_qemu_tests::servers::http::HttpServer> {
    network.http(Site::new().file(PATH, &images::probe()?))
}

fn bootif() -> Result<()> {
    let (first, second) = (Network::subnet(77)?.dhcp(Dhcp::default())?, Network::subnet(78)?.dhcp(Dhcp::default())?);
    let _http = served(&second)?;
    let booted = machine("rootbeam.image=http://10.78.0.1/web.squashfs BOOTIF=01-52-54-00-00-00-a2")?
        .nic(Nic::on(&first).mac("52:54:00:00:00:a1"))
        .nic(Nic::on(&second).mac("52:54:00:00:00:a2"))
        .run()?;
    let (world, network) = network_of(&booted)?;
    equal(&(network.link.as_str(), network.mac.as_str()), &("eth1", "52:54:00:00:00:a2"))?;
    equal(&network.server, &Some(Ipv4Addr::new(10, 78, 0, 1)))?;
    let routes: Vec<_> = world.routes.iter().map(|route| (route.link.as_str(), route.to.as_str())).collect();
    equal(&routes, &vec![("eth1", "0.0.0.0/0"), ("eth1", "10.78.0.0/24")])?;
    let log = first.dnsmasq().context("no DHCP server")?.log();
    ensure!(!log.contains("DHCPDISCOVER"), "the other card was asked on too: {log}");
    Ok(())
}

fn first_lease() -> Result<()> {
    let (silent, second) = (Network::subnet(77)?, Network::subnet(78)?.dhcp(Dhcp::default())?);
    let _http = served(&second)?;
    let booted =
        machine("rootbeam.image=http://10.78.0.1/web.squashfs")?.nic(Nic::on(&silent)).nic(Nic::on(&second)).run()?;
    let (world, network) = network_of(&booted)?;
    equal(&network.link.as_str(), &"eth1")?;
    let other = world.links.get("eth0").context("no eth0")?;
    ensure!(!other.addresses.iter().any(|address| address.contains('.')), "{other:?}");
    Ok(())
}

fn fixed_address() -> Result<()> {
    let silent = Network::silent()?;
    let _http = served(&silent)?;
    let words = "ip=10.77.0.50::10.77.0.1:255.255.255.0:web1:eth0:none:10.77.0.1";
    let booted = machine(words)?.nic(Nic::on(&silent).mac("52:54:00:00:00:a3")).run()?;
    let (world, network) = network_of(&booted)?;
    let expected = NetworkReport {
        link: "eth0".into(),
        mac: "52:54:00:00:00:a3".into(),
        address: Ipv4Addr::new(10, 77, 0, 50),
        prefix: 24,
        gateway: Some(Ipv4Addr::new(10, 77, 0, 1)),
        dns: vec![Ipv4Addr::new(10, 77, 0, 1).into()],
        server: None,
        lease_seconds: None,
        hostname: Some("web1".into()),
    };
    equal(&network, &expected)?;
    equal(&world.hostname.as_str(), &"web1")?;
    let card = world.links.get("eth0").context("no eth0")?;
    ensure!(card.addresses.iter().any(|address| address == "10.77.0.50/24"), "{card:?}");
    Ok(())
}

fn by_name() -> Result<()> {
    let network = Network::new()?;
    let _http = served(&network)?;
    let booted = machine("rootbeam.image=http://boot.test/web.squashfs")?.nic(Nic::on(&network)).run()?;
    let report = report(booted.world()?)?;
    equal(&report.image.map(|image| image.sources), &Some(vec!["http://boot.test/web.squashfs".to_owned()]))
}

fn own_resolver() -> Result<()> {
    const OWN: &str = "nameserver 127.0.0.53\n";
    let network = Network::new()?;
    let image = images::probe_tree()?.file("etc/resolv.conf", 0o644, OWN).squashfs("own-resolver")?;
    let _http = network.http(Site::new().file(PATH, &image))?;
    let booted = machine("")?.nic(Nic::on(&network)).run()?;
    let world = booted.world()?;
    equal(&world.resolv_conf.as_deref(), &Some(OWN))?;
    let said = "name servers: the image's own /etc/resolv.conf is kept, since it is not empty";
    ensure!(world.boot_log.as_deref().is_some_and(|log| log.contains(said)), "{}", booted.console);
    Ok(())
}

fn second_source() -> Result<()> {
    let network = Network::new()?;
    let http = served(&network)?;
    let booted =
        machine(&format!("rootbeam.image=http://10.77.0.1:81/web.squashfs,{URL}"))?.nic(Nic::on(&network)).run()?;
    let report = report(booted.world()?)?;
    equal(&report.failures, &Vec::new())?;
    let said = "http://10.77.0.1:81/web.squashfs: the server refused the connection";
    ensure!(booted.console.contains(said), "{}", booted.console);
    equal(&http.sent(PATH), &std::fs::metadata(images::probe()?)?.len())
}
