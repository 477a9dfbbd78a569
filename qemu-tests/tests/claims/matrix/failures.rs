//! The options about failures and about what is said.

use super::super::boots::assert_clean;
use super::{PATH, SOON, URL, boot, diagnoses, emulated, host, machine, probe};
use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use rootbeam_qemu_tests::claim::{equal, row};
use rootbeam_qemu_tests::netns::{self, Network, Nic};
use rootbeam_qemu_tests::outcome::Outcome;
use rootbeam_qemu_tests::packages::{self, Suite};
use rootbeam_qemu_tests::servers::fault::{Fault, When};
use rootbeam_qemu_tests::servers::site::Site;
use rootbeam_qemu_tests::{archives, images, qemu};
use std::time::{Duration, Instant};

pub fn rows() -> Vec<Trial> {
    vec![
        row("matrix: rootbeam.on-failure= ends a whole machine as it says", &[qemu::available], on_failure),
        row("matrix: panic= restarts a whole machine after its seconds", &[qemu::available], panic),
        row("matrix: rootbeam.timeout= bounds a download that goes on too slowly", &[netns::available], timeout),
        row("matrix: rootbeam.log= decides what a whole machine prints", &[qemu::available], log),
        row("matrix: rootbeam.log=error prints nothing of a boot that succeeds", &[netns::available], log_error),
        row(
            "matrix: quiet prints nothing of a boot that succeeds, unless rootbeam.log= asks for it",
            &[netns::available],
            quiet,
        ),
        row("matrix: quiet still shows warnings on the console of a whole machine", &[qemu::available], quiet_warns),
    ]
}

/// Boots a machine whose image is not there, until it has said `awaited`.
fn missing(words: &str, awaited: &str) -> Result<qemu::Guest> {
    let kernel = packages::kernel(Suite::Bookworm)?;
    let (_http, image) = host(Site::new())?;
    let guest = qemu::Boot::new(&kernel, &archives::for_qemu(&kernel)?)
        .nic(qemu::Nic::user())
        .cmdline(&format!("{image} {words}"))
        .start()?;
    let text = guest.console().wait_for(awaited, Duration::from_secs(240))?;
    ensure!(text.contains("the server answered 404 Not Found"), "{text}");
    Ok(guest)
}

fn on_failure() -> Result<()> {
    let off = missing("rootbeam.on-failure=poweroff", "switching the machine off")?;
    equal(&off.finish(None)?.outcome, &Outcome::PoweredOff)?;
    let again = missing("rootbeam.on-failure=reboot:2", "rebooting in 2 s")?;
    equal(&again.finish(None)?.outcome, &Outcome::Restarted)?;
    // The kernel's own last word.
    missing("rootbeam.on-failure=halt", "System halted").map(drop)
}

fn panic() -> Result<()> {
    let begun = Instant::now();
    let guest = missing("panic=4", "rebooting in 4 s")?;
    equal(&guest.finish(None)?.outcome, &Outcome::Restarted)?;
    ensure!(begun.elapsed() >= Duration::from_secs(4), "it took {:?}", begun.elapsed());
    missing("panic=-1", "rebooting now")?.finish(None).and_then(|end| equal(&end.outcome, &Outcome::Restarted))
}

fn timeout() -> Result<()> {
    let network = Network::new()?;
    let image = images::probe_with_noise(4 << 20)?;
    let http = network.http(Site::new().file(PATH, &image))?.fault(PATH, When::Always, Fault::Rate(200 << 10));
    let begun = Instant::now();
    let booted = machine("rootbeam.timeout=3")?.nic(Nic::on(&network)).run()?;
    let took = begun.elapsed();
    ensure!(booted.world().is_err(), "it booted");
    equal(&booted.outcome, &Outcome::PoweredOff)?;
    let said = diagnoses(&booted.console);
    ensure!(said.starts_with("FAILED at image: ") && said.contains("the 3 s of rootbeam.timeout= are over"), "{said}");
    ensure!(took >= Duration::from_secs(3) && took < Duration::from_secs(15), "it took {took:?}");
    http.behave();
    machine("rootbeam.timeout=30")?.nic(Nic::on(&network)).run()?.world().map(drop)
}

fn log() -> Result<()> {
    let kernel = packages::kernel(Suite::Bookworm)?;
    let archive = archives::for_qemu(&kernel)?;
    // Warned of, information, detail: what each word lets through.
    let [warning, information, detail] = ["UNVERIFIED", "handing over to /sbin/init", "rootbeam: load "];
    for (words, expected) in [
        ("rootbeam.log=debug", [true, true, true]),
        ("rootbeam.log=info", [true, true, false]),
        ("rootbeam.log=warn", [true, false, false]),
        ("rootbeam.log=error", [false, false, false]),
    ] {
        let booted = emulated(&kernel, &archive, words)?;
        let world = booted.world()?;
        assert_clean(world)?;
        let found = [warning, information, detail].map(|text| booted.console.contains(text));
        ensure!(found == expected, "{words}: {found:?}\n{}", booted.console);
    }
    Ok(())
}

fn log_error() -> Result<()> {
    let booted = boot(probe()?, "rootbeam.log=error")?;
    assert_clean(booted.world()?)?;
    equal(&booted.console.as_str(), &"probe: here I am\n")?;
    // An error is printed all the same.
    let booted = boot(Site::new(), "rootbeam.log=error")?;
    ensure!(diagnoses(&booted.console).starts_with(&format!("FAILED at image: {URL}")), "{}", booted.console);
    Ok(())
}

fn quiet() -> Result<()> {
    let folder = images::published(&images::probe_with_noise(4 << 20)?, "probe.squashfs")?;
    let network = Network::new()?;
    let _http = network.http(Site::new().folder(folder.path())?)?.fault(PATH, When::Always, Fault::Rate(2 << 20));
    let console = |words: &str| -> Result<String> {
        let booted = machine(words)?.nic(Nic::on(&network)).limit(SOON).memory(4096).run()?;
        assert_clean(booted.world()?)?;
        Ok(booted.console)
    };
    let loud = console("")?;
    ensure!(loud.contains(" %), ") && loud.contains("/s, "), "no progress where it is wanted:\n{loud}");
    equal(&console("quiet")?.as_str(), &"probe: here I am\n")?;
    // The explicit word wins over what quiet implies.
    let asked = console("quiet rootbeam.log=info")?;
    ensure!(asked.contains(" %), ") && asked.contains("handing over to /sbin/init"), "{asked}");
    Ok(())
}

fn quiet_warns() -> Result<()> {
    let kernel = packages::kernel(Suite::Bookworm)?;
    let booted = emulated(&kernel, &archives::for_qemu(&kernel)?, "quiet")?;
    assert_clean(booted.world()?)?;
    ensure!(booted.console.contains("rootbeam: UNVERIFIED"), "the warning is not on the console:\n{}", booted.console);
    ensure!(!booted.console.contains("handing over"), "{}", booted.console);
    Ok(())
}
