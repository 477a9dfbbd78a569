//! Several links with a lease, of which one leads to the image.

use super::super::boots::report;
use super::super::streaming::completion;
use super::{PATH, SOON, machine, refused};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_init::report::Report;
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::images;
use rootbeam_qemu_tests::netns::{self, Boot, Dhcp, Guest, Network, Nic};
use rootbeam_qemu_tests::outcome::Outcome;
use rootbeam_qemu_tests::servers::fault::{Fault, Rule, When};
use rootbeam_qemu_tests::servers::site::Site;
use std::time::{Duration, Instant};

pub fn claims() -> Vec<Trial> {
    let claim = |name, check: fn() -> Result<()>| claim(name, &[netns::available], check);
    vec![
        claim("errors: a link whose lease leads to no server gives way to the link that the image comes by", || {
            turns_to_the_second(Network::new()?, "http://10.78.0.1", "")
        }),
        claim("errors: a link whose name server does not know the server's name gives way as well", || {
            turns_to_the_second(
                nameless(77)?,
                "http://boot.test",
                "http://boot.test/web.squashfs: the name server knows",
            )
        }),
        claim("errors: a link that fails gives way again to one whose server was only late", late),
        claim("errors: the next link's own address stands in the image's URL", filled_anew),
        claim("errors: a link whose lease lacks a word of the image's URL gives way to one that has it", wordless),
        claim("errors: a lease that is lost while the root is made is followed by one that leads to the image", lost),
        claim("errors: a boot that fails by each of its links says so once", in_vain),
        claim("errors: a link that the operator chose is kept, and so is the only one", kept),
    ]
}

/// Leases by which the server's name is not known.
fn unnamed() -> Dhcp {
    Dhcp { arguments: vec!["--local=/test/".to_owned()], names: Vec::new(), ..Dhcp::default() }
}

fn nameless(subnet: u8) -> Result<Network> {
    Network::subnet(subnet)?.dhcp(unnamed())
}

fn site() -> Result<Site> {
    Ok(Site::new().file(PATH, &images::probe()?))
}

/// The second network's DHCP server comes when the first one's has given its lease.
fn turns_to_the_second(first: Network, server: &str, said: &str) -> Result<()> {
    let second = Network::subnet(78)?;
    let _http = second.http(site()?)?;
    let guest =
        machine(&format!("rootbeam.image={server}{PATH}"))?.nic(Nic::on(&first)).nic(Nic::on(&second)).start()?;
    guest.console().wait_for("eth0 has 10.77.0.", SOON)?;
    let _second = second.dhcp(Dhcp::default())?;
    boots_by_the_second(guest, said)
}

fn boots_by_the_second(mut guest: Guest, said: &str) -> Result<()> {
    let (probe, world) = guest.probe()?.with_context(|| guest.console().last_lines())?;
    probe.power_off()?;
    let console = guest.finish(Some(world.clone()))?.console;
    let report = report(&world)?;
    let network = report.network.as_ref().context("no network in the report")?;
    equal(&(network.link.as_str(), &network.address.octets()[..3]), &("eth1", &[10, 78, 0][..]))?;
    let addresses = |name: &str| -> Result<Vec<String>> {
        let link = world.links.get(name).with_context(|| format!("no {name}"))?;
        Ok(link.addresses.iter().filter(|address| address.contains('.')).cloned().collect())
    };
    equal(&addresses("eth0")?, &vec![])?;
    equal(&addresses("eth1")?, &vec![format!("{}/24", network.address)])?;
    let strange: Vec<_> = world.routes.iter().filter(|route| route.link != "eth1").collect();
    ensure!(!world.routes.is_empty() && strange.is_empty(), "{:?}", world.routes);
    equal(&world.resolv_conf.as_deref(), &Some("# written by rootbeam\nnameserver 10.78.0.1\n"))?;
    equal(&turns(&report)?, &vec![("eth0", "eth1")])?;
    equal(&(report.failures.len(), report.worker_restarts), &(0, 0))?;
    ensure!(console.contains(said) && console.contains("the boot turns to eth1"), "{console}");
    Ok(())
}

