//! Each kernel with each card: the root switch ends clean, and the initramfs is gone.

use super::super::boots::{assert_clean, report};
use super::{PATH, host};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_init::failure::Step;
use rootbeam_qemu_tests::claim::{equal, row};
use rootbeam_qemu_tests::outcome::Outcome;
use rootbeam_qemu_tests::packages::{self, Suite};
use rootbeam_qemu_tests::servers::site::Site;
use rootbeam_qemu_tests::world::World;
use rootbeam_qemu_tests::{archives, images, qemu};

pub fn rows() -> Vec<Trial> {
    let kernels = [(Suite::Bookworm, "6.1"), (Suite::Trixie, "6.12"), (Suite::Sid, "the newest kernel")];
    let cards =
        [("virtio", "virtio-net-pci", "virtio_net"), ("e1000", "e1000", "e1000"), ("e1000e", "e1000e", "e1000e")];
    let pairs = kernels.into_iter().flat_map(|kernel| cards.map(|card| (kernel, card)));
    pairs
        .map(|((suite, version), (card, model, driver))| {
            row(
                &format!("matrix: {version} boots over {card}, and nothing is left behind"),
                &[qemu::available],
                move || boots(suite, model, driver),
            )
        })
        .collect()
}

fn boots(suite: Suite, model: &str, driver: &str) -> Result<()> {
    let kernel = packages::kernel(suite)?;
    let folder = images::published(&images::probe_for(&kernel)?, "probe.squashfs")?;
    let size = std::fs::metadata(folder.path().join("probe.squashfs"))?.len();
    let (http, image) = host(Site::new().folder(folder.path())?)?;
    let booted = qemu::Boot::new(&kernel, &archives::for_qemu(&kernel)?)
        .nic(qemu::Nic::user().model(model).mac("52:54:00:00:00:c1"))
        .cmdline(&image)
        .run()?;
    equal(&booted.outcome, &Outcome::PoweredOff)?;
    let world = booted.world()?;
    equal(&world.kernel, &kernel.release)?;
    assert_clean(world)?;
    left_behind(world, size)?;
    let mut points = world.mount_points();
    points.sort_unstable();
    equal(&points.join(" "), &"/ /dev /proc /run /run/rootbeam/lower/0 /run/rootbeam/rw /sys".to_owned())?;
    let loaded = |module: &str| world.modules.iter().any(|name| name == module);
    for (_, card, other) in [("", "virtio-net-pci", "virtio_net"), ("", "e1000", "e1000"), ("", "e1000e", "e1000e")] {
        ensure!(loaded(other) == (card == model), "{other} with a card {model}: {:?}", world.modules);
    }
    ensure!(loaded(driver), "{:?}", world.modules);
    let card = world.links.get("eth0").context("no eth0")?;
    equal(&(card.mac.as_str(), card.carrier), &("52:54:00:00:00:c1", Some(true)))?;
    let report = report(world)?;
    equal(&(report.warnings, report.failures), &(vec![], vec![]))?;
    equal(&http.sent(PATH), &size)
}

/// The initramfs's files are deleted, and their memory is free: what is shared is the image and little else.
fn left_behind(world: &World, image: u64) -> Result<()> {
    let report = report(world)?;
    let switch = report.steps.iter().find(|step| step.step == Step::Switch).context("no root switch")?;
    let deleted = switch.what.split(' ').next().and_then(|number| number.parse::<u32>().ok()).context("no number")?;
    ensure!(deleted > 30, "{}", switch.what);
    let shared = world.memory.get("Shmem").copied().context("no Shmem")?;
    ensure!(shared < image.next_multiple_of(4096) + (1 << 20), "{shared} bytes shared, the image has {image}");
    Ok(())
}
