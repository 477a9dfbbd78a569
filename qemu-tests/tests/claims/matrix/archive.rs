//! Each shape of the archive boots.

use super::super::boots::{assert_clean, report};
use super::{PATH, emulated, host, probe};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_qemu_tests::claim::{equal, row};
use rootbeam_qemu_tests::images::Tree;
use rootbeam_qemu_tests::packages::{self, Suite};
use rootbeam_qemu_tests::{archives, command, places, qemu};
use std::path::Path;
use std::process::Command;

pub fn rows() -> Vec<Trial> {
    let row = |name, check: fn() -> Result<()>| row(name, &[qemu::available], check);
    vec![
        row("matrix: an archive by gzip boots", || compressed("gzip")),
        row("matrix: an archive by xz boots", || compressed("xz")),
        row("matrix: an archive without compression boots", || compressed("none")),
        row("matrix: an archive with microcode in front boots", microcode),
        row("matrix: an archive with every Ethernet driver boots, and loads the one it needs", generic),
        row("matrix: settings in a second archive behind the first win over the packed ones", second_archive),
    ]
}

/// What `rootbeam inspect` says of an archive.
fn inspected(archive: &Path) -> Result<serde_json::Value> {
    let said = command::run(Command::new(places::shipped_rootbeam()?).args(["inspect", "--json"]).arg(archive))?;
    serde_json::from_str(&said).context("not JSON")
}

fn compressed(name: &str) -> Result<()> {
    let kernel = packages::kernel(Suite::Bookworm)?;
    let archive = archives::for_qemu_with(&kernel, &["--compress", name])?;
    equal(&inspected(&archive)?.pointer("/archives/0/compression").and_then(|found| found.as_str()), &Some(name))?;
    assert_clean(emulated(&kernel, &archive, "")?.world()?)
}

fn microcode() -> Result<()> {
    let kernel = packages::kernel(Suite::Bookworm)?;
    // Intel's container with a header alone, for a processor that never was: found, read, and not applied.
    let mut update = [1_u32, 1, 0x0101_2024, 0xffff_ffff, 0, 1, 1, 0, 0, 0, 0, 0].map(u32::to_le_bytes).concat();
    update.resize(2048, 0);
    let file = places::cache("archives")?.join("microcode.bin");
    places::once(&file, |half| Ok(std::fs::write(half, &update)?))?;
    let path = file.to_str().context("not a path")?;
    let archive = archives::for_qemu_with(&kernel, &["--microcode", path])?;
    let about = inspected(&archive)?;
    let text = |pointer: &str| about.pointer(pointer).and_then(|found| found.as_str());
    equal(&text("/archives/0/compression"), &Some("none"))?;
    equal(&text("/archives/1/compression"), &Some("zstd"))?;
    let contents = about.pointer("/contents").and_then(|found| found.as_array()).context("no contents")?;
    let first =
        contents.iter().find(|item| item.pointer("/mode").is_some_and(|mode| mode.as_str() != Some("drwxr-xr-x")));
    let path = first.and_then(|item| item.pointer("/path")?.as_str());
    equal(&path, &Some("kernel/x86/microcode/GenuineIntel.bin"))?;
    assert_clean(emulated(&kernel, &archive, "")?.world()?)
}

fn generic() -> Result<()> {
    let kernel = packages::kernel(Suite::Bookworm)?;
    let archive = archives::for_any(&kernel)?;
    let booted = emulated(&kernel, &archive, "")?;
    let world = booted.world()?;
    assert_clean(world)?;
    let loaded = |name: &str| world.modules.iter().any(|module| module == name);
    ensure!(loaded("virtio_net"), "{:?}", world.modules);
    for other in ["e1000", "e1000e", "igb", "r8169", "tg3", "bnx2", "mlx4_core", "usbnet"] {
        ensure!(!loaded(other), "a driver without a device: {:?}", world.modules);
    }
    Ok(())
}

fn second_archive() -> Result<()> {
    let kernel = packages::kernel(Suite::Bookworm)?;
    let packed = places::cache("archives")?.join("elsewhere.config");
    places::once(&packed, |half| {
        Ok(std::fs::write(half, "rootbeam.image=http://10.0.2.2:9/none rootbeam.timeout=5\n")?)
    })?;
    let first = archives::for_qemu_with(&kernel, &["--config", packed.to_str().context("not a path")?])?;
    let (_http, words) = host(probe()?)?;
    let folder = tempfile::tempdir()?;
    let (tree, second) = (folder.path().join("tree"), folder.path().join("second"));
    let config = format!("# behind the packed one\n{words}\nrootbeam.overlay.size=20M\n");
    Tree::default().file("etc/rootbeam/config", 0o644, config).write(&tree)?;
    let script = "cd \"$1\" && find etc | cpio --create --format=newc --quiet --owner=0:0 >\"$2\"";
    command::run(Command::new("sh").args(["-c", script, "sh"]).arg(&tree).arg(&second))?;
    let mut both = std::fs::read(&first)?;
    // An archive without compression begins at a multiple of four bytes (init/initramfs.c).
    both.resize(both.len().next_multiple_of(4), 0);
    both.extend(std::fs::read(&second)?);
    let archive = folder.path().join("both");
    std::fs::write(&archive, both)?;
    let booted = qemu::Boot::new(&kernel, &archive).nic(qemu::Nic::user()).run()?;
    let world = booted.world()?;
    assert_clean(world)?;
    equal(&world.root.total, &(20 << 20))?;
    let source = words.strip_prefix("rootbeam.image=").map(str::to_owned);
    equal(&report(world)?.image.map(|image| image.sources), &source.map(|url| vec![url]))?;
    ensure!(!world.cmdline.contains(PATH), "{}", world.cmdline);
    Ok(())
}
