//! Images and manifests that are not what they should be.

use super::super::boots::report;
use super::{PATH, Scene, URL, refused};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_init::digest::Sha256;
use rootbeam_init::settings::values::{Mode, human};
use rootbeam_qemu_tests::archives;
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::command::run;
use rootbeam_qemu_tests::images::published;
use rootbeam_qemu_tests::images::{self, Tree};
use rootbeam_qemu_tests::netns;
use rootbeam_qemu_tests::places;
use rootbeam_qemu_tests::servers::fault::{Fault, When};
use rootbeam_qemu_tests::servers::site::Site;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

pub fn claims() -> Vec<Trial> {
    let claim = |name, check: fn() -> Result<()>| claim(name, &[netns::available], check);
    vec![
        claim("errors: an empty image is called so", empty),
        claim("errors: a web page in place of an image is told by its first bytes", web_page),
        claim("errors: a truncated image is told by its own superblock, with both sizes", truncated),
        claim("errors: a flipped bit names the chunk, its place and the server", flipped_bit),
        claim("errors: a manifest that is not JSON is refused", not_json),
        claim("errors: a manifest that is too large is refused", too_large),
        claim("errors: a manifest of another image of another size is refused with both sizes", another_size),
        claim("errors: a manifest of another image of the same size is refused at its first chunk", same_size),
        claim("errors: an image larger than memory is refused before its first byte, with the sums", memory),
        claim("errors: an image with another hash than rootbeam.sha256= is refused with both", wrong_hash),
        claim("errors: rootbeam.verify=require refuses an image with nothing to verify it by", unverified),
        claim("errors: a compressor that the kernel lacks is named, with the kernel's own words", compressor),
        claim("errors: modules of another kernel in the image are warned of with both releases", other_modules),
        claim("errors: an image that requires another kernel is refused with both releases", other_kernel),
    ]
}

fn probe() -> Result<Vec<u8>> {
    let image = images::probe()?;
    std::fs::read(&image).with_context(|| format!("cannot read {}", image.display()))
}

/// What a boot from `site` says and how it ends.
#[track_caller]
fn refused_from(site: Site, words: &str, diagnosis: &str) -> Result<()> {
    refused(&Scene::of(site)?.machine(words)?.run()?, diagnosis)
}

fn empty() -> Result<()> {
    let diagnosis =
        format!("FAILED at image: {URL}: the file has no bytes. Remedy: copy the image to the server again.");
    refused_from(Site::new().bytes(PATH, ""), "", &diagnosis)
}

fn web_page() -> Result<()> {
    let page = "<!DOCTYPE html>\n<title>It works!</title>\n".repeat(100);
    let diagnosis = format!(
        "FAILED at image: {URL}: it is neither squashfs nor erofs: it begins with <!DO. Remedy: point rootbeam.image= \
         at a squashfs or erofs image (`rootbeam image build` makes one)."
    );
    refused_from(Site::new().bytes(PATH, page), "", &diagnosis)
}

fn truncated() -> Result<()> {
    let mut image = probe()?;
    // bytes_used of the squashfs superblock.
    let needed = image.get(40..48).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes).context("short")?;
    let size = image.len() / 2;
    image.truncate(size);
    let diagnosis = format!(
        "FAILED at image: {URL}: it is truncated: {size} bytes are there, its filesystem has {needed}. Remedy: copy \
         the image to the server again; it was cut on the way."
    );
    refused_from(Site::new().bytes(PATH, image), "", &diagnosis)
}

fn flipped_bit() -> Result<()> {
    let folder = published(&images::probe()?, "web.squashfs")?;
    let size = std::fs::metadata(folder.path().join("web.squashfs"))?.len();
    let scene =
        Scene::of(Site::new().folder(folder.path())?)?.fault(PATH, When::Always, Fault::FlipBit(3 * 65_536 + 5));
    let diagnosis = format!(
        "FAILED at image: {URL}: chunk 3 of {} (from byte 196608) has the wrong SHA-256 from every source. Remedy: the \
         file on the server is damaged or was replaced: compare it by `rootbeam image verify` and copy it anew.",
        size.div_ceil(65_536)
    );
    refused(&scene.machine("")?.run()?, &diagnosis)
}

const REMAKE: &str =
    "make it anew with `rootbeam image manifest IMAGE` and publish image, manifest and chunks together";

