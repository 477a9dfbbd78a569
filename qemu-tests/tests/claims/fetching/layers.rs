//! Layers: images that stand on the image, verified like it, and the ones that may be missing.

use super::super::boots::{assert_clean, report};
use super::super::errors::trust::Pair;
use super::super::errors::{Scene, refused};
use super::SOON;
use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use rootbeam_init::contract::role;
use rootbeam_init::digest::Sha256;
use rootbeam_init::manifest::Manifest;
use rootbeam_init::messages::Trust;
use rootbeam_init::report::Report;
use rootbeam_init::settings::values::human;
use rootbeam_qemu_tests::archives;
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::images::{Tree, probe, probe_of, probe_tree, published, published_bytes};
use rootbeam_qemu_tests::netns::{self, Boot};
use rootbeam_qemu_tests::outcome::{Booted, Outcome};
use rootbeam_qemu_tests::packages::{self, Suite};
use rootbeam_qemu_tests::probe::{Answer, Request};
use rootbeam_qemu_tests::qemu;
use rootbeam_qemu_tests::servers::fault::{Fault, Rule, When};
use rootbeam_qemu_tests::servers::http::HttpServer;
use rootbeam_qemu_tests::servers::site::Site;
use rootbeam_qemu_tests::world::World;
use std::path::{Path, PathBuf};

pub fn claims() -> Vec<Trial> {
    let under_qemu = claim("layers: under QEMU on 6.1 a layer stands on the image", &[qemu::available], emulated);
    let claim = |name, check: fn() -> Result<()>| claim(name, &[netns::available], check);
    vec![
        under_qemu,
        claim("layers: a store that is killed in the middle of a layer harms neither it nor the image", killed),
        claim("layers: a layer's files win over the image's, the last layer's over all", order),
        claim("layers: an optional layer that no server has is absent, and report, log and console say so", absent),
        claim("layers: a required layer that no server has is refused, and the remedy names its word", required),
        claim("layers: a damaged layer is refused, and the message names the chunk", damaged),
        claim(
            "layers: a layer beyond the memory is refused before its first byte, with the sum and what fits",
            too_large,
        ),
        claim("layers: the layers that a manifest names stand on its image", named),
        claim("layers: with a key packed an unsigned optional layer is refused, and an absent one boots", unsigned),
        claim("layers: the first line of the report is about the weakest of all images", weakest),
    ]
}

const SERVER: &str = "http://10.77.0.1";

/// A layer whose `/who` says its name, with a file of that name; several chunks long.
fn layer(name: &str) -> Tree {
    let mut noise = vec![0; 200_000];
    fastrand::Rng::with_seed(7).fill(&mut noise);
    Tree::default().file("who", 0o644, name).file(name, 0o644, name).file("noise", 0o644, noise)
}

/// The image that says of itself what a layer says of itself.
fn image() -> Result<PathBuf> {
    probe_tree()?.file("who", 0o644, "image").file("image", 0o644, "image").squashfs("probe-who")
}

/// With an image, its manifest and chunk list.
fn with(site: Site, image: &Path, name: &str) -> Result<Site> {
    let folder = published(image, name)?;
    ["", ".manifest", ".chunks"].iter().try_fold(site, |site, suffix| {
        let file = format!("{name}{suffix}");
        Ok(site.bytes(&format!("/{file}"), std::fs::read(folder.path().join(&file))?))
    })
}

/// A server's files: the image, and these layers.
fn site(layers: &[&str]) -> Result<Site> {
    layers.iter().try_fold(with(Site::new(), &image()?, "web.squashfs")?, |site, name| {
        with(site, &layer(name).squashfs(&format!("layer-{name}"))?, &format!("{name}.squashfs"))
    })
}