/// The turns that a report tells, from which link to which.
fn turns(report: &Report) -> Result<Vec<(&str, &str)>> {
    let told = report.warnings.iter().filter_map(|text| text.split_once(": the boot turns to "));
    told.map(|(why, next)| {
        let silent =
            why.strip_prefix("no source of the image answered by way of ").and_then(|why| why.split_once(" in "));
        let link = silent.map(|(link, _)| link).or_else(|| why.strip_suffix(" does not lead to the image"));
        Ok((link.with_context(|| why.to_owned())?, next))
    })
    .collect()
}

/// The first link is the right one, and its server comes when the boot has turned to the other, which has no way to it.
fn late() -> Result<()> {
    let (first, second) = (Network::new()?, Network::subnet(78)?);
    let mut guest = machine("rootbeam.image=http://boot.test/web.squashfs rootbeam.stall=2")?
        .nic(Nic::on(&first))
        .nic(Nic::on(&second))
        .start()?;
    guest.console().wait_for("eth0 has 10.77.0.", SOON)?;
    let _second = second.dhcp(unnamed())?;
    guest.console().wait_for("the boot turns to eth1", SOON)?;
    let _http = first.http(site()?)?;
    let (probe, world) = guest.probe()?.with_context(|| guest.console().last_lines())?;
    probe.power_off()?;
    let report = report(&world)?;
    equal(&turns(&report)?, &vec![("eth0", "eth1"), ("eth1", "eth0")])?;
    equal(&report.network.as_ref().map(|network| network.link.as_str()), &Some("eth0"))?;
    equal(&(report.failures.len(), report.worker_restarts), &(0, 0))?;
    equal(&world.resolv_conf.as_deref(), &Some("# written by rootbeam\nnameserver 10.77.0.1\n"))?;
    equal(&guest.finish(Some(world))?.outcome, &Outcome::PoweredOff)
}

fn wordless() -> Result<()> {
    const MAC: &str = "52:54:00:00:00:e4";
    let (first, second) = (Network::new()?, Network::subnet(78)?);
    let _http = second.http(Site::new().file("/web4", &images::probe()?))?;
    let words = "rootbeam.image=http://10.78.0.1/{hostname}";
    let guest = machine(words)?.nic(Nic::on(&first)).nic(Nic::on(&second).mac(MAC)).start()?;
    guest.console().wait_for("eth0 has 10.77.0.", SOON)?;
    let _second = second.dhcp(Dhcp { arguments: vec![format!("--dhcp-host={MAC},web4")], ..Dhcp::default() })?;
    boots_by_the_second(guest, "http://10.78.0.1/{hostname}: this machine has no {hostname}")?;
    // By none of them: it says so, and does not wait for more.
    let third = Network::subnet(79)?.dhcp(Dhcp::default())?;
    let booted = machine(words)?.nic(Nic::on(&first)).nic(Nic::on(&third)).run()?;
    refused(
        &booted,
        "FAILED at settings: http://10.78.0.1/{hostname}: this machine has no {hostname}. Remedy: leave the word out of \
         rootbeam.image=, or give the machine what it stands for.",
    )?;
    equal(&booted.console.matches("the boot turns to ").count(), &1)
}

/// The image comes by eth0 until that is pulled out; eth1 leads nowhere, and eth2 to another server that has the image.
fn lost() -> Result<()> {
    let (first, second, third) = (Network::new()?, Network::subnet(78)?.dhcp(unnamed())?, Network::subnet(79)?);
    let image = images::published(&images::probe_with_noise(8 << 20)?, PATH.trim_start_matches('/'))?;
    let http = first.http(Site::new().folder(image.path())?)?;
    http.commit(Rule::of(PATH, When::Always, Fault::Rate(64 << 10)));
    let _other = third.http(Site::new().folder(image.path())?)?;
    let words = "rootbeam.image=http://boot.test/web.squashfs rootbeam.mode=stream rootbeam.stall=2";
    let nics = [Nic::on(&first), Nic::on(&second).unplugged(), Nic::on(&third).unplugged()];
    let mut guest = nics.into_iter().fold(machine(words)?, Boot::nic).start()?;
    guest.console().wait_for("squashfs on /dev/loop", SOON)?;
    guest.namespace().ip("link delete eth0")?;
    second.set_carrier(guest.port(1).context("no port")?, true)?;
    guest.console().wait_for("eth0 has no lease any more: the boot goes on by eth1", SOON)?;
    third.set_carrier(guest.port(2).context("no port")?, true)?;
    let _third = third.dhcp(Dhcp::default())?;
    guest.console().wait_for("the boot turns to eth2", SOON)?;
    let (mut probe, world) = guest.probe()?.with_context(|| guest.console().last_lines())?;
    let report = report(&world)?;
    equal(&report.network.as_ref().map(|network| network.link.as_str()), &Some("eth2"))?;
    let told = report.warnings.iter().filter(|text| text.contains("the boot ")).collect::<Vec<_>>();
    let ended = "eth0 has no lease any more: the boot goes on by eth1";
    ensure!(
        matches!(*told, [first, second] if first == ended && second.ends_with(": the boot turns to eth2")),
        "{told:?}"
    );
    equal(&world.resolv_conf.as_deref(), &Some("# written by rootbeam\nnameserver 10.79.0.1\n"))?;
    equal(&report.failures.len(), &0)?;
    completion(&mut probe)?;
    probe.power_off()?;
    equal(&guest.finish(Some(world))?.outcome, &Outcome::PoweredOff)
}