fn with_manifest(manifest: impl Into<Vec<u8>>) -> Result<Site> {
    Ok(Site::new().file(PATH, &images::probe()?).bytes("/web.squashfs.manifest", manifest))
}

fn not_json() -> Result<()> {
    let diagnosis = format!("FAILED at manifest: manifest of {URL}: it is not a manifest in JSON. Remedy: {REMAKE}.");
    refused_from(with_manifest("<html>404, but with 200 OK</html>")?, "", &diagnosis)?;
    refused_from(with_manifest("[".repeat(100_000))?, "", &diagnosis)
}

fn too_large() -> Result<()> {
    let diagnosis =
        format!("FAILED at manifest: manifest of {URL}: it has 3.0 MiB or more, more than is read. Remedy: {REMAKE}.");
    refused_from(with_manifest(vec![b' '; 3 << 20])?, "", &diagnosis)
}

fn another_size() -> Result<()> {
    let other = images::probe_with_noise(300_000)?;
    let folder = published(&other, "web.squashfs")?;
    let site = Site::new().folder(folder.path())?.file(PATH, &images::probe()?);
    let size = |image: &Path| std::fs::metadata(image).map(|about| about.len());
    let (said, found) = (size(&other)?, size(&images::probe()?)?);
    let diagnosis = format!(
        "FAILED at manifest: manifest of {URL}: it is of another image: it says {said} bytes, the server's file has \
         {found}. Remedy: {REMAKE}."
    );
    refused_from(site, "", &diagnosis)
}

fn same_size() -> Result<()> {
    let folder = published(&images::probe()?, "web.squashfs")?;
    let image: Vec<u8> = probe()?.iter().map(|byte| !byte).collect();
    let chunks = image.len().div_ceil(65_536);
    let diagnosis = format!(
        "FAILED at image: {URL}: chunk 0 of {chunks} (from byte 0) has the wrong SHA-256 from every source. Remedy: the \
         file on the server is damaged or was replaced: compare it by `rootbeam image verify` and copy it anew."
    );
    refused_from(Site::new().folder(folder.path())?.bytes(PATH, image), "", &diagnosis)
}

fn memory() -> Result<()> {
    const MIB: u64 = 1 << 20;
    let image = images::probe_with_noise(30 << 20)?;
    let size = std::fs::metadata(&image)?.len();
    let folder = published(&image, "web.squashfs")?;
    let scene = Scene::of(Site::new().folder(folder.path())?)?;
    let booted = scene.machine("")?.memory(45).run()?;
    let held = size.next_multiple_of(4096);
    let needed = held + 24 * MIB;
    let given_back = archives::given_back(&archives::for_namespaces()?)?;
    let available = 45 * MIB + given_back;
    let diagnosis = format!(
        "FAILED at memory: image of {}: it needs {} (image {} + overlay 16.0 MiB + reserve 8.0 MiB) and {} of \
         45.0 MiB are available, {} that the initramfs gives back among them. Remedy: give the machine {} more RAM, or \
         an image of at most {}.",
        human(size),
        human(needed),
        human(held),
        human(available),
        human(given_back),
        human(needed - available),
        human(available - 24 * MIB),
    );
    refused(&booted, &diagnosis)?;
    equal(&scene.http.sent(PATH), &0)?;
    // Without the reserve its system would fit, and so would it, but not together with the ring.
    let booted = scene.machine("rootbeam.reserve=0")?.memory(45).run()?;
    let diagnosis = format!(
        "FAILED at memory: image of {}: it needs {} (image {} + ring 16.0 MiB) and 45.0 MiB of 45.0 MiB are available. \
         Remedy: give the machine {} more RAM, or an image of at most 29.0 MiB.",
        human(size),
        human(held + 16 * MIB),
        human(held),
        human(held - 29 * MIB),
    );
    refused(&booted, &diagnosis)?;
    equal(&scene.http.sent(PATH), &0)?;
    // Five MiB more, and it fits: what was said is what counts.
    let booted = scene.machine("rootbeam.reserve=0")?.memory(50).run()?;
    ensure!(booted.world()?.mount("/").is_some_and(|root| root.kind == "overlay"), "{}", booted.console);
    Ok(())
}

