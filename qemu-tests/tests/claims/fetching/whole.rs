//! One of each kind through QEMU's user network: a stock kernel, its driver, and a network stack between.

use super::{CHUNK, PATH, Published, SIZE, Vouched, identical, thrifty};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::outcome::Outcome;
use rootbeam_qemu_tests::packages::{self, Suite};
use rootbeam_qemu_tests::servers::fault::{Fault, Rule, When};
use rootbeam_qemu_tests::servers::http::HttpServer;
use rootbeam_qemu_tests::{archives, qemu};

pub fn claims() -> Vec<Trial> {
    let name = "fetching: refused, cut and stalled, a whole machine in QEMU has the very image";
    vec![claim(name, &[qemu::available], troubled)]
}

fn troubled() -> Result<()> {
    let kernel = packages::kernel(Suite::Bookworm)?;
    let image = Published::new(SIZE, 1)?;
    let first = |fault| Rule::of(PATH, When::First(1), fault);
    let rules = [
        Rule::everywhere(When::First(1), Fault::Status(503)),
        first(Fault::CutAt(CHUNK * 10 + 1)),
        first(Fault::StallAt(CHUNK * 40)),
    ];
    let good = HttpServer::on_loopback(image.site(Vouched::Manifest)?)?.faults(rules);
    let url = |port: u16| format!("http://{}:{port}{PATH}", qemu::HOST);
    // Nobody listens on the first one: a port that was free a moment ago.
    let gone = HttpServer::on_loopback(image.site(Vouched::Manifest)?)?.address().port();
    let words = format!("rootbeam.image={},{} rootbeam.stall=5", url(gone), url(good.address().port()));
    let boot = qemu::Boot::new(&kernel, &archives::for_qemu(&kernel)?).nic(qemu::Nic::user()).cmdline(&words);
    let mut guest = boot.start()?;
    let (mut probe, world) = guest.probe()?.with_context(|| guest.console().last_lines())?;
    let judged = identical(&mut probe, &world, &image.bytes);
    probe.power_off()?;
    let booted = guest.finish(Some(world))?;
    let (_, about) = judged.with_context(|| booted.console.clone())?;
    equal(&booted.outcome, &Outcome::PoweredOff)?;
    equal(&about.tally.rejected_chunks, &0)?;
    ensure!(about.tally.failures >= 3, "{:?}", about.tally);
    thrifty(good.sent(PATH), SIZE)
}
