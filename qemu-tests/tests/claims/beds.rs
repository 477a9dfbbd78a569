//! The beds about themselves: they boot a probe by initramfs of others and report it truly.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_qemu_tests::archives;
use rootbeam_qemu_tests::claim::{claim, equal, row};
use rootbeam_qemu_tests::images::{self, Tree};
use rootbeam_qemu_tests::netns::{self, Boot, Network, Nic};
use rootbeam_qemu_tests::outcome::Outcome;
use rootbeam_qemu_tests::packages::{self, Kernel, Suite};
use rootbeam_qemu_tests::servers::http::HttpServer;
use rootbeam_qemu_tests::servers::site::Site;
use rootbeam_qemu_tests::world::Signals;
use rootbeam_qemu_tests::{command, qemu};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub fn claims() -> Vec<Trial> {
    vec![
        claim("beds: the namespace bed reports the world of the real init", &[netns::available], namespace_world),
        claim("beds: the namespace bed tells how a machine ended", &[netns::available], namespace_outcomes),
        claim("beds: the namespace bed boots without a server's answer", &[netns::available], namespace_silence),
        claim("beds: QEMU reports the world of the real init on 6.1", &[qemu::available], || {
            qemu_world(Suite::Bookworm)
        }),
        claim("beds: QEMU tells how a machine ended", &[qemu::available], qemu_outcomes),
        claim("beds: QEMU boots by PXE", &[qemu::available], qemu_pxe),
    ]
}

/// The same for kernels beyond the base one.
pub fn rows() -> Vec<Trial> {
    vec![
        row("beds: QEMU reports the world of the real init on 6.12", &[qemu::available], || qemu_world(Suite::Trixie)),
        row("beds: QEMU reports the world of the real init on the newest kernel", &[qemu::available], || {
            qemu_world(Suite::Sid)
        }),
        row("beds: the busybox image boots to a login", &[qemu::available], || {
            login(&packages::kernel(Suite::Bookworm)?, &images::busybox()?, "busybox-node")
        }),
        row("beds: the sysvinit image boots to a login", &[qemu::available, images::debian], || {
            login(&packages::kernel(Suite::Bookworm)?, &images::sysvinit()?, "sysvinit-node")
        }),
        row("beds: the web image boots to a page and a login", &[qemu::available, images::debian], web),
    ]
}

/// A busybox script as initramfs: with it the bed is tried, never rootbeam.
fn standin() -> Result<PathBuf> {
    Tree::root()
        .file("init", 0o755, include_bytes!("standin-init"))
        .file("lease", 0o755, include_bytes!("standin-lease"))
        .file("bin/busybox", 0o755, std::fs::read(packages::busybox()?)?)
        .archive("standin")
}

fn namespace_world() -> Result<()> {
    let image = images::probe()?;
    let network = Network::new()?;
    let http = network.http(Site::new().file("/probe.squashfs", &image))?;
    let booted = Boot::new(&standin()?)
        .nic(Nic::on(&network).mac("52:54:00:00:00:77").wire(1000))
        .memory(300)
        .cmdline(&format!("standin.image={} colour=blue word -- after", network.url("/probe.squashfs")))
        .run()?;
    let world = booted.world()?;
    ensure!(booted.outcome == Outcome::PoweredOff, "{:?}", booted.outcome);
    let points = ["/dev", "/dev/console", "/proc", "/proc/cmdline", "/proc/meminfo", "/sys", "/run", "/"];
    equal(&world.mount_points(), &points.to_vec())?;
    let root = world.mount("/").map(|mount| (mount.kind.as_str(), mount.propagation.is_empty()));
    equal(&root, &Some(("overlay", true)))?;
    equal(&world.args, &vec!["/sbin/init".to_owned()])?;
    equal(&world.env.get("colour").map(String::as_str), &Some("blue"))?;
    let numbers: Vec<u32> = world.descriptors.keys().copied().collect();
    equal(&numbers, &vec![0, 1, 2])?;
    equal(&world.signals, &Signals { blocked: 0, ignored: 0, caught: 0 })?;
    equal(&(world.umask, world.cwd.as_str(), world.pid), &(0o022, "/", 1))?;
    equal(&world.credentials.uid, &[0; 4])?;
    let (time, module) = (1 << 25, 1 << 16);
    equal(&(world.credentials.bounding & (time | module)), &0)?;
    ensure!(world.other_processes().is_empty(), "{:?}", world.processes);
    equal(&world.memory.get("MemAvailable").copied(), &Some(300 << 20))?;
    let card = world.links.get("eth0").context("no eth0")?;
    equal(&(card.mac.as_str(), card.up, card.carrier), &("52:54:00:00:00:77", true, Some(true)))?;
    ensure!(card.addresses.iter().any(|address| address.starts_with("10.77.0.")), "{card:?}");
    ensure!(world.routes.iter().any(|route| route.to == "0.0.0.0/0" && route.via.as_deref() == Some("10.77.0.1")));
    ensure!(world.loops.values().any(|about| about.file == "/rw/image" && about.read_only), "{:?}", world.loops);
    equal(&http.sent("/probe.squashfs"), &std::fs::metadata(&image)?.len())?;
    ensure!(world.started > booted.started, "the real init started before /init");
    Ok(())
}

fn namespace_outcomes() -> Result<()> {
    let archive = standin()?;
    for (word, expected) in
        [("reboot", Outcome::Restarted), ("poweroff", Outcome::PoweredOff), ("exit", Outcome::Exited(7))]
    {
        let booted = Boot::new(&archive).cmdline(&format!("standin.end={word}")).run()?;
        ensure!(booted.outcome == expected, "{word}: {:?}", booted.outcome);
        ensure!(booted.world().is_err(), "a world without a real init");
        ensure!(booted.console == format!("stand-in: standin.end={word}\n"), "{}", booted.console);
    }
    Ok(())
}