/// Boots, and reads these files in the root.
fn read(boot: &Boot<'_>, files: &[&str]) -> Result<(Booted, Vec<String>)> {
    let mut guest = boot.start()?;
    let Some((mut probe, world)) = guest.probe()? else {
        let ended = guest.finish(None)?;
        bail!("the machine came to no real init, but {:?}:\n{}", ended.outcome, ended.console)
    };
    let texts = files.iter().map(|file| match probe.ask(&Request::Text((*file).to_owned()), SOON)? {
        Answer::Text(text) => Ok(text),
        other => bail!("{file}: {other:?}"),
    });
    let texts = texts.collect::<Result<Vec<_>>>();
    probe.power_off()?;
    let booted = guest.finish(Some(world))?;
    equal(&booted.outcome, &Outcome::PoweredOff)?;
    let texts = texts.with_context(|| booted.console.clone())?;
    Ok((booted, texts))
}

/// The real init's world is as after every boot, with exactly so many images under its root.
fn assert_stacked(world: &World, images: usize) -> Result<Report> {
    assert_clean(world)?;
    let lower = |number: usize| format!("/run/rootbeam/lower/{number}");
    let mut expected: Vec<String> =
        ["/", "/dev", "/dev/console", "/proc", "/proc/cmdline", "/sys", "/run", "/run/rootbeam/rw"]
            .map(str::to_owned)
            .into();
    expected.extend((0..images).map(lower));
    let mut found = world.mount_points();
    found.sort_unstable();
    expected.sort_unstable();
    equal(&found.join(" "), &expected.join(" "))?;
    for number in 0..images {
        let mount = world.mount(&lower(number)).context("no lower")?;
        ensure!(mount.options.iter().any(|option| option == "ro"), "{mount:?}");
    }
    let lowers = (0..images).rev().map(lower).collect::<Vec<_>>().join(":");
    let root = world.mount("/").context("no root")?;
    ensure!(root.super_options.contains(&format!("lowerdir={lowers}")), "{root:?}");
    let report = report(world)?;
    let mut devices = devices(world)?;
    devices.sort_unstable();
    devices.dedup();
    equal(&devices.len(), &images)?;
    for device in devices {
        let name = device.trim_start_matches("/dev/");
        let about = world.loops.get(name).with_context(|| format!("{device} is not attached"))?;
        ensure!(about.read_only && about.autoclear, "{about:?}");
    }
    equal(&report.failures.len(), &0)?;
    Ok(report)
}

fn order() -> Result<()> {
    let scene = Scene::of(site(&["one", "two"])?)?;
    for (first, last) in [("one", "two"), ("two", "one")] {
        let words =
            format!("rootbeam.layer={SERVER}/{first}.squashfs rootbeam.layer={SERVER}/{last}.squashfs?optional");
        let (booted, texts) = read(&scene.machine(&words)?, &["/who", "/image", "/one", "/two"])?;
        equal(&texts.join(" "), &format!("{last} image one two"))?;
        let report = assert_stacked(booted.world()?, 3)?;
        equal(&report.worker_restarts, &0)?;
        let layers: Vec<_> = report
            .layers
            .iter()
            .map(|layer| (layer.sources.join(" "), layer.absent, layer.trust, layer.version))
            .collect();
        let there = |name: &str| (format!("{SERVER}/{name}.squashfs"), false, Some(Trust::Checksummed), Some(1));
        equal(&layers, &vec![there(first), there(last)])?;
        ensure!(report.verification.starts_with("checksummed: "), "{}", report.verification);
    }
    Ok(())
}

fn absent() -> Result<()> {
    let scene = Scene::of(site(&["one"])?)?;
    // Neither does it matter what stands above it.
    let words = format!("rootbeam.layer={SERVER}/node-{{mac}}.squashfs?optional rootbeam.layer={SERVER}/one.squashfs");
    let (booted, texts) = read(&scene.machine(&words)?, &["/who"])?;
    equal(&texts.join(" ").as_str(), &"one")?;
    let world = booted.world()?;
    let report = assert_stacked(world, 2)?;
    let [absent, one] = report.layers.as_slice() else { bail!("{:?}", report.layers) };
    let url = absent.sources.join(" ");
    let mac = report.network.as_ref().context("no network")?.mac.replace(':', "-");
    equal(&url, &format!("{SERVER}/node-{mac}.squashfs"))?;
    equal(&(absent.absent, absent.size, absent.trust, absent.device.clone()), &(true, None, None, None))?;
    equal(&(one.absent, one.device.is_some()), &(false, true))?;
    let said = format!("layer {url}: absent");
    ensure!(report.to_string().lines().any(|line| line == said), "{report}");
    ensure!(world.boot_log.as_deref().is_some_and(|log| log.contains(&said)), "{:?}", world.boot_log);
    ensure!(booted.console.contains(&said), "{}", booted.console);
    Ok(())
}