fn filled_anew() -> Result<()> {
    let (first, second) = (Network::new()?, Network::subnet(78)?);
    let _http = second.http(Site::new().file("/52-54-00-00-00-e2", &images::probe()?))?;
    let guest = machine("rootbeam.image=http://10.78.0.1/{mac}")?
        .nic(Nic::on(&first).mac("52:54:00:00:00:e1"))
        .nic(Nic::on(&second).mac("52:54:00:00:00:e2"))
        .start()?;
    guest.console().wait_for("eth0 has 10.77.0.", SOON)?;
    let _second = second.dhcp(Dhcp::default())?;
    boots_by_the_second(guest, "")
}

fn in_vain() -> Result<()> {
    let (first, second) = (nameless(77)?, nameless(78)?);
    let booted =
        machine("rootbeam.image=http://boot.test/web.squashfs")?.nic(Nic::on(&first)).nic(Nic::on(&second)).run()?;
    refused(
        &booted,
        "FAILED at image: http://boot.test/web.squashfs: the name server knows no such name. Remedy: correct the name \
         in rootbeam.image=, or the name server's entry for it.",
    )?;
    let turns = booted.console.matches("the boot turns to ").count();
    ensure!(turns == 1, "{turns} turns:\n{}", booted.console);
    Ok(())
}

fn kept() -> Result<()> {
    let (first, second) = (nameless(77)?, Network::subnet(78)?.dhcp(Dhcp::default())?);
    let _http = second.http(site()?)?;
    let url = "rootbeam.image=http://boot.test/web.squashfs";
    let diagnosis = "FAILED at image: http://boot.test/web.squashfs: the name server knows no such name. Remedy: \
                     correct the name in rootbeam.image=, or the name server's entry for it.";
    let chosen = machine(&format!("{url} BOOTIF=01-52-54-00-00-00-e1"))?
        .nic(Nic::on(&first).mac("52:54:00:00:00:e1"))
        .nic(Nic::on(&second));
    for boot in [chosen, machine(url)?.nic(Nic::on(&first))] {
        let begun = Instant::now();
        let booted = boot.run()?;
        refused(&booted, diagnosis)?;
        ensure!(begun.elapsed() < Duration::from_secs(8), "nothing is to be waited for: {:?}", begun.elapsed());
        ensure!(!booted.console.contains("the boot turns to "), "{}", booted.console);
    }
    // Whoever waits for a server keeps the lease meanwhile.
    let only = Network::new()?;
    let guest = machine("rootbeam.stall=2")?.nic(Nic::on(&only)).start()?;
    guest.console().wait_for("eth0 has 10.77.0.", SOON)?;
    // The time itself is what is tried here: a link's turn, and more.
    std::thread::sleep(Duration::from_secs(13));
    let _http = only.http(site()?)?;
    let mut guest = guest;
    let (probe, world) = guest.probe()?.with_context(|| guest.console().last_lines())?;
    probe.power_off()?;
    equal(&report(&world)?.warnings.iter().filter(|text| text.contains("turns to")).count(), &0)?;
    let asked = only.dnsmasq().context("no DHCP server")?.log().matches("DHCPDISCOVER(").count();
    equal(&asked, &1)
}
