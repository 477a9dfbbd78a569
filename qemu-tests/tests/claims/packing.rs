//! What `rootbeam pack` makes of real kernels.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_init::modules::names::of_path;
use rootbeam_initramfs::inspect::Report;
use rootbeam_initramfs::modinfo::Modinfo;
use rootbeam_qemu_tests::claim::{claim, equal, row};
use rootbeam_qemu_tests::command::{exists, run};
use rootbeam_qemu_tests::netns::unpack::unpack;
use rootbeam_qemu_tests::packages::{self, Suite};
use rootbeam_qemu_tests::places::{shipped_init, shipped_rootbeam};
use rootbeam_qemu_tests::{archives, netns};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

pub fn claims() -> Vec<Trial> {
    vec![
        claim(
            "packing: 6.1 is packed with all that its modules need, in at most 3 MB",
            &[netns::available, depmod],
            || packed(Suite::Bookworm),
        ),
        claim("packing: generic carries every Ethernet driver of 6.1", &[depmod], every_ethernet_driver),
        claim(
            "packing: host carries what this machine's devices need, and no driver of others",
            &[depmod],
            for_this_machine,
        ),
    ]
}

/// The same for kernels beyond the base one.
pub fn rows() -> Vec<Trial> {
    let needs = &[netns::available, depmod];
    vec![
        row("packing: 6.12 is packed with all that its modules need, in at most 3 MB", needs, || packed(Suite::Trixie)),
        row("packing: the newest kernel is packed with all that its modules need, in at most 3 MB", needs, || {
            packed(Suite::Sid)
        }),
    ]
}

/// The budget of an initramfs for QEMU, in bytes.
const BUDGET: usize = 3_000_000;

fn depmod() -> Result<()> {
    ensure!(exists("depmod"), "depmod is missing: run `make deps`");
    Ok(())
}

fn packed(suite: Suite) -> Result<()> {
    let kernel = packages::kernel(suite)?;
    let archive = archives::for_qemu(&kernel)?;
    let bytes = fs::read(&archive)?;
    ensure!(bytes.len() <= BUDGET, "{} bytes are more than the budget", bytes.len());
    equal(&Report::of(&bytes)?.kernels, &vec![kernel.release.clone()])?;
    let root = tempfile::tempdir()?;
    unpack(&archive, root.path())?;
    let folder = root.path().join("lib/modules").join(&kernel.release);
    let ours = fs::read_to_string(folder.join("modules.dep"))?;
    let known = ours.clone() + &fs::read_to_string(folder.join("modules.builtin"))?;
    for module in ["virtio_net", "e1000", "squashfs", "overlay", "loop", "fuse", "erofs", "af_packet"] {
        ensure!(known.contains(&format!("/{module}.ko")), "{module} is neither packed nor built in");
    }
    // depmod reads the modules themselves.
    let theirs = run(Command::new("depmod").args(["-n", "-b"]).arg(root.path()).arg(&kernel.release))?;
    ensure!(needs(&ours).len() > 10, "hardly any module is packed:\n{ours}");
    equal(&needs(&ours), &needs(&theirs))
}

/// What makes Ethernet devices or hands them to usbnet and is no wired card that a boot can use.
const NO_CARDS: [(&str, &str); 5] = [
    ("sb1000", "a cable modem that only receives"),
    ("thunderbolt_net", "a cable between two computers"),
    ("r8192u_usb", "wireless"),
    ("r8723bs", "wireless"),
    ("r8188eu", "wireless"),
];

/// Names of the modules in an archive.
fn carried(archive: &Path) -> Result<BTreeSet<String>> {
    let contents = Report::of(&fs::read(archive)?)?.contents;
    Ok(contents.iter().filter_map(|item| of_path(&item.path)).collect())
}

