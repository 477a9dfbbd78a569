//! A new version is published while machines stream the old one.

use super::super::boots::{assert_clean, report};
use super::super::fetching::publish::Newsstand;
use super::{SOON, alone, completion, identical};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_init::settings::values::Mode;
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::netns::{self, Boot, Guest, Nic};
use rootbeam_qemu_tests::outcome::Outcome;
use rootbeam_qemu_tests::{archives, images};

/// How many machines stream at once.
const MACHINES: usize = 3;

pub fn claims() -> Vec<Trial> {
    vec![claim(
        "streaming: machines finish the version that they began, whatever is published meanwhile",
        &[netns::available],
        finished,
    )]
}

fn finished() -> Result<()> {
    let (old, new) = (images::probe_with_noise(12 << 20)?, images::probe_with_noise(13 << 20)?);
    let stand = Newsstand::open(&old)?;
    let words = format!("rootbeam.image={} rootbeam.mode=stream", stand.network.url("/latest.manifest"));
    let archive = archives::for_namespaces()?;
    let boot = |nic| Boot::new(&archive).cmdline(&words).nic(nic).limit(SOON).start();
    let met = |mut guest: Guest| {
        let (probe, world) = guest.probe()?.with_context(|| guest.console().last_lines())?;
        Ok((guest, probe, world))
    };
    let guests = (0..MACHINES).map(|_| boot(stand.nic())).collect::<Result<Vec<_>>>()?;
    // Each has read the manifest.
    for guest in &guests {
        guest.console().wait_for("the rest comes while it is used", SOON)?;
    }
    stand.publish(&new)?;
    for guest in &guests {
        ensure!(
            !guest.console().text().contains("all of it is in memory"),
            "one was done already: {}",
            guest.console().text()
        );
    }
    stand.hurry(&guests)?;
    let mut machines = guests.into_iter().map(met).collect::<Result<Vec<_>>>()?;
    machines.push(met(boot(Nic::on(&stand.network))?)?);
    let (old, new) = (std::fs::read(old)?, std::fs::read(new)?);
    let expected = [(1, &old); MACHINES].into_iter().chain([(2, &new)]);
    for ((guest, mut probe, world), (version, image)) in machines.into_iter().zip(expected) {
        let checked = (|| -> Result<()> {
            let report = report(&world)?;
            equal(&(report.mode, report.failures.len()), &(Some(Mode::Stream), 0))?;
            let about = report.image.context("no image in the report")?;
            equal(&about.version, &Some(version))?;
            identical(&mut probe, &about.device.context("no RAM disk in the report")?, image)?;
            // One that was whole before the hand-over has nobody who would tell.
            if !world.other_processes().is_empty() {
                let done = completion(&mut probe)?;
                equal(&(done.total, done.verified), &(image.len() as u64, image.len() as u64))?;
            }
            assert_clean(&alone(&mut probe)?)
        })();
        checked.with_context(|| format!("version {version}\n{}", guest.console().last_lines()))?;
        probe.power_off()?;
        equal(&guest.finish(Some(world))?.outcome, &Outcome::PoweredOff)?;
    }
    Ok(())
}
