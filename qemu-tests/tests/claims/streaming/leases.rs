//! A lease that comes to its renewal, or to its end, while the image is on its way: by then the link is the booted
//! system's too, and what that has set on it stays.

use super::super::boots::assert_clean;
use super::trouble::device;
use super::{PATH, RATE, Scene, alone, completion, identical};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_qemu_tests::claim::{equal, row};
use rootbeam_qemu_tests::images;
use rootbeam_qemu_tests::netns::{self, Dhcp, Guest, Network};
use rootbeam_qemu_tests::outcome::Outcome;
use rootbeam_qemu_tests::servers::dns::{DnsServer, Refusal};
use rootbeam_qemu_tests::servers::fault::{Fault, Rule, When};
use rootbeam_qemu_tests::servers::site::Site;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

/// Seconds; dnsmasq has no shorter ones.
const LEASE: u32 = 120;
/// Bytes of the image, and the one that does not come before it is let.
const SIZE: u64 = 16 << 20;
const HELD_BACK: u64 = SIZE - (1 << 20);
/// A lease's whole time, and that of its server's answer.
const PATIENCE: Duration = Duration::from_secs(LEASE as u64 + 30);

pub fn rows() -> Vec<Trial> {
    let beside = |name, check: fn(&mut Scene, &Guest) -> Result<()>| {
        row(name, &[netns::available], move || streamed_beside(check))
    };
    vec![
        beside("streaming: a renewed lease leaves the addresses that the booted system has added", added),
        beside("streaming: a renewed lease does not bring back the address that a network manager replaced", replaced),
        row("streaming: the name servers of a renewed lease are asked from then on", &[netns::available], names),
        beside("streaming: a lease that ends is asked for again, and its address alone is taken away", ended),
    ]
}

/// The addresses of the machine's card.
fn addresses(guest: &Guest) -> Result<Vec<String>> {
    let text = guest.namespace().ip("-4 -o address show dev eth0")?;
    Ok(text.lines().filter_map(|line| Some(line.split_whitespace().nth(3)?.to_owned())).collect())
}

/// The one that the machine has by DHCP.
fn leased(guest: &Guest) -> Result<String> {
    addresses(guest)?.pop().context("no address")
}