/// They tell it themselves: they serve devices, and call what makes an Ethernet device of one.
fn every_ethernet_driver() -> Result<()> {
    let kernel = packages::kernel(Suite::Bookworm)?;
    let folder = kernel.modules.join("lib/modules").join(&kernel.release).join("kernel");
    let calls = ["-rlE", "--include=*.ko", "alloc_etherdev_mqs|usbnet_probe"];
    let callers = run(Command::new("grep").args(calls).arg(&folder))?;
    let mut drivers = BTreeSet::new();
    for path in callers.lines().filter(|path| !path.contains("/wireless/")) {
        if Modinfo::parse(&fs::read(path)?)?.aliases.iter().any(|alias| alias.contains(':')) {
            drivers.extend(of_path(path));
        }
    }
    for known in ["e1000e", "tg3", "r8169", "virtio_net", "vmxnet3", "hv_netvsc", "xen_netfront", "ax88179_178a"] {
        ensure!(drivers.contains(known), "{known} is not found among the drivers of Ethernet: {drivers:?}");
    }
    drivers.retain(|name| !NO_CARDS.iter().any(|(other, _)| other == name));
    let carried = carried(&archives::for_any(&kernel)?)?;
    let lacking: Vec<_> = drivers.difference(&carried).collect();
    ensure!(lacking.is_empty(), "of {} drivers these are not carried: {lacking:?}", drivers.len());
    // Whatever else lies in their own folder is for them.
    let beside = run(Command::new("find").arg(folder.join("drivers/net/ethernet")).args(["-name", "*.ko"]))?;
    let lacking: Vec<_> = beside.lines().filter_map(of_path).filter(|name| !carried.contains(name)).collect();
    ensure!(lacking.is_empty(), "these of drivers/net/ethernet are not carried: {lacking:?}");
    Ok(())
}

/// Held against kmod: what it would load for the devices of the machine that runs this.
fn for_this_machine() -> Result<()> {
    /// What the packer leaves to the booted system.
    const LATER: [&str; 6] =
        ["/gpu/", "/media/", "/bluetooth/", "/drivers/net/wireless/", "/drivers/platform/", "/kernel/sound/"];
    let kernel = packages::kernel(Suite::Bookworm)?;
    let folder = kernel.modules.join("lib/modules").join(&kernel.release);
    let packed = tempfile::tempdir()?;
    let archive = packed.path().join("initramfs");
    let mut pack = Command::new(shipped_rootbeam()?);
    pack.args(["--quiet", "pack", "--preset", "host", "--compress", "gzip", "--modules"]).arg(&kernel.modules);
    run(pack.arg("--init").arg(shipped_init()?).arg("--output").arg(&archive))?;
    let carried = carried(&archive)?;

    let mut wanted = BTreeSet::new();
    for alias in aliases() {
        let mut modprobe = Command::new("modprobe");
        modprobe.arg("--dirname").arg(&kernel.modules).args(["--set-version", &kernel.release, "--resolve-alias"]);
        // It fails for a device that no module drives.
        let output = modprobe.arg(&alias).output()?;
        wanted.extend(String::from_utf8(output.stdout)?.split_whitespace().map(|name| name.replace('-', "_")));
    }
    let text = fs::read_to_string(folder.join("modules.dep"))?;
    let paths: BTreeMap<String, &str> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter_map(|(path, _)| Some((of_path(path)?, path)))
        .collect();
    wanted.retain(|name| paths.get(name).is_some_and(|path| !LATER.iter().any(|later| path.contains(later))));
    ensure!(!wanted.is_empty(), "this machine has no device that a module of {} drives", kernel.release);
    let lacking: Vec<_> = wanted.difference(&carried).collect();
    ensure!(lacking.is_empty(), "devices of this machine need {lacking:?}, of {wanted:?}; carried are {carried:?}");

    // Each other driver of a device is one that they need.
    let needed: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(path, _)| of_path(path).is_some_and(|name| carried.contains(&name)))
        .flat_map(|(_, needs)| needs.split_whitespace().filter_map(of_path))
        .collect();
    for name in carried.iter().filter(|name| !wanted.contains(*name) && !needed.contains(*name)) {
        let modinfo = Modinfo::parse(&fs::read(folder.join(paths.get(name).context("not in modules.dep")?))?)?;
        let drives = modinfo.aliases.iter().find(|alias| alias.starts_with("pci:") || alias.starts_with("usb:"));
        ensure!(drives.is_none(), "{name} drives {drives:?}, which this machine has not");
    }
    Ok(())
}

/// What the devices of this machine are found by; processors ask for their ciphers by name.
fn aliases() -> BTreeSet<String> {
    let folders = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let buses = folders(Path::new("/sys/bus")).filter(|bus| !bus.ends_with("cpu"));
    let devices = buses.flat_map(|bus| folders(&bus.join("devices")).collect::<Vec<_>>());
    devices.filter_map(|device| Some(fs::read_to_string(device.join("modalias")).ok()?.trim_end().to_owned())).collect()
}

/// The lines of a modules.dep: each file and the set of files that it needs.
fn needs(dep: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let lines = dep.lines().filter(|line| line.starts_with("kernel/")).filter_map(|line| line.split_once(".ko:"));
    lines.map(|(path, needs)| (path, needs.split_whitespace().collect())).collect()
}
