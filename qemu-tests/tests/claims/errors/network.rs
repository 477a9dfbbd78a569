//! No network, or no server.

use super::{PATH, SOON, Scene, URL, machine, refused};
use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use rootbeam_qemu_tests::claim::claim;
use rootbeam_qemu_tests::netns::{self, Boot, Dhcp, Network, Nic};
use rootbeam_qemu_tests::servers::fault::{Fault, When};
use rootbeam_qemu_tests::servers::site::Site;
use rootbeam_qemu_tests::{archives, images};

pub fn claims() -> Vec<Trial> {
    let claim = |name, check: fn() -> Result<()>| claim(name, &[netns::available], check);
    vec![
        claim("errors: a machine without a network card says so and names the packer's option", no_card),
        claim("errors: a machine without a link whose modules are of another kernel is told of these", other_kernel),
        claim("errors: a card without carrier is named, with cable and switch port as the remedy", no_carrier),
        claim("errors: a network without a DHCP server is told from one without a carrier", no_lease),
        claim("errors: a name that the name server does not know is told from one that does not answer", no_name),
        claim("errors: a server that refuses the connection is named with cause, remedy and pause", refused_connection),
        claim("errors: a server that answers 404 ends the boot with the URL and the remedy", || status(404)),
        claim("errors: a server that answers 403 is told from one that answers 404", || status(403)),
    ]
}

fn no_card() -> Result<()> {
    refused(
        &machine("rootbeam.net.carrier=1")?.run()?,
        "FAILED at network: network: this machine shows no Ethernet link. Remedy: pack the driver of its network card \
         (rootbeam pack --include-module NAME, or --preset generic).",
    )
}

fn other_kernel() -> Result<()> {
    let archive = archives::for_namespaces_of("6.1.0-56", &[])?;
    let words = format!("rootbeam.image={URL} rootbeam.on-failure=poweroff rootbeam.net.carrier=1");
    let running = rustix::system::uname().release().to_string_lossy().into_owned();
    let diagnosis = format!(
        "FAILED at network: network: this machine shows no Ethernet link: this initramfs has modules for kernel 6.1.0-56, \
         and kernel {running} is running. Remedy: pack it again with the modules of that kernel."
    );
    refused(&Boot::new(&archive).cmdline(&words).run()?, &diagnosis)
}

fn no_carrier() -> Result<()> {
    let network = Network::new()?;
    refused(
        &machine("rootbeam.net.carrier=1")?.nic(Nic::on(&network).unplugged()).run()?,
        "FAILED at network: eth0: no link has a carrier. Remedy: check cable, switch port and driver; \
         rootbeam.net.carrier=SECONDS waits longer.",
    )
}

fn no_lease() -> Result<()> {
    let network = Network::silent()?;
    refused(
        &machine("rootbeam.net.lease=3")?.nic(Nic::on(&network)).run()?,
        "FAILED at network: eth0: no DHCP server answered within 3 s. Remedy: check the DHCP server and the VLAN of \
         the port, or give an address with ip=.",
    )
}

fn no_name() -> Result<()> {
    // dnsmasq has no server to ask, and refuses names for which it is not responsible.
    let arguments = vec!["--local=/test/".to_owned()];
    let network = Network::silent()?.dhcp(Dhcp { arguments, ..Dhcp::default() })?;
    refused(
        &machine("rootbeam.image=http://nowhere.test/web.squashfs")?.nic(Nic::on(&network)).run()?,
        "FAILED at image: http://nowhere.test/web.squashfs: the name server knows no such name. Remedy: correct the \
         name in rootbeam.image=, or the name server's entry for it.",
    )?;
    let guest = machine("rootbeam.image=http://elsewhere.example/web.squashfs")?.nic(Nic::on(&network)).start()?;
    let console = guest.console().wait_for("nameserver=.", SOON)?;
    warned(
        &console,
        "http://elsewhere.example/web.squashfs: no name server answered",
        "check the name server of the lease, or give one with nameserver=",
    )
}

/// A passing failure stands on the console with what to do about it, once.
fn warned(console: &str, cause: &str, remedy: &str) -> Result<()> {
    let (begin, end) = (format!("image: {cause}; next try in "), format!(" s. Remedy: {remedy}."));
    let times = console.lines().filter(|line| line.contains(&begin) && line.ends_with(&end)).count();
    ensure!(times == 1, "the remedy stands {times} times:\n{console}");
    Ok(())
}

fn refused_connection() -> Result<()> {
    let network = Network::new()?;
    let booted = machine("rootbeam.timeout=4")?.nic(Nic::on(&network)).run()?;
    let remedy = "start the web server, or correct the port in rootbeam.image=";
    warned(&booted.console, &format!("{URL}: the server refused the connection"), remedy)?;
    let tries = booted.console.matches("the server refused the connection; next try in ").count();
    ensure!(tries > 1, "it was tried {tries} times:\n{}", booted.console);
    refused(
        &booted,
        &format!(
            "FAILED at image: {URL}: the server refused the connection, and the 4 s of rootbeam.timeout= are over. \
             Remedy: {remedy}."
        ),
    )
}

fn status(status: u16) -> Result<()> {
    let scene = Scene::of(Site::new().file(PATH, &images::probe()?))?.fault(PATH, When::Always, Fault::Status(status));
    let booted = scene.machine("")?.run()?;
    let (name, remedy) = match status {
        403 => ("Forbidden", "let the server's permissions allow the file to be read"),
        _ => ("Not Found", "correct the path in rootbeam.image=, or put the file there"),
    };
    refused(&booted, &format!("FAILED at image: {URL}: the server answered {status} {name}. Remedy: {remedy}."))
}