fn required() -> Result<()> {
    let scene = Scene::of(site(&[])?)?;
    let booted = scene.machine(&format!("rootbeam.layer={SERVER}/one.squashfs"))?.run()?;
    refused(
        &booted,
        &format!(
            "FAILED at image: {SERVER}/one.squashfs: the server answered 404 Not Found. Remedy: correct the path in \
             rootbeam.layer=, or put the file there; behind its URL ?optional says that it may be missing."
        ),
    )
}

fn damaged() -> Result<()> {
    let site = site(&["one"])?;
    let mut bytes = std::fs::read(layer("one").squashfs("layer-one")?)?;
    let chunks = bytes.len().div_ceil(65_536);
    *bytes.get_mut(70_000).context("too short")? ^= 1;
    let scene = Scene::of(site.bytes("/one.squashfs", bytes))?;
    for optional in ["", "?optional"] {
        let booted = scene.machine(&format!("rootbeam.layer={SERVER}/one.squashfs{optional}"))?.run()?;
        refused(
            &booted,
            &format!(
                "FAILED at image: {SERVER}/one.squashfs: chunk 1 of {chunks} (from byte 65536) has the wrong SHA-256 \
                 from every source. Remedy: the file on the server is damaged or was replaced: compare it by `rootbeam \
                 image verify` and copy it anew."
            ),
        )?;
    }
    Ok(())
}

/// The image fits, and the layer would but for a page.
fn too_large() -> Result<()> {
    let size: u64 = (8 << 20) + 4096;
    let folder = published_bytes(&probe_of(size, 1)?, "one.squashfs")?;
    let scene = Scene::of(site(&[])?.folder(folder.path())?)?;
    let available = size + (24 << 20) - 4096;
    let given_back = archives::given_back(&archives::for_namespaces()?)?;
    let free = available - given_back;
    let meminfo = ["MemTotal", "MemFree", "MemAvailable"].map(|name| format!("{name}: {} kB\n", free / 1024));
    let words = format!("rootbeam.layer={SERVER}/one.squashfs");
    let booted = scene.machine(&words)?.meminfo(&meminfo.concat()).run()?;
    let [held, needed, available, free, given_back, fits] =
        [size, size + (24 << 20), available, free, given_back, size - 4096].map(human);
    refused(
        &booted,
        &format!(
            "FAILED at memory: layer {SERVER}/one.squashfs of {held}: it needs {needed} (layer {held} + overlay 16.0 MiB \
             + reserve 8.0 MiB) and {available} of {free} are available, {given_back} that the initramfs gives back among \
             them. Remedy: give the machine 4.0 KiB more RAM, or a layer of at most {fits}."
        ),
    )?;
    equal(&scene.http.sent("/one.squashfs"), &0)
}

/// The same manifest with these layers.
fn naming(folder: &Path, layers: &[&str]) -> Result<Vec<u8>> {
    let manifest = Manifest::parse(&std::fs::read(folder.join("web.squashfs.manifest"))?)?;
    let layers = layers.iter().map(|name| (*name).to_owned()).collect();
    Ok(Manifest { layers, ..manifest }.render().into_bytes())
}

