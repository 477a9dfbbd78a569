//! The options about drivers, and what the kernel itself asks for.

use super::super::boots::assert_clean;
use super::{SOON, host, probe};
use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use rootbeam_qemu_tests::claim::{equal, row};
use rootbeam_qemu_tests::outcome::{Booted, Outcome};
use rootbeam_qemu_tests::packages::{self, Suite};
use rootbeam_qemu_tests::probe::{Answer, Request};
use rootbeam_qemu_tests::servers::site::Site;
use rootbeam_qemu_tests::{archives, qemu};
use std::time::Duration;

pub fn rows() -> Vec<Trial> {
    let row = |name, check: fn() -> Result<()>| row(name, &[qemu::available], check);
    vec![
        row("matrix: modprobe.blacklist= and rd.driver.blacklist= keep a driver out", blacklist),
        row("matrix: MODULE.PARAMETER= reaches the modules that are loaded", parameters),
        row("matrix: the kernel's own request for a module is answered", request),
    ]
}

/// Boots a machine with a virtio and an e1000 card.
fn two_cards(words: &str) -> Result<Booted> {
    let kernel = packages::kernel(Suite::Bookworm)?;
    let (_http, image) = host(probe()?)?;
    qemu::Boot::new(&kernel, &archives::for_qemu(&kernel)?)
        .nic(qemu::Nic::user())
        .nic(qemu::Nic::silent().model("e1000"))
        .cmdline(&format!("{image} {words}"))
        .run()
}

fn blacklist() -> Result<()> {
    for (words, kept_out) in [
        ("", vec![]),
        ("modprobe.blacklist=e1000", vec!["e1000"]),
        ("rd.driver.blacklist=floppy,e1000 modprobe.blacklist=virtio-rng", vec!["e1000", "virtio_rng"]),
    ] {
        let booted = two_cards(words)?;
        let world = booted.world()?;
        assert_clean(world)?;
        for module in ["virtio_net", "e1000", "virtio_rng"] {
            let loaded = world.modules.iter().any(|name| name == module);
            // The random numbers' driver is in no archive; that it is not there proves nothing.
            ensure!(
                module == "virtio_rng" || loaded != kept_out.contains(&module),
                "{words}: {module} in {:?}",
                world.modules
            );
        }
        // Without its driver the second card is no link.
        equal(&world.links.contains_key("eth1"), &!kept_out.contains(&"e1000"))?;
    }
    Ok(())
}

fn parameters() -> Result<()> {
    let kernel = packages::kernel(Suite::Bookworm)?;
    let (_http, image) = host(probe()?)?;
    let mut guest = qemu::Boot::new(&kernel, &archives::for_qemu(&kernel)?)
        .nic(qemu::Nic::user())
        .cmdline(&format!("{image} loop.max_loop=3 loop.hw_queue_depth=64 virtio-net.napi_tx=0"))
        .start()?;
    let (mut probe, world) = guest.probe()?.with_context(|| guest.console().last_lines())?;
    for (parameter, value) in [
        ("loop/parameters/max_loop", "3\n"),
        ("loop/parameters/hw_queue_depth", "64\n"),
        ("virtio_net/parameters/napi_tx", "N\n"),
    ] {
        let found = probe.ask(&Request::Text(format!("/sys/module/{parameter}")), SOON)?;
        equal(&(parameter, found), &(parameter, Answer::Text(value.to_owned())))?;
    }
    equal(
        &world
            .dev
            .iter()
            .filter(|name| name.strip_prefix("loop").is_some_and(|rest| rest.parse::<u8>().is_ok()))
            .count(),
        &3,
    )?;
    probe.power_off()?;
    equal(&guest.finish(Some(world))?.outcome, &Outcome::PoweredOff)
}

/// Nobody but the kernel asks for vfat: mount(2) of a type that it does not know has it call `/sbin/modprobe`.
fn request() -> Result<()> {
    let kernel = packages::kernel(Suite::Bookworm)?;
    let busybox = packages::busybox()?;
    let arguments = ["--include-module", "vfat", "--shell", busybox.to_str().context("not a path")?];
    let archive = archives::for_qemu_with(&kernel, &arguments)?;
    let (_http, image) = host(Site::new())?;
    let mut guest = qemu::Boot::new(&kernel, &archive)
        .nic(qemu::Nic::user())
        .cmdline(&format!("{image} rootbeam.on-failure=shell"))
        .start()?;
    guest.console().wait_for("leave it with `exit`", Duration::from_secs(240))?;
    let known = "grep -c vfat /proc/filesystems";
    equal(&guest.shell(known)?.trim(), &"0")?;
    let answer = guest.shell("mkdir /tried; mount -t vfat rootbeam /tried")?;
    if !answer.contains("mount") {
        bail!("a filesystem without a device was mounted: {answer}");
    }
    equal(&guest.shell(known)?.trim(), &"1")?;
    // What is not packed stays unknown, and so does a name that could be a path.
    for name in ["nfs", "../../init"] {
        guest.shell(&format!("mount -t {name} rootbeam /tried"))?;
        equal(&guest.shell(&format!("grep -c {name} /proc/filesystems"))?.trim(), &"0")?;
    }
    Ok(())
}
