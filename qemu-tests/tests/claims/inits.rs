//! The three inits of the field boot from RAM to a login, and nothing of the initramfs is left beside them.

use crate::boots::report_of;
use crate::fetching::thrifty;
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_init::messages::Trust;
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::images::published;
use rootbeam_qemu_tests::outcome::Outcome;
use rootbeam_qemu_tests::packages::{self, Suite};
use rootbeam_qemu_tests::servers::http::HttpServer;
use rootbeam_qemu_tests::servers::site::Site;
use rootbeam_qemu_tests::{archives, command, images, qemu};
use std::path::Path;

pub fn claims() -> Vec<Trial> {
    vec![
        claim("inits: busybox init boots to a login from RAM", &[qemu::available], busybox),
        claim("inits: sysvinit boots to a login from RAM", &[qemu::available, images::debian], sysvinit),
        claim(
            "inits: systemd boots by PXE to an answered page and a login",
            &[qemu::available, images::debian],
            systemd,
        ),
    ]
}

fn busybox() -> Result<()> {
    login(&images::busybox()?, "busybox-node")
}

fn sysvinit() -> Result<()> {
    login(&images::sysvinit()?, "sysvinit-node")
}

fn login(image: &Path, name: &str) -> Result<()> {
    let kernel = packages::kernel(Suite::Bookworm)?;
    let folder = published(image, "root.squashfs")?;
    let http = HttpServer::on_loopback(Site::new().folder(folder.path())?)?;
    let url = format!("http://{}:{}/root.squashfs", qemu::HOST, http.address().port());
    let mut guest = qemu::Boot::new(&kernel, &archives::for_qemu(&kernel)?)
        .nic(qemu::Nic::user())
        .cmdline(&format!("rootbeam.image={url}"))
        .memory(1024)
        .start()?;
    guest.log_in(name)?;
    assert_gone(&mut guest)?;
    guest.type_keys("poweroff\n")?;
    equal(&guest.finish(None)?.outcome, &Outcome::PoweredOff)
}

/// No worker runs, the root is the overlay, and the initramfs is no mount any more.
fn assert_gone(guest: &mut qemu::Guest) -> Result<()> {
    let processes = guest.shell("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")?;
    ensure!(!processes.contains("@rootbeam"), "a worker outlived the boot: {processes}");
    let mounts = guest.shell("cat /proc/1/mounts")?;
    let first = mounts.lines().find(|line| line.split(' ').nth(1) == Some("/")).context("no root mount")?;
    ensure!(first.starts_with("rootbeam / overlay rw"), "{first}");
    ensure!(!mounts.contains("rootfs") && !mounts.contains("/stage"), "{mounts}");
    Ok(())
}

fn systemd() -> Result<()> {
    let web = images::web()?;
    let size = std::fs::metadata(&web.image)?.len();
    ensure!((80 << 20..120 << 20).contains(&size), "about 100 MB, not {size} bytes");
    let kernel = web.kernel()?;
    let folder = published(&web.image, "web.squashfs")?;
    let http = HttpServer::on_loopback(Site::new().folder(folder.path())?)?;
    let url = format!("http://{}:{}/web.squashfs", qemu::HOST, http.address().port());
    let words = format!("console=ttyS0 panic=-1 rootbeam.image={url}");
    let tftp = qemu::Tftp::new(&kernel.vmlinuz, &archives::for_qemu(&kernel)?, &words)?;
    let mut guest = qemu::Boot::pxe(tftp).nic(qemu::Nic::user()).memory(1024).forward(80).start()?;
    guest.log_in("web-node")?;
    let address = guest.forwarded(80).context("no forwarded port")?;
    let fetch = |path: &str| {
        command::run_line(&format!(
            "curl --silent --show-error --fail --retry 60 --retry-delay 1 --retry-all-errors http://{address}{path}"
        ))
    };
    let page = fetch("/")?;
    for part in ["<h1>web-node lives in RAM</h1>", "10.0.2.15/24", &kernel.release, "<td>overlay"] {
        ensure!(page.contains(part), "no {part:?} in the page:\n{page}");
    }
    let report = report_of(serde_json::from_str(&fetch("/report.json")?)?)?;
    let image = report.image.context("no image in the report")?;
    equal(&(image.size, image.trust, image.tally.rejected_chunks), &(size, Trust::Checksummed, 0))?;
    equal(&report.warnings, &vec![])?;
    equal(&report.failures, &vec![])?;
    let sent = http.sent("/web.squashfs");
    ensure!(sent >= size, "{sent} bytes were sent for an image of {size}");
    thrifty(sent, size)?;
    assert_gone(&mut guest)?;
    guest.settle()?;
    let machine_id = guest.shell("cat /etc/machine-id")?;
    equal(&machine_id.trim().len(), &32)?;
    guest.press_power()?;
    equal(&guest.finish(None)?.outcome, &Outcome::PoweredOff)
}