fn namespace_silence() -> Result<()> {
    let network = Network::silent()?;
    let booted = Boot::new(&standin()?).nic(Nic::on(&network)).run()?;
    ensure!(booted.console.contains("stand-in: no lease"), "{}", booted.console);
    ensure!(booted.outcome == Outcome::PoweredOff, "{:?}", booted.outcome);
    Ok(())
}

fn qemu_world(suite: Suite) -> Result<()> {
    let kernel = packages::kernel(suite)?;
    let image = images::probe()?;
    let http = HttpServer::on_loopback(Site::new().file("/probe.squashfs", &image))?;
    let url = format!("http://{}:{}/probe.squashfs", qemu::HOST, http.address().port());
    let booted = qemu::Boot::new(&kernel, &archives::baseline(&kernel)?)
        .nic(qemu::Nic::user().mac("52:54:00:00:00:78"))
        .uuid("12345678-1234-5678-1234-567812345678")
        .cmdline(&format!("img={url} colour=blue"))
        .run()?;
    let world = booted.world()?;
    equal(&booted.outcome, &Outcome::PoweredOff)?;
    equal(&world.kernel, &kernel.release)?;
    equal(&world.mount_points(), &["/proc", "/sys", "/dev", "/run", "/"].to_vec())?;
    equal(&world.args, &vec!["/sbin/init".to_owned()])?;
    equal(&world.signals, &Signals { blocked: 0, ignored: 0, caught: 0 })?;
    equal(&(world.umask, world.cwd.as_str(), world.pid), &(0o022, "/", 1))?;
    ensure!(world.other_processes().is_empty(), "{:?}", world.processes);
    ensure!(world.modules.iter().any(|module| module == "virtio_net"), "{:?}", world.modules);
    let card = world.links.get("eth0").context("no eth0")?;
    equal(&(card.mac.as_str(), card.up, card.carrier), &("52:54:00:00:00:78", true, Some(true)))?;
    let memory = world.memory.get("MemTotal").copied().unwrap_or_default();
    ensure!((400 << 20..512 << 20).contains(&memory), "{memory} bytes of memory");
    equal(&http.sent("/probe.squashfs"), &std::fs::metadata(&image)?.len())
}

fn qemu_outcomes() -> Result<()> {
    let kernel = packages::kernel(Suite::Bookworm)?;
    let archive = standin()?;
    for (word, expected) in [("reboot", Outcome::Restarted), ("exit", Outcome::Exited(7))] {
        let booted = qemu::Boot::new(&kernel, &archive).cmdline(&format!("quiet standin.end={word}")).run()?;
        equal(&booted.outcome, &expected)?;
        ensure!(booted.world().is_err(), "a world without a real init");
    }
    Ok(())
}

fn qemu_pxe() -> Result<()> {
    let kernel = packages::kernel(Suite::Bookworm)?;
    let words = "console=ttyS0 panic=-1 quiet standin.end=poweroff";
    let tftp = qemu::Tftp::new(&kernel.vmlinuz, &standin()?, words)?;
    let booted = qemu::Boot::pxe(tftp).nic(qemu::Nic::user()).run()?;
    equal(&booted.outcome, &Outcome::PoweredOff)?;
    let expected = format!("stand-in: BOOT_IMAGE=vmlinuz {words} initrd=initramfs BOOTIF=01-52-54-00-12-34-56");
    ensure!(booted.console.contains(&expected), "{}", booted.console);
    Ok(())
}

/// Boots `image` by the baseline, logs in on the console, and turns the machine off by its own means.
fn login(kernel: &Kernel, image: &Path, name: &str) -> Result<()> {
    let http = HttpServer::on_loopback(Site::new().file("/root.squashfs", image))?;
    let url = format!("http://{}:{}/root.squashfs", qemu::HOST, http.address().port());
    let boot =
        qemu::Boot::new(kernel, &archives::baseline(kernel)?).nic(qemu::Nic::user()).cmdline(&format!("img={url}"));
    let mut guest = boot.memory(1024).start()?;
    guest.log_in(name)?;
    guest.type_keys("poweroff\n")?;
    equal(&guest.finish(None)?.outcome, &Outcome::PoweredOff)
}

fn web() -> Result<()> {
    let web = images::web()?;
    let size = std::fs::metadata(&web.image)?.len();
    ensure!((80 << 20..120 << 20).contains(&size), "about 100 MB, not {size} bytes");
    let kernel = web.kernel()?;
    let http = HttpServer::on_loopback(Site::new().file("/root.squashfs", &web.image))?;
    let url = format!("http://{}:{}/root.squashfs", qemu::HOST, http.address().port());
    let boot =
        qemu::Boot::new(&kernel, &archives::baseline(&kernel)?).nic(qemu::Nic::user()).cmdline(&format!("img={url}"));
    let mut guest = boot.memory(1024).forward(80).start()?;
    guest.log_in("web-node")?;
    let address = guest.forwarded(80).context("no forwarded port")?;
    let page = command::run_line(&format!(
        "curl --silent --show-error --fail --retry 60 --retry-delay 1 --retry-all-errors http://{address}/"
    ))?;
    for part in ["<h1>web-node lives in RAM</h1>", "10.0.2.15/24", &kernel.release, "<td>overlay"] {
        ensure!(page.contains(part), "no {part:?} in the page:\n{page}");
    }
    guest.type_keys("systemctl --failed --no-legend | wc -l | sed s/^/failed-units=/\n")?;
    guest.console().wait_for("failed-units=0", Duration::from_secs(60))?;
    guest.press_power()?;
    equal(&guest.finish(None)?.outcome, &Outcome::PoweredOff)
}
