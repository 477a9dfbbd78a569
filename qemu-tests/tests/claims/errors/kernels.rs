//! Kernels that lack something, and machines that do: what only a machine of its own can show.

use super::super::boots::report;
use super::{PATH, diagnoses};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::command::run;
use rootbeam_qemu_tests::outcome::{Booted, Outcome};
use rootbeam_qemu_tests::packages::{self, Kernel, Suite};
use rootbeam_qemu_tests::servers::http::HttpServer;
use rootbeam_qemu_tests::servers::site::Site;
use rootbeam_qemu_tests::{archives, images, places, qemu};
use std::path::Path;
use std::process::Command;

pub fn claims() -> Vec<Trial> {
    let claim = |name, check: fn() -> Result<()>| claim(name, &[qemu::available], check);
    vec![
        claim("errors: a kernel without squashfs is told, and how to pack the module", || without("squashfs")),
        claim("errors: a kernel without overlay is told, and how to pack the module", || without("overlay")),
        claim("errors: a filesystem that the operator keeps out is told, and panic= restarts the machine", blacklisted),
        claim("errors: an image larger than the machine's real memory is refused with the sums", memory),
        claim("errors: an image without modules of a kernel that needs them is warned of", no_modules),
    ]
}

/// Boots what `site` has, with a machine that restarts where it fails.
fn fail(kernel: &Kernel, archive: &Path, site: Site, words: &str) -> Result<(Booted, HttpServer)> {
    let http = HttpServer::on_loopback(site)?;
    let url = format!("http://{}:{}{PATH}", qemu::HOST, http.address().port());
    let words = format!("rootbeam.image={url} {words}");
    let booted = qemu::Boot::new(kernel, archive).nic(qemu::Nic::user()).cmdline(&words).run()?;
    ensure!(booted.world().is_err(), "a real init was started all the same");
    equal(&booted.outcome, &Outcome::Restarted)?;
    Ok((booted, http))
}

#[track_caller]
fn only_diagnosis(booted: &Booted, diagnosis: &str) -> Result<()> {
    equal(&diagnoses(&booted.console).join("\n").as_str(), &diagnosis)
}

fn without(module: &'static str) -> Result<()> {
    let kernel = packages::kernel(Suite::Bookworm)?;
    let archive = archives::for_qemu_with(&lacking(&kernel, module)?, &["--allow-missing"])?;
    let (booted, _) = fail(&kernel, &archive, Site::new().file(PATH, &images::probe()?), "")?;
    only_diagnosis(
        &booted,
        &format!(
            "FAILED at mount: kernel without {module}: it has the filesystem {module} neither built in nor as a module \
             of this initramfs. Remedy: use a kernel with {module}, or pack the module with `rootbeam pack \
             --include-module {module}`."
        ),
    )?;
    ensure!(booted.console.contains("rootbeam: rebooting now"), "{}", booted.console);
    Ok(())
}

/// The kernel as it would be if one module had not been built: neither its file is there nor a line that lists it.
fn lacking(kernel: &Kernel, module: &str) -> Result<Kernel> {
    let root = places::cache("kernels")?.join(format!("{}-without-{module}", kernel.release));
    places::once(&root, |half| {
        let place = Path::new("lib/modules").join(&kernel.release);
        let (from, to) = (kernel.modules.join(&place), half.join(&place));
        std::fs::create_dir_all(to.parent().context("no folder")?)?;
        run(Command::new("cp").args(["--archive", "--link"]).arg(&from).arg(&to))?;
        let list = std::fs::read_to_string(from.join("modules.dep"))?;
        let mut files = list.lines().filter_map(|line| line.split(':').next());
        let file = files.find(|file| file.contains(&format!("/{module}.ko"))).context("the kernel lacks it already")?;
        std::fs::remove_file(to.join(file))?;
        for name in ["modules.dep", "modules.order"] {
            let text = std::fs::read_to_string(from.join(name))?;
            // The file is one with the original's until it is removed.
            std::fs::remove_file(to.join(name))?;
            let lines = text.lines().filter(|line| !line.contains(file));
            std::fs::write(to.join(name), lines.map(|line| format!("{line}\n")).collect::<String>())?;
        }
        Ok(())
    })?;
    Ok(Kernel { modules: root, ..kernel.clone() })
}

