//! What `rootbeam pack` makes of real kernels.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use rootbeam_initramfs::inspect::Report;
use rootbeam_qemu_tests::claim::{claim, equal, row};
use rootbeam_qemu_tests::command::{exists, run};
use rootbeam_qemu_tests::netns::unpack::unpack;
use rootbeam_qemu_tests::packages::{self, Suite};
use rootbeam_qemu_tests::{archives, netns};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

pub fn claims() -> Vec<Trial> {
    vec![claim(
        "packing: 6.1 is packed with all that its modules need, in at most 3 MB",
        &[netns::available, depmod],
        || packed(Suite::Bookworm),
    )]
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

/// The lines of a modules.dep: each file and the set of files that it needs.
fn needs(dep: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let lines = dep.lines().filter(|line| line.starts_with("kernel/")).filter_map(|line| line.split_once(".ko:"));
    lines.map(|(path, needs)| (path, needs.split_whitespace().collect())).collect()
}