fn named() -> Result<()> {
    let folder = published(&probe()?, "web.squashfs")?;
    let manifest = naming(folder.path(), &["one.squashfs.manifest", "two.squashfs"])?;
    let site = site(&["one", "two", "three"])?.folder(folder.path())?.bytes("/web.squashfs.manifest", manifest.clone());
    let scene = Scene::of(site)?;
    let (booted, texts) = read(&scene.machine("")?, &["/who", "/one"])?;
    equal(&texts.join(" ").as_str(), &"two one")?;
    let report = assert_stacked(booted.world()?, 3)?;
    let sources: Vec<_> = report.layers.iter().map(|layer| layer.sources.join(" ")).collect();
    equal(&sources, &["one.squashfs.manifest", "two.squashfs"].map(|name| format!("{SERVER}/{name}")).to_vec())?;
    // What the command line asks for stands above them.
    let boot = scene.machine(&format!("rootbeam.layer={SERVER}/three.squashfs"))?;
    let (booted, texts) = read(&boot, &["/who"])?;
    equal(&texts.join(" ").as_str(), &"three")?;
    assert_stacked(booted.world()?, 4)?;
    // A pin vouches for the names, and not for what has them.
    let pin = Sha256::of(&manifest);
    refused(
        &scene.machine(&format!("rootbeam.manifest=sha256:{pin}"))?.run()?,
        &format!(
            "FAILED at manifest: manifest of {SERVER}/web.squashfs: it names layers, and the hash on the command line \
             does not vouch for them. Remedy: pack a key and sign the manifests of image and layers, or ask for the \
             layers by rootbeam.layer=."
        ),
    )
}

fn unsigned() -> Result<()> {
    let ours = Pair::of("ours")?;
    let public = ours.public();
    let key = ["--key", public.as_str(), "--min-version", "1"];
    let word = format!("rootbeam.layer={SERVER}/one.squashfs?optional");
    let image = published(&probe()?, "web.squashfs")?;
    ours.sign(&image.path().join("web.squashfs.manifest"))?;
    let one = layer("one").squashfs("layer-one")?;
    let folder = published(&one, "one.squashfs")?;
    let signed = || Site::new().folder(image.path());

    let scene = Scene::of(signed()?)?;
    let booted = scene.packed(&key, &word)?.run()?;
    let report = assert_stacked(booted.world()?, 1)?;
    equal(&report.layers.iter().map(|layer| layer.absent).collect::<Vec<_>>(), &vec![true])?;
    ensure!(report.verification.starts_with("signed: "), "{}", report.verification);
    // Only the image itself can tell that it is absent, and it was asked for once.
    let asked = |path: &str| scene.http.log().iter().filter(|exchange| exchange.path == path).count();
    equal(&(asked("/one.squashfs"), asked("/one.squashfs.manifest")), &(1, 1))?;

    let diagnosis = |cause: &str, remedy: &str| {
        format!("FAILED at manifest: manifest of {SERVER}/one.squashfs: {cause}. Remedy: {remedy}.")
    };
    let scene = Scene::of(signed()?.file("/one.squashfs", &one))?;
    refused(
        &scene.packed(&key, &word)?.run()?,
        &diagnosis(
            "there is none, and this boot takes no image without a signed or pinned one",
            "make one with `rootbeam image manifest IMAGE`, sign it with `rootbeam sign`, and publish it beside the image",
        ),
    )?;
    let scene = Scene::of(signed()?.folder(folder.path())?)?;
    refused(
        &scene.packed(&key, &word)?.run()?,
        &diagnosis(
            "it is not signed, and this initramfs has a key packed",
            "sign it with `rootbeam sign MANIFEST -s KEY`, and publish MANIFEST.minisig beside it",
        ),
    )?;
    ours.sign(&folder.path().join("one.squashfs.manifest"))?;
    let scene = Scene::of(signed()?.folder(folder.path())?)?;
    let booted = scene.packed(&key, &word)?.run()?;
    let report = assert_stacked(booted.world()?, 2)?;
    equal(&report.layers.iter().map(|layer| layer.trust).collect::<Vec<_>>(), &vec![Some(Trust::Signed)])?;
    ensure!(report.verification.starts_with("signed: "), "{}", report.verification);
    Ok(())
}

