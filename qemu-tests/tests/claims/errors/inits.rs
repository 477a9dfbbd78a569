//! Command lines and real inits that do not do.

use super::super::boots::report;
use super::{PATH, Scene, URL, refused};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_qemu_tests::archives;
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::images::{self, Tree};
use rootbeam_qemu_tests::netns::{self, Boot};
use rootbeam_qemu_tests::servers::site::Site;

pub fn claims() -> Vec<Trial> {
    let claim = |name, check: fn() -> Result<()>| claim(name, &[netns::available], check);
    vec![
        claim("errors: a command line without rootbeam.image= says what to append", no_image),
        claim("errors: a rootbeam.image= that is no URL of a file is named, with what it must be", no_url),
        claim("errors: an unknown option is warned of with the nearest known name, and the boot succeeds", unknown),
        claim("errors: an image without an init names every place that was looked at", no_init),
        claim("errors: an init that is not executable is told with its mode", not_executable),
        claim("errors: an init for another architecture is told with both", other_machine),
        claim("errors: an init whose interpreter is missing names the interpreter", no_interpreter),
        claim("errors: an init= that is not in the image is told as that", no_such_init),
    ]
}

fn no_image() -> Result<()> {
    let booted = Boot::new(&archives::for_namespaces()?).cmdline("rootbeam.on-failure=poweroff").run()?;
    refused(
        &booted,
        "FAILED at settings: kernel command line: no rootbeam.image= says where the image is. Remedy: append \
         rootbeam.image=http://SERVER/IMAGE to the kernel command line.",
    )
}

fn no_url() -> Result<()> {
    let words = "rootbeam.on-failure=poweroff rootbeam.image=http://10.77.0.1/";
    refused(
        &Boot::new(&archives::for_namespaces()?).cmdline(words).run()?,
        "FAILED at settings: rootbeam.image=http://10.77.0.1/: its value must be the URL of a file, not of a folder. \
         Remedy: correct it on the kernel command line, or in the file that was packed with `rootbeam pack --config`.",
    )
}

fn unknown() -> Result<()> {
    let scene = Scene::of(Site::new().file(PATH, &images::probe()?))?;
    let booted = scene.machine("rootbeam.overlay.sise=50% rootbeam.stall=never")?.run()?;
    let warnings = [
        "unknown option rootbeam.overlay.sise=*** is ignored; did you mean rootbeam.overlay.size?",
        "rootbeam.stall=never is ignored: its value must be a number of seconds, at least 1",
    ];
    for warning in warnings {
        ensure!(booted.console.contains(warning), "{}", booted.console);
    }
    let found = report(booted.world()?)?.warnings;
    equal(&found.get(..2), &Some(&warnings.map(str::to_owned)[..]))
}

/// What is said of an image whose `/sbin/init` is `init`.
#[track_caller]
fn unfit(name: &str, init: Tree, words: &str, diagnosis: &str) -> Result<()> {
    refused(&Scene::of(Site::new().file(PATH, &init.squashfs(name)?))?.machine(words)?.run()?, diagnosis)
}

const ELSEWHERE: &str = "/etc/init is not there; /bin/init is not there; /bin/sh is not there. Remedy: put an init into \
                         the image (/sbin/init), or name it with init=.";

fn no_init() -> Result<()> {
    let diagnosis = format!("FAILED at init: image without an init: /sbin/init is not there; {ELSEWHERE}");
    unfit("no-init", Tree::root(), "", &diagnosis)
}

fn not_executable() -> Result<()> {
    let tree = Tree::root().file("sbin/init", 0o644, images::probe_program()?);
    let diagnosis =
        format!("FAILED at init: image without an init: /sbin/init is not executable (mode 0644); {ELSEWHERE}");
    unfit("not-executable", tree, "", &diagnosis)
}

fn other_machine() -> Result<()> {
    const E_MACHINE: usize = 18;
    const AARCH64: u8 = 183;
    let mut program = images::probe_program()?;
    *program.get_mut(E_MACHINE).context("no ELF header")? = AARCH64;
    let running = rustix::system::uname().machine().to_string_lossy().into_owned();
    let diagnosis = format!(
        "FAILED at init: image without an init: /sbin/init is a program for aarch64, this machine is {running}; \
         {ELSEWHERE}"
    );
    unfit("aarch64", Tree::root().file("sbin/init", 0o755, program), "", &diagnosis)
}

fn no_interpreter() -> Result<()> {
    let tree = Tree::root().file("sbin/init", 0o755, "#! /usr/bin/perl -w\nexec 1;\n");
    let diagnosis = format!(
        "FAILED at init: image without an init: /sbin/init needs /usr/bin/perl, which is not there; {ELSEWHERE}"
    );
    unfit("no-interpreter", tree, "", &diagnosis)
}

fn no_such_init() -> Result<()> {
    let tree = images::probe_tree()?;
    unfit(
        "probe",
        tree,
        "init=/lib/systemd/systemd",
        "FAILED at init: /lib/systemd/systemd: it is not there. Remedy: correct init= on the kernel command line, or \
         the image.",
    )?;
    let scene = Scene::of(Site::new().file(PATH, &images::probe()?))?;
    let booted = scene.machine("init=/sbin/../sbin/init")?.run()?;
    ensure!(booted.world().is_ok(), "{URL} did not boot: {}", booted.console);
    Ok(())
}