fn wrong_hash() -> Result<()> {
    let image = probe()?;
    let found = Sha256::of(&image);
    let expected = Sha256::of(b"another");
    let diagnosis = format!(
        "FAILED at image: {URL}: its SHA-256 is {found}, and {expected} was asked for. Remedy: correct the hash \
         (rootbeam.sha256= or the .sha256 file) or the file on the server."
    );
    refused_from(Site::new().bytes(PATH, image), &format!("rootbeam.sha256={expected}"), &diagnosis)
}

fn unverified() -> Result<()> {
    let diagnosis = format!(
        "FAILED at manifest: {URL}: verification is required, and there is neither manifest nor checksum. Remedy: make \
         a manifest with `rootbeam image manifest IMAGE` beside the image, or give rootbeam.sha256=."
    );
    refused_from(Site::new().file(PATH, &images::probe()?), "rootbeam.verify=require", &diagnosis)
}

fn compressor() -> Result<()> {
    const COMPRESSOR: usize = 20;
    const LZMA: u8 = 2;
    // Without options of a compressor behind the superblock, so that nothing but the number is strange.
    let mut image = std::fs::read(Tree::root().file("sbin/init", 0o755, "#!/bin/sh\n").squashfs("small")?)?;
    *image.get_mut(COMPRESSOR).context("short")? = LZMA;
    let diagnosis = "FAILED at mount: squashfs image: it is compressed with lzma, which this kernel's squashfs lacks: \
         Invalid argument (os error 22) (Filesystem uses \"lzma\" compression. This is not supported). \
         Remedy: build the image with another compressor (`rootbeam image build --compress`), or use a kernel with \
         squashfs lzma support.";
    refused_from(Site::new().bytes(PATH, image), "", diagnosis)
}

/// The kernel of the namespace bed.
fn running() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn other_modules() -> Result<()> {
    let tree = ["6.1.0-49-amd64", "6.12.0-7-amd64"].iter().fold(images::probe_tree()?, |tree, release| {
        tree.file(&format!("usr/lib/modules/{release}/modules.dep"), 0o644, "kernel/drivers/net/tun.ko:\n")
    });
    let folder = published(&tree.link("lib", "usr/lib").squashfs("other-modules")?, "web.squashfs")?;
    let warning = format!(
        "the image has modules for kernel 6.1.0-49-amd64, 6.12.0-7-amd64, and kernel {} is running: drivers that are not \
         loaded yet will be missing; boot the image's own kernel",
        running()
    );
    for (words, mode) in [("rootbeam.mode=ram", Mode::Ram), ("rootbeam.mode=stream", Mode::Stream)] {
        // Slow enough for one that is streamed not to be whole before it is looked at.
        let scene = Scene::of(Site::new().folder(folder.path())?)?.fault(PATH, When::Always, Fault::Rate(1 << 20));
        let booted = scene.machine(words)?.run()?;
        equal(&booted.console.matches(&format!("] {warning}\n")).count(), &1)
            .with_context(|| booted.console.clone())?;
        let report = report(booted.world()?)?;
        equal(&(report.mode, report.warnings), &(Some(mode), vec![warning.clone()]))?;
    }
    Ok(())
}

fn other_kernel() -> Result<()> {
    let requiring = |release: &str| -> Result<(Scene, TempDir)> {
        let folder = published(&images::probe()?, "web.squashfs")?;
        let mut manifest = Command::new(places::shipped_rootbeam()?);
        manifest.args(["--quiet", "image", "manifest"]).arg(folder.path().join("web.squashfs"));
        run(manifest.args(["--kernel", release]))?;
        Ok((Scene::of(Site::new().folder(folder.path())?)?, folder))
    };
    let (scene, _folder) = requiring("6.1.0-49-amd64")?;
    let diagnosis = format!(
        "FAILED at manifest: kernel {}: the image requires kernel 6.1.0-49-amd64. Remedy: boot the kernel of the image, \
         or fetch the image of this kernel.",
        running()
    );
    for words in ["rootbeam.mode=ram", "rootbeam.mode=stream"] {
        refused(&scene.machine(words)?.run()?, &diagnosis)?;
    }
    equal(&scene.http.sent(PATH), &0)?;
    let (scene, _folder) = requiring(&running())?;
    let booted = scene.machine("")?.run()?;
    equal(&report(booted.world()?)?.warnings, &vec![])
}