fn weakest() -> Result<()> {
    let one = layer("one").squashfs("layer-one")?;
    let scene = Scene::of(site(&["two"])?.file("/one.squashfs", &one))?;
    let words = format!("rootbeam.layer={SERVER}/one.squashfs rootbeam.layer={SERVER}/two.squashfs");
    let booted = scene.machine(&words)?.run()?;
    let report = assert_stacked(booted.world()?, 3)?;
    let said = format!("UNVERIFIED: no manifest, no checksum, no key (layer {SERVER}/one.squashfs)");
    equal(&report.verification, &said)?;
    equal(&report.warnings.iter().filter(|warning| **warning == said).count(), &1)?;
    // The hash of the image is asked of no layer, and vouches for none.
    let hash = Sha256::of(&std::fs::read(image()?)?);
    let booted = scene.machine(&format!("rootbeam.layer={SERVER}/two.squashfs rootbeam.sha256={hash}"))?.run()?;
    let report = assert_stacked(booted.world()?, 2)?;
    let trusts = (report.image.map(|image| image.trust), report.layers.iter().map(|layer| layer.trust).collect());
    equal(&trusts, &(Some(Trust::Pinned), vec![Some(Trust::Checksummed)]))?;
    let said = "checksummed: undamaged by a manifest or checksum from the server, which is not signed";
    equal(&report.verification, &format!("{said} (layer {SERVER}/two.squashfs)"))
}

fn killed() -> Result<()> {
    let scene = Scene::of(site(&["one"])?)?;
    let path = "/one.squashfs";
    scene.http.commit(Rule::of(path, When::Always, Fault::Rate(50_000)));
    let mut guest = scene.machine(&format!("rootbeam.layer={SERVER}{path}"))?.start()?;
    scene.http.wait_sent(path, 70_000, SOON)?;
    let store = guest.worker(role::STORE)?.context("no store")?;
    rustix::process::kill_process(store, rustix::process::Signal::KILL)?;
    scene.http.behave();
    let (mut probe, world) = guest.probe()?.context("the machine came to no real init")?;
    let held: Result<Vec<_>> =
        devices(&world)?.into_iter().map(|device| probe.ask(&Request::Digest(device), SOON)).collect();
    probe.power_off()?;
    let booted = guest.finish(Some(world))?;
    let report = assert_stacked(booted.world()?, 2)?;
    equal(&report.worker_restarts, &1)?;
    let expected = [image()?, layer("one").squashfs("layer-one")?].map(|image| {
        let mut bytes = std::fs::read(image)?;
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
        Ok(Answer::Digest { size: bytes.len() as u64, sha256: Sha256::of(&bytes).to_string() })
    });
    equal(&held?, &expected.into_iter().collect::<Result<Vec<_>>>()?)
}

/// The RAM disks of the image and of the layers.
fn devices(world: &World) -> Result<Vec<String>> {
    let report = report(world)?;
    let image = report.image.into_iter().filter_map(|image| image.device);
    Ok(image.chain(report.layers.into_iter().filter_map(|layer| layer.device)).collect())
}

fn emulated() -> Result<()> {
    let kernel = packages::kernel(Suite::Bookworm)?;
    let http = HttpServer::on_loopback(site(&["one"])?)?;
    let server = format!("http://{}:{}", qemu::HOST, http.address().port());
    let words = format!(
        "rootbeam.image={server}/web.squashfs rootbeam.layer={server}/one.squashfs \
         rootbeam.layer={server}/node.squashfs?optional rootbeam.on-failure=poweroff"
    );
    let boot = qemu::Boot::new(&kernel, &archives::for_qemu(&kernel)?).nic(qemu::Nic::user()).cmdline(&words);
    let booted = boot.run()?;
    let world = booted.world()?;
    equal(&booted.outcome, &Outcome::PoweredOff)?;
    assert_clean(world)?;
    let mut points = world.mount_points();
    points.sort_unstable();
    let expected = "/ /dev /proc /run /run/rootbeam/lower/0 /run/rootbeam/lower/1 /run/rootbeam/rw /sys";
    equal(&points.join(" ").as_str(), &expected)?;
    equal(&["image", "one"].map(|name| world.root_names.iter().any(|found| found == name)), &[true, true])?;
    equal(&report(world)?.layers.iter().map(|layer| layer.absent).collect::<Vec<_>>(), &vec![false, true])
}
