//! The options about the image and the memory it takes.

use super::super::boots::{assert_clean, report};
use super::{PATH, SOON, URL, boot, diagnoses, machine, probe};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_init::digest::Sha256;
use rootbeam_init::messages::Trust;
use rootbeam_qemu_tests::claim::{equal, row};
use rootbeam_qemu_tests::netns::{self, Network, Nic};
use rootbeam_qemu_tests::outcome::Outcome;
use rootbeam_qemu_tests::probe::{Answer, Request};
use rootbeam_qemu_tests::servers::fault::{Fault, When};
use rootbeam_qemu_tests::servers::site::Site;
use rootbeam_qemu_tests::{archives, images};
use std::time::{Duration, Instant};

pub fn rows() -> Vec<Trial> {
    let row = |name, check: fn() -> Result<()>| row(name, &[netns::available], check);
    vec![
        row("matrix: rootbeam.image= with four sources takes up at the next where one breaks off", several_sources),
        row("matrix: rootbeam.sha256= vouches for a squashfs and an erofs, and refuses any other", pinned),
        row("matrix: rootbeam.verify=require takes each kind of proof, and nothing else", required),
        row("matrix: rootbeam.overlay.size= as a size is the room that the root has", overlay_size),
        row(
            "matrix: rootbeam.overlay.size= in percent is of what the image leaves, and the default is half",
            overlay_share,
        ),
        row("matrix: rootbeam.reserve= is kept free to the page", reserve),
        row("matrix: rootbeam.stall= gives up a silent connection, and nothing is fetched twice", stall),
        row("matrix: init= starts another program of the image", other_init),
    ]
}

const MIB: u64 = 1 << 20;

fn several_sources() -> Result<()> {
    let image = images::probe_with_noise(4 << 20)?;
    let size = std::fs::metadata(&image)?.len();
    let folder = images::published(&image, "probe.squashfs")?;
    let site = || Site::new().folder(folder.path());
    let network = Network::new()?;
    let _empty = network.http_on(8081, Site::new())?;
    let breaks = network.http(site()?)?.fault(PATH, When::First(1), Fault::CutAfter(MIB)).fault(
        PATH,
        When::After(1),
        Fault::Status(503),
    );
    let whole = network.http_on(8082, site()?)?;
    let at = |port: u16| format!("http://10.77.0.1:{port}{PATH}");
    // The first refuses connections, the second has no such file.
    let sources = [at(8080), at(8081), URL.to_owned(), at(8082)];
    let booted = machine(&format!("rootbeam.image={}", sources.join(",")))?.nic(Nic::on(&network)).run()?;
    let world = booted.world()?;
    assert_clean(world)?;
    let report = report(world)?;
    equal(&report.failures, &vec![])?;
    let about = report.image.context("no image in the report")?;
    equal(&(about.size, about.tally.verified, about.tally.rejected_chunks), &(size, size, 0))?;
    equal(&about.sources, &sources.to_vec())?;
    let (before, after) = (breaks.sent(PATH), whole.sent(PATH));
    ensure!(before > 0 && after > 0, "one alone gave all: {before} and {after} bytes");
    // What was cut off in the middle of a chunk comes again, that chunk alone.
    ensure!(before + after < size + (64 << 10), "{before} and {after} bytes for {size}");
    Ok(())
}

fn pinned() -> Result<()> {
    for image in [images::probe()?, images::probe_tree()?.erofs("probe")?] {
        let right = Sha256::of(&std::fs::read(&image)?);
        let site = || Site::new().file(PATH, &image);
        let booted = boot(site(), &format!("rootbeam.sha256={right} rootbeam.verify=require"))?;
        let report = report(booted.world()?)?;
        ensure!(report.verification.starts_with("pinned: "), "{}", report.verification);
        let about = report.image.context("no image in the report")?;
        equal(&(about.trust, about.sha256), &(Trust::Pinned, Some(right)))?;
        let wrong = Sha256::of(b"another");
        let booted = boot(site(), &format!("rootbeam.sha256={wrong}"))?;
        ensure!(booted.world().is_err(), "an image with another hash was booted");
        let expected = format!(
            "FAILED at image: {URL}: its SHA-256 is {right}, and {wrong} was asked for. Remedy: correct the hash \
             (rootbeam.sha256= or the .sha256 file) or the file on the server."
        );
        equal(&diagnoses(&booted.console), &expected)?;
    }
    Ok(())
}

fn required() -> Result<()> {
    let image = images::probe()?;
    let hash = Sha256::of(&std::fs::read(&image)?);
    let folder = images::published(&image, "probe.squashfs")?;
    let proofs = [
        ("a manifest", Site::new().folder(folder.path())?),
        ("IMAGE.sha256", probe()?.bytes("/probe.squashfs.sha256", format!("{hash}  probe.squashfs\n"))),
        ("SHA256SUMS", probe()?.bytes("/SHA256SUMS", format!("{hash} *probe.squashfs\n"))),
    ];
    for (what, site) in proofs {
        let booted = boot(site, "rootbeam.verify=require")?;
        let report = report(booted.world().context(what)?)?;
        equal(&report.image.map(|image| image.trust), &Some(Trust::Checksummed))?;
    }
    // Sums of other files are no proof; and `default` behind it does not take `require` back.
    for words in ["rootbeam.verify=require", "rootbeam.verify=require rootbeam.verify=default"] {
        let booted = boot(probe()?.bytes("/SHA256SUMS", format!("{hash}  other.squashfs\n")), words)?;
        ensure!(booted.world().is_err(), "{words}: it booted without a proof");
        let said = diagnoses(&booted.console);
        ensure!(said.starts_with(&format!("FAILED at manifest: {URL}: verification is required")), "{words}: {said}");
    }
    Ok(())
}