/// Waits until `found` is `expected` of the addresses.
fn wait_addresses(guest: &Guest, expected: impl Fn(&[String]) -> bool, what: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = addresses(guest)?;
        if expected(&found) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "not {what} after {PATIENCE:?}: {found:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits until the server has acknowledged the lease for the `nth` time.
fn wait_acknowledged(network: &Network, nth: usize) -> Result<()> {
    let server = network.dnsmasq().context("no DHCP server")?;
    let deadline = Instant::now() + PATIENCE;
    while server.log().matches("DHCPACK(lan)").count() < nth {
        ensure!(Instant::now() < deadline, "no lease was acknowledged {nth} times in {PATIENCE:?}:\n{}", server.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// A machine that streams an image of which a part does not come while `check` looks at it; then the image comes.
fn streamed_beside(check: fn(&mut Scene, &Guest) -> Result<()>) -> Result<()> {
    let network = Network::silent()?.dhcp(Dhcp { lease: LEASE, ..Dhcp::default() })?;
    streamed_on(network, "", check)
}

/// The same on `network` with more words on the command line.
fn streamed_on(
    network: Network,
    words: &'static str,
    check: impl FnOnce(&mut Scene, &Guest) -> Result<()>,
) -> Result<()> {
    let image = images::probe_of(SIZE, 11)?;
    let folder = images::published_bytes(&image, PATH.trim_start_matches('/'))?;
    let http = network.http(Site::new().folder(folder.path())?)?;
    let http =
        http.faults([Fault::Rate(RATE), Fault::StallAt(HELD_BACK)].map(|fault| Rule::of(PATH, When::Always, fault)));
    let mut scene = Scene { image, network, http, words, _folder: folder };
    let (guest, mut probe, _) = scene.boot()?;
    let checked = (|| -> Result<()> {
        let device = device(&mut probe)?;
        check(&mut scene, &guest)?;
        ensure!(!super::status(&mut probe)?.complete, "it was complete before the end of its lease");
        let before = addresses(&guest)?;
        scene.http.behave();
        scene.http.cut();
        completion(&mut probe)?;
        assert_clean(&alone(&mut probe)?)?;
        identical(&mut probe, &device, &scene.image)?;
        equal(&addresses(&guest)?, &before)
    })();
    checked.with_context(|| guest.console().last_lines())?;
    probe.power_off()?;
    equal(&guest.finish(None)?.outcome, &Outcome::PoweredOff)
}

/// An administrator's second address.
fn added(scene: &mut Scene, guest: &Guest) -> Result<()> {
    let ours = leased(guest)?;
    guest.namespace().ip("address add 10.77.0.60/24 dev eth0")?;
    wait_acknowledged(&scene.network, 2)?;
    // Nothing tells that the worker has taken the answer up.
    std::thread::sleep(Duration::from_secs(2));
    equal(&addresses(guest)?, &vec![ours, "10.77.0.60/24".to_owned()])
}

/// A manager whose client calls itself by another name (systemd-networkd by a DUID) gets another address, and removes the
/// one that it does not know.
fn replaced(scene: &mut Scene, guest: &Guest) -> Result<()> {
    let ours = leased(guest)?;
    // In this order: the kernel takes the later addresses of a network away with the first.
    guest.namespace().ip(&format!("address del {ours} dev eth0"))?;
    guest.namespace().ip("address add 10.77.0.60/24 dev eth0 valid_lft 3600 preferred_lft 3600")?;
    wait_acknowledged(&scene.network, 2)?;
    std::thread::sleep(Duration::from_secs(2));
    equal(&addresses(guest)?, &vec!["10.77.0.60/24".to_owned()])
}

/// The first name server is gone by then; the server is known by its name.
fn names() -> Result<()> {
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);
    let offering = |server: Ipv4Addr| Dhcp {
        lease: LEASE,
        names: Vec::new(),
        // dnsmasq itself answers no names.
        arguments: vec!["--port=0".to_owned(), format!("--dhcp-option=6,{server}")],
    };
    let names_at = |network: &Network, address: Ipv4Addr| {
        let socket = network.namespace().enter(|| UdpSocket::bind((address, 53)))?.context("no name server")?;
        DnsServer::serve(socket, &[SERVER], 0, Refusal::Silence)
    };
    let network = Network::silent()?.dhcp(offering(SERVER))?;
    network.namespace().ip(&format!("addr add {OTHER}/24 dev lan"))?;
    let (first, second) = (names_at(&network, SERVER)?, names_at(&network, OTHER)?);
    // The command line's last word counts.
    streamed_on(network, "rootbeam.image=http://boot.test/web.squashfs", |scene, _| {
        ensure!(first.queries() > 0 && second.queries() == 0, "the lease's name server was not asked");
        scene.network.stop_dhcp();
        let network = std::mem::replace(&mut scene.network, Network::subnet(78)?);
        scene.network = network.dhcp(offering(OTHER))?;
        drop(first);
        wait_acknowledged(&scene.network, 1)
    })?;
    ensure!(second.queries() > 0, "the renewed lease's name server was not asked");
    Ok(())
}

/// The server is away for the rest of the lease, with nobody else who looks after the link.
fn ended(scene: &mut Scene, guest: &Guest) -> Result<()> {
    let ours = leased(guest)?;
    // One of no network manager's: it keeps the link usable for nobody.
    guest.namespace().ip("address add 169.254.7.7/16 scope link dev eth0")?;
    scene.network.stop_dhcp();
    wait_addresses(guest, |found| !found.contains(&ours), "without the lease's address")?;
    equal(&addresses(guest)?, &vec!["169.254.7.7/16".to_owned()])?;
    let network = std::mem::replace(&mut scene.network, Network::silent()?);
    scene.network = network.dhcp(Dhcp { lease: LEASE, ..Dhcp::default() })?;
    wait_addresses(guest, |found| found.iter().any(|address| address.starts_with("10.77.0.1")), "a new lease")
}