fn blacklisted() -> Result<()> {
    let kernel = packages::kernel(Suite::Bookworm)?;
    let site = Site::new().file(PATH, &images::probe()?);
    let (booted, _) = fail(&kernel, &archives::for_qemu(&kernel)?, site, "modprobe.blacklist=squashfs panic=2")?;
    only_diagnosis(
        &booted,
        "FAILED at mount: squashfs: the module is blacklisted. Remedy: take squashfs out of modprobe.blacklist= and \
         rd.driver.blacklist= on the command line.",
    )?;
    ensure!(booted.console.contains("rootbeam: rebooting in 2 s"), "{}", booted.console);
    Ok(())
}

fn no_modules() -> Result<()> {
    let kernel = packages::kernel(Suite::Bookworm)?;
    let archive = archives::for_qemu(&kernel)?;
    let boot = |image: &Path| -> Result<Booted> {
        let folder = images::published(image, PATH.trim_start_matches('/'))?;
        let http = HttpServer::on_loopback(Site::new().folder(folder.path())?)?;
        let url = format!("http://{}:{}{PATH}", qemu::HOST, http.address().port());
        qemu::Boot::new(&kernel, &archive).nic(qemu::Nic::user()).cmdline(&format!("rootbeam.image={url}")).run()
    };
    let release = &kernel.release;
    let warning = format!(
        "the image has no modules, and kernel {release} is running, which needs them: drivers that are not loaded yet \
         will be missing; put the modules of kernel {release} into the image"
    );
    let without = boot(&images::probe()?)?;
    equal(&report(without.world()?)?.warnings, &vec![warning.clone()])?;
    let console = &without.console;
    ensure!(console.lines().any(|line| line.ends_with(&format!("rootbeam: {warning}"))), "{console}");
    let with = boot(&images::probe_for(&kernel)?)?;
    equal(&report(with.world()?)?.warnings, &vec![])
}

fn memory() -> Result<()> {
    const MIB: u64 = 1 << 20;
    let kernel = packages::kernel(Suite::Bookworm)?;
    let folder = tempfile::tempdir()?;
    let image = folder.path().join("image");
    std::fs::File::create(&image)?.set_len(1024 * MIB)?;
    let (booted, http) = fail(&kernel, &archives::for_qemu(&kernel)?, Site::new().file(PATH, &image), "")?;
    let [diagnosis] = diagnoses(&booted.console)[..] else { anyhow::bail!("{}", booted.console) };
    let sums = diagnosis
        .strip_prefix(
            "FAILED at memory: image of 1.0 GiB: it needs 1.0 GiB (image 1.0 GiB + overlay 16.0 MiB + reserve 8.0 MiB) \
             and ",
        )
        .context("not the sums")?;
    let (available, rest) = sums.split_once(" MiB of ").context("not what is available")?;
    let (total, rest) = rest.split_once(" MiB are available, ").context("not the total")?;
    let (given_back, rest) = rest
        .split_once(" MiB that the initramfs gives back among them. Remedy: give the machine ")
        .context("not what is given back")?;
    let (more, fits) = rest.split_once(" MiB more RAM, or an image of at most ").context("not what is missing")?;
    let number = |text: &str| text.parse::<f64>().with_context(|| format!("not a number: {text}"));
    let (available, total, more) = (number(available)?, number(total)?, number(more)?);
    ensure!((5.0..12.0).contains(&number(given_back)?), "{diagnosis}");
    let fits = number(fits.strip_suffix(" MiB.").context("not what would fit")?)?;
    ensure!((400.0..512.0).contains(&total) && available < total, "{diagnosis}");
    // Each number is rounded to a tenth.
    ensure!((available + more - 1048.0).abs() < 0.3 && (fits + 24.0 - available).abs() < 0.3, "{diagnosis}");
    // Without a manifest the size comes with the first bytes; they wait in the ring and are dropped.
    ensure!(http.sent(PATH) < 32 * MIB, "{} bytes were fetched", http.sent(PATH));
    Ok(())
}