fn overlay_size() -> Result<()> {
    let network = Network::new()?;
    let _http = network.http(probe()?)?;
    for (words, size) in [("rootbeam.overlay.size=40M", 40 * MIB), ("rootbeam.overlay.size=24576k", 24 * MIB)] {
        let mut guest = machine(words)?.nic(Nic::on(&network)).start()?;
        let (mut probe, world) = guest.probe()?.with_context(|| guest.console().last_lines())?;
        equal(&world.root.total, &size)?;
        let writable = world.mount("/run/rootbeam/rw").context("no writable layer")?;
        let option = format!("size={}k", size >> 10);
        ensure!(writable.kind == "tmpfs" && writable.super_options.contains(&option), "{writable:?}");
        equal(&report(&world)?.memory.overlay, &size)?;
        let Answer::Filled(written, Some(error)) = probe.ask(&Request::Fill("/full".into(), 2 * size), SOON)? else {
            anyhow::bail!("{words}: more was written than fits")
        };
        ensure!((size - MIB..=size).contains(&written), "{words}: {written} bytes were written");
        ensure!(error.contains("No space left"), "{words}: {error}");
        probe.power_off()?;
        guest.finish(Some(world))?;
    }
    Ok(())
}

fn overlay_share() -> Result<()> {
    let size = std::fs::metadata(images::probe()?)?.len().next_multiple_of(4096);
    let network = Network::new()?;
    let _http = network.http(probe()?)?;
    let left = 400 * MIB + archives::given_back(&archives::for_namespaces()?)? - size;
    for (words, percent) in [("rootbeam.overlay.size=25%", 25), ("rootbeam.overlay.size=100%", 100), ("", 50)] {
        let booted = machine(words)?.nic(Nic::on(&network)).memory(400).run()?;
        let world = booted.world()?;
        let exact = left * percent / 100;
        let found = world.root.total;
        // Percent of bytes are rounded down, and a tmpfs has whole pages.
        ensure!(found.abs_diff(exact) <= 8192, "{words}: {found} bytes, not {exact}");
        let report = report(world)?;
        ensure!(report.memory.overlay.abs_diff(found) <= 4096, "{:?}", report.memory);
    }
    Ok(())
}

fn reserve() -> Result<()> {
    let folder = images::published(&images::probe_with_noise(4 << 20)?, "probe.squashfs")?;
    let size = std::fs::metadata(folder.path().join("probe.squashfs"))?.len().next_multiple_of(4096);
    let network = Network::new()?;
    let http = network.http(Site::new().folder(folder.path())?)?;
    let given_back = archives::given_back(&archives::for_namespaces()?)?;
    // Overlay and reserve share with the initramfs's memory, the ring does not.
    for (words, beside) in [
        ("rootbeam.reserve=100M", 116 * MIB - given_back),
        ("rootbeam.reserve=0", 16 * MIB),
        ("", 24 * MIB - given_back),
    ] {
        let needed = size + beside;
        let with = |available: u64| {
            let kib = available >> 10;
            let text = format!("MemTotal: {} kB\nMemFree: {kib} kB\nMemAvailable: {kib} kB\n", 1 << 20);
            machine(words)?.nic(Nic::on(&network)).meminfo(&text).run()
        };
        let before = http.sent(PATH);
        let short = with(needed - 4096)?;
        ensure!(short.world().is_err(), "{words}: it booted with a page too little");
        let said = diagnoses(&short.console);
        ensure!(
            said.starts_with("FAILED at memory: image of ") && said.contains("4.0 KiB more RAM"),
            "{words}: {said}"
        );
        equal(&http.sent(PATH), &before)?;
        with(needed)?.world().with_context(|| words.to_owned())?;
    }
    Ok(())
}

fn stall() -> Result<()> {
    let image = images::probe_with_noise(4 << 20)?;
    let size = std::fs::metadata(&image)?.len();
    let folder = images::published(&image, "probe.squashfs")?;
    let network = Network::new()?;
    let http = network.http(Site::new().folder(folder.path())?)?.fault(
        PATH,
        When::First(1),
        Fault::StallAfter(MIB, Duration::from_secs(30)),
    );
    let begun = Instant::now();
    let booted = machine("rootbeam.stall=2")?.nic(Nic::on(&network)).run()?;
    let took = begun.elapsed();
    assert_clean(booted.world()?)?;
    equal(&booted.outcome, &Outcome::PoweredOff)?;
    ensure!(took >= Duration::from_secs(2) && took < Duration::from_secs(20), "it took {took:?}");
    // The MiB of the exchange that fell silent is among them.
    let sent = http.sent(PATH);
    ensure!((size..size + (64 << 10)).contains(&sent), "{sent} bytes were sent of {size}");
    Ok(())
}

fn other_init() -> Result<()> {
    let image = images::probe_tree()?.file("opt/other init", 0o755, images::probe_program()?).squashfs("other-init")?;
    // Quoted, as the kernel takes a value with a space.
    let booted = boot(Site::new().file(PATH, &image), "\"init=/opt/other init\" word")?;
    let world = booted.world()?;
    assert_clean(world)?;
    equal(&world.args.first().map(String::as_str), &Some("/opt/other init"))?;
    equal(&report(world)?.init.as_deref(), &Some("/opt/other init"))
}
